"""What the check says: the verdict, findings with their fixes, lengths, the plan, and the bar with Start. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from finetune_core.amounts import count, duration, gib, many
from finetune_core.errors import FinetuneError

from .words import error_card, esc, icon, notice, ticked

LEVEL_TONES = {"error": "bad", "warning": "warn", "note": "info"}
CANCELLED = "cancelled"  # by the person, so nothing went wrong
PREVIEW, CLOSE_PREVIEW = "Preview", "Close"
LEVEL_WORDS = {"error": "Must be fixed", "warning": "Worth a look", "note": "Good to know"}
# --- the verdict ---


def verdict(diagnosis: Any, plan: Any) -> str:
    """The card on top: may it start, on what, for how long (no plan: not known yet)."""
    warnings = sum(finding.level == "warning" for finding in diagnosis.findings)
    errors = sum(finding.level == "error" for finding in diagnosis.findings)
    if diagnosis.verdict == "blocked":
        tone, drawing = "bad", "cross"
        title = f"Not ready: {many(errors, 'thing')} to fix first" if errors else "Not ready"
    elif warnings:
        tone, drawing, title = "warn", "warn", f"Ready, with {many(warnings, 'warning')}"
    else:
        tone, drawing, title = "good", "check", "Ready"
    facts = [
        ("to learn from", count(diagnosis.train_rows), "rows"),
        ("to check along the way", count(diagnosis.validation_rows), "rows"),
        ("for the proof", count(diagnosis.test_rows), "rows"),
    ]
    if diagnosis.train_rows and plan is not None:
        facts.append(("of training", _short_duration(plan.seconds), "about"))
        facts.append(("of memory", gib(plan.memory_gb["total"]), "about"))
    cells = "".join(
        f"<div><dt>{esc(f'{unit} {name}' if unit == 'rows' else name)}</dt><dd>{esc(value)}</dd></div>"
        for name, value, unit in facts
    )
    dropped = sum(diagnosis.dropped.values())
    reasons = ", ".join(f"{_spaced(reason)} ({count(number)})" for reason, number in diagnosis.dropped.items())
    left_out = f'<p class="verdict-left">{many(dropped, "row")} left out: {esc(reasons)}.</p>' if dropped else ""
    return (
        f'<section class="verdict-card {tone}" aria-label="The check"><div class="verdict-head">'
        f'<span class="verdict-mark">{icon(drawing)}</span><h1 class="lead">{esc(title)}</h1></div>'
        f'<dl class="verdict-facts num">{cells}</dl>{left_out}</section>'
    )


def _spaced(code: str) -> str:
    return code.replace("-", " ").replace("_", " ")


def looking(says: str = "", fraction: float | None = None) -> str:
    """While the rows are read."""
    width = f"{100 * fraction:.0f}%" if fraction is not None else "30%"
    moving = "" if fraction is not None else " unknown"
    spoken = f' aria-valuemin="0" aria-valuemax="100" aria-valuenow="{100 * fraction:.0f}"' if not moving else ""
    return (
        '<section class="verdict-card" aria-busy="true"><div class="verdict-head"><span class="verdict-mark turning">'
        '</span><h1 class="lead">Reading the rows</h1></div>'
        f'<div class="progress{moving}" role="progressbar" aria-label="Reading the rows"{spoken}>'
        f'<i style="width:{width}"></i>'
        "</div>"
        f'<p class="muted looking-says">{esc(says or "as the trainer will read them")}'
        '<button type="button" class="btn quiet" data-cancel>Cancel</button></p></section>'
    )


WAITS_FOR_STARTER = "It is brought to this machine once; the bar below says how far it is."


def failed(error: FinetuneError) -> str:
    if error.code == "starter-not-here":  # the bar with Start says how far it is; the check then begins by itself
        return notice("info", "The rows are checked when the starter model is here.", WAITS_FOR_STARTER)
    again = '<button type="button" class="btn" data-again>Check again</button>'
    said = notice("info", error.problem, error.fix) if error.code == CANCELLED else error_card(error)
    return f'{said}<p class="verdict-again">{again}</p>'


def _short_duration(seconds: float) -> str:
    """
    >>> _short_duration(31), _short_duration(200)
    ('30 s', '3 min')
    """
    if seconds < 55:
        return f"{max(10, round(seconds, -1)):.0f} s"
    return f"{round(seconds / 60)} min" if seconds < 45 * 60 else duration(seconds)


# --- findings ---


def findings(
    found: Sequence[Any],
    undo: Sequence[str] = (),
    repairs: Mapping[str, str] | None = None,
    can_be_tried: Callable[[Any], bool] = lambda finding: False,
    trial: Any = None,
) -> str:
    """Findings, the worst first, each with its rows and its fix.

    `undo`: what was applied, newest last. `repairs`: code → words of the repairs that the recipe has. `trial`: the
    finding whose repair is shown before it is made (its code and html).
    """
    order = {"error": 0, "warning": 1, "note": 2}
    indexed = sorted(enumerate(found), key=lambda pair: order.get(pair[1].level, 3))
    cards = "".join(_finding(index, finding, can_be_tried(finding), trial) for index, finding in indexed)
    earlier = {fix: says for fix, says in (repairs or {}).items() if says not in undo[-1:]}  # the last is said by Undo
    return applied(undo, earlier) + (f'<ul class="findings">{cards}</ul>' if cards else "")


def applied(undo: Sequence[str], repairs: Mapping[str, str]) -> str:
    """What was done to the rows, each with its way back; there too where they cannot be read because of it."""
    undone = (
        f'<p class="undo" role="status">{icon("check")}<span>Done: {esc(undo[-1])}</span>'
        f'<button type="button" class="btn quiet" data-undo>{icon("undo")}Undo</button></p>'
        if undo
        else ""
    )
    items = "".join(
        f'<li><span>{esc(says[:1].upper() + says[1:])}</span><button type="button" class="icon-btn" '
        f'data-repair="{esc(fix)}" aria-label="Take back: {esc(says)}">{icon("cross")}</button></li>'
        for fix, says in repairs.items()
    )
    return undone + (f'<ul class="repairs" aria-label="Repairs">{items}</ul>' if items else "")


def _finding(index: int, finding: Any, can_be_tried: bool, trial: Any) -> str:
    tried = trial.html if trial is not None and trial.code == finding.code else ""
    tone = LEVEL_TONES.get(finding.level, "info")
    rows = _row_links(finding)
    more = finding.count - min(len(finding.rows), 12)
    rest = f'<span class="muted num">and {count(more)} more</span>' if finding.rows and more > 0 else ""
    where = (
        f'<p class="finding-rows"><span class="muted">{"Row" if finding.count == 1 else "Rows"}</span>{rows}{rest}</p>'
    )
    examples = "".join(f"<li>{esc(example)}</li>" for example in getattr(finding, "examples", ())[:3])
    button = (
        f'<button type="button" class="btn" data-apply="{index}" data-code="{esc(finding.code)}">'
        f"{esc(finding.suggestion.says)}</button>"
        if finding.suggestion
        else ""
    )
    if can_be_tried:
        button = (
            f'<div class="finding-do"><button type="button" class="btn quiet" data-attempt="{esc(finding.code)}" '
            f'aria-expanded="{"true" if tried else "false"}">{CLOSE_PREVIEW if tried else PREVIEW}</button>'
            f"{button}</div>"
        )
    mark = icon({"bad": "cross", "warn": "warn"}.get(tone, "info"), LEVEL_WORDS[finding.level])
    return (
        f'<li class="finding {tone}">{mark}'
        f'<div><p class="finding-says">{ticked(finding.says)}</p>'
        f"{f'<p class=finding-fix>{ticked(finding.fix)}</p>' if finding.fix else ''}"
        f"{f'<ul class=finding-examples>{examples}</ul>' if examples else ''}"
        f"{where if finding.rows else ''}</div>{button}{tried}</li>"
    )


def _row_links(finding: Any) -> str:
    """The first rows as buttons; where there are several files, each begins with its name."""
    links, last = [], ""
    files = finding.files or ("",) * len(finding.rows)
    for row, file in list(zip(finding.rows, files, strict=True))[:12]:
        name = f'<span class="muted">{esc(file)}</span>' if file != last else ""
        label = f"Show row {row}" + (f" of {file}" if file else "")
        links.append(
            f'{name}<button type="button" class="row-link num" data-row="{row}" data-file="{esc(file)}" '
            f'aria-label="{esc(label)}">{count(row)}</button>'
        )
        last = file
    return "".join(links)


def unrepaired(repair: str) -> str:
    return f"No longer {repair[:1].lower()}{repair[1:]}"


def row_left_out(row: int) -> str:
    return f"Row {count(row)} is left out, so the model never reads it. This is the first row that it reads."
