"""What can be rented now and at what price, and what this training would cost on it."""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..elsewhere import SAMPLE
from ..errors import FinetuneError
from ..machine import Gpu, Machine
from ..plan import Plan
from ..preflight import Preflight, plan_for
from ..recipe import Recipe
from .hub_jobs import ask, client

CAPABILITY = {"T4": 7.5, "L4": 8.9, "L40S": 8.9, "A10G": 8.6, "A100": 8.0, "H100": 9.0, "H200": 9.0}
NEWER = 8.9  # what has come since then computes in bfloat16
USABLE = 0.92  # of a card's memory; the rest is the driver's
MOST_GPUS = 8  # in one machine
START_SECONDS = 420  # image, Python packages, the model's weights
PROOF_SHARE = 0.5  # of the training's time, for the comparison after it
MARGIN = 2.0  # the time-out over the estimate
LEAST_TIMEOUT = 1800


# for a look at rows before it is known what will be rented: whatever is refused here, no hardware can do
ANY = Machine(
    64, 512, 480, (Gpu("GPU", 80.0, 80.0 * USABLE, NEWER),) * MOST_GPUS, kind="cuda", bitsandbytes=True, rented=True
)


@dataclass(frozen=True)
class Flavor:
    """A machine that the Hub rents out, by the minute."""

    name: str  # the Hub's: "l4x1"
    title: str
    dollars_per_minute: float
    machine: Machine

    def as_dict(self) -> dict[str, Any]:
        gpus = self.machine.gpus
        return {
            "flavor": self.name,
            "title": self.title,
            "gpus": len(gpus),
            "gpu_memory_gb": gpus[0].total_gb if gpus else None,
            "cores": self.machine.cores,
            "memory_gb": self.machine.memory_gb,
            "dollars_per_hour": round(self.dollars_per_minute * 60, 4),
        }


@dataclass(frozen=True)
class Estimate:
    """A training on such a machine: its plan there, its time and its price."""

    flavor: Flavor
    plan: Plan
    seconds: float  # from start to end, with what is not training
    timeout_seconds: int

    @property
    def dollars(self) -> float:
        return self.seconds / 60 * self.flavor.dollars_per_minute

    @property
    def dollars_at_most(self) -> float:
        """The price if it ran until its time-out."""
        return self.timeout_seconds / 60 * self.flavor.dollars_per_minute

    @property
    def idle_gpus(self) -> int:
        """How many are paid for and compute nothing."""
        return max(0, len(self.flavor.machine.gpus) - self.plan.recipe.num_processes)

    def as_dict(self) -> dict[str, Any]:
        return self.flavor.as_dict() | {
            "fits": self.plan.fits,
            "seconds": round(self.seconds),
            "timeout_seconds": self.timeout_seconds,
            "dollars": round(self.dollars, 3),
            "dollars_at_most": round(self.dollars_at_most, 3),
        }


def list_flavors(token: str) -> list[Flavor]:
    """What the Hub rents out now, cheapest first. Raises FinetuneError if it cannot be asked."""
    found = ask(lambda: client(token).list_jobs_hardware(token=token))
    return sorted((flavor_of(item) for item in found), key=lambda flavor: flavor.dollars_per_minute)


def flavor_of(item: Any) -> Flavor:
    """A flavor from the Hub's words for it ("8 vCPU", "24 GB")."""
    minutes = {"second": 1 / 60, "minute": 1, "hour": 60}[item.unit_label]
    gpus: tuple[Gpu, ...] = ()
    if item.accelerator is not None:
        model, memory = item.accelerator.model, _number(item.accelerator.vram)
        card = Gpu(model, memory, memory * USABLE, CAPABILITY.get(model, NEWER))
        gpus = (card,) * int(_number(item.accelerator.quantity) or 1)
    memory = _number(item.ram)
    kind, cores = "cuda" if gpus else "cpu", int(_number(item.cpu))
    machine = Machine(cores, memory, memory * 0.9, gpus, kind=kind, bitsandbytes=True, rented=True)
    return Flavor(item.name, item.pretty_name, item.unit_cost_usd / minutes, machine)


def estimate(seen: Preflight, flavor: Flavor, times: float = 1.0) -> Estimate:
    """Time and price on this hardware, start and proof included. `times`: as in `few_rows`."""
    plan = plan_for(seen.recipe, seen.facts, seen.diagnosis, flavor.machine)
    work = times * plan.seconds * (1 + (PROOF_SHARE if plan.recipe.evaluate else 0.0))
    timeout = max(LEAST_TIMEOUT, round(MARGIN * (START_SECONDS + work * (1 + plan.time_error))))
    return Estimate(flavor, plan, START_SECONDS + work, timeout)


def few_rows(seen: Preflight) -> tuple[Preflight, float]:
    """A look at SAMPLE of many rows, and how many times longer all take: quick enough for a list of hardware."""
    train, validation = seen.diagnosis.split_lengths(min(seen.recipe.max_length, seen.facts.context))
    every = max(1, -(-len(train) // SAMPLE))
    if every == 1:
        return seen, 1.0
    few, watched = train[::every], validation[::every]
    diagnosis = replace(
        seen.diagnosis,
        token_lengths=array("q", few + watched),
        answer_starts=array("q"),
        train_rows=len(few),
        validation_rows=len(watched),
        trained_tokens=round(seen.diagnosis.trained_tokens * sum(few) / max(1, sum(train))),
    )
    times = len(train) / len(few) if seen.recipe.max_steps < 0 else 1.0
    minutes = seen.recipe.max_minutes
    return replace(
        seen, recipe=seen.recipe.replace(max_minutes=minutes and minutes / times), diagnosis=diagnosis
    ), times


def choose(seen: Preflight, flavors: Sequence[Flavor], name: str = "") -> Estimate:
    """The flavor asked for, else the GPU on which this training costs least. Raises FinetuneError if none fits."""
    if name:
        named = [flavor for flavor in flavors if flavor.name == name]
        if not named:
            raise FinetuneError(
                f"The Hub rents out no hardware called {name!r}.",
                f"Choose one of {', '.join(flavor.name for flavor in flavors)}.",
                code="no-flavor",
            )
    else:
        named = [flavor for flavor in flavors if len(flavor.machine.gpus) == max(1, seen.recipe.num_processes)]
    few, times = few_rows(seen)
    fitting = [made for flavor in named if (made := estimate(few, flavor, times)).plan.fits != "no"]
    if not fitting:
        where = named[0].title if name and named else "any GPU that the Hub rents out"
        raise FinetuneError(
            f"This training does not fit on {where}.",
            "Choose a larger one (`python -m finetune_core hardware` lists them), a smaller model, or method: qlora.",
            code="does-not-fit",
        )
    return estimate(seen, min(fitting, key=lambda made: made.dollars).flavor)


def with_all_gpus(recipe: Recipe, flavors: Sequence[Flavor], name: str) -> Recipe:
    """The recipe with a process for each GPU of the hardware asked for, which is paid for whole; a number that was set
    stays."""
    gpus = next((len(flavor.machine.gpus) for flavor in flavors if flavor.name == name), 1)
    if gpus < 2 or "num_processes" in recipe.model_fields_set:
        return recipe
    return recipe.replace(num_processes=gpus)


def machine_to_look_with(flavors: Sequence[Flavor], name: str) -> Machine:
    """The machine asked for, or one with a GPU: what a recipe may ask of it is known before the rows are read."""
    named = [flavor for flavor in flavors if flavor.name == name] or [f for f in flavors if f.machine.gpus]
    return (named or list(flavors))[-1].machine


def _number(text: str) -> float:
    found = re.search(r"[\d.]+", str(text))
    return float(found[0]) if found else 0.0
