"""How several processes share the rows of a step. Arithmetic only."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .precision import FUSED
from .recipe import Recipe


@dataclass(frozen=True)
class Share:
    """What each of several processes does of a step."""

    recipe: Recipe  # for each of the processes
    rows: int  # rows (or packs) of one step, over all processes
    asked: int  # what the recipe says

    @property
    def says(self) -> str:
        what = "packs" if self.recipe.packing else "rows"
        each, passes = self.recipe.per_device_train_batch_size, self.recipe.gradient_accumulation_steps
        added = f", {passes} passes added up" if passes > 1 else ""
        kept = "as asked" if self.rows == self.asked else f"instead of the {self.asked} asked, to give each the same"
        return (
            f"{self.recipe.num_processes} processes share each step: {each} {what if each > 1 else what[:-1]} "
            f"each{added}; {self.rows} {what} a step, {kept}."
        )


def share(resolved: Recipe) -> Share:
    """The recipe of one process: accumulation is lowered first, then the batch, so that a step keeps its rows.

    A number of rows that cannot be dealt out evenly is rounded.

    >>> share(Recipe(per_device_train_batch_size=8, gradient_accumulation_steps=4, num_processes=2)).says
    '2 processes share each step: 8 rows each, 2 passes added up; 32 rows a step, as asked.'
    """
    asked = resolved.per_device_train_batch_size * resolved.gradient_accumulation_steps
    each = max(1, round(asked / resolved.num_processes))
    fewest = math.ceil(each / resolved.per_device_train_batch_size)
    # a few more passes where they keep the rows exactly
    passes = next((n for n in range(fewest, 2 * fewest + 1) if each % n == 0), fewest)
    rows = max(1, each // passes)
    one = resolved.replace(per_device_train_batch_size=rows, gradient_accumulation_steps=passes)
    return Share(one, rows * passes * resolved.num_processes, asked)


def can_share_weights(recipe: Recipe) -> bool:
    """Whether FSDP is known to work for it: several processes; no weights or moments in 4 or 8 bits, no DoRA."""
    light = recipe.method == "full" and recipe.optim not in (None, FUSED)
    return recipe.num_processes > 1 and recipe.method != "qlora" and not recipe.use_dora and not light


def weights_shared(resolved: Recipe) -> str:
    """What FSDP means for this training, in plain words."""
    part = "all weights, gradients and moments" if resolved.method == "full" else "the base model's weights"
    return f"Each process keeps 1/{resolved.num_processes} of {part}; a layer is gathered while it is at work (FSDP)."
