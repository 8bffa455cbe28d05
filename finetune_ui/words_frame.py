"""The words around the panels: header, rail of runs, stepper, and the lines that finished steps fold into. Pure."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_core.amounts import duration, many, roughly
from finetune_core.recipe import Recipe

from . import charts
from .words import (
    METHOD_WORDS,
    STATUS_TONES,
    STEP_TITLES,
    STEPS,
    esc,
    icon,
    join,
    short_data,
    short_model,
    status_word,
    ticked,
)

UNREADABLE = "cannot be read"
RAIL_STAGES = {"waiting for its turn": "waiting", "evaluating": "comparing"}
TALKED = "You talked to it"  # what the step Chat folds into

# a dial: one line before tuning, one after
LOGO = (
    '<svg viewBox="0 0 24 24" aria-hidden="true"><rect width="24" height="24" rx="7" fill="var(--accent)"/>'
    '<path d="M4.5 14.5c2.4 0 2.6-5 5-5s2.6 5 5 5 2.6-5 5-5" fill="none" stroke="var(--accent-ink)" '
    'stroke-width="1.5" stroke-linecap="round" opacity=".45"/>'
    '<path d="M4.5 16.5c4.6 0 4.2-9 8-9 3 0 3.4 4.5 7 4.5" fill="none" stroke="var(--accent-ink)" '
    'stroke-width="2" stroke-linecap="round"/></svg>'
)


def header(machine: str | None = None, hub: bool | None = None) -> str:
    """Name, chips and buttons. None: not known yet, and the chip keeps its place."""
    if machine is None:
        machine_chip = '<span class="chip wide-chip"><span class="skeleton">CPU · 2 cores · 24 GB</span></span>'
    else:
        machine_chip = f'<span class="chip wide-chip" title="This machine">{esc(machine)}</span>'
    if hub is None:
        hub_chip = '<span class="chip"><i></i><span class="skeleton">Hub reachable</span></span>'
    else:
        said = "reachable" if hub else "away"
        tip = (
            "The Hugging Face Hub answers: any of its models and data sets can be used."
            if hub
            else "The Hugging Face Hub cannot be reached. Everything on this machine still works."
        )
        hub_chip = f'<span class="chip {"good" if hub else "warn"}" title="{tip}"><i></i>Hub {said}</span>'
    return (
        '<header class="top">'
        f'<button class="icon-btn menu" type="button" data-do="rail" aria-label="Show the runs">{icon("menu")}</button>'
        f'<a class="brand" href="./?new=1" aria-label="Fijn: start a new run">{LOGO}<span>Fijn</span></a>'
        '<span class="brand-line">Tune a language model. See if it helped.</span>'
        f'<div class="chips">{machine_chip}{hub_chip}</div>'
        '<button class="icon-btn" type="button" data-do="theme" aria-label="Switch between light and dark" '
        f'title="Light or dark">{icon("theme")}</button></header>'
    )


@dataclass(frozen=True)
class RailRun:
    """What the rail shows of one run."""

    id: str
    title: str
    under: str
    status: str
    loss: tuple[tuple[int, float], ...] = ()
    verdict: str = ""  # "+29 points"
    tone: str = "even"  # of the verdict: good, bad, or even while nothing is shown
    word: str = ""  # how it stands, where its status does not say that
    trouble: tuple[str, ...] = ()  # of one that cannot be read: what is wrong with it, and where it lies


def unreadable(run_id: str, problem: str, folder: str) -> RailRun:
    """A run whose recipe cannot be read: it stays in the list, and says where it lies."""
    return RailRun(run_id, run_id, UNREADABLE, "failed", trouble=(problem, folder))


def rail_under(
    recipe: Recipe,
    status: str,
    began: float,
    now: float | None = None,
    left: float | None = None,
    stage: str = "",
    note: str = "",
) -> str:
    """The quiet second line of a run: its model, and when it was or how it stands; or a note of what to do with it."""
    now = time.time() if now is None else now
    if note:
        when = note
    elif status == "running":
        doing = RAIL_STAGES.get(stage, "training")
        when = f"{duration(left)} left" if left is not None and doing == "training" else doing
    elif status in ("finished", "new"):
        when = ago(now - began)
    else:
        when = status_word(status)
    return join([when, short_model(recipe.model_name_or_path), METHOD_WORDS[recipe.method]])


def ago(seconds: float) -> str:
    """How long since, roughly.

    >>> ago(20), ago(3 * 3600), ago(50 * 3600)
    ('just now', '3 h ago', '2 days ago')
    """
    if seconds < 90:
        return "just now"
    if seconds < 3600:
        return f"{round(seconds / 60)} min ago"
    if seconds < 36 * 3600:
        return f"{round(seconds / 3600)} h ago"
    return f"{round(seconds / 86400)} days ago"


def rail(runs: Sequence[RailRun], held: str) -> str:
    """The list of runs, newest first, with “New” on top. `data-held` lets the address bar follow."""
    new = "" if held else ' aria-current="true"'
    head = (
        f'<nav class="fijn rail" aria-label="Runs" data-held="{esc(held)}">'
        f'<button class="rail-new" type="button" data-new="1"{new}>{icon("plus")}New</button>'
    )
    if not runs:
        return (
            head
            + '<p class="rail-title">Runs</p><p class="rail-empty">Every training you start is kept here, with its '
            "loss and its verdict.</p></nav>"
        )
    items = "".join(_rail_item(run, run.id == held) for run in runs)
    return f'{head}<p class="rail-title">Runs</p><ul class="rail-list">{items}</ul></nav>'


def _rail_item(run: RailRun, current: bool) -> str:
    if run.trouble:
        return _broken_item(run)
    word = run.word or status_word(run.status)
    verdict = f'<b class="verdict {run.tone}">{esc(run.verdict)}</b> · ' if run.verdict else ""
    mark = ' aria-current="true"' if current else ""
    return (
        f'<li><a class="rail-run" href="?run={esc(run.id)}" data-run="{esc(run.id)}"{mark}>'
        f'<i class="dot {STATUS_TONES.get(run.status, "idle")}" title="{esc(word)}"></i>'
        f'<span class="rail-name">{esc(run.title)}</span>{charts.sparkline(run.loss[:: max(1, len(run.loss) // 60)])}'
        f'<span class="rail-under"><span class="visually-hidden">{esc(word)}, </span>'
        f"{verdict}{esc(run.under)}</span></a></li>"
    )


def _broken_item(run: RailRun) -> str:
    problem, folder = run.trouble
    return (
        f'<li><details class="rail-broken"><summary class="rail-run"><i class="dot bad"></i>'
        f'<span class="rail-name">{esc(run.title)}</span><span class="rail-under">{esc(run.under)}</span></summary>'
        f"<p>{ticked(problem)}</p><p>Mend its recipe.yaml, or delete the folder: <code>{esc(folder)}</code></p>"
        "</details></li>"
    )


def stepper(current: str, done: Sequence[str], can: Sequence[str]) -> str:
    """The path. `done` steps carry a tick, `can` may be opened, the others wait."""
    items = []
    for number, step in enumerate(STEPS, start=1):
        mark = icon("check") if step in done and step != current else str(number)
        state = " done" if step in done else ""
        here = ' aria-current="step"' if step == current else ""
        off = "" if step in can or step == current else " disabled"
        spoken = '<span class="visually-hidden">, done</span>' if step in done else ""
        items.append(
            f'<li><button type="button" class="step{state}" data-go="{step}"{here}{off}>'
            f'<span class="step-mark">{mark}</span><span class="step-name">{STEP_TITLES[step]}</span>{spoken}'
            "</button></li>"
        )
    return f'<nav aria-label="Steps" data-step="{esc(current)}"><ol class="steps">{"".join(items)}</ol></nav>'


def folds(lines: Mapping[str, str]) -> str:
    """Finished steps before the open one, one line each; step -> what was decided (plain text)."""
    if not lines:
        return ""
    rows = "".join(
        f'<button type="button" class="fold" data-go="{step}" aria-label="Open {STEP_TITLES[step]}: {esc(line)}">'
        f"{icon('check')}<b>{STEP_TITLES[step]}</b><span>{esc(line)}</span><em>Open</em></button>"
        for step, line in lines.items()
    )
    return f'<div class="folds">{rows}</div>'


def chosen_line(recipe: Recipe) -> str:
    """What was decided in Choose.

    >>> chosen_line(Recipe())
    'SmolLM2-135M-Instruct · shop-messages · LoRA'
    """
    return join([short_model(recipe.model_name_or_path), short_data(recipe.dataset_name), METHOD_WORDS[recipe.method]])


def checked_line(plan: Mapping[str, Any] | None) -> str:
    """What the check promised when the run was made (plan.json)."""
    if not plan:
        return "Ready"
    warned = len(plan.get("warnings") or ())
    verdict = f"Ready, with {many(warned, 'warning')}" if warned else "Ready"
    memory = (plan.get("memory_gb") or {}).get("total")
    return join(
        [
            verdict,
            f"{cut['epochs']:g} of {cut['asked']:g} epochs" if (cut := plan.get("shortened")) else "",
            many(int(plan["steps"]), "step") if plan.get("steps") else "",
            f"about {roughly(plan['seconds'])}" if plan.get("seconds") else "",
            f"{memory:.1f} of {plan['available_gb']:.0f} GB" if memory and plan.get("available_gb") else "",
        ]
    )
