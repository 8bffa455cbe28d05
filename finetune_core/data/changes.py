"""What a repair would change: how many rows, and the first of them before and after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .prepared import Prepared

SHOWN = 3  # rows of each kind
LOOKED_AT = 5000  # rows compared one by one where only reading them shows a change (the spelling of labels)
EXCERPT = 240  # characters of a row


@dataclass(frozen=True)
class Change:
    """One row. Texts are of the data: to be escaped by whoever shows them."""

    row: int  # 1-based, in its file
    before: str | None  # None: it could not be used before
    after: str | None  # None: it is left out


@dataclass(frozen=True)
class Difference:
    """Between the rows of two recipes over the same source."""

    left_out: int
    changed: int
    taken_in: int
    examples: tuple[Change, ...]


def difference(before: Prepared, after: Prepared) -> Difference:
    """Rows are told by their place in the source; a changed row is one whose text has another hash."""
    old, new = _places(before), _places(after)
    shared, at_old, at_new = np.intersect1d(old[0], new[0], assume_unique=True, return_indices=True)
    old_numbers, new_numbers = old[1][at_old], new[1][at_new]
    is_changed = _hashes(before, old_numbers) != _hashes(after, new_numbers)
    changed = list(zip(old_numbers[is_changed].tolist(), new_numbers[is_changed].tolist(), strict=True))
    count = len(changed)
    spelled = after.repaired.get("trim-labels", 0) - before.repaired.get("trim-labels", 0)
    if spelled > 0:
        count += spelled
        pairs = zip(old_numbers[:LOOKED_AT].tolist(), new_numbers[:LOOKED_AT].tolist(), strict=True)
        changed += [(a, b) for a, b in pairs if _says(before, a) != _says(after, b)]
    gone = old[1][~np.isin(old[0], shared)]
    come = new[1][~np.isin(new[0], shared)]
    examples = [Change(before.place(number).row, around(_says(before, number)), None) for number in gone[:SHOWN]]
    for a, b in changed[:SHOWN]:
        texts = around(_says(before, a), _says(after, b)), around(_says(after, b), _says(before, a))
        examples.append(Change(before.place(a).row, *texts))
    examples += [Change(after.place(number).row, None, around(_says(after, number))) for number in come[:SHOWN]]
    left_out = max(len(gone), sum(after.dropped.values()) - sum(before.dropped.values()))
    return Difference(left_out, count, len(come), tuple(examples))


def around(text: str, other: str = "") -> str:
    """An excerpt that shows where a text differs from another.

    >>> around("a" * 500 + "b", "a" * 500 + "c")[-3:]
    'aab'
    """
    same = next((at for at, (one, two) in enumerate(zip(text, other, strict=False)) if one != two), 0)
    start = max(0, same - EXCERPT // 3) if other else 0
    excerpt = text[start : start + EXCERPT]
    return ("…" if start else "") + excerpt + ("…" if start + EXCERPT < len(text) else "")


def _places(prepared: Prepared) -> tuple[np.ndarray, np.ndarray]:
    """(a key for each row's place in the source, in order; the rows' numbers)."""
    numbers = np.sort(np.concatenate([rows.numbers for rows in prepared.splits().values()]))
    return prepared.places.keys(numbers) if prepared.places is not None else numbers, numbers


def _hashes(prepared: Prepared, numbers: np.ndarray) -> np.ndarray:
    return prepared.keys.exact[numbers] if prepared.keys is not None else numbers


def _says(prepared: Prepared, number: int) -> str:
    return row_says(prepared.train.view(np.array([number]))[0])


def row_says(row: dict[str, Any]) -> str:
    """
    >>> row_says({"messages": [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]})
    'user: 1+1?\\nassistant: 2'
    """
    if "text" in row:
        return row["text"]
    return "\n".join(f"{turn['role']}: {turn['content'] or turn.get('tool_calls', '')}" for turn in row["messages"])
