"""What the check says: the verdict, findings with their fixes, lengths, the plan, and the bar with Start. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from finetune_core.errors import FinetuneError

from .words import count, duration, error_card, esc, gib, icon, join, many, percent

LEVEL_TONES = {"error": "bad", "warning": "warn", "note": "info"}
LEVEL_WORDS = {"error": "Must be fixed", "warning": "Worth a look", "note": "Good to know"}
ROLE_WORDS = {
    "messages": "the whole conversation",
    "prompt": "the question",
    "completion": "the answer to learn",
    "text": "the text",
    "system": "the system prompt",
    "context": "context for the question",
    "label": "the label to learn",
}
PART_WORDS = {
    "weights": ("Weights", "The base model itself."),
    "adapter": ("Adapter", "The small matrices that are trained."),
    "gradients": ("Gradients", "One number for each trained weight."),
    "optimizer": ("Optimizer", "Two moving averages for each trained weight (AdamW)."),
    "activations": ("Activations", "What the layers remember of a batch until the backward pass."),
    "logits": ("Logits", "Scores for every word of the vocabulary."),
    "runtime": ("Runtime", "Libraries and their workspace, before any weight is loaded."),
}
SHOWN_TOKENS = 3000  # of one row; more would make the page slow
SHOWN_LENGTHS = 1500  # different lengths sent to the page for counting


# --- the verdict ---


def verdict(diagnosis: Any, plan: Any) -> str:
    """The card on top: may it start, on what, for how long."""
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
        ("to watch", count(diagnosis.validation_rows), "rows"),
        ("for the proof", count(diagnosis.test_rows), "rows"),
        ("of training", _short_duration(plan.seconds), "about"),
        ("of memory", gib(plan.memory_gb["total"]), "about"),
    ]
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
    return (
        '<section class="verdict-card" aria-busy="true"><div class="verdict-head"><span class="verdict-mark turning">'
        '</span><h1 class="lead">Reading the rows</h1></div>'
        f'<div class="progress{moving}" role="progressbar" aria-label="Reading the rows"><i style="width:{width}"></i>'
        "</div>"
        f'<p class="muted looking-says">{esc(says or "as the trainer will read them")}'
        '<button type="button" class="btn quiet" data-cancel>Cancel</button></p></section>'
    )


def failed(error: FinetuneError) -> str:
    again = '<button type="button" class="btn" data-again>Check again</button>'
    return f'{error_card(error)}<p class="verdict-again">{again}</p>'


# --- findings ---


def findings(found: Sequence[Any], undo: Sequence[str] = (), repairs: Mapping[str, str] | None = None) -> str:
    """Findings, the worst first, each with its rows and its fix.

    `undo`: what was applied, newest last. `repairs`: code → words of the repairs that the recipe has.
    """
    undone = (
        f'<p class="undo" role="status">{icon("check")}<span>Done: {esc(undo[-1][:1].lower() + undo[-1][1:])}</span>'
        f'<button type="button" class="btn quiet" data-undo>{icon("undo")}Undo</button></p>'
        if undo
        else ""
    )
    order = {"error": 0, "warning": 1, "note": 2}
    indexed = sorted(enumerate(found), key=lambda pair: order.get(pair[1].level, 3))
    cards = "".join(_finding(index, finding) for index, finding in indexed)
    applied = "".join(
        f'<li><span>{esc(says[:1].upper() + says[1:])}</span><button type="button" class="icon-btn" '
        f'data-repair="{esc(fix)}" aria-label="Take back: {esc(says)}">{icon("cross")}</button></li>'
        for fix, says in (repairs or {}).items()
    )
    done = f'<ul class="repairs" aria-label="Repairs">{applied}</ul>' if applied else ""
    return undone + done + (f'<ul class="findings">{cards}</ul>' if cards else "")


def _finding(index: int, finding: Any) -> str:
    tone = LEVEL_TONES.get(finding.level, "info")
    rows = "".join(
        f'<button type="button" class="row-link num" data-row="{row}" aria-label="Show row {row}">{count(row)}</button>'
        for row in finding.rows[:12]
    )
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
    mark = icon({"bad": "cross", "warn": "warn"}.get(tone, "info"), LEVEL_WORDS[finding.level])
    return (
        f'<li class="finding {tone}">{mark}'
        f'<div><p class="finding-says">{esc(finding.says)}</p>'
        f"{f'<p class=finding-fix>{esc(finding.fix)}</p>' if finding.fix else ''}"
        f"{f'<ul class=finding-examples>{examples}</ul>' if examples else ''}"
        f"{where if finding.rows else ''}</div>{button}</li>"
    )


def unrepaired(fix: str) -> str:
    return f"Taken back: {_spaced(fix)}"


def length_set(length: int) -> str:
    return f"Rows are read up to {many(length, 'token')}"


def mapped(role: str, column: str) -> str:
    return f"{column} is {ROLE_WORDS[role]}" if column else f"No column is {ROLE_WORDS[role]}"


def row_left_out(row: int) -> str:
    return f"Row {count(row)} is left out, so the model never reads it. This is the first row that it reads."


# --- columns ---


def mapping(columns: Sequence[str], roles: Mapping[str, str], shape: str, wanted: Sequence[str]) -> str:
    """Which column plays which role, as drop-downs of real columns. Empty when rows are conversations or text."""
    if not wanted or not columns:
        return ""
    rows = "".join(_role(role, columns, roles.get(role, "")) for role in wanted)
    return (
        '<section class="card mapping"><h2 class="card-title">Columns</h2>'
        f'<p class="sub">Read as: {esc(shape)}. Change what is not right.</p><div class="roles">{rows}</div></section>'
    )


def _role(role: str, columns: Sequence[str], chosen: str) -> str:
    options = "".join(
        f'<option value="{esc(column)}"{" selected" if column == chosen else ""}>{esc(column)}</option>'
        for column in columns
    )
    none = f'<option value=""{"" if chosen else " selected"}>none</option>'
    return (
        f"<label><span>{ROLE_WORDS[role]} <code>{role}</code></span>"
        f'<select data-role="{role}">{none}{options}</select></label>'
    )


# --- tokens of a row ---


SPLIT_WORDS = {
    "train": "to learn from",
    "validation": "to watch, never trained",
    "test": "for the proof, never trained",
}


def tokens(
    pieces: Sequence[Any], index: int, rows: int, source_row: int | None = None, split: str = "train", says: str = ""
) -> str:
    """One row exactly as the model reads it: trained, only read, or cut off; the stop token marked."""
    kinds = Counter(piece.kind for piece in pieces)
    where = join([SPLIT_WORDS[split], f"row {count(source_row)} of the data" if source_row else ""])
    spans = "".join(_token(piece) for piece in pieces[:SHOWN_TOKENS])
    more = len(pieces) - SHOWN_TOKENS
    rest = f'<p class="muted">and {many(more, "token")} more in this row</p>' if more > 0 else ""
    stops = any(piece.is_stop and piece.kind == "trained" for piece in pieces)
    stop = (
        f'<span class="badge good">{icon("stop")}learns when to stop</span>'
        if stops
        else f'<span class="badge warn">{icon("warn")}never learns to stop</span>'
    )
    legend = join(
        [
            f'<span class="token-key trained">{count(kinds["trained"])} trained</span>',
            f'<span class="token-key context">{count(kinds["context"])} only read</span>',
            f'<span class="token-key cut">{count(kinds["cut"])} cut off</span>' if kinds["cut"] else "",
            stop,
        ],
        "",
    )
    last = max(rows - 1, 0)
    said = f'<p class="token-says" role="status">{esc(says)}</p>' if says else ""
    return (
        '<section class="card token-card"><div class="token-head"><div><h2 class="card-title">What the model reads</h2>'
        '<p class="sub num">'
        f"One row, token by token: {esc(where)}.</p></div>"
        '<div class="pager"><button type="button" class="icon-btn" data-turn="'
        f'{max(index - 1, 0)}" aria-label="Row before"{" disabled" if index <= 0 else ""}>{icon("left")}</button>'
        f'<span class="num">Row {count(index + 1)} of {count(rows)}</span>'
        f'<button type="button" class="icon-btn" data-turn="{min(index + 1, last)}" aria-label="Next row"'
        f"{' disabled' if index >= last else ''}>{icon('right')}</button></div></div>{said}"
        f'<div class="legend num">{legend}</div><div class="tokens" tabindex="0" role="group" '
        f'aria-label="Tokens of row {index + 1}">{spans}</div>{rest}</section>'
    )


def _token(piece: Any) -> str:
    kind = piece.kind + (" special" if piece.is_special else "") + (" stop" if piece.is_stop else "")
    about = join(
        [
            {"trained": "trained", "context": "only read", "cut": "cut off"}[piece.kind],
            "stop token" if piece.is_stop else "special token" if piece.is_special else "",
            f"id {piece.id}",
        ]
    )
    text = esc(piece.text).replace("\n", '<i class="nl">↵</i>\n')
    return f'<span class="t {kind}" title="{about}">{text}</span>'


# --- lengths ---


def lengths(all_lengths: Sequence[int], max_length: int, bins: int = 40) -> str:
    """A histogram of the rows' tokens with the max-length line in it; the slider under it recounts at once."""
    if not all_lengths:
        return ""
    longest = max(all_lengths)
    end = _round_up(longest if max_length > 3 * longest else max(longest, max_length))
    width = end / bins
    heights = Counter(min(int(length / width), bins - 1) for length in all_lengths)
    top = max(heights.values())
    bars = "".join(
        f'<rect x="{1000 * n / bins + 2:.1f}" y="{400 - 392 * heights[n] / top:.1f}" width="{1000 / bins - 4:.1f}" '
        f'height="{392 * heights[n] / top:.1f}" rx="3"/>'
        for n in range(bins)
        if heights[n]
    )
    cut = sum(length > max_length for length in all_lengths)
    at = min(max_length, end)
    counts = json.dumps(_counted(all_lengths), separators=(",", ":"))
    ordered = sorted(all_lengths)
    middle, most = ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return (
        f'<section class="card lengths" data-counts="{esc(counts)}" data-end="{end}" data-rows="{len(ordered)}">'
        '<h2 class="card-title">How long the rows are</h2>'
        f'<p class="sub num">Half are under {many(middle, "token")}, 95% under {count(most)}, '
        f"the longest has {count(longest)}.</p>"
        f'<div class="histogram" style="--at:{100 * at / end:.2f}%"><svg viewBox="0 0 1000 400" '
        f'preserveAspectRatio="none" role="img" aria-label="Histogram of tokens per row">{bars}</svg>'
        '<i class="over"></i><i class="line"></i></div>'
        f'<input type="range" min="0" max="{end}" step="8" value="{at}" aria-label="Longest row, in tokens">'
        f'<div class="axis num"><span>0</span><span>{count(end)} tokens</span></div>'
        f'<p class="cut-says num" role="status"><b data-length>{count(max_length)}</b> tokens are read of a row: '
        f"<span data-cut>{cut_words(cut, len(ordered))}</span></p></section>"
    )


def cut_words(cut: int, rows: int) -> str:
    """
    >>> cut_words(0, 240), cut_words(3, 240)
    ('no row is cut.', '3 rows cut (1.2%).')
    """
    return f"{many(cut, 'row')} cut ({percent(cut / rows, 1)})." if cut else "no row is cut."


def _counted(all_lengths: Sequence[int]) -> list[list[int]]:
    """[length, rows] pairs, at most SHOWN_LENGTHS of them; rounded up where there are more, so no cut is hidden."""
    counted = Counter(all_lengths)
    step = 1
    while len(counted) > SHOWN_LENGTHS:
        step *= 2
        counted = Counter()
        for length in all_lengths:
            counted[-(-length // step) * step] += 1
    return [[length, rows] for length, rows in sorted(counted.items())]


def _round_up(number: int) -> int:
    """A round end for an axis.

    >>> _round_up(93), _round_up(1300)
    (96, 1408)
    """
    unit = 8 if number < 256 else 32 if number < 1024 else 128
    return max(unit, -(-number // unit) * unit)


# --- the plan ---


def plan(made: Any) -> str:
    """Memory by part against what there is, minutes, and why each setting."""
    total, available = made.memory_gb["total"], made.available_gb
    scale = max(total, available) or 1
    parts = [(name, amount) for name, amount in made.memory_gb.items() if name != "total"]
    stack = "".join(
        f'<i class="part-{n}" style="width:{100 * amount / scale:.2f}%"></i>' for n, (_, amount) in enumerate(parts)
    )
    keys = "".join(
        f'<li title="{esc(PART_WORDS.get(name, (name, ""))[1])}"><i class="part-{n}"></i>'
        f"<span>{esc(PART_WORDS.get(name, (name.capitalize(), ''))[0])}</span><b>{gib(amount)}</b></li>"
        for n, (name, amount) in enumerate(parts)
    )
    fits, tone = {
        "fits": ("Fits", "good"),
        "tight": ("Tight", "warn"),
    }.get(made.fits, ("Does not fit", "bad"))
    reasons = "".join(f"<li>{esc(reason)}</li>" for reason in made.reasons)
    ladder = "".join(
        f"<li><span>{esc(suggestion.says)}</span>"
        f'<button type="button" class="btn" data-ladder="{n}">Apply</button></li>'
        for n, suggestion in enumerate(made.suggestions)
    )
    speed = "measured on this machine" if made.rate_is_measured else "estimated; the first run here will measure it"
    return (
        f'<section class="card plan"><h2 class="card-title">What it will cost <span class="badge {tone}">{fits}</span>'
        f'</h2><p class="sub num">About {duration(made.seconds)}: {many(made.steps, "step")} at '
        f"{count(made.tokens_per_second)} tokens a second, {speed}.</p>"
        f'<div class="stack-says num"><b>{gib(total)}</b> of {gib(available)} that are free</div>'
        f'<div class="stack" role="img" aria-label="{gib(total)} of {gib(available)}">{stack}'
        f'<i class="limit" style="left:{100 * available / scale:.2f}%"></i></div><ul class="stack-keys num">{keys}</ul>'
        f"{f'<ul class=ladder>{ladder}</ul>' if ladder else ''}"
        + (
            f'<details class="reasons"><summary>Why these settings</summary><ul>{reasons}</ul></details>'
            if reasons
            else ""
        )
        + "</section>"
    )


def _short_duration(seconds: float) -> str:
    """
    >>> _short_duration(42), _short_duration(200)
    ('42 s', '3 min')
    """
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 45 * 60 else duration(seconds)


def cost(made: Any) -> str:
    """On a preset's card: how long here."""
    if made.fits == "no":
        return f"needs {gib(made.memory_gb['total'])}, {gib(made.available_gb)} are free"
    return f"about {duration(made.seconds)} here"


NEEDS_GPU = "needs an NVIDIA GPU"
COST_UNKNOWN = "time not known yet"
NEEDS_DOWNLOAD = "its model is downloaded first"


# --- the bar with Start ---


def bar(title: str, under: str = "", tone: str = "") -> str:
    drawing = {"good": "check", "warn": "warn", "bad": "cross"}.get(tone)
    mark = f'<span class="bar-mark {tone or "turning"}">{icon(drawing) if drawing else ""}</span>'
    below = f"<span>{esc(under)}</span>" if under else ""
    return f'<div class="start-says num" role="status">{mark}<div><b>{esc(title)}</b>{below}</div></div>'


def bar_ready(diagnosis: Any, made: Any, queued: bool) -> str:
    """What a press would start: how long, on how many rows."""
    warnings = sum(finding.level == "warning" for finding in diagnosis.findings)
    under = join(
        [
            f"about {duration(made.seconds)}",
            f"{count(diagnosis.train_rows)} rows",
            "waits for the training that runs now" if queued else "",
        ]
    )
    if diagnosis.verdict == "blocked":
        return bar("The rows are not ready yet", "The check says what is wrong and what would fix it", "bad")
    if made.fits == "no":
        need = f"It needs {gib(made.memory_gb['total'])}, and {gib(made.available_gb)} are free"
        return bar("Does not fit on this machine", need, "warn")
    if warnings:
        return bar(f"Ready, with {many(warnings, 'warning')}", under, "warn")
    return bar("Ready to train", under, "good")


def bar_waiting(says: str = "", fraction: float | None = None) -> str:
    return bar("Checking the rows", join([says, percent(fraction) if fraction else ""]) or "a moment")


def bar_wrong(number: int) -> str:
    return bar(f"{many(number, 'setting')} to correct", "Marked under “All settings”", "bad")


def bar_error(error: FinetuneError) -> str:
    return bar(error.problem, error.fix, "bad")


def bar_fetching(said: Mapping[str, Any] | None) -> str:
    """While the starter model is brought to this machine; or why that did not work."""
    if said and isinstance(said.get("error"), dict):
        return bar(str(said["error"].get("problem", "")), str(said["error"].get("fix", "")), "bad")
    fraction = said.get("fraction") if said else None
    under = join([str(said.get("says", "")) if said else "", percent(fraction) if fraction else ""])
    return bar("Getting the starter model, once", under or "about a minute")


START = "Start training"
START_ANYWAY = "Start anyway"
SEE_CHECK = "See the check"
SEE_FIXES = "See what to fix"
STARTING = "Starting…"


def see_warnings(diagnosis: Any, made: Any) -> str:
    warnings = sum(finding.level == "warning" for finding in diagnosis.findings)
    return f"Look at {many(warnings, 'warning')}" if warnings else "See what would fit"
