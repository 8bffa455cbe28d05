"""Repairs that write a row anew: pure, and made as rows are read back, so that trying one takes no second look."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

from .personal import mask_all
from .rows import Change

Row = dict[str, Any]


def rewriting(fixes: Iterable[str]) -> Change | None:
    """What these repairs make of a row; None where none of them writes rows anew."""
    changes = [change for fix, change in REWRITES.items() if fix in fixes]
    if not changes:
        return None

    def change(row: Row) -> Row:
        for each in changes:
            row = each(row)
        return row

    return change


def merged(row: Row) -> Row:
    """Turns of one role in a row as one, a blank line between them; the row itself where there are none."""
    if "text" in row or not has_consecutive(row["messages"]):
        return row
    turns: list[Row] = []
    for message in row["messages"]:
        last = turns[-1] if turns else None
        same = last is not None and last["role"] == message["role"] != "tool" and "tool_calls" not in last
        if same and last is not None and last.get("weight", 1) == message.get("weight", 1):
            content = f"{last['content']}\n\n{message['content']}".strip()
            turns[-1] = last | message | {"content": content}
        else:
            turns.append(message)
    return row | {"messages": turns} if len(turns) < len(row["messages"]) else row


def has_consecutive(messages: list[Row]) -> bool:
    """Several turns of one role in a row, apart from the answers of tools."""
    return any(one["role"] == other["role"] != "tool" for one, other in itertools.pairwise(messages))


def masked(row: Row) -> Row:
    """The row with placeholders for personal data and keys wherever it has text, in calls of tools too; the row itself
    where there is none."""
    return mask_all(row)


REWRITES = {"merge-consecutive": merged, "mask-personal-data": masked}  # repair → how, in the order in which it is done
