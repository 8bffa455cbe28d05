"""What a repair would change: how many rows, and the first of them before and after it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .labels import LabelTable

if TYPE_CHECKING:
    from .findings import Place
    from .prepared import Prepared

SHOWN = 3  # rows of each kind
EXCERPT = 240  # characters of a row

Read = Callable[[int], tuple["Place", str]]  # a row's number → where it came from, and what it says


@dataclass(frozen=True)
class Change:
    """One row before and after. Its texts are from the data: whoever shows them escapes them."""

    row: int  # 1-based, in its file
    before: str | None  # None: it could not be used before
    after: str | None  # None: it is left out
    file: str = ""  # only where there are several


@dataclass(frozen=True)
class Difference:
    """What differs between the rows of two recipes over the same source."""

    left_out: int
    changed: int
    taken_in: int
    examples: tuple[Change, ...] = ()


def difference(before: Prepared, after: Prepared) -> Difference:
    """What differs between two readings. Rows are told apart by their place in the source; a changed row is one whose
    text has another hash."""
    (old, old_numbers), (new, new_numbers) = _places(before), _places(after)
    _, at_old, at_new = np.intersect1d(old, new, assume_unique=True, return_indices=True)
    one, other = old_numbers[at_old], new_numbers[at_new]
    is_changed = before.intake.keys.exact[one] != after.intake.keys.exact[other]
    is_changed |= _spelled(before)[one] != _spelled(after)[other]
    gone, come = np.delete(old_numbers, at_old), np.delete(new_numbers, at_new)
    examples = told(
        gone, zip(one[is_changed].tolist(), other[is_changed].tolist(), strict=True), come,
        reader(before), reader(after),
    )  # fmt: skip
    left_out = max(len(gone), sum(after.dropped.values()) - sum(before.dropped.values()))
    return Difference(left_out, int(is_changed.sum()), len(come), examples)


def told(
    gone: Iterable[int], changed: Iterable[tuple[int, int]], come: Iterable[int], before: Read, after: Read
) -> tuple[Change, ...]:
    """The first rows of each kind, by their numbers before and after."""
    examples = []
    for number in itertools.islice(gone, SHOWN):
        place, says = before(number)
        examples.append(Change(place.row, around(says), None, place.file))
    for old, new in itertools.islice(changed, SHOWN):
        place, says = before(old)
        _, then = after(new)
        examples.append(Change(place.row, around(says, then), around(then, says), place.file))
    for number in itertools.islice(come, SHOWN):
        place, says = after(number)
        examples.append(Change(place.row, None, around(says), place.file))
    return tuple(examples)


def reader(prepared: Prepared) -> Read:
    """Reads single rows as they are learned from."""
    return lambda number: (prepared.place(number), row_says(prepared.train.view(np.array([number]))[0]))


def around(text: str, other: str = "") -> str:
    """An excerpt that shows where a text differs from another.

    >>> around("a" * 500 + "b", "a" * 500 + "c")[-3:]
    'aab'
    """
    same = next((at for at, (one, two) in enumerate(zip(text, other, strict=False)) if one != two), 0)
    start = max(0, same - EXCERPT // 3) if other else 0
    excerpt = text[start : start + EXCERPT]
    return ("…" if start else "") + excerpt + ("…" if start + EXCERPT < len(text) else "")


def row_says(row: dict[str, Any]) -> str:
    """
    >>> row_says({"messages": [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]})
    'user: 1+1?\\nassistant: 2'
    """
    if "text" in row:
        return row["text"]
    return "\n".join(f"{turn['role']}: {turn['content'] or turn.get('tool_calls', '')}" for turn in row["messages"])


def numbers_of(prepared: Prepared) -> np.ndarray:
    """The numbers of its rows, in the order of the source."""
    return np.sort(np.concatenate([rows.numbers for rows in prepared.splits().values()]))


def _places(prepared: Prepared) -> tuple[np.ndarray, np.ndarray]:
    """(a key for each row's place in the source, in order; the rows' numbers)."""
    numbers = numbers_of(prepared)
    return prepared.intake.places.keys(numbers), numbers


def _spelled(prepared: Prepared) -> np.ndarray:
    """For each row, whether its label was given the one spelling (booleans)."""
    labels: LabelTable | None = prepared.labels
    if labels is None or "trim-labels" not in prepared.settings["fixes"]:
        return np.zeros(len(prepared.intake.keys), dtype=bool)
    return labels.is_variant
