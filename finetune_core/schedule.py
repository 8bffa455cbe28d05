"""How many steps a training takes, how many epochs its time leaves, and how often it is looked at. Arithmetic only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from .recipe import Recipe, Suggestion

WATCHING = 0.25  # of max_minutes, which all looks at the validation rows may take
LEAST_WATCHED = 8  # rows of a look; fewer tell nothing
LOOK_SPEED = 2  # times as many tokens a second where nothing is learned from them, as measured on a CPU


@dataclass(frozen=True)
class Work:
    """What one training has to do at a speed. Rows are counted in tokens."""

    recipe: Recipe
    steps_per_epoch: int
    tokens: int  # of one epoch
    watched: int  # of one look at the validation rows
    tokens_per_second: float

    def looks(self, epochs: float) -> int:
        """At the validation rows; the last one is at the end, however many steps lie between two."""
        steps = self.steps(epochs)
        return math.ceil(steps / rhythm(self.recipe, steps)["eval_steps"])

    def steps(self, epochs: float) -> int:
        asked = self.recipe.max_steps
        return max(1, math.ceil(self.steps_per_epoch * epochs) if asked < 0 else asked)

    def seconds(self, epochs: float) -> float:
        learned = self.tokens * self.steps(epochs) / max(self.steps_per_epoch, 1)
        return (learned + self.looks(epochs) * self.watched / LOOK_SPEED) / self.tokens_per_second

    def epochs(self) -> float:
        """As many as the recipe asks for, or as are learned in max_minutes: rounded down to two digits."""
        asked, minutes = self.recipe.num_train_epochs, self.recipe.max_minutes
        if minutes is None or self.recipe.max_steps > 0:
            return asked
        fitting = 60 * minutes * self.tokens_per_second / self.tokens
        return asked if asked <= fitting else _rounded_down(fitting)


def evenly(rows: int, most: int) -> range:
    """Places of at most so many rows, evenly spread.

    >>> list(evenly(10, 4)), list(evenly(3, 4))
    ([0, 3, 6, 9], [0, 1, 2])
    """
    return range(0, rows, math.ceil(rows / most) or 1)


def seldom_watched(work: Work, watched: Sequence[int]) -> tuple[Work, int | None]:
    """The work with as many validation rows as a look is to take, and their number; None: all of them.

    `watched`: tokens of each. As the recipe says; else as many as leave three quarters of max_minutes to learn in.
    """
    recipe, most = work.recipe, work.recipe.eval_rows
    looks = work.looks(work.epochs())
    if most is None and recipe.max_minutes and recipe.max_steps < 0 and watched and looks:
        room = WATCHING * 60 * recipe.max_minutes * work.tokens_per_second * LOOK_SPEED / looks
        most = max(LEAST_WATCHED, int(len(watched) * room / max(sum(watched), 1)))
    if most is None or most >= len(watched):
        return work, recipe.eval_rows
    return replace(work, watched=sum(watched[place] for place in evenly(len(watched), most))), most


def _rounded_down(value: float) -> float:
    """
    >>> _rounded_down(1.57), _rounded_down(0.0329)
    (1.5, 0.032)
    """
    size = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.floor(value / size + 1e-9) * size:.2g}")


@dataclass(frozen=True)
class Shortened:
    """Fewer epochs than were asked for, because the minutes leave no more."""

    epochs: float
    asked: float
    minutes: float

    def why(self) -> str:
        """
        >>> Shortened(1.7, 3, 2).why()
        '1.7 of 3 epochs: as many as this machine is expected to learn in 2 minutes.'
        """
        limit = about(60 * self.minutes)
        return f"{self.epochs:g} of {_epochs(self.asked)}: as many as this machine is expected to learn in {limit}."

    def said_afterwards(self) -> str:
        """
        >>> Shortened(1.7, 3, 2).said_afterwards()
        '1.7 of 3 epochs were taken: as many as its machine was expected to learn in 2 minutes.'
        """
        limit, were = about(60 * self.minutes), "was" if self.asked <= 1 else "were"
        return (
            f"{self.epochs:g} of {_epochs(self.asked)} {were} taken: "
            f"as many as its machine was expected to learn in {limit}."
        )


def _epochs(number: float) -> str:
    return f"{number:g} {'epoch' if number == 1 else 'epochs'}"


def rounds(epochs: float) -> str:
    """
    >>> rounds(1), rounds(2.5)
    ('once', '2.5 times')
    """
    return "once" if epochs == 1 else f"{epochs:g} times"


def way_back(work: Work, epochs: float) -> Suggestion:
    """From fewer epochs to all that were asked for."""
    all_of_them = about(work.seconds(work.recipe.num_train_epochs))
    says = f"Go through the rows {rounds(work.recipe.num_train_epochs)} instead of {epochs:g}, in about {all_of_them}"
    return Suggestion(says, {"max_minutes": None})


def about(seconds: float) -> str:
    """
    >>> about(0.3), about(40), about(59.7), about(150), about(9000)
    ('1 second', '40 seconds', '1 minute', '2.5 minutes', '2.5 hours')
    """
    whole = max(1, round(seconds))
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
