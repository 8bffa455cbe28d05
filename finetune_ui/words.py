"""Sentences and pieces that every panel shows. Pure: values in, text or escaped html out, no gradio."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

from finetune_core.amounts import percent
from finetune_core.errors import FinetuneError, redact

STEPS = ("choose", "check", "train", "prove", "chat", "share")

STEP_TITLES = {
    "choose": "Choose",
    "check": "Check",
    "train": "Train",
    "prove": "Prove",
    "chat": "Chat",
    "share": "Share",
}

STATUS_WORDS = {
    "new": "waiting to start",
    "running": "training",
    "finished": "done",
    "stopped": "stopped early",
    "failed": "failed",
    "interrupted": "interrupted",
}

# one colour and one shape for each state, so that colour is never the only sign
STATUS_TONES = {
    "new": "idle",
    "running": "live",
    "finished": "good",
    "stopped": "idle",
    "failed": "bad",
    "interrupted": "warn",
}


def esc(value: object) -> str:
    """Text that came from data or from a person, safe inside html and inside a quoted attribute."""
    return html.escape(str(value), quote=True)


def short_model(name: str) -> str:
    """A model without its owner or folder.

    >>> short_model("HuggingFaceTB/SmolLM2-135M-Instruct"), short_model("/data/models/mine/")
    ('SmolLM2-135M-Instruct', 'mine')
    """
    return name.rstrip("/").rpartition("/")[2] or name


def short_data(name: str) -> str:
    """A data set without its owner, folder and ending.

    >>> short_data("/tmp/up/tickets.jsonl.gz"), short_data("acme/tickets")
    ('tickets', 'tickets')
    """
    last = name.rstrip("/").rpartition("/")[2] or name
    for ending in (".gz", ".zst", ".jsonl", ".json", ".csv", ".tsv", ".xlsx", ".parquet", ".arrow", ".txt", ".zip"):
        last = last.removesuffix(ending)
    return last or name


METHOD_WORDS = {"lora": "LoRA", "qlora": "QLoRA", "full": "all weights"}


def status_word(status: str) -> str:
    return STATUS_WORDS.get(status, status)


# --- pieces of html ---

ICONS = {  # 16 x 16, drawn with the text's colour
    "check": '<path d="M3.5 8.5 6.5 11.5 12.5 4.5"/>',
    "warn": '<path d="M8 2.2 14.4 13.4H1.6Z"/><path d="M8 6.4v3.2M8 11.4v.2"/>',
    "cross": '<path d="M4 4 12 12M12 4 4 12"/>',
    "info": '<circle cx="8" cy="8" r="6.2"/><path d="M8 7.4v3.6M8 5v.2"/>',
    "plus": '<path d="M8 3v10M3 8h10"/>',
    "arrow": '<path d="M3 8h9.5M8.8 4.2 12.6 8l-3.8 3.8"/>',
    "left": '<path d="M9.8 3.8 5.6 8l4.2 4.2"/>',
    "right": '<path d="M6.2 3.8 10.4 8l-4.2 4.2"/>',
    "copy": '<rect x="5.5" y="5.5" width="8" height="8" rx="1.6"/><path d="M3.6 10.5h-.2a1.2 1.2 0 0 1-1.2-1.2V3.6'
    'a1.2 1.2 0 0 1 1.2-1.2h5.7a1.2 1.2 0 0 1 1.2 1.2v.2"/>',
    "menu": '<path d="M2.5 4.5h11M2.5 8h11M2.5 11.5h11"/>',
    "theme": '<circle cx="8" cy="8" r="5.8"/><path d="M8 2.2a5.8 5.8 0 0 1 0 11.6Z" fill="currentColor"/>',
    "file": '<path d="M9.2 1.8H4.4a1 1 0 0 0-1 1v10.4a1 1 0 0 0 1 1h7.2a1 1 0 0 0 1-1V5.2Z"/>'
    '<path d="M9.2 1.8v3.4h3.4"/>',
    "undo": '<path d="M5.6 3.2 2.6 6.2l3 3"/><path d="M2.6 6.2h6.6a3.8 3.8 0 0 1 0 7.6H6.4"/>',
    "stop": '<rect x="4" y="4" width="8" height="8" rx="1.4"/>',
    "hub": '<circle cx="8" cy="8" r="6.2"/><path d="M1.8 8h12.4M8 1.8c4 3.6 4 8.8 0 12.4M8 1.8c-4 3.6-4 8.8 0 12.4"/>',
    "laptop": '<rect x="3" y="3" width="10" height="7.4" rx="1.2"/><path d="M1.4 12.8h13.2"/>',
    "plug": '<path d="M6 1.8v3M10 1.8v3M4 4.8h8v2.6a4 4 0 0 1-8 0ZM8 11.4v2.8"/>',
    "terminal": '<rect x="1.8" y="2.8" width="12.4" height="10.4" rx="1.4"/><path d="m4.4 6 2 2-2 2M8.4 10.2h3"/>',
    "server": '<rect x="2.4" y="2.4" width="11.2" height="4.6" rx="1"/>'
    '<rect x="2.4" y="9" width="11.2" height="4.6" rx="1"/>'
    '<path d="M5 4.7h.2M5 11.3h.2"/>',
    "table": '<rect x="2" y="2.8" width="12" height="10.4" rx="1.2"/><path d="M2 6.4h12M2 9.8h12M6.2 6.4v6.8"/>',
    "search": '<circle cx="7" cy="7" r="4.4"/><path d="m10.4 10.4 3.2 3.2"/>',
}


def icon(name: str, label: str = "") -> str:
    """An inline drawing; with a label it speaks to screen readers, without it is silent."""
    spoken = f'role="img" aria-label="{esc(label)}"' if label else 'aria-hidden="true"'
    return (
        f'<svg class="icon" viewBox="0 0 16 16" width="16" height="16" fill="none" stroke="currentColor" '
        f'stroke-width="1.6" stroke-linecap="round" stroke-linejoin="round" {spoken}>{ICONS[name]}</svg>'
    )


def ticked(text: str) -> str:
    """Escaped text with what stands between backticks as code.

    >>> ticked("run `a < b`"), ticked("a ` b")
    ('run <code>a &lt; b</code>', 'a ` b')
    """
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", esc(text))


def join(parts: Iterable[str], between: str = " · ") -> str:
    """The parts that are not empty, in one line."""
    return between.join(part for part in parts if part)


def wait_bar(fraction: float | None, label: str) -> str:
    """How far something is; without a fraction, that it goes on."""
    unknown, value = (" unknown", "") if fraction is None else ("", f' aria-valuenow="{100 * fraction:.0f}"')
    return (
        f'<div class="wait-bar{unknown}" role="progressbar" aria-label="{esc(label)}"{value}>'
        f'<i style="width:{100 * (fraction or 0):.0f}%"></i></div>'
    )


def how_far(title: str, text: str, fraction: float | None, label: str) -> str:
    """Work that goes on: its name and share, a bar, and one sentence or two."""
    share = percent(fraction) if fraction is not None else ""
    return (
        f'<h3 class="card-title">{esc(title)} <span class="num again-share">{share}</span></h3>'
        f'{wait_bar(fraction, label)}<p class="again-text num">{esc(text)}&nbsp;</p>'
    )


def error_card(error: FinetuneError) -> str:
    """What happened and what to do next."""
    return notice("bad", redact(error.problem), redact(error.fix))


def notice(tone: str, title: str, text: str = "") -> str:
    """A short message in a tone: good, warn, bad or info. Texts are escaped here."""
    drawing = {"good": "check", "warn": "warn", "bad": "warn", "info": "info"}[tone]
    role = "alert" if tone == "bad" else "status"
    body = f'<p class="notice-text">{ticked(text)}</p>' if text else ""
    return (
        f'<div class="notice {tone}" role="{role}">{icon(drawing)}'
        f'<div><p class="notice-title">{ticked(title)}</p>{body}</div></div>'
    )
