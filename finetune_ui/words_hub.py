"""What the Hub offers: names while typing, and the subset, split and version of a data set as drop-downs. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_core.amounts import parameters
from finetune_core.hub import HubItem

from .words import esc, join

TITLES = {
    "dataset_config": "Subset",
    "dataset_train_split": "Split to learn from",
    "dataset_revision": "Version",
}
FITS = {"fits": "fits here", "tight": "tight here", "no": "too large here"}
EMPTY = {"dataset_config": "not chosen", "dataset_revision": "the newest"}


def found(item: HubItem, fits: str = "", was_used: bool = False) -> str:
    """One name in the list while typing, with what the Hub says about it, and a first guess whether it fits here.

    >>> found(HubItem("acme/it", 1_234_000, True, False, 752_000_000, None, "mit"), "no")
    'acme/it · 752 million · too large here · mit · gated · 1.2 M downloads'
    """
    size = item.parameters
    return join(
        [
            item.id,
            "used before" if was_used else "",
            parameters(size) if size else _rows(item.size),
            FITS.get(fits, ""),
            item.licence or "",
            "gated" if item.gated else "",
            "private" if item.private else "",
            f"{_short(item.downloads)} downloads" if item.downloads else "",
        ]
    )


def _rows(category: str | None) -> str:
    """
    >>> _rows("n<1K"), _rows("1K<n<10K"), _rows("n>1T"), _rows(None)
    ('under 1K rows', '1K to 10K rows', 'over 1T rows', '')
    """
    words = (category or "").replace("<n<", " to ").replace("n<", "under ").replace("n>", "over ")
    return f"{words} rows" if words else ""


def _short(number: int) -> str:
    """
    >>> _short(950), _short(12_300), _short(2_340_000)
    ('950', '12 k', '2.3 M')
    """
    return str(number) if number < 1e3 else f"{number / 1e3:.0f} k" if number < 1e6 else f"{number / 1e6:.1f} M"


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
