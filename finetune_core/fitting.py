"""Which preset fits a person's own rows better than the one that is made for the starter rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .presets import Preset, load_preset
from .recipe import STARTER_DATA, STARTER_MODEL, Recipe

if TYPE_CHECKING:
    from .preflight import Preflight

STARTER_PRESET = "quick-look"
MADE_FOR_STARTER = ("num_train_epochs", "learning_rate")  # the settings by which that preset is known
LOOKED_AT = 200  # rows
LONG_TOKENS = 2048  # where one row of twenty is longer, the presets for short rows would cut it


@dataclass(frozen=True)
class Fitting:
    """A better start than the one that was taken."""

    preset: Preset
    why: str  # what the rows are, as a sentence
    changes: dict[str, Any]  # recipe fields; what was set by hand is not among them

    def as_dict(self) -> dict[str, Any]:
        return {"preset": self.preset.name, "why": self.why, "changes": self.changes}


def better_preset(seen: Preflight) -> Fitting | None:
    """A preset that fits better, where the starter preset meets other rows or another model; None where it does not, or
    nothing can be learned."""
    recipe, start = seen.recipe, Recipe.make(load_preset(STARTER_PRESET).recipe)
    is_starter = (recipe.model_name_or_path, recipe.dataset_name) == (STARTER_MODEL, STARTER_DATA)
    if is_starter or any(getattr(recipe, name) != getattr(start, name) for name in MADE_FOR_STARTER):
        return None
    name, why = kind_of_rows(seen)
    return Fitting(preset := load_preset(name), why, moved(recipe, start, Recipe.make(preset.recipe))) if name else None


def moved(recipe: Recipe, start: Recipe, to: Recipe) -> dict[str, Any]:
    """What changes on the way from one preset to another; what the person set otherwise stays.

    >>> moved(Recipe(lora_r=8), Recipe(), Recipe(lora_r=32, num_train_epochs=4))
    {'num_train_epochs': 4.0}
    """
    fields = [name for name in Recipe.model_fields if getattr(recipe, name) == getattr(start, name)]
    return {name: getattr(to, name) for name in fields if getattr(to, name) != getattr(start, name)}


def kind_of_rows(seen: Preflight) -> tuple[str, str]:
    """(name of the preset that fits, why); two empty texts where there is nothing to learn from."""
    from .proof.metrics import choose_metric
    from .proof.rivals import can_be_asked, reference

    rows = [seen.prepared.train[place] for place in range(min(LOOKED_AT, len(seen.prepared.train)))]
    if not rows:
        return "", ""
    if seen.diagnosis.lengths["p95"] > LONG_TOKENS:
        return "long-texts", f"One row in twenty has {seen.diagnosis.lengths['p95']:,} tokens or more."
    answers = [reference(row) for row in rows if can_be_asked(row)]
    kind = choose_metric(answers)
    if kind == "json":
        return "classify-or-extract", "The answers are JSON."
    if kind == "label":
        return "classify-or-extract", "The answers are a few short ones that come back."
    if not answers or sum(_turns(row) > 1 for row in rows) > len(rows) / 2:
        return "speak-like-this", "The rows are conversations." if answers else "The rows are plain text."
    return "follow-instructions", "The rows are questions with answers in words."


def _turns(row: dict[str, Any]) -> int:
    """Answers in a row."""
    return sum(message["role"] == "assistant" for message in row.get("messages") or ())
