"""A repair before it is made: how many rows it concerns, and the first of them before and after. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finetune_core.errors import FinetuneError

from .words import count, error_card, esc, join, many

SHOWN = 3  # rows


def waiting(fraction: float | None) -> str:
    far = f" ({100 * fraction:.0f}%)" if fraction else ""
    mark = '<span class="trial-turn turning"></span>'
    return f'<p class="trial" role="status">{mark}Looking at what would change{far}</p>'


def failed(error: FinetuneError) -> str:
    return f'<div class="trial">{error_card(error)}</div>'


def preview(difference: Any, examples: Sequence[Any]) -> str:
    """`examples`: changes to show; those of rows that could never be used come from the finding."""
    rows = "".join(_change(change) for change in examples)
    more = difference.left_out + difference.changed + difference.taken_in - len(examples)
    rest = f'<li class="more muted">and {many(more, "row")} more</li>' if rows and more > 0 else ""
    listed = f'<ol class="trial-rows">{rows}{rest}</ol>' if rows else ""
    return f'<div class="trial" role="status"><p>{esc(summary(difference))}</p>{listed}</div>'


def summary(difference: Any) -> str:
    """
    >>> from types import SimpleNamespace as Some
    >>> summary(Some(left_out=2, changed=0, taken_in=0)), summary(Some(left_out=0, changed=0, taken_in=0))
    ('2 rows would be left out.', 'No row would change.')
    """
    said = join(
        [
            f"{many(difference.left_out, 'row')} would be left out." if difference.left_out else "",
            f"{many(difference.changed, 'row')} would change." if difference.changed else "",
            f"{many(difference.taken_in, 'row')} could be learned from that now cannot." if difference.taken_in else "",
        ],
        " ",
    )
    return said or "No row would change."


def _change(change: Any) -> str:
    before = f"<del>{esc(change.before)}</del>" if change.before is not None else ""
    after = f"<ins>{esc(change.after)}</ins>" if change.after is not None else ""
    return f'<li><span class="muted num">Row {count(change.row)}</span>{before}{after}</li>'
