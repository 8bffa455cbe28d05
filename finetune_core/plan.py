"""What a training will cost in memory and minutes, and the fastest settings that fit. Arithmetic only."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

from .batches import deal
from .facts import ModelFacts
from .ladder import rungs_of
from .machine import GIB, Machine
from .memory import corrected, kept_values, memory_parts
from .pace import LONGER, expected_rate, expected_speed, flops_per_token, usual_pass, waiting_seconds
from .packing import SAMPLE, attends_by_row
from .precision import BYTES, Formats, formats
from .recipe import Recipe, Suggestion
from .schedule import Shortened, Work, rhythm, seldom_watched, way_back
from .sharing import can_share_weights, weights_shared

ROOMY = 0.85  # of the memory that is free: a plan that takes more is tight
LEAST_GAIN = 1.05  # in speed by a pass twice as long, which takes memory that something else may want
BOLD_RATE = 5  # times the usual learning rate: somebody is asked whether that is meant


@dataclass(frozen=True)
class Plan:
    """What a training takes, with every setting decided: steps, seconds, memory by part, and why."""

    recipe: Recipe  # every None filled in
    steps: int
    seconds: float
    tokens: int  # real tokens of one epoch
    tokens_per_second: float
    memory_gb: dict[str, float]  # GiB by part, and "total"
    available_gb: float
    fits: str  # "fits" | "tight" | "no"
    reasons: tuple[str, ...]
    ladder: tuple[Suggestion, ...] = ()  # what would need less memory
    advice: tuple[Suggestion, ...] = ()  # what else a person may not have meant
    rate_is_measured: bool = False
    memory_is_measured: bool = False
    ran_out: bool = False  # memory ran out here when this, or what was to take no more, was measured
    flops_per_token: float = 0.0  # of a real token, with its part of the padding
    expected_speed: float = 0.0  # real tokens a second of one process, before earlier runs corrected it
    product_rate: float | None = None  # of the machine, from which a processor's speed is expected
    estimate_gb: float = 0.0  # the total before earlier runs corrected it
    settings: dict[str, Any] = field(default_factory=dict)
    shortened: Shortened | None = None

    @property
    def suggestions(self) -> tuple[Suggestion, ...]:
        return self.advice if self.fits == "fits" else (*self.ladder, *self.advice)

    @property
    def memory_error(self) -> float:
        """How far the total may be off, as a share of it."""
        return 0.15 if self.memory_is_measured else 0.3

    @property
    def time_error(self) -> float:
        """How far the time may be off, as a share of it."""
        return 0.25 if self.rate_is_measured else 0.5

    def as_dict(self) -> dict[str, Any]:
        """The JSON of `plan --json`, and plan.json in the run."""
        return {
            "fits": self.fits,
            "memory_gb": self.memory_gb,
            "memory_error": self.memory_error,
            "time_error": self.time_error,
            "available_gb": round(self.available_gb, 2),
            "steps": self.steps,
            "seconds": round(self.seconds, 1),
            "tokens": self.tokens,
            "tokens_per_second": round(self.tokens_per_second, 1),
            "rate_is_measured": self.rate_is_measured,
            "memory_is_measured": self.memory_is_measured,
            "ran_out": self.ran_out,
            "flops_per_token": self.flops_per_token,
            "expected_speed": round(self.expected_speed, 3),
            "product_rate": self.product_rate,
            "estimate_gb": self.estimate_gb,
            "settings": self.settings,
            "shortened": asdict(self.shortened) if self.shortened else None,
            "reasons": list(self.reasons),
            "suggestions": [asdict(suggestion) for suggestion in self.suggestions],
        }


def make_plan(
    recipe: Recipe,
    facts: ModelFacts,
    lengths: Sequence[int],
    machine: Machine,
    speed_factor: float | None = None,
    validation_lengths: Sequence[int] = (),
    trained_tokens: int | None = None,
    memory_factor: float | None = None,
    kept_in: Formats | None = None,
    shared: int = 0,
) -> Plan:
    """Fill in every setting that the person left open, and say what it costs.

    `kept_in`: number formats of weights and moments, the most exact ones if None (`precision.first_that_fits`).

    `lengths`, `validation_lengths`: tokens of each row as rendered, uncut; `trained_tokens`: those of the training rows
    that are learned (all, if not known). `speed_factor`: how many times as fast as expected earlier runs were here;
    `memory_factor`: what they took for each GiB estimated. `shared`: tokens with which all rows begin, untrained.
    The effective batch (rows per step: per_device_train_batch_size x gradient_accumulation_steps) is kept. Packs are as
    long as one step fills, up to the tokens of a usual pass; on a GPU up to the longest of `pace.LONGER` that is roomy
    with the settings of a usual one and, by `pace.expected_speed`, gains by each doubling.
    """
    make = partial(
        _with_passes_of,
        recipe=recipe,
        facts=facts,
        machine=machine,
        speed_factor=speed_factor,
        validation_lengths=validation_lengths,
        memory_factor=memory_factor,
        kept_in=kept_in or formats(recipe, machine)[0],
        shared=shared,
    )
    usual = usual_pass(machine)
    plan, _ = make(usual, lengths=lengths, trained_tokens=trained_tokens)
    is_free = machine.gpus and recipe.packing_length is None and attends_by_row(facts.model_type)
    if not (is_free and _has_more(plan.recipe)):
        return plan
    sample = lengths[:: math.ceil(len(lengths) / SAMPLE) or 1]
    trained = trained_tokens and round(trained_tokens * len(sample) / len(lengths))
    most = _longest_pass(partial(make, lengths=sample, trained_tokens=trained), usual)
    if most == usual:
        return plan
    plan, _ = make(most, lengths=lengths, trained_tokens=trained_tokens)
    says = (
        f"Passes of {plan.recipe.packing_length:,} tokens: a layer of so small a model takes this GPU as long for "
        "fewer. Expected, not measured; where memory runs out, they are halved."
    )
    return replace(plan, reasons=(*plan.reasons, says))


def _longest_pass(make: Callable[[int], tuple[Plan, float]], most: int) -> int:
    """Tokens of a pass: as many as fit well and still gain. A row is attended to by itself, so no mask grows."""
    made, speed = make(most)
    for tokens in LONGER:
        if not _has_more(made.recipe):
            break
        longer, faster = make(tokens)
        same = all(longer.settings[name] == made.settings[name] for name in ("fsdp", "gradient_checkpointing"))
        if not (longer.fits == "fits" and same and faster > LEAST_GAIN * speed):
            break
        made, speed, most = longer, faster, tokens
    return most


def _has_more(resolved: Recipe) -> bool:
    """Whether a step has more tokens than one pass of each process holds."""
    return bool(resolved.packing) and resolved.gradient_accumulation_steps > resolved.num_processes


def _with_passes_of(
    most: int,
    recipe: Recipe,
    facts: ModelFacts,
    lengths: Sequence[int],
    machine: Machine,
    speed_factor: float | None,
    validation_lengths: Sequence[int],
    trained_tokens: int | None,
    memory_factor: float | None,
    kept_in: Formats,
    shared: int,
) -> tuple[Plan, float]:
    """The plan with packs of at most so many tokens, and the tokens a second expected before anything is measured."""
    reasons: list[str] = []
    kept = [min(length, recipe.max_length) for length in lengths if length] or [1]  # none where a template refuses
    watched = [min(length, recipe.max_length) for length in validation_lengths if length]
    values: dict[str, Any] = {}

    values["dtype"], values["optim"] = kept_in.dtype, kept_in.optim
    if kept_in.reason:
        reasons.append(kept_in.reason)
    if facts.experts and recipe.method == "qlora":
        reasons.append(f"Its experts stay in {kept_in.dtype}: bitsandbytes holds only the other layers in fewer bits.")
    values["attn_implementation"] = recipe.attn_implementation or "sdpa"
    values["use_liger_kernel"] = machine.has_liger if recipe.use_liger_kernel is None else recipe.use_liger_kernel
    if values["use_liger_kernel"]:
        reasons.append("Liger kernels: norms and gates in one pass over memory each.")
    float32_adapter = recipe.autocast_adapter_dtype
    values["autocast_adapter_dtype"] = recipe.method != "qlora" if float32_adapter is None else float32_adapter
    usual = default_learning_rate(recipe.method, facts.parameters)
    values["learning_rate"] = recipe.learning_rate or usual

    batches = deal(recipe, machine, facts.model_type, kept, watched, most, shared)
    values |= batches.values
    reasons += batches.reasons
    processes, slots = recipe.num_processes, batches.slots
    available = (
        min(gpu.free_gb for gpu in machine.gpus[:processes]) if machine.gpus else machine.available_gb / processes
    )

    def crowded(**more: Any) -> bool:
        parts = corrected(memory_parts(recipe, values | more, facts, slots, machine), memory_factor)
        return parts["total"] > ROOMY * available

    values["fsdp"] = recipe.fsdp
    if recipe.fsdp is None:
        values["fsdp"] = can_share_weights(recipe.replace(optim=values["optim"])) and crowded(
            gradient_checkpointing=recipe.gradient_checkpointing is not False
        )
    if values["fsdp"]:
        chosen = " A whole copy in each would not fit." if recipe.fsdp is None else ""
        reasons.append(weights_shared(recipe) + chosen)
        if machine.gpus and facts.parameters * BYTES["bfloat16"] / GIB > available:
            reasons.append("One GPU does not hold the model to compare and chat with; do that on a larger machine.")
    checkpointing = recipe.gradient_checkpointing
    if checkpointing is None:
        checkpointing = crowded(gradient_checkpointing=False)
        if checkpointing:
            reasons.append(
                "Gradient checkpointing: without it this would not fit in memory; it costs about a third more time."
            )
    values["gradient_checkpointing"] = checkpointing

    estimate = memory_parts(recipe, values, facts, slots, machine)
    memory = corrected(estimate, memory_factor)
    fits = "no" if memory["total"] > available else "tight" if memory["total"] > ROOMY * available else "fits"
    if fits != "fits" and machine.kind == "cuda" and not machine.bitsandbytes:
        reasons.append("With `pip install bitsandbytes`, weights in 4 bits (QLoRA) and moments in 8 would need less.")
    tokens = sum(kept)
    computes_in = "bfloat16" if machine.autocasts(recipe.method, values["dtype"]) else values["dtype"]
    together = processes if machine.gpus else 1  # processes on a CPU share its cores
    trained_share = min(1.0, trained_tokens / tokens) if trained_tokens else 1.0
    mean, computed = tokens / len(kept), batches.computed
    per_token = flops_per_token(facts, recipe.method, checkpointing, trained_share, mean, computed)
    kept_by_layers = facts.layers * kept_values(facts, recipe) * computed
    expected = expected_speed(
        expected_rate(machine, computes_in, per_token, kept_by_layers, checkpointing) / per_token,
        batches.real_slots,
        waiting_seconds(machine, recipe.method, facts, checkpointing),
    )
    tokens_per_second = expected * (speed_factor or 1.0) * together
    work = Work(recipe, batches.steps_per_epoch, tokens, sum(watched), tokens_per_second)
    work, most_watched = seldom_watched(work, watched)
    if most_watched is not None:
        values["eval_rows"] = most_watched
    if recipe.eval_rows is None and most_watched is not None:
        reasons.append(
            f"A look is at {most_watched:,} of the {len(watched):,} validation rows: all of them would take more than "
            "a quarter of the time."
        )
    epochs, advice = work.epochs(), _usual_rate(values["learning_rate"], usual)
    shortened = None
    if epochs < recipe.num_train_epochs:
        shortened = Shortened(epochs, recipe.num_train_epochs, recipe.max_minutes or 0.0)
        reasons.append(shortened.why())
        advice = (way_back(work, epochs), *advice)
    steps = work.steps(epochs)
    values |= rhythm(recipe, steps)
    resolved = recipe.replace(**values, num_train_epochs=epochs, max_minutes=None)
    longest = max([*kept, *watched] if resolved.packing else kept)
    ladder = rungs_of(resolved, batches.longest, machine, longest, facts.parameters)
    if fits == "no" and not ladder:
        reasons.append("Nothing is left here that needs less memory: choose a smaller model or another machine.")
    plan = Plan(
        recipe=resolved,
        steps=steps,
        seconds=work.seconds(epochs),
        tokens=tokens,
        tokens_per_second=tokens_per_second,
        memory_gb=memory,
        available_gb=available,
        fits=fits,
        reasons=tuple(reasons),
        ladder=ladder,
        advice=advice,
        rate_is_measured=speed_factor is not None,
        memory_is_measured=memory_factor is not None,
        flops_per_token=per_token,
        expected_speed=expected,
        product_rate=machine.product_rate,
        estimate_gb=estimate["total"],
        settings=values,
        shortened=shortened,
    )
    return plan, expected * together


def default_learning_rate(method: str, parameters: int) -> float:
    """Small models want larger steps; adapters want about ten times those of all weights (Schulman et al. 2025,
    "LoRA Without Regret"). A rule of thumb, which benchmarks/recipe.md backs for LoRA of 135 million weights alone.
    """
    small, large = (1e-3, 2e-4) if method != "full" else (1e-4, 2e-5)
    return small if parameters < 5e8 else large


def _usual_rate(rate: float, usual: float) -> tuple[Suggestion, ...]:
    """A way back from a rate that was meant for another model: Quick look's is the starter model's."""
    if rate < BOLD_RATE * usual:
        return ()
    says = f"Learning rate {usual:g}, as is usual for a model of this size; {rate:g} may unlearn more than it teaches"
    return (Suggestion(says, {"learning_rate": None}),)
