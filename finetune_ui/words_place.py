"""Where a training runs: this machine, several of its GPUs, or hardware rented by the minute, and its price. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from finetune_core.amounts import count, duration, gib, many, minutes, money
from finetune_core.errors import FinetuneError

from .words import esc, icon, join, notice
from .words_choose import command
from .words_plan import NEEDS_GPU, article, bar, bar_ready
from .words_plan import cost as plan_cost

TITLE = "Where it runs"
SHOWN = 6  # hardware that is listed; the rest waits in a fold
STILL_ASKING = ("The Hub has not said yet what it rents out.", "Wait a moment, then start.")


@dataclass(frozen=True)
class Tile:
    """A place to choose."""

    on: str
    title: str
    text: str
    cost: str
    chosen: bool
    processes: int = 1
    closed: bool = False  # not for who is asking


def here(machine: str, chosen: bool, cost: str = "", one_of: int = 1, processes: int = 1, not_for: str = "") -> Tile:
    """one_of: how many GPUs it has. not_for: whose machine it is, for a visitor who may not use it."""
    if not_for:
        return Tile("here", "This Space’s machine", machine, f"for its owner, {not_for}", chosen, closed=True)
    return Tile("here", "One GPU of this machine" if one_of > 1 else "This machine", machine, cost, chosen, processes)


def gpus(number: int, chosen: bool, cost: str) -> Tile:
    text = "One process a GPU; they share the rows of each step."
    return Tile("here", f"{number} GPUs of this machine", text, cost, chosen, processes=number)


def jobs(chosen: bool, made: Any, on: str, processes: int) -> Tile:
    """processes: what a click sets, while it is not known on which hardware."""
    cost = f"{minutes(made.seconds)} in all, {about(made.dollars)}" if made else "by the minute, on your account"
    text = "Hardware that Hugging Face rents out. It goes on when this page is closed."
    processes = max(1, len(made.flavor.machine.gpus)) if made else processes
    return Tile(on, "Hugging Face Jobs", text, cost, chosen, processes=processes)


def or_rent(error: FinetuneError) -> FinetuneError:
    """Why it cannot be on this machine, with the way to one that can."""
    if error.code not in ("no-gpu", "no-quantization", "too-many-processes"):
        return error
    fix = f"{error.fix} Or rent one: choose Hugging Face Jobs under “{TITLE}”, in the check."
    return FinetuneError(error.problem, fix, code=error.code)


def no_room(error: FinetuneError) -> FinetuneError:
    """Why it cannot be on rented hardware, with the ways on that this page has; the command line has others."""
    if error.code != "does-not-fit":
        return error
    fix = "Choose larger hardware in the list, a smaller model, or the method QLoRA under “All settings”."
    return FinetuneError(error.problem, fix, code=error.code)


def cost_here(made: Any) -> str:
    """How long its training takes; what is rented is told with its start and the proof."""
    return f"{minutes(made.seconds)} of training" if made.fits != "no" else plan_cost(made)


def not_here(error: FinetuneError) -> str:
    return NEEDS_GPU if error.code == "no-gpu" else "not possible here"


def card(tiles: Sequence[Tile], rented: str) -> str:
    """The choice, and under it what is chosen there."""
    stop = next((place for place, tile in enumerate(tiles) if tile.chosen and not tile.closed), len(tiles) - 1)
    cells = "".join(_tile(tile, place == stop) for place, tile in enumerate(tiles))
    return (
        f'<section class="card place-card"><h2 class="card-title">{TITLE}</h2>'
        f'<div class="presets places" role="radiogroup" aria-label="{TITLE}">{cells}</div>{rented}</section>'
    )


def _tile(tile: Tile, is_stop: bool) -> str:
    cost = f'<span class="preset-cost">{esc(tile.cost)}&nbsp;</span>'
    return (
        f'<button type="button" class="preset" role="radio" aria-checked="{"true" if tile.chosen else "false"}" '
        f'data-on="{esc(tile.on)}" data-processes="{tile.processes}" tabindex="{0 if is_stop else -1}"'
        f"{' disabled' if tile.closed else ''}><b>{esc(tile.title)}</b>"
        f'<i class="preset-tick">{icon("check")}</i><span>{esc(tile.text)}</span>{cost}</button>'
    )


# --- hardware by the minute ---


def rented(placed: Any, rows: int, line: str) -> str:
    """What Hugging Face rents out now, what this training would cost there, and what leaves this machine."""
    processes = placed.look.recipe.num_processes
    again = (
        f'<p class="verdict-again"><button type="button" class="btn" data-on="{esc(placed.on)}" '
        f'data-processes="{processes}">Ask again</button></p>'
    )
    trouble = notice("warn", placed.problem.problem, placed.problem.fix) if placed.problem else ""
    if placed.problem and not placed.offers:
        return f'<div class="rented">{trouble}{again}</div>'
    if placed.pending:
        return f'<div class="rented">{notice("info", "Asking the Hub what it rents out now.")}</div>'
    if not placed.offers:
        return f'<div class="rented">{notice("info", "Time and price are known once the rows are read.")}</div>'
    chosen = placed.made.flavor.name if placed.made else placed.on.partition(":")[2]
    terms = _idle(placed.made) + _terms(placed.made, placed.rents.name, rows) + command(line) if placed.made else ""
    return f'<div class="rented">{_list(placed, chosen)}{trouble}{terms}</div>'


def _idle(made: Any) -> str:
    """GPUs that would be paid for and not used, and the click that uses them."""
    if not made.idle_gpus:
        return ""
    gpus = len(made.flavor.machine.gpus)
    says = f"{made.idle_gpus} of its {gpus} GPUs would do nothing, and are paid for."
    fix = f"num_processes is {made.plan.recipe.num_processes}; one process a GPU shares the rows of each step."
    return notice("warn", says, fix) + (
        f'<p class="verdict-again"><button type="button" class="btn" data-on="jobs:{esc(made.flavor.name)}" '
        f'data-processes="{gpus}">Use all {gpus}</button></p>'
    )


def _list(placed: Any, chosen: str) -> str:
    """The cheapest first, GPUs before processors; what does not fit comes last."""

    def order(pair: Any) -> tuple[bool, bool, float]:
        flavor, made = pair
        return not _fits(made), not flavor.machine.gpus, made.dollars if made else 0.0

    ordered = sorted(placed.offers, key=order)
    shown = [pair for place, pair in enumerate(ordered) if place < SHOWN or pair[0].name == chosen]
    rest = [pair for pair in ordered if pair not in shown]
    fold = f'<details class="reasons"><summary>{many(len(rest), "other")}</summary>{_rents(rest, chosen)}</details>'
    return _rents(shown, chosen) + (fold if rest else "")


def _rents(pairs: Sequence[Any], chosen: str) -> str:
    names = [flavor.name for flavor, made in pairs if _fits(made)]
    stop = chosen if chosen in names else names[0] if names else ""
    rows = "".join(_rent(flavor, made, chosen, stop) for flavor, made in pairs)
    return f'<div class="rents num" role="radiogroup" aria-label="Hardware">{rows}</div>'


def _rent(flavor: Any, made: Any, chosen: str, stop: str) -> str:
    machine = flavor.machine
    many_gpus = f"{len(machine.gpus)} × " if len(machine.gpus) > 1 else ""
    memory = f"{many_gpus}{gib(machine.gpus[0].total_gb)}" if machine.gpus else f"{many(machine.cores, 'core')}"
    about_it = join([memory, f"{hourly(flavor)} an hour"])
    checked = "true" if flavor.name == chosen else "false"
    cells = "<span>does not fit</span><b></b>"
    if fits := _fits(made):
        cells = f"<span>{minutes(made.seconds)}</span><b>{about(made.dollars)}</b>"
    return (
        f'<button type="button" class="rent" role="radio" aria-checked="{checked}" '
        f'data-on="jobs:{esc(flavor.name)}" data-processes="{max(1, len(machine.gpus))}" '
        f'tabindex="{0 if flavor.name == stop else -1}"{"" if fits else " disabled"}>'
        f'<i class="preset-tick">{icon("check")}</i><span class="rent-name"><b>{esc(name_of(flavor.title))}</b> '
        f"<small>{esc(about_it)}</small></span>{cells}</button>"
    )


def _fits(made: Any) -> bool:
    return made is not None and made.plan.fits != "no"


def _terms(made: Any, name: str, rows: int) -> str:
    """What a press on Start agrees to."""
    terms = (
        ("Time and price", f"{_capital(minutes(made.seconds))} with its start and the proof: {about(made.dollars)}. "
                           "Estimated from data sheets; the time may be off by half."),
        ("Time-out", f"It is ended after {duration(made.timeout_seconds)}, so it costs "
                     f"{money(made.dollars_at_most)} at most."),
        ("What goes there", f"Your {count(rows)} rows, the recipe and this program, to a private repository "
                                     f"of {name} on the Hub and to the job. Checkpoints and the result are kept there "
                                     "too, also when the run is deleted here."),
    )  # fmt: skip
    return (
        '<dl class="terms num">'
        + "".join(f"<div><dt>{esc(title)}</dt><dd>{esc(text)}</dd></div>" for title, text in terms)
        + "</dl>"
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def name_of(title: str) -> str:
    """Hardware by the Hub's title for it.

    >>> [name_of(title) for title in ("1x Nvidia L4", "4x Nvidia L4", "Nvidia T4 - small", "CPU Basic")]
    ['L4', '4 × L4', 'T4 small', 'CPU Basic']
    """
    short = re.sub(r"^1x ", "", title).replace("Nvidia ", "").replace(" - ", " ")
    return re.sub(r"^(\d+)x ", r"\1 × ", short)


def hourly(flavor: Any) -> str:
    """
    >>> from types import SimpleNamespace
    >>> hourly(SimpleNamespace(dollars_per_minute=0.0133333))
    '$0.80'
    """
    return f"${60 * flavor.dollars_per_minute:,.2f}"


def about(dollars: float) -> str:
    """
    >>> about(0.4), about(0.002)
    ('about $0.40', 'under 1 cent')
    """
    return f"about {money(dollars)}" if dollars >= 0.01 else money(dollars)


# --- the bar with Start ---


def start(made: Any, anyway: bool = False) -> str:
    """The button, with the price."""
    return f"Start{' anyway' if anyway else ''} on {name_of(made.flavor.title)} for {about(made.dollars)}"


def bar_asking() -> str:
    return bar("Asking the Hub what it rents out", "a moment")


def bar_rented(diagnosis: Any, made: Any) -> str:
    under = f"{minutes(made.seconds)}, {money(made.dollars_at_most)} at most"
    return bar_ready(diagnosis, made.plan, queued=False, rented=under)


def planned_for(placed: Any) -> str | None:
    """The hardware's name above its plan: "" for this machine, None while it is not known what would be rented."""
    if not placed.is_rented:
        return ""
    return name_of(placed.made.flavor.title) if placed.made else None


def price_changed(made: Any) -> tuple[str, str]:
    where = name_of(made.flavor.title)
    return (
        f"The price is not the one that this page showed: it is {about(made.dollars)} on {article(where)} now.",
        "Look at it again, then start; nothing was started.",
    )


def too_many(number: int) -> tuple[str, str]:
    return f"This Space follows {number} of your jobs already.", "Wait until one of them is over."


def sign_in_ends(left: float, seconds: float) -> tuple[str, str]:
    return (
        f"Your sign-in ends in {duration(max(left, 60))}, and the job may take {duration(seconds)}. It puts its result "
        "on the Hub with this sign-in, and would lose it.",
        "Sign out and in at the top of the page for the longest time, choose faster hardware, or start it from your "
        "own computer.",
    )
