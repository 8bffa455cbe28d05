"""The same training on the usual GPUs: does it fit, how long, and what would it cost. Arithmetic only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from .facts import ModelFacts
from .machine import Gpu, Machine
from .plan import make_plan
from .precision import first_that_fits
from .recipe import Recipe

SAMPLE = 5_000  # rows whose lengths are looked at; more change the estimate by less than its error


@dataclass(frozen=True)
class Card:
    """A GPU that can be rented or bought: GiB that a program may use, compute capability, dollars an hour."""

    name: str
    usable_gb: float
    capability: float
    dollars_per_hour: float | None = None  # Hugging Face's list price (https://huggingface.co/pricing, August 2026)


CARDS = (
    Card("T4", 14.6, 7.5, 0.40),
    Card("16 GB card", 15.3, 8.9),
    Card("L4", 22.0, 8.9, 0.80),
    Card("A10G", 22.1, 8.6, 1.00),
    Card("24 GB card", 23.4, 8.9),
    Card("L40S", 44.4, 8.9, 1.80),
    Card("A100", 79.1, 8.0, 2.50),
    Card("H100", 79.1, 9.0),
)


@dataclass(frozen=True)
class Offer:
    """One training on one card. Seconds and dollars are of the training alone, without queue, start and download."""

    name: str
    usable_gb: float
    needs_gb: float
    fits: str  # "fits" | "tight" | "no"
    seconds: float
    dollars: float | None  # None: no list price, or it does not fit

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def elsewhere(
    recipe: Recipe, facts: ModelFacts, lengths: Sequence[int], trained_tokens: int | None = None
) -> list[Offer]:
    """What one of the usual GPUs would make of it, with the settings that suit it. `lengths`: tokens of each row."""
    recipe = recipe.replace(num_processes=1, fsdp=None)
    step = max(1, -(-len(lengths) // SAMPLE))
    sample = lengths[::step] or [1]
    times = len(lengths) / len(sample)
    recipe = recipe.replace(max_minutes=recipe.max_minutes and recipe.max_minutes / times)
    share = trained_tokens / max(sum(lengths), 1) if trained_tokens else None
    offers = []
    for card in CARDS:
        gpu = Gpu(card.name, card.usable_gb, card.usable_gb, card.capability)
        machine = Machine(cores=8, memory_gb=32, available_gb=28, gpus=(gpu,), kind="cuda", bitsandbytes=True)
        planned = partial(
            make_plan,
            recipe,
            facts,
            sample,
            machine,
            trained_tokens=round(share * sum(sample)) if share is not None else None,
        )
        made = first_that_fits(recipe, machine, lambda kept_in, planned=planned: planned(kept_in=kept_in))
        seconds = made.seconds * (times if recipe.max_steps < 0 else 1)
        price = card.dollars_per_hour
        offers.append(
            Offer(
                card.name,
                card.usable_gb,
                made.memory_gb["total"],
                made.fits,
                round(seconds, 1),
                None if price is None or made.fits == "no" else round(seconds / 3600 * price, 4),
            )
        )
    return offers
