"""What Choose says: presets, boxes, settings. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_core.amounts import count, gib, many, parameters
from finetune_core.errors import FinetuneError
from finetune_core.presets import Preset

from .words import esc, icon, join

TITLE = "What should it learn?"
SUBTITLE = "Pick what comes closest. Everything below is filled in; change what you like."
MODEL_TITLE = "Model"
MODEL_HELP = "Where to start: a model on the Hugging Face Hub, or in a folder here."
MODEL_HELP_ON_SPACE = "Where to start: a model on the Hugging Face Hub."
DATA_TITLE = "Data"
DATA_HELP = "What to learn from: a file of yours, or a data set on the Hub."
ROWS_STAY = "Your rows stay on this machine, unless you share them, name a judge or train elsewhere."
DATA_FILES = (
    ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".tab", ".xlsx", ".xlsm", ".xls", ".ods", ".parquet", ".pq",
    ".arrow", ".feather", ".txt", ".text", ".md", ".gz", ".zst", ".zip",
)  # fmt: skip
SETTINGS_TITLE = "All settings"
COMMAND_TITLE = "The same as a command"
NO_COMMAND = "First correct the settings that are marked."


# --- presets ---


def preset_cards(presets: Sequence[Preset], chosen: str, costs: Mapping[str, str]) -> str:
    """The cards; `costs`: preset → how long here, or why not here (a missing one is still being computed)."""
    cards = []
    names = [preset.name for preset in presets]
    stop = chosen if chosen in names else names[0]  # where Tab goes; arrows go on from there
    for preset in presets:
        checked = "true" if preset.name == chosen else "false"
        cost = costs.get(preset.name)
        foot = (
            f'<span class="preset-cost">{esc(cost)}</span>'
            if cost is not None
            else '<span class="preset-cost"><span class="skeleton">about 3 minutes here</span></span>'
        )
        cards.append(
            f'<button type="button" class="preset" role="radio" aria-checked="{checked}" '
            f'data-preset="{esc(preset.name)}" tabindex="{0 if preset.name == stop else -1}"><b>{esc(preset.title)}</b>'
            f'<i class="preset-tick">{icon("check")}</i><span>{esc(preset.description)}</span>{foot}</button>'
        )
    return f'<div class="presets" role="radiogroup" aria-label="{TITLE}">{"".join(cards)}</div>'


def fitting(preset: Preset, why: str) -> str:
    """One click to the preset that fits the rows."""
    return (
        f'<div class="notice info" role="status">{icon("info")}<div><p class="notice-title">{esc(why)} '
        f"“{esc(preset.title)}” fits them better.</p>"
        '<p class="notice-text">Quick look is made for the starter model and its rows: few passes in large steps. '
        "What you have set yourself stays. "
        f'<button type="button" class="btn" data-fit="{esc(preset.name)}">Use “{esc(preset.title)}”</button></p>'
        "</div></div>"
    )


def heading() -> str:
    return f'<h1 class="lead">{TITLE}</h1><p class="sub">{SUBTITLE}</p>'


def reopened(run_title: str) -> str:
    """Above the boxes when they show a run that is already made."""
    return (
        f'<div class="notice">{icon("info")}<p>These are the choices of <b>{esc(run_title)}</b>. '
        "That run stays as it is; what you change here starts a new one.</p></div>"
    )


# --- model and data ---


def model_note(says: str = "", tone: str = "", facts: str = "") -> str:
    """Under the model box: its badge and a few facts; a place that keeps its height while nothing is known."""
    if not says:
        return '<p class="box-note"><span class="skeleton">Fits · 1.2 of 20 GB</span></p>'
    badge = f'<span class="badge {esc(tone)}">{esc(says)}</span>'
    return f'<p class="box-note">{badge}<span>{esc(facts)}</span></p>'


def data_note(says: str = "", tone: str = "", facts: str = "") -> str:
    return model_note(says, tone, facts)


def drop_zone(note: str) -> str:
    """One place for a file and for pasted rows, and where they stay."""
    return (
        '<div class="drop" data-drop>'
        f'<label class="drop-file">{icon("file")}<span><b>Drop a file</b> or choose one</span>'
        '<input type="file" class="visually-hidden" aria-label="Choose a data file" '
        f'accept="{",".join(DATA_FILES)}"></label>'
        '<button type="button" class="btn quiet" data-paste>Paste rows</button></div>'
        '<div class="paste" hidden><label class="visually-hidden" for="paste-rows">Rows to learn from</label>'
        '<textarea id="paste-rows" rows="6" spellcheck="false" placeholder="Paste rows here: JSON lines, a JSON list, '
        'CSV with a header, or plain text"></textarea><div class="paste-foot">'
        '<button type="button" class="btn" data-use>Use these rows</button>'
        '<button type="button" class="btn quiet" data-cancel>Cancel</button></div></div>'
        '<p class="drop-says" role="status" aria-live="polite"></p>'
        + (f'<p class="drop-note">{note}</p>' if note else "")
    )


def command(line: str, why_not: str = "") -> str:
    """The line that Start runs, with a copy button."""
    if why_not:
        return f'<p class="muted">{esc(why_not)}</p>'
    return (
        f'<div class="command"><code>{esc(line)}</code>'
        f'<button type="button" class="btn" data-copy="{esc(line)}">{icon("copy")}<span>Copy</span></button></div>'
    )


def settings_title(changed: int) -> str:
    """
    >>> settings_title(0), settings_title(2)
    ('All settings', 'All settings · 2 changed')
    """
    return f"{SETTINGS_TITLE} · {many(changed, 'changed', 'changed')}" if changed else SETTINGS_TITLE


def settings_search() -> str:
    return (
        f'<label class="settings-search">{icon("search")}<span class="visually-hidden">Search the settings</span>'
        '<input type="search" placeholder="Search the settings" autocomplete="off"></label>'
        '<p class="settings-none" hidden>No setting has that word.</p>'
    )


def settings_group(title: str) -> str:
    return f'<h3 class="settings-group">{esc(title)}</h3>'


def model_facts(plan: Any, facts: Any) -> tuple[str, str, str]:
    """(badge, tone, facts) for a model whose plan is known."""
    need = "as measured" if plan.ran_out else f"{gib(plan.memory_gb['total'])} of {gib(plan.available_gb)}"
    badge, tone = {"fits": (f"Fits · {need}", "good"), "tight": (f"Tight · {need}", "warn")}.get(
        plan.fits, (f"Too large · {need}", "bad")
    )
    known = [f"{parameters(facts.parameters)} parameters", f"reads up to {many(facts.context, 'token')}"]
    return badge, tone, join(known)


def data_facts(diagnosis: Any) -> tuple[str, str, str]:
    """(badge, tone, facts) for rows that were read and checked."""
    tone = {"ready": "good", "warnings": "good"}.get(diagnosis.verdict, "bad")
    splits = join(
        [
            f"{count(diagnosis.train_rows)} to learn",
            f"{count(diagnosis.validation_rows)} to check along the way" if diagnosis.validation_rows else "",
            f"{count(diagnosis.test_rows)} to prove" if diagnosis.test_rows else "",
        ]
    )
    return many(diagnosis.rows, "row"), tone, splits


def unknown_model(error: FinetuneError | None) -> tuple[str, str, str]:
    """(badge, tone, facts) when no plan could be made."""
    if error is not None and error.code == "starter-not-here":
        return "Starter model", "", "is being brought to this machine"
    return "Not known yet", "", ""


UNKNOWN_DATA = ("Not read yet", "", "")
