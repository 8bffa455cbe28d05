"""The search space of a sweep: which settings may be tried, which ones are if none is named, how they are typed."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from .presets import parse_override
from .recipe import Recipe, group_of

Space = dict[str, list[Any]]
NOT_SWEPT = ("seed", "max_length", "packing", "packing_length", "objective")  # they change what the loss means
NOT_SWEPT += ("max_minutes",)  # it is the same limit for all; what it leaves of the epochs is what they begin from


def read_space(overrides: Sequence[str]) -> tuple[list[str], Space]:
    """Overrides with one value stay overrides; those with several, commas between, are what is tried.

    A single value with a comma behind it is tried alone, and a list in brackets is one value. Raises FinetuneError for
    a value that the recipe refuses.

    >>> read_space(["lora_r=8,16", "dataset_name=a,b.csv"])
    (['dataset_name=a,b.csv'], {'lora_r': [8, 16]})
    """
    fixed: list[str] = []
    space: Space = {}
    for text in overrides:
        name, _, values = text.partition("=")
        if name.strip() in swept() and "," in values and not values.strip().startswith("["):  # a list is one value
            parts = [part.strip() for part in values.split(",") if part.strip()]
            found = [getattr(Recipe.make(parse_override(f"{name.strip()}={part}")), name.strip()) for part in parts]
            space[name.strip()] = list(dict.fromkeys(found))
        else:
            fixed.append(text)
    return fixed, space


def swept() -> tuple[str, ...]:
    """Settings that a sweep may try: how it learns, never what it learns from."""
    return tuple(
        name for name in Recipe.model_fields if group_of(name) in ("Method", "Training") and name not in NOT_SWEPT
    )


def usual_space(recipe: Recipe) -> Space:
    """What is worth trying when nothing is named. recipe: with every value written out.

    >>> usual_space(Recipe(learning_rate=1e-3))
    {'learning_rate': [0.0003, 0.001, 0.003], 'lora_r': [8, 16, 32], 'num_train_epochs': [1.0, 2.0, 4.0]}
    """
    rate, epochs = recipe.learning_rate or 2e-4, recipe.num_train_epochs
    space: Space = {"learning_rate": [_round(rate * 0.3), rate, _round(min(1.0, rate * 3))]}
    if recipe.method != "full":
        ranks = (recipe.lora_r // 2, recipe.lora_r, recipe.lora_r * 2)
        space["lora_r"] = [rank for rank in ranks if 1 <= rank <= 256]
    space["num_train_epochs"] = [_round(epochs / 2), epochs, min(100.0, epochs * 2)]
    return space


def combinations(space: Space) -> list[dict[str, Any]]:
    """Every setting of the space, the last name changing fastest."""
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())]


def _round(value: float) -> float:
    return float(f"{value:.2g}")
