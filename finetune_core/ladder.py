"""The ladder for what does not fit in memory: each rung needs less, and keeps the rows of a step. Pure."""

from __future__ import annotations

from typing import Any

from .machine import Machine
from .precision import FUSED, IN_8_BITS, PAGED
from .recipe import Recipe, Suggestion

SHORTEST_PACK = 128  # tokens; below this packing stops to pay


def gentle_rungs(resolved: Recipe, longest: int, machine: Machine, learned: bool = False) -> list[Suggestion]:
    """What may be done without asking, in this order: the rows and tokens that are learned stay the same.

    `longest`: tokens of the longest training row, which a pack has to hold. `learned`: there is a checkpoint to go on
    from, which has its moments in the format of its optimizer.
    """
    rungs = []
    rows = resolved.per_device_train_batch_size
    if rows > 1:
        step = rows * resolved.gradient_accumulation_steps
        fewer = next(size for size in range(rows // 2, 0, -1) if step % size == 0)
        rungs.append(
            Suggestion(
                "Half the batch, twice the accumulation" if fewer * 2 == rows else
                "Smaller batches, more of them in a step",
                {"per_device_train_batch_size": fewer, "gradient_accumulation_steps": step // fewer},
            )
        )  # fmt: skip
    pack = resolved.packing_length or 0
    if resolved.packing and pack // 2 >= max(longest, SHORTEST_PACK):
        rungs.append(
            Suggestion(
                "Half the packed length, twice the accumulation",
                {
                    "packing_length": pack // 2,
                    "gradient_accumulation_steps": resolved.gradient_accumulation_steps * 2,
                },
            )
        )
    if not resolved.gradient_checkpointing:
        rungs.append(Suggestion("Gradient checkpointing: slower, less memory", {"gradient_checkpointing": True}))
    if resolved.method == "lora" and machine.has_low_bits:
        rungs.append(Suggestion("Weights in 4 bits (QLoRA)", {"method": "qlora"}))
    if resolved.method == "full" and machine.has_low_bits and not learned:
        rungs += _lighter_formats(resolved, machine)
    return rungs


def _lighter_formats(resolved: Recipe, machine: Machine) -> list[Suggestion]:
    """For all weights: what is kept of each in fewer bits."""
    rungs = []
    if resolved.optim == FUSED:
        rungs.append(Suggestion("Moments of the optimizer in 8 bits", {"optim": IN_8_BITS}))
    if resolved.dtype == "float32" and machine.has_bf16:
        rungs.append(Suggestion("Weights in bfloat16: very small steps are rounded away", {"dtype": "bfloat16"}))
    if resolved.optim != PAGED:
        rungs.append(Suggestion("Moments in 8 bits, in the machine's own memory: slower", {"optim": PAGED}))
    return rungs


def harder_rungs(resolved: Recipe) -> list[Suggestion]:
    """What changes the result, so that a person has to choose it."""
    rungs = []
    if resolved.method == "full":
        rungs.append(Suggestion("An adapter instead of all weights", {"method": "lora"}))
    if resolved.max_length > 256:
        rungs.append(Suggestion("Half the longest row; longer ones are cut", {"max_length": resolved.max_length // 2}))
    return rungs


def as_overrides(changes: dict[str, Any]) -> str:
    """A rung as the command line takes it.

    >>> as_overrides({"gradient_checkpointing": True})
    'gradient_checkpointing=true'
    """
    return " ".join(f"{name}={str(value).lower()}" for name, value in changes.items())


def step_down(
    resolved: Recipe, longest: int, machine: Machine, learned: bool = False
) -> tuple[Recipe, Suggestion] | None:
    """The recipe one rung down, and what was changed; None at the foot of the ladder."""
    rungs = gentle_rungs(resolved, longest, machine, learned)
    return (resolved.replace(**rungs[0].changes), rungs[0]) if rungs else None
