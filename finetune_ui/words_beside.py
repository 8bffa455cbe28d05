"""Runs side by side in words: scores with their intervals, curves, cost, and the settings that differ. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_core.amounts import duration, gib, many
from finetune_core.recipe import Recipe

from . import charts, words_fields
from .words import esc, join, short_data, short_model
from .words_rows import said, unit

TITLE = "Compare with other runs"
WHICH = "Runs beside this one"
MOST = 5  # beside the one that is open: more columns than that nobody reads
LETTERS = "ABCDEFGH"

Found = Mapping[str, Any]


def choice(run_id: str, recipe: Recipe, verdict: str) -> str:
    """A run in the list: when, on what, and what came of it."""
    return join([_when(run_id), short_data(recipe.dataset_name), short_model(recipe.model_name_or_path), verdict])


def _when(run_id: str) -> str:
    """ "22 Nov 14:03" of a run's id.

    >>> _when("2026-11-22-1403-smollm2-tickets-x7Kq")
    '22 Nov 14:03'
    """
    parts = run_id.split("-")
    months = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
    try:
        return f"{int(parts[2])} {months[int(parts[1]) - 1]} {parts[3][:2]}:{parts[3][2:4]}"
    except (IndexError, ValueError):
        return run_id[:24]


def compared(found: Found, held: str) -> str:
    """All of it: one sentence, the bars, the curves, the settings."""
    runs = found["runs"]
    if len(runs) < 2:
        return ""
    return (
        f'<p class="beside-says">{esc(found["sentence"])}</p>{_bars(found, held)}{_curves(runs)}'
        f"{_settings(found, held)}"
    )


def _bars(found: Found, held: str) -> str:
    runs = [run for run in found["runs"] if run["score"] is not None]
    if not runs or len({run["metric_kind"] for run in runs}) > 1:
        return ""
    of = unit({"metric_kind": runs[0]["metric_kind"], "metric": runs[0]["metric"]})
    scale = max(run["high"] for run in runs) or 1.0 if of == "loss" else 1.0
    bars = [
        charts.Bar(
            title=f"{LETTERS[found['runs'].index(run)]} · {_when(run['id'])}",
            css="tuned" if run["id"] == held else "other",
            score=run["score"] / scale,
            low=run["low"] / scale,
            high=run["high"] / scale,
            says=said(run["score"], of),
            interval=_against_first(found, run["id"]),
            note=f"{many(int(run['n'] or 0), 'row')}{', this run' if run['id'] == held else ''}",
        )
        for run in runs
    ]
    return f'<p class="beside-head">{esc(runs[0]["metric"] or "")}</p>{charts.interval_bars(bars)}'


def _against_first(found: Found, run_id: str) -> str:
    pair = next((pair for pair in found["pairs"] if pair["second"] == run_id), None)
    if pair is None:
        return ""
    return "A is better" if pair["better"] else "better than A" if pair["better"] is False else "no difference shown"


def _curves(runs: Sequence[Mapping[str, Any]]) -> str:
    """The validation losses in one chart (the training losses where nobody watched)."""
    kind = "validation" if all(len(run["curves"]["validation"]) > 1 for run in runs) else "train"
    lines = [
        charts.Line(f"{LETTERS[place]} · {_when(run['id'])}", f"line-{place}", tuple(map(tuple, run["curves"][kind])))
        for place, run in enumerate(runs)
        if run["curves"][kind]
    ]
    if not lines:
        return ""
    title = "Validation loss" if kind == "validation" else "Training loss"
    marks = "".join(f'<span class="beside-key line-{place}">{LETTERS[place]}</span>' for place in range(len(runs)))
    return (
        f'<p class="beside-head">{title} <span class="beside-keys">{marks}</span></p>'
        f"{charts.curves(lines, 0, label=f'{title} of {len(lines)} runs')}"
    )


def _settings(found: Found, held: str) -> str:
    """A table: what it cost, then only what differs, and a button that takes a run's settings over."""
    runs = found["runs"]
    head = "".join(
        f'<th scope="col"><span class="beside-key line-{place}">{LETTERS[place]}</span> '
        f"{'this run' if run['id'] == held else esc(_when(run['id']))}</th>"
        for place, run in enumerate(runs)
    )
    rows = [
        ("Validation loss", [_number(run["validation_loss"]) for run in runs]),
        ("Steps", [f"{run['steps']:,}" for run in runs]),
        ("Time", [duration(run["seconds"]) if run["seconds"] else "–" for run in runs]),
        ("Memory", [gib(run["memory_gb"]) if run["memory_gb"] else "–" for run in runs]),
    ]
    rows += [
        (words_fields.field_title(name), [_value(name, value) for value in values])
        for name, values in found["settings"].items()
    ]
    body = "".join(
        f'<tr><th scope="row">{esc(title)}</th>{"".join(f"<td>{esc(each)}</td>" for each in values)}</tr>'
        for title, values in rows
    )
    buttons = "".join(
        f'<td><button type="button" class="btn quiet" data-settings="{esc(run["id"])}">Use these settings</button></td>'
        for run in runs
    )
    none = "" if found["settings"] else '<p class="muted">Their settings are the same.</p>'
    return (
        f'<div class="beside-scroll"><table class="beside-table"><thead><tr><td></td>{head}</tr></thead>'
        f"<tbody>{body}<tr><td></td>{buttons}</tr></tbody></table></div>{none}"
    )


def _value(name: str, value: Any) -> str:
    if value is None:
        return "left open"
    if name == "dataset_name":
        return short_data(str(value))
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:g}"
    text = str(value)
    return text if len(text) <= 60 else text[:59] + "…"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
