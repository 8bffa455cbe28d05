"""What one step and one pass hold: rows dealt into packs or padded batches. Arithmetic only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .machine import Machine
from .packing import filled_share, packed, padded_share, shares_prefix, without_first
from .recipe import Recipe
from .sharing import share


@dataclass(frozen=True)
class Batches:
    """How the rows are laid out."""

    values: dict[str, Any]  # recipe fields
    slots: int  # tokens of one pass of one process
    real_slots: float  # of them, those that hold tokens of a row
    steps_per_epoch: int
    longest: int  # tokens of the longest row, without a beginning that is shared; a pack has to hold it
    computed: float  # tokens and padding that are computed for one token of a row
    reasons: tuple[str, ...]


def deal(
    recipe: Recipe,
    machine: Machine,
    model_type: str,
    kept: Sequence[int],
    watched: Sequence[int],
    most: int,
    shared: int,
) -> Batches:
    """Lay the rows out in packs or padded batches. `kept`, `watched`: tokens of each training and validation row, cut;
    `most`: tokens that a pack holds at most; `shared`: tokens with which all rows begin."""
    longest, tokens = max(max(kept), max(watched, default=0)), sum(kept)
    reasons: list[str] = []
    spared = shared if shares_prefix(recipe, machine, model_type, kept, shared) else 0
    values = packed(recipe, model_type, kept, spared, longest - spared, most, reasons)
    values["share_prefix"] = spared > 0 and values["packing"]
    if recipe.share_prefix and not values["share_prefix"]:
        why = (
            "the rows are not packed" if not values["packing"] else "they begin with different tokens" if not shared
            else "it would not be exact with this model, dropout, several processes or rows that are cut within it"
        )  # fmt: skip
        reasons.append(f"The beginning of the rows is not computed once, as was asked: {why}.")
    values["train_sampling_strategy"] = (
        "random" if values["packing"] else recipe.train_sampling_strategy or "group_by_length"
    )
    of_process = share(recipe.replace(**values))
    rows, accumulation = values["per_device_train_batch_size"], values["gradient_accumulation_steps"]
    if recipe.num_processes > 1:
        reasons.append(of_process.says)
    elif len(machine.gpus) > 1:
        reasons.append(f"{len(machine.gpus)} GPUs here: num_processes={len(machine.gpus)} shares each step among them.")
    at_once = of_process.recipe.per_device_train_batch_size
    if not values["packing"]:
        grouped = values["train_sampling_strategy"] == "group_by_length"
        return Batches(
            values=values,
            slots=max(kept) * at_once,
            real_slots=tokens / len(kept) * at_once,
            steps_per_epoch=math.ceil(len(kept) / of_process.rows),
            longest=longest,
            computed=1 / padded_share(kept, rows, accumulation, grouped),
            reasons=tuple(reasons),
        )
    own = without_first(spared, kept)
    length, filled = values["packing_length"], filled_share(own, values["packing_length"])
    packs = math.ceil(sum(own) / (length * filled) - 1e-6)
    computed = (sum(own) + packs * spared) / tokens
    if spared:
        reasons.append(
            f"All rows begin with the same {spared} tokens: computed once for the rows that are packed together, which "
            f"spares {1 - computed:.0%} of the work."
        )
    return Batches(
        values=values,
        slots=length * at_once + spared,
        real_slots=(length * at_once + spared) * filled,
        steps_per_epoch=math.ceil(packs / of_process.rows),
        longest=longest - spared,
        computed=computed if spared else 1.0,
        reasons=tuple(reasons),
    )
