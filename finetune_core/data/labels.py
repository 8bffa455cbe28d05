"""Answers that are labels, few and short: their spelling, their balance, their contradictions."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..recipe import Recipe
from .duplicates import Keys, fold
from .findings import Finding, count_rows, listing, seen_at, shorten, with_fix
from .rows import Change, Rows

MIN_ROWS = 10
MAX_LABELS = 200
MAX_LENGTH = 80  # characters
IMBALANCE = 0.9  # share of the most frequent label from which "always that" is a rival
MOST = 0.9  # share of rows whose answer must come back, or answers are no labels
RARE = 3  # fewer rows than this cannot be learned, kept apart and tested


@dataclass(frozen=True)
class LabelTable:
    """The labels of a data set under one spelling each."""

    counts: dict[str, int]  # label → rows, most frequent first
    spelling: dict[str, str]  # each other spelling → the label it means
    variants: dict[str, int]  # each other spelling → rows
    numbers: np.ndarray  # of each row: which label, as a number
    is_variant: np.ndarray  # booleans, one a row: in another spelling than the label's

    def findings(self, conflicts: np.ndarray, kept: np.ndarray, places: Any, recipe: Recipe) -> list[Finding]:
        """What to say about them. Booleans, one a row: `conflicts` contradict another row, `kept` are not left out."""
        found = [
            self._variants(kept, recipe),
            self._imbalance(),
            self._rare(),
            _conflict_finding(conflicts, places, recipe),
        ]
        return [finding for finding in found if finding is not None]

    def _variants(self, kept: np.ndarray, recipe: Recipe) -> Finding | None:
        count = int((self.is_variant & kept).sum())
        if not count or "trim-labels" in recipe.fixes:
            return None
        shown = listing((f"{raw!r} → {self.spelling[raw]!r} ({count})" for raw, count in self.variants.items()), 8)
        return Finding(
            "label-variants",
            "warning",
            f"{len(self.counts)} labels are spelled in {len(self.counts) + len(self.variants)} ways (label variants): "
            f"{shown}. The model would learn each spelling as a label of its own.",
            count=count,
            fix=f"Trim and merge them into {listing(self.counts, 6)}; {count_rows(count)} change.",
            suggestion=with_fix(recipe, "trim-labels", "Trim and merge"),
        )

    def _imbalance(self) -> Finding | None:
        total = sum(self.counts.values())
        label, count = next(iter(self.counts.items()))
        if len(self.counts) > 1 and count < IMBALANCE * total:
            return None
        if len(self.counts) == 1:
            return Finding(
                "one-answer",
                "warning",
                f"All {count_rows(total)} have the same answer, “{label}”: the model can only learn to say that.",
                count=total,
                fix="Add rows with other answers.",
            )
        return Finding(
            "imbalance",
            "warning",
            f"{count:,} of {total:,} answers are “{label}” ({_table(self.counts)}): "
            f"always answering “{label}” would already score {_percent(count, total)}.",
            count=count,
            fix="Add rows of the rarer labels, and compare the result with that score rather than with 0.",
        )

    def _rare(self) -> Finding | None:
        rare = {label: count for label, count in self.counts.items() if count < RARE}
        if not rare:
            return None
        return Finding(
            "rare-labels",
            "note",
            f"Some labels have fewer than {RARE} rows: {_table(rare)}. They can hardly be learned, and not tested.",
            count=sum(rare.values()),
            fix="Add rows of these labels.",
        )


def find_labels(rows: Rows, keys: Keys) -> LabelTable | None:
    """The labels, if the answers are labels at all."""
    if len(keys) < MIN_ROWS:
        return None
    distinct, numbers, counts_of = np.unique(keys.answer, return_inverse=True, return_counts=True)
    if len(distinct) > min(MAX_LABELS, max(2, len(keys) // 5)) or keys.answer_length.max() > MAX_LENGTH:
        return None
    often = counts_of[numbers] >= RARE
    if "text" in rows[0] or often.mean() < MOST:
        return None
    answers: dict[str | None, int] = {}  # each spelling → a number
    of_row = np.fromiter((answers.setdefault(answer_of(row), len(answers)) for row in rows), np.int64, len(rows))
    counted = zip(answers, np.bincount(of_row).tolist(), strict=True)
    raw = Counter({answer: count for answer, count in counted if answer is not None})
    by_label: dict[str, Counter[str]] = {}
    for answer, count in raw.items():
        by_label.setdefault(fold(answer), Counter())[answer.strip()] += count
    names = {label: max(ways, key=lambda way: (ways[way], -len(way))) for label, ways in by_label.items()}
    counts = sorted(((names[label], sum(ways.values())) for label, ways in by_label.items()), key=lambda item: -item[1])
    variants = {answer: count for answer, count in raw.most_common() if answer != names[fold(answer)]}
    spelling = {answer: names[fold(answer)] for answer in variants}
    return LabelTable(dict(counts), spelling, variants, numbers, np.isin(of_row, [answers[way] for way in variants]))


def answer_of(row: dict[str, Any]) -> str | None:
    """The text of the last answer."""
    return row["messages"][-1]["content"] if "messages" in row else None


def one_spelling(table: LabelTable) -> Change:
    """Gives a row's answer the label's spelling."""

    def change(row: dict[str, Any]) -> dict[str, Any]:
        answer = answer_of(row)
        if answer in table.spelling:
            row["messages"][-1]["content"] = table.spelling[answer]
        return row

    return change


def unseen_labels(table: LabelTable, in_train: np.ndarray, in_others: np.ndarray) -> int:
    """How many labels only validation or test rows have."""
    return len(np.setdiff1d(table.numbers[in_others], table.numbers[in_train]))


def find_conflicts(keys: Keys) -> np.ndarray:
    """Rows whose prompt stands elsewhere with another label."""
    order = np.lexsort((keys.answer, keys.prompt))
    prompts, answers = keys.prompt[order], keys.answer[order]
    is_same = prompts[1:] == prompts[:-1]
    group = np.r_[0, np.cumsum(~is_same)][: len(order)]  # a number for each prompt
    differs = np.zeros(len(order), dtype=bool)
    differs[group[1:][is_same & (answers[1:] != answers[:-1])]] = True
    conflicts = np.empty(len(order), dtype=bool)
    conflicts[order] = differs[group]
    return conflicts


def _conflict_finding(conflicts: np.ndarray, places: Any, recipe: Recipe) -> Finding | None:
    if not conflicts.any() or "drop-conflicts" in recipe.fixes:
        return None
    seen = seen_at(places, np.flatnonzero(conflicts))
    return Finding(
        "conflicting-labels",
        "warning",
        f"{count_rows(seen.count)} have the same prompt as another row but a different label: {seen.words()}.",
        seen.rows,
        seen.count,
        "Decide which label is right, or leave them all out.",
        with_fix(recipe, "drop-conflicts", "Leave them out"),
        seen.lines,
        files=seen.files,
    )


def _table(counts: dict[str, int]) -> str:
    return listing((f"{shorten(label, 40)} {count:,}" for label, count in counts.items()), 8)


def _percent(count: int, total: int) -> str:
    """
    >>> _percent(198, 200), _percent(1999, 2000)
    ('99%', '99.95%')
    """
    share = 100 * count / total
    return f"{share:.2f}%" if share > 99.5 else f"{share:.0f}%"
