"""Which part of a data set on the Hub is read: its subset, split and version as drop-downs. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .words import esc

TITLES = {
    "dataset_config": "Subset",
    "dataset_train_split": "Split to learn from",
    "dataset_revision": "Version",
}
EMPTY = {"dataset_config": "not chosen", "dataset_revision": "the newest"}


def pickers(choices: Mapping[str, Sequence[str]], chosen: Mapping[str, Any]) -> str:
    """One drop-down for each field that leaves a choice or was chosen; "" for none (the Hub is away, or slow)."""
    fields = "".join(
        _picker(field, choices.get(field, ()), str(chosen.get(field) or ""))
        for field in TITLES
        if len(choices.get(field, ())) > 1 or (chosen.get(field) or "") not in ("", "train", *choices.get(field, ()))
    )
    about = 'class="roles hub-picks" role="group" aria-label="Part of the data set"'
    return f"<div {about}>{fields}</div>" if fields else ""


def _picker(field: str, names: Sequence[str], chosen: str) -> str:
    offered = [*names] if chosen in ("", *names) else [chosen, *names]
    empty = f'<option value=""{"" if chosen else " selected"}>{EMPTY[field]}</option>' if field in EMPTY else ""
    options = "".join(
        f'<option value="{esc(name)}"{" selected" if name == chosen else ""}>{esc(name + _missing(name, names))}'
        "</option>"
        for name in offered
    )
    return (
        f"<label><span>{TITLES[field]} <code>{field}</code></span>"
        f'<select data-field="{field}">{empty}{options}</select></label>'
    )


def _missing(name: str, names: Sequence[str]) -> str:
    return "" if name in names or not names else " (not in this data set)"
