"""In which number formats weights and moments are kept: which ones a training may have, the most exact first. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from .machine import Machine
from .recipe import Recipe

FUSED, IN_8_BITS, PAGED = "adamw_torch_fused", "adamw_8bit", "paged_adamw_8bit"
BITS_BYTES = {"4bit": 0.55, "8bit": 1.0}  # of a weight of the layers, with its scales
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# What is chosen where all weights move and the formats before it do not fit.
LIGHTER = (
    ("float32", IN_8_BITS, "Moments in 8 bits (bitsandbytes): with 32 bits this would not fit."),
    (
        "bfloat16",
        IN_8_BITS,
        "bfloat16 weights and moments in 8 bits: in float32 this would not fit. Very small steps are rounded away; if "
        "it hardly learns, raise the learning rate or choose an adapter.",
    ),
    (
        "bfloat16",
        PAGED,
        "bfloat16 weights, and moments in 8 bits that may lie in the machine's own memory, as the GPU's is too small: "
        "slower.",
    ),
)


@dataclass(frozen=True)
class Formats:
    """The number formats that a training keeps its weights and AdamW's moments in."""

    dtype: str  # of the base weights
    optim: str  # says how the moments are kept
    reason: str = ""  # why, where the plan chose


def formats(recipe: Recipe, machine: Machine) -> tuple[Formats, ...]:
    """What the recipe leaves open, the most exact first; each later one needs less memory. Never empty."""
    fast = machine.has_bf16 and recipe.method != "full"
    usual = Formats(recipe.dtype or ("bfloat16" if fast else "float32"), recipe.optim or FUSED, _why(recipe, machine))
    if recipe.method != "full" or not machine.has_low_bits or recipe.fsdp:  # lighter moments cannot be shared
        return (usual,)
    lighter = [
        Formats(dtype, optim, reason)
        for dtype, optim, reason in LIGHTER
        if recipe.dtype in (None, dtype) and recipe.optim in (None, optim) and (machine.has_bf16 or dtype == "float32")
    ]
    return (usual, *(each for each in lighter if (each.dtype, each.optim) != (usual.dtype, usual.optim)))


def _why(recipe: Recipe, machine: Machine) -> str:
    if recipe.dtype is not None:
        return ""
    if not machine.has_bf16:
        return "float32: this machine has no fast bfloat16."
    if recipe.method == "full":
        return "float32: all weights move, and small steps need its precision."
    return "bfloat16 weights: this machine multiplies them fast."


T = TypeVar("T")


def first_that_fits(recipe: Recipe, machine: Machine, make: Callable[[Formats], T]) -> T:
    """The plan in the most exact formats that fits, of those that `make` makes; else a tight one, else the last."""
    plans = []
    for each in formats(recipe, machine):
        plans.append(make(each))
        if plans[-1].fits == "fits":
            return plans[-1]
    return next((plan for plan in plans if plan.fits == "tight"), plans[-1])


def bits_of(recipe: Recipe) -> str | None:
    """How bitsandbytes holds the base weights: "4bit", "8bit" or not at all."""
    if recipe.method != "qlora":
        return None
    return "8bit" if recipe.load_in_8bit else "4bit"


def moment_bytes(optim: str, dtype: str, embedding: bool = False) -> int:
    """GPU bytes for the two moments of one weight in this format; a paged optimizer's may lie elsewhere.

    transformers keeps those of embeddings in 32 bits (`Trainer.create_optimizer`).

    >>> moment_bytes("adamw_torch_fused", "float32"), moment_bytes("adamw_8bit", "bfloat16")
    (8, 2)
    """
    if optim == PAGED:
        return 0
    if optim == IN_8_BITS:
        return 8 if embedding else 2
    return 2 * BYTES[dtype]
