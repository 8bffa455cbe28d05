"""Where the rows came from, how they were read, what they are fit for, and what can be changed about that. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_core.amounts import many, size
from finetune_core.recipe import Recipe

from .words import esc, join

ROLE_WORDS = {
    "messages": "the whole conversation",
    "prompt": "the question",
    "completion": "the answer to learn",
    "text": "the text",
    "system": "the system prompt",
    "context": "context for the question",
    "label": "the label to learn",
    "chosen": "the better answer, which is learned",
    "rejected": "the worse answer",
    "desired": "the verdict: is the answer good?",
}
OTHER_ROLES = ("chosen", "rejected", "desired")  # of rows made for other ways to learn
READY_WORDS = {"ready": ("good", "ready"), "needs-mapping": ("warn", "needs mapping"), "not-fit": ("", "not fit")}
OBJECTIVE_WORDS = {
    "sft": ("Answering", "sft"),
    "continued pre-training": ("Going on with text", "continued pre-training"),
    "dpo": ("Preferring", "dpo"),
    "kto": ("Good or bad", "kto"),
    "reward": ("Judging", "reward"),
}
READ: dict[str, dict[str, str]] = {  # how a text file can be read, by the repair's name and its ending
    "delimiter": {"comma": "commas", "semicolon": "semicolons", "tab": "tabs", "pipe": "bars"},
    "first-row-is": {"header": "names of the columns", "data": "data"},
    "encoding": {"utf-8": "UTF-8", "cp1252": "Windows-1252 (Western)", "utf-16": "UTF-16",
                 "cp1250": "Windows-1250 (Central European)", "cp1251": "Windows-1251 (Cyrillic)"},
}  # fmt: skip
READ_TITLES = {"delimiter": "Separated by", "first-row-is": "The first row is", "encoding": "Encoding"}
KIND_WORDS = {"jsonl": "JSON lines", "json": "JSON", "csv": "table", "excel": "Excel", "parquet": "Parquet",
              "arrow": "Arrow", "text": "text", "hub": "Hub"}  # fmt: skip


def rows_card(
    source: Any,
    shape: str,
    readiness: Mapping[str, tuple[str, str]],
    columns: Sequence[str],
    roles: Mapping[str, str],
    wanted: Sequence[str],
    recipe: Recipe,
) -> str:
    """Where the rows came from, what they are, what they are fit for; columns and prompts that can be changed."""
    first, *others = [_fit(objective, *state) for objective, state in readiness.items()] or [""]
    drop_downs = "".join(_role(role, columns, roles.get(role, "")) for role in wanted) if columns else ""
    named = f'<h3 class="roles-title">{COLUMNS}</h3>' if drop_downs else ""
    unnamed = [role for role in OTHER_ROLES if role not in wanted] if drop_downs else []
    other_roles = "".join(_role(role, columns, "") for role in unnamed)
    more = (
        '<details class="reasons"><summary>Fit for other ways to learn</summary>'
        f'<ul class="fits told">{"".join(others)}</ul><div class="roles">{other_roles}</div></details>'
        if others
        else ""
    )
    lines = [_line("system_prompt", "System prompt to add", "none: rows keep their own", recipe.system_prompt)]
    if drop_downs:
        example = next(iter(columns))
        lines.append(_line("template", "Line that makes the prompt", f"Translate: {{{example}}}", recipe.template))
    return (
        '<section class="card rows-card"><h2 class="card-title">What the rows are</h2>'
        f'<p class="sub">{esc(shape[:1].upper() + shape[1:])}. {esc(source_line(source))}</p>'
        f'<ul class="fits">{first}</ul>'
        f"{named}"
        f'<div class="roles">{drop_downs}</div><div class="roles lines">{"".join(lines)}</div>{more}'
        f"{_read_differently(source, recipe.fixes)}</section>"
    )


def source_line(source: Any) -> str:
    """How the source was read."""
    first = source.first
    marks = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
    more = len(source.files) - 1
    return (
        join(
            [
                first.name + (f" and {many(more, 'more file', 'more files')}" if more > 0 else ""),
                KIND_WORDS.get(first.kind, first.kind),
                f"separated by {marks.get(first.delimiter, first.delimiter)}" if first.delimiter else "",
                (first.encoding or "") + ("" if first.is_encoding_certain else " (a guess)"),
                f"sheet {first.sheet}" if first.sheet else "",
                size(source.bytes) if source.bytes else "",
                f"version {source.revision[:8]}" if source.revision else "",
                f"licence {source.licence}" if source.licence else "",
            ],
            ", ",
        )
        + "."
    )


def _fit(objective: str, state: str, why: str) -> str:
    tone, word = READY_WORDS.get(state, ("", state))
    title, term = OBJECTIVE_WORDS.get(objective, (objective, objective))
    return (
        f'<li><span class="badge {tone}">{esc(title)}: {word}</span> <code>{esc(term)}</code>'
        f'<span class="muted"> {esc(why)}</span></li>'
    )


def _role(role: str, columns: Sequence[str], chosen: str) -> str:
    options = "".join(
        f'<option value="{esc(column)}"{" selected" if column == chosen else ""}>{esc(column)}</option>'
        for column in columns
    )
    none = f'<option value=""{"" if chosen else " selected"}>none</option>'
    return (
        f"<label><span>{ROLE_WORDS[role][:1].upper()}{ROLE_WORDS[role][1:]} <code>{role}</code></span>"
        f'<select data-role="{role}">{none}{options}</select></label>'
    )


def _line(field: str, title: str, placeholder: str, value: str | None) -> str:
    return (
        f'<label><span>{esc(title)} <code>{field}</code></span><input type="text" data-field="{field}" '
        f'value="{esc(value or "")}" placeholder="{esc(placeholder)}" autocomplete="off"></label>'
    )


LINES = {"system_prompt": "System prompt", "template": "Prompt line"}
COLUMNS = "Columns"  # findings say where to choose
DOWNLOAD = "Download the cleaned rows"


def mapped(role: str, column: str) -> str:
    return f"{column} is {ROLE_WORDS[role]}" if column else f"No column is {ROLE_WORDS[role]}"


def line_set(field: str, text: str) -> str:
    return f"{LINES[field]}: {text}" if text else f"{LINES[field]} taken away"


def _read_differently(source: Any, fixes: Sequence[str]) -> str:
    """Drop-downs for what was detected in a text file, folded away."""
    first = source.first
    wishes = [wish for wish in READ if (first.delimiter if wish != "encoding" else first.encoding)]
    chosen = any(wish in wishes for wish in wished(fixes))
    picks = "".join(_wish(wish, fixes) for wish in wishes)
    return (
        f'<details class="reasons"{" open" if chosen else ""}><summary>Read the file differently</summary>'
        f'<div class="roles">{picks}</div></details>'
        if picks
        else ""
    )


def wished(fixes: Sequence[str]) -> list[str]:
    """What is read in another way than the one that was detected.

    >>> wished(["drop-leaks", "encoding-utf-16"])
    ['encoding']
    """
    return [wish for wish in READ if any(fix.startswith(f"{wish}-") for fix in fixes)]


def way_to_read(fix: str) -> str:
    """A repair that is another way to read, in words; "" for any other.

    >>> way_to_read("encoding-utf-16"), way_to_read("drop-leaks")
    ('Encoding: UTF-16', '')
    """
    return next((read_as(wish, end) for wish, ends in READ.items() for end in ends if fix == f"{wish}-{end}"), "")


def reading_card(fixes: Sequence[str]) -> str:
    """While the rows cannot be read: how they are read, to be changed back."""
    picks = "".join(_wish(wish, fixes) for wish in wished(fixes))
    return (
        '<section class="card rows-card"><h2 class="card-title">How the file is read</h2>'
        f'<div class="roles">{picks}</div></section>'
        if picks
        else ""
    )


def _wish(wish: str, fixes: Sequence[str]) -> str:
    options = "".join(
        f'<option value="{ending}"{" selected" if f"{wish}-{ending}" in fixes else ""}>{esc(says)}</option>'
        for ending, says in READ[wish].items()
    )
    return (
        f"<label><span>{READ_TITLES[wish]}</span>"
        f'<select data-read="{wish}"><option value="">as detected</option>{options}</select></label>'
    )


def read_as(wish: str, ending: str) -> str:
    """
    >>> read_as("delimiter", "tab"), read_as("encoding", "")
    ('Separated by: tabs', 'Encoding: as detected')
    """
    return f"{READ_TITLES[wish]}: {READ[wish][ending] if ending else 'as detected'}"
