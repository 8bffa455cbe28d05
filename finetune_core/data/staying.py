"""Which rows stay: repeats, near repeats, contradictions and leaks are found, and left out as the recipe says."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from ..recipe import Recipe
from .duplicates import Keys, repeats
from .labels import LabelTable, find_conflicts
from .leaks import Shared, later_of, shared_with_train, with_split

LEAVING = ("drop-conflicts", "drop-duplicates", "drop-near-duplicates", "drop-leaks")


@dataclass(frozen=True)
class Doubles:
    """Rows that others have something to do with; booleans, one a row."""

    conflicts: np.ndarray  # the same prompt stands elsewhere with another label
    again: np.ndarray  # repeats an earlier row of its split
    near: np.ndarray  # nearly repeats one
    shared: Shared


def find_doubles(keys: Keys, splits: np.ndarray, pairs: np.ndarray, labels: LabelTable | None) -> Doubles:
    """`splits`: number in SPLITS of each row, -1: not said. `pairs`: near rows."""
    in_split = np.maximum(splits, 0)
    return Doubles(
        conflicts=find_conflicts(keys) if labels is not None else np.zeros(len(keys), dtype=bool),
        again=repeats(with_split(keys.folded, in_split)),
        near=later_of(pairs, in_split, len(keys)),
        shared=shared_with_train(keys, splits, pairs, np.ones(len(keys), dtype=bool)),
    )


def among(found: Doubles, kept: np.ndarray, keys: Keys, splits: np.ndarray, pairs: np.ndarray) -> Doubles:
    """Those of the rows that stay (booleans): what there is to say after some were left out."""
    shared = shared_with_train(keys, splits, pairs, kept)
    return Doubles(found.conflicts & kept, found.again & kept, found.near & kept, shared)


def staying(found: Doubles, splits: np.ndarray, recipe: Recipe) -> tuple[np.ndarray, Counter[str]]:
    """(numbers of the rows that the recipe keeps, in order; why others go → how many)."""
    kept, dropped = wanted(found, recipe)
    numbers = _sampled(np.flatnonzero(kept), splits, recipe, dropped)
    return numbers, +dropped


def wanted(found: Doubles, recipe: Recipe) -> tuple[np.ndarray, Counter[str]]:
    """(booleans, one a row: no repair leaves it out; why others go → how many), before a sample is drawn."""
    kept, dropped = np.ones(len(found.again), dtype=bool), Counter()
    for fix, why, which in (
        ("drop-conflicts", "conflicting-labels", found.conflicts),
        ("drop-duplicates", "duplicates", found.again),
        ("drop-near-duplicates", "near-duplicates", found.near),
        ("drop-leaks", "leaks", found.shared.in_train),
    ):
        if fix in recipe.fixes:
            dropped[why] += int((kept & which).sum())
            kept &= ~which
    return kept, dropped


def _sampled(numbers: np.ndarray, splits: np.ndarray, recipe: Recipe, dropped: Counter[str]) -> np.ndarray:
    """At most max_rows, drawn with the seed; validation and test rows that the data brought along all stay."""
    if recipe.max_rows is None:
        return numbers
    pool, others = numbers[splits[numbers] <= 0], numbers[splits[numbers] > 0]
    if len(pool) <= recipe.max_rows:
        return numbers
    dropped["max_rows"] += len(pool) - recipe.max_rows
    drawn = np.random.default_rng(recipe.seed).choice(pool, recipe.max_rows, replace=False)
    return np.sort(np.concatenate([drawn, others]))
