"""What a training will cost, and the bar with Start. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_core.amounts import count, gib, many, minutes, money, percent, roughly
from finetune_core.errors import FinetuneError

from .words import esc, icon, join, ticked

PART_WORDS = {
    "weights": ("Weights", "The base model itself."),
    "adapter": ("Adapter", "The small matrices that are trained."),
    "gradients": ("Gradients", "One number for each trained weight."),
    "optimizer": ("Optimizer", "Two moving averages for each trained weight (AdamW)."),
    "activations": ("Activations", "What the layers remember of a batch until the backward pass."),
    "logits": ("Logits", "Scores for every word of the vocabulary."),
    "gathered": ("Gathered", "The layers at work, whole for a moment; each process keeps only its share of them."),
    "correction": ("Measured here", "What earlier runs on this machine took more than the arithmetic says."),
    "runtime": ("Runtime", "Libraries and their workspace, before any weight is loaded."),
}


def plan(made: Any, offers: Sequence[Any] = (), measurement: str = "", rented: str = "") -> str:
    """Memory by part against what there is, minutes, why each setting, the same on other hardware, and `measurement`
    (html). rented: name of the hardware that it is planned for, if it is not this machine."""
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
    # less memory is looked for here: on rented hardware the next larger one is a click away
    offered = made.advice if rented else made.suggestions
    ladder = "".join(
        f"<li><span>{esc(suggestion.says)}</span>"
        f'<button type="button" class="btn" data-ladder="{esc(suggestion.says)}">Apply</button></li>'
        for suggestion in offered
    )
    speed = "measured on this machine" if made.rate_is_measured else "estimated; the first run here will measure it"
    title, there_is = "What it will cost", "that are free"
    ran_out = f" {RAN_OUT}." if made.ran_out else ""
    if rented:
        speed, title, there_is = "estimated from data sheets", f"What it will cost on {rented}", "that it has"
    return (
        f'<section class="card plan"><h2 class="card-title">{esc(title)} <span class="badge {tone}">{fits}</span>'
        f'</h2><p class="sub num">About {roughly(made.seconds)} ({give_or_take(made.time_error)}): '
        f"{many(made.steps, 'step')} at {rate(made.tokens_per_second)} tokens a second, {speed}.</p>"
        f'<div class="stack-says num"><b>{gib(total)}</b> ({give_or_take(made.memory_error)}) '
        f"of {gib(available)} {there_is}.{ran_out}</div>"
        f'<div class="stack" role="img" aria-label="{gib(total)} of {gib(available)}">{stack}'
        f'<i class="limit" style="left:{100 * available / scale:.2f}%"></i></div><ul class="stack-keys num">{keys}</ul>'
        f"{f'<ul class=ladder>{ladder}</ul>' if ladder else ''}"
        + (
            f'<details class="reasons"><summary>Why these settings</summary><ul>{reasons}</ul></details>'
            if reasons
            else ""
        )
        + hardware(offers)
        + measurement
        + "</section>"
    )


def rate(number: float) -> str:
    """
    >>> rate(12_345.6), rate(0.42)
    ('12,346', '0.42')
    """
    return count(number) if number >= 9.5 else f"{number:.2g}"


def give_or_take(share: float) -> str:
    """How far an estimate may be off.

    >>> give_or_take(0.25)
    '± 25 %'
    """
    return f"± {100 * share:.0f} %"


def hardware(offers: Sequence[Any]) -> str:
    """What the usual GPUs would make of it; the cheapest that fits in the line that opens the table."""
    if not offers:
        return ""
    fitting = [offer for offer in offers if offer.fits == "fits"]
    priced = sorted((offer for offer in fitting if offer.dollars is not None), key=lambda offer: offer.dollars)
    if priced:
        best = priced[0]
        head = f"On a GPU: {article(best.name)} takes {minutes(best.seconds)}, {money(best.dollars)}"
    else:
        head = "On a GPU: none of the usual ones has the memory" if not fitting else "On other hardware"
    rows = "".join(
        f'<tr class="offer {"tight" if offer.fits == "tight" else ""}"><th scope="row">{esc(offer.name)}</th>'
        f"<td>{gib(offer.needs_gb)} of {gib(offer.usable_gb)}</td>"
        + (
            '<td colspan="2">does not fit</td>'
            if offer.fits == "no"
            else f"<td>{minutes(offer.seconds)}</td><td>{'' if offer.dollars is None else money(offer.dollars)}</td>"
        )
        + "</tr>"
        for offer in offers
    )
    return (
        f'<details class="reasons offers"><summary class="num">{esc(head)}</summary><table class="num"><thead><tr>'
        "<th>GPU</th><th>Memory</th><th>Training</th><th>Price</th></tr></thead><tbody>"
        f"{rows}</tbody></table><p class=sub>Estimated from data sheets, not measured: the time may be off by half. "
        "Prices are Hugging Face&#39;s by the hour, of the training alone.</p></details>"
    )


def article(name: str) -> str:
    """
    >>> article("L4"), article("T4")
    ('an L4', 'a T4')
    """
    return f"{'an' if name[:1] in 'AEFHILMNORSX' else 'a'} {name}"


def cost(made: Any) -> str:
    """On a preset's card: how long here."""
    if made.ran_out:
        return RAN_OUT.lower()
    if made.fits == "no":
        return f"needs {gib(made.memory_gb['total'])}, {gib(made.available_gb)} are free"
    return f"about {roughly(made.seconds)} here"


RAN_OUT = "Memory ran out when it was measured"
NEEDS_GPU = "needs an NVIDIA GPU"
COST_UNKNOWN = "time not known yet"
NEEDS_DOWNLOAD = "its model is downloaded first"


# --- the bar with Start ---


def bar(title: str, under: str = "", tone: str = "", way: str = "") -> str:
    """way: html of a button that leads on."""
    drawing = {"good": "check", "warn": "warn", "bad": "cross"}.get(tone)
    mark = f'<span class="bar-mark {tone or "turning"}">{icon(drawing) if drawing else ""}</span>'
    below = f"<span>{ticked(under)}</span>" if under else ""
    return f'<div class="start-says num" role="status">{mark}<div><b>{ticked(title)}</b>{below}{way}</div></div>'


def bar_ready(diagnosis: Any, made: Any, queued: bool, rented: str = "") -> str:
    """What a press would start: how long, on how many rows; `rented`: how long and what it costs elsewhere."""
    warnings = sum(finding.level == "warning" for finding in diagnosis.findings)
    under = join(
        [
            rented or f"about {roughly(made.seconds)}",
            f"{count(diagnosis.train_rows)} rows",
            "waits for what has the machine now" if queued else "",
        ]
    )
    if diagnosis.verdict == "blocked":
        return bar("The rows are not ready yet", "The check says what is wrong and what would fix it", "bad")
    if made.fits == "no":
        need = f"It needs {gib(made.memory_gb['total'])}, and {gib(made.available_gb)} are free"
        rung = made.ladder[0].says if made.ladder else ""
        way = f'<button type="button" class="btn quiet" data-ladder="{esc(rung)}">{esc(rung)}</button>' if rung else ""
        return bar("Does not fit on this machine", RAN_OUT if made.ran_out else need, "warn", way)
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


def see_warnings(diagnosis: Any) -> str:
    warnings = sum(finding.level == "warning" for finding in diagnosis.findings)
    return f"Look at {many(warnings, 'warning')}" if warnings else "See what would fit"
