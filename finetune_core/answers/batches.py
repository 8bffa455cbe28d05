"""Rows in batches of like length, and in smaller ones where memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..errors import explain
from ..model import free_memory


def batches(lengths: Sequence[int], most_rows: int, most_tokens: int) -> list[list[int]]:
    """Row numbers in batches of rows of like length, longest first: at most so many rows, and tokens with padding.

    >>> batches([3, 9, 4, 8], most_rows=2, most_tokens=100)
    [[1, 3], [2, 0]]
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    grouped: list[list[int]] = []
    for row in order:
        group = grouped[-1] if grouped else None
        if group and len(group) < most_rows and lengths[group[0]] * (len(group) + 1) <= most_tokens:
            group.append(row)
        else:
            grouped.append([row])
    return grouped


def in_batches(lengths: Sequence[int], most_rows: int, most_tokens: int, work: Callable[[list[int]], None]) -> None:
    """Do the work for batches of rows; where one does not fit into memory, it and those behind it are halved.

    Raises what the work raises; that memory ran out, only once a single row does not fit.
    """
    left = batches(lengths, most_rows, most_tokens)
    while left:
        group = left.pop(0)
        try:
            work(group)
            continue
        except (RuntimeError, MemoryError) as error:
            if len(group) < 2 or explain(error).code != "out-of-memory":
                raise
        free_memory()  # not before the error is forgotten: it holds what was being computed
        rows = [row for part in (group, *left) for row in part]
        smaller = batches([lengths[row] for row in rows], len(group) // 2, most_tokens)
        left = [[rows[place] for place in part] for part in smaller]
