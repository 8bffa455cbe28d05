"""Repeated rows, and rows that stand on both sides of a split that the data brought along."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..recipe import Recipe
from .duplicates import Keys, repeats
from .findings import Finding, count_rows, seen_at, with_fix
from .split import SPLITS

WORTH_A_WARNING = 0.01  # share of repeated rows; fewer are only noted
NEAR_WORTH_A_WARNING = 0.2


@dataclass(frozen=True)
class Shared:
    """Validation and test rows that are also rows to learn from."""

    exact: np.ndarray  # booleans, one a row: word for word
    folded: np.ndarray  # apart from capitals, spaces and the end's punctuation (word for word included)
    near: np.ndarray  # nearly, and not folded
    in_train: np.ndarray  # the training rows concerned


def shared_with_train(keys: Keys, splits: np.ndarray, pairs: np.ndarray, kept: np.ndarray) -> Shared:
    """Held-out rows that training has too, in a data set with its own splits; `pairs` are near rows, `kept` (booleans)
    the rows that count."""
    other, train = kept & (splits > 0), kept & (splits <= 0)
    exact, folded, touched = (np.zeros(len(keys), dtype=bool) for _ in range(3))
    exact[other] = are_in(keys.exact[other], keys.exact[train])
    folded[other] = are_in(keys.folded[other], keys.folded[train])
    one, two = pairs[:, 0], pairs[:, 1]
    touched[pairs[(other[one] & train[two]) | (train[one] & other[two])].ravel()] = True
    in_train = train & (are_in(keys.folded, keys.folded[other]) | touched)
    return Shared(exact, folded, other & touched & ~folded, in_train)


def are_in(keys: np.ndarray, others: np.ndarray) -> np.ndarray:
    """For each key: is it among the others? Many times as fast as numpy's isin where these are a million.

    >>> are_in(np.array([3, 1, 9]), np.array([1, 9, 9, 0]))
    array([False,  True,  True])
    """
    if not len(others):
        return np.zeros(len(keys), dtype=bool)
    ordered = np.sort(others)
    return ordered[np.minimum(np.searchsorted(ordered, keys), len(ordered) - 1)] == keys


def leak_findings(intake: Any, shared: Shared, recipe: Recipe) -> list[Finding]:
    """One finding a split that shares rows with the training rows."""
    if "drop-leaks" in recipe.fixes:
        return []
    findings = []
    for number in (1, 2):
        here = intake.splits == number
        rows = np.flatnonzero(here & (shared.folded | shared.near))
        if not len(rows):
            continue
        exact, folded, near = (int((kind & here).sum()) for kind in (shared.exact, shared.folded, shared.near))
        kinds = [f"{exact} word for word"] * (exact > 0)
        kinds += [f"{folded - exact} apart from capitals, spaces or punctuation"] * (folded > exact)
        kinds += [f"{near} nearly"] * (near > 0)
        seen = seen_at(intake.places, rows)
        findings.append(
            Finding(
                "leak",
                "warning",
                f"{len(rows):,} of the {int(here.sum()):,} {SPLITS[number]} rows are also training rows "
                f"({', '.join(kinds)}): {seen.words()}. The {SPLITS[number]} score would be too good.",
                seen.rows,
                len(rows),
                f"Take the {count_rows(int(shared.in_train.sum()))} concerned out of the training rows.",
                with_fix(recipe, "drop-leaks", "Take them out of training"),
                seen.lines,
                files=seen.files,
            )
        )
    return findings


def duplicate_findings(
    intake: Any, again: np.ndarray, near: np.ndarray, in_split: np.ndarray, recipe: Recipe
) -> list[Finding]:
    """Rows that repeat an earlier one of their split, and rows that nearly do (`near`: booleans)."""
    findings = []
    total = max(1, len(again))
    if again.any() and "drop-duplicates" not in recipe.fixes:
        seen = seen_at(intake.places, np.flatnonzero(again))
        exact = int((again & repeats(with_split(intake.keys.exact, in_split))).sum())
        also = f" ({exact:,} word for word)" if exact != seen.count else ""
        level = "warning" if seen.count >= WORTH_A_WARNING * total else "note"
        findings.append(
            Finding(
                "duplicates",
                level,
                f"{count_rows(seen.count)} {_repeats(seen.count)} an earlier row{also}: {seen.words()}. What is said "
                "twice is learned twice. Where Fijn sets rows apart for the proof, repeats stay together.",
                seen.rows,
                seen.count,
                "Leave the repeats out, unless they are meant.",
                with_fix(recipe, "drop-duplicates", "Leave repeats out"),
                seen.lines,
                files=seen.files,
            )
        )
    if near.any() and "drop-near-duplicates" not in recipe.fixes:
        seen = seen_at(intake.places, np.flatnonzero(near))
        level = "warning" if seen.count >= NEAR_WORTH_A_WARNING * total else "note"
        findings.append(
            Finding(
                "near-duplicates",
                level,
                f"{count_rows(seen.count)} nearly {_repeats(seen.count)} an earlier row: {seen.words()}. Where Fijn "
                "sets rows apart for the proof, they stay together.",
                seen.rows,
                seen.count,
                "Look at a few of them; leave them out if they add nothing.",
                with_fix(recipe, "drop-near-duplicates", "Leave them out"),
                seen.lines,
                files=seen.files,
            )
        )
    return findings


def later_of(pairs: np.ndarray, in_split: np.ndarray, count: int) -> np.ndarray:
    """True for each row that is near an earlier row of its split."""
    is_later = np.zeros(count, dtype=bool)
    if len(pairs):
        same = in_split[pairs[:, 0]] == in_split[pairs[:, 1]]
        is_later[pairs[same, 1]] = True
    return is_later


def with_split(keys: np.ndarray, in_split: np.ndarray) -> np.ndarray:
    """Keys that differ between splits."""
    return keys ^ (in_split.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))


def _repeats(count: int) -> str:
    return "repeats" if count == 1 else "repeat"
