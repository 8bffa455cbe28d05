"""Rows that were looked at: one of them by its place, and which columns they came from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from finetune_core.recipe import ROLES

if TYPE_CHECKING:
    from finetune_core.data import Prepared
    from finetune_core.data.findings import Place

LOOKED_THROUGH = 200_000  # rows of a split that are searched for one of the source


def row_index(prepared: Prepared, wanted: int, file: str = "") -> int | None:
    """Index over train, validation and test rows of the source's row `wanted` (from 1); None if it was left out.

    file: which one, where the source has several.
    """
    start = 0
    for rows in prepared.splits().values():
        for index, number in enumerate(rows.numbers[:LOOKED_THROUGH].tolist()):
            place = prepared.place(number)
            if place.row == wanted and file in ("", place.file):
                return start + index
        start += len(rows)
    return None


def row_at(prepared: Prepared, index: int) -> tuple[str, Any, Place] | None:
    """(split, row, its place in the source) at an index over train, validation and test rows."""
    for split, rows in prepared.splits().items():
        if index < len(rows):
            return split, rows[index], prepared.place(int(rows.numbers[index]))
        index -= len(rows)
    return None


def roles_of(prepared: Prepared) -> dict[str, str]:
    """Role → column, as recognised, as chosen (if that is not enough to read a row), or else as proposed."""
    known = prepared.mapping or prepared.settings["columns"] or prepared.proposal
    return {role: column for role, column in known.items() if role in ROLES}


def wanted_roles(prepared: Prepared) -> tuple[str, ...]:
    """Roles worth a drop-down: none for rows that are conversations already."""
    if not prepared.columns or "messages" in prepared.mapping:
        return ()
    roles = roles_of(prepared)
    usual = ("text", "label") if "label" in roles else ("prompt", "completion", "system")
    if "chosen" in roles or "rejected" in roles:
        usual = ("prompt", "chosen", "rejected", "system")
    return tuple(role for role in ROLES if role in usual or role in roles)


def shape_words(prepared: Prepared) -> str:
    from finetune_core.data.columns import SHAPES

    return SHAPES.get(prepared.shape, prepared.shape)
