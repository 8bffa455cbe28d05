"""How many steps a training takes, how many epochs its time leaves, and how often it is looked at. Arithmetic only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from .recipe import Recipe, Suggestion

LOOK_SPEED = 2  # times as many tokens a second where nothing is learned from them, as measured on a CPU


@dataclass(frozen=True)
class Work:
    """What one training has to do at a speed. Rows are counted in tokens."""

    recipe: Recipe
    steps_per_epoch: int
    tokens: int  # of one epoch
    watched: int  # of one look at the validation rows
    tokens_per_second: float

    def steps(self, epochs: float) -> int:
        asked = self.recipe.max_steps
        return max(1, math.ceil(self.steps_per_epoch * epochs) if asked < 0 else asked)

    def seconds(self, epochs: float) -> float:
        steps = self.steps(epochs)
        looks = steps // rhythm(self.recipe, steps)["eval_steps"]
        learned = self.tokens * steps / max(self.steps_per_epoch, 1)
        return (learned + looks * self.watched / LOOK_SPEED) / self.tokens_per_second

    def epochs(self) -> float:
        """As many as the recipe asks for, or as are learned in max_minutes: rounded down to two digits."""
        asked, minutes = self.recipe.num_train_epochs, self.recipe.max_minutes
        if minutes is None or self.recipe.max_steps > 0:
            return asked
        fitting = 60 * minutes * self.tokens_per_second / self.tokens
        return asked if asked <= fitting else _rounded_down(fitting)


def _rounded_down(value: float) -> float:
    """
    >>> _rounded_down(1.57), _rounded_down(0.0329)
    (1.5, 0.032)
    """
    size = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.floor(value / size + 1e-9) * size:.2g}")


def shortened(work: Work, epochs: float) -> tuple[str, Suggestion]:
    """Why there are fewer epochs than asked for, and the way to all of them."""
    asked = f"{work.recipe.num_train_epochs:g}"
    limit = about(60 * (work.recipe.max_minutes or 0.0))
    why = f"{epochs:g} of {asked} epochs: as many as this machine is expected to learn in {limit}."
    all_of_them = about(work.seconds(work.recipe.num_train_epochs))
    rounds = "once" if asked == "1" else f"{asked} times"
    says = f"Go through the rows {rounds} instead of {epochs:g}, in about {all_of_them}"
    return why, Suggestion(says, {"max_minutes": None})


def about(seconds: float) -> str:
    """
    >>> about(40), about(59.7), about(150), about(9000)
    ('40 seconds', '1 minute', '2.5 minutes', '2.5 hours')
    """
    whole = round(seconds)
    number, unit = (
        (whole, "second") if whole < 60 else (whole / 60, "minute") if whole <= 5400 else (whole / 3600, "hour")
    )
    said = f"{number:.0f}" if unit == "second" or number >= 10 else f"{number:.2g}"
    return f"{said} {unit}{'' if said == '1' else 's'}"


def rhythm(recipe: Recipe, steps: int) -> dict[str, Any]:
    """How often to log, look at the validation rows and save: enough to see, few enough to stay cheap."""
    looks = 3 if steps < 200 else 5 if steps < 500 else 10  # fewer would tell nothing of how the curve goes
    eval_steps = recipe.eval_steps or max(1, math.ceil(steps / looks))
    return {
        "logging_steps": recipe.logging_steps or max(1, steps // 300),
        "eval_steps": eval_steps,
        # the best checkpoint can only be kept if one is saved at each look
        "save_steps": eval_steps if recipe.early_stopping else recipe.save_steps or eval_steps,
    }
