"""A repair before it is made: how many rows it concerns, and the first of them before and after. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finetune_core.amounts import count, many, percent
from finetune_core.errors import FinetuneError

from .words import error_card, esc, join

SHOWN = 3  # rows
SIGNS = str.maketrans({" ": "·", "\n": "↵", "\t": "⇥", "\r": "↵", "\u00a0": "·"})


def waiting(fraction: float | None) -> str:
    far = f" ({percent(fraction)})" if fraction else ""
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
    before, after = change.before, change.after
    if before is not None and after is not None:
        before, after = spaces_shown(before, after), spaces_shown(after, before)
    left = f"<del>{esc(before)}</del>" if before is not None else ""
    right = f"<ins>{esc(after)}</ins>" if after is not None else ""
    where = f"Row {count(change.row)}" + (f" of {esc(change.file)}" if change.file else "")
    return f'<li><span class="muted num">{where}</span>{left}{right}</li>'


def spaces_shown(text: str, other: str) -> str:
    """A text with signs for the spaces at the edges of what differs, which nobody would see.

    >>> spaces_shown("label: good\\n", "label: good"), spaces_shown("label:  Good", "label: good")
    ('label: good↵', 'label: ·Good')
    """
    start = _alike(text, other)
    end = len(text) - _alike(text[start:][::-1], other[start:][::-1])
    part = text[start:end]
    inner = part.strip()
    begin = part.index(inner) if inner else 0
    edges = [part[:begin], part[begin + len(inner) :]]
    signs = [edge.translate(SIGNS) for edge in edges]
    return text[:start] + signs[0] + inner + signs[1] + text[end:]


def _alike(text: str, other: str) -> int:
    """How many characters they begin with in common."""
    pairs = enumerate(zip(text, other, strict=False))
    return next((at for at, (one, two) in pairs if one != two), min(len(text), len(other)))
