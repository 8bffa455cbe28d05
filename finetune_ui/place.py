"""Where a draft would run: this machine, several of its GPUs, or hardware rented from Hugging Face Jobs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from finetune_core import measured, preflight
from finetune_core.errors import FinetuneError, refusal
from finetune_core.jobs.hardware import Estimate, Flavor, choose, estimate, few_rows
from finetune_core.jobs.order import order
from finetune_core.jobs.price import costs_more
from finetune_core.jobs.sent import require_can_travel, sent_of
from finetune_core.machine import this_machine
from finetune_core.recipe import Recipe
from finetune_core.run import Run

from . import following, form, scripts, visitor, words_place
from .held import QUICK
from .look import html
from .looking import plan_again

if TYPE_CHECKING:
    from finetune_core.preflight import Preflight

    from .looking import Look
    from .renting import Renting, Rents

HERE, JOBS = "here", "jobs"
FLAVOR = re.compile(r"[A-Za-z0-9_.-]{1,60}")


@dataclass(frozen=True)
class Placing:
    on: gr.State  # HERE, JOBS (the cheapest hardware that fits) or "jobs:l4x1"
    agreed: gr.State  # what the button with the price said last
    outputs: tuple[Any, ...]  # what show() fills
    picked: Any  # the event after which everything must be looked at again


@dataclass(frozen=True)
class Placed:
    """A look, with the plan for where it would run; and what that costs, or why it cannot be there."""

    look: Look | None
    on: str = HERE
    rents: Rents | None = None
    offers: tuple[tuple[Flavor, Estimate | None], ...] = ()
    made: Estimate | None = None
    problem: FinetuneError | None = None

    @property
    def is_rented(self) -> bool:
        return self.on != HERE

    @property
    def pending(self) -> bool:
        return self.rents is not None and self.rents.pending

    @property
    def where(self) -> str:
        """The place as the command line has it."""
        return f"{JOBS}:{self.made.flavor.name}" if self.made else self.on

    @property
    def must_say(self) -> tuple[str, ...]:
        """What the command line would choose otherwise: a process for each GPU."""
        return ("num_processes",) if self.made and self.made.idle_gpus else ()

    @property
    def agreed(self) -> tuple[Any, ...]:
        """What a person agrees to who presses Start: where, and what it costs at most, in dollars."""
        return (self.made.flavor.name, self.made.dollars_at_most) if self.made else ()

    def is_agreed(self, agreed: Sequence[Any]) -> bool:
        """Whether the page showed this place, at this price or a higher one."""
        if not agreed or not self.agreed:
            return False
        (where, dollars), (shown, at_most) = self.agreed, agreed
        return where == shown and not costs_more(dollars, at_most)


def build(boxes: Sequence[Any], on: gr.State) -> Placing:
    agreed = gr.State(())
    card = html("", js_on_load=scripts.PLACE)

    # gradio hands over what was clicked only to a function that names it itself
    def on_pick(event: gr.EventData, now: str, *values: Any) -> list[Any]:
        return pick(event, now, *values)

    picked = card.place(on_pick, [on, *boxes], [on, *boxes], **QUICK)
    return Placing(on, agreed, (card, agreed), picked)


def pick(event: gr.EventData, now: str, *boxes: Any) -> list[Any]:
    """Another place; the number of processes goes with it, one for each of its GPUs."""
    asked, processes = str(event.on), int(event.processes)
    where, _, flavor = asked.partition(":")
    if where not in (HERE, JOBS) or (flavor and not FLAVOR.fullmatch(flavor)) or form.problems(boxes):
        return [now, *boxes]
    try:
        recipe = form.read(boxes).replace(num_processes=processes)
    except FinetuneError:
        return [now, *boxes]
    return [where if where == HERE else asked, *form.to_boxes(recipe)]


def from_kept(kept: Any) -> str:
    """The place that a browser kept."""
    where, _, flavor = kept.partition(":") if isinstance(kept, str) else ("", "", "")
    return kept if where == JOBS and (not flavor or FLAVOR.fullmatch(flavor)) else HERE


def of_run(run: Run | None) -> str:
    """Where the next run with this one's choices would be."""
    sent = sent_of(run) if run else None
    return f"{JOBS}:{sent.flavor}" if sent else HERE


# --- what it would be there ---


def settle(look: Look | None, on: str, renting: Renting, wait_seconds: float = 0.0) -> Placed:
    """The look as it is for this place: refused, or with its plan. Rows are read once, wherever they go."""
    if look is None:
        return Placed(None, on)
    if on == HERE:
        return Placed(_refused_here(look))
    rents = renting.of(visitor.now(), wait_seconds)
    placed = Placed(look, on, rents, problem=rents.error or refusal(require_can_travel, look.recipe))
    if placed.problem or look.seen is None or rents.pending:
        return placed
    seen, key = look.seen, (look.recipe.model_dump_json(), rents.flavors)
    offers = look.once(("rented", *key), lambda: _offers(seen, rents.flavors))
    try:
        made = look.once(("chosen", on, *key), lambda: _chosen(seen, rents.flavors, on.partition(":")[2]))
        following.require_time_for(made.timeout_seconds)
    except FinetuneError as error:
        return replace(placed, offers=offers, problem=words_place.no_room(error))
    # of a very large set, or with fewer processes than GPUs, the list's own price for it would be another
    offers = tuple((flavor, made if flavor == made.flavor else offer) for flavor, offer in offers)
    return replace(placed, look=replace(look, seen=replace(seen, plan=made.plan)), offers=offers, made=made)


def _refused_here(look: Look) -> Look:
    error = refusal(preflight.refuse_impossible, look.recipe)
    return replace(look, seen=None, error=look.error or words_place.or_rent(error)) if error else look


def _offers(seen: Preflight, flavors: Sequence[Flavor]) -> tuple[tuple[Flavor, Estimate | None], ...]:
    """This training on each, with a process for each GPU; None for what that hardware cannot do."""
    few, times = few_rows(seen)

    def offer(flavor: Flavor) -> Estimate | None:
        try:
            recipe = seen.recipe.replace(num_processes=max(1, len(flavor.machine.gpus)))
            preflight.refuse_impossible(recipe, flavor.machine)
        except FinetuneError:
            return None
        return estimate(replace(few, recipe=recipe), flavor, times)

    return tuple((flavor, offer(flavor)) for flavor in flavors)


def _chosen(seen: Preflight, flavors: Sequence[Flavor], name: str) -> Estimate:
    made = choose(seen, flavors, name)
    preflight.refuse_impossible(seen.recipe, made.flavor.machine)
    return made


# --- start ---


def start(placed: Placed, agreed: Sequence[Any], runs_dir: Path, tail: str) -> Run:
    """Send it and follow it, on the account of who is asking, at the price that their page showed.

    Raises FinetuneError: no-token, price-changed, too-many-jobs, …; nothing costs anything then.
    """
    asker = visitor.require_signed_in()
    if placed.problem or placed.made is None or placed.rents is None or placed.look is None:
        raise placed.problem or FinetuneError(*words_place.STILL_ASKING, code="busy")
    if not placed.is_agreed(agreed):
        raise FinetuneError(*words_place.price_changed(placed.made), code="price-changed")
    following.require_room(asker, runs_dir, but=tail)
    run = order(placed.look.seen, placed.made, placed.rents.name, runs_dir, tail, asker.name)
    following.follow(run, asker)
    return run


# --- drawing ---


def show(before: Look | None, placed: Placed, recipe: Recipe | None, line: str, is_open: bool) -> tuple[Any, Any]:
    """Everything in `outputs`. before: the look as it was before a place was chosen. line: what Start runs."""
    if recipe is None or not is_open:
        return gr.skip(), placed.agreed
    tiles = [*_tiles_here(before, placed, recipe), _tile_of_jobs(placed, recipe)]
    rented = words_place.rented(placed, rows_of(placed), line) if placed.is_rented else ""
    return words_place.card(tiles, rented), placed.agreed


def rows_of(placed: Placed) -> int:
    """How many rows would travel."""
    if placed.look is None or placed.look.seen is None:
        return 0
    return sum(len(part) for part in placed.look.seen.prepared.splits().values())


def _tiles_here(before: Look | None, placed: Placed, recipe: Recipe) -> list[words_place.Tile]:
    asker, machine, n = visitor.now(), this_machine(), recipe.num_processes
    gpus = len(machine.gpus)
    several = gpus > 1 and asker.may_use_machine
    here, space = placed.on == HERE, asker.space
    if not asker.may_use_machine:
        owner = space.owner if space else ""
        return [words_place.here(machine.title, here, not_for=owner)]
    alone = n if here and not several else 1  # several processes of a CPU stay several
    cost = _cost_here(before, recipe, alone)
    tiles = [words_place.here(machine.title, here and not (several and n > 1), cost, gpus, alone)]
    if several:
        count = min(max(n, 2), gpus) if n > 1 else gpus
        tiles.append(words_place.gpus(count, here and n > 1, _cost_here(before, recipe, count)))
    return tiles


def _cost_here(look: Look | None, recipe: Recipe, processes: int) -> str:
    """How long in so many processes of this machine, or why not."""
    try:
        asked = recipe.replace(num_processes=processes)
        preflight.refuse_impossible(asked)
    except FinetuneError as error:
        return words_place.not_here(error)
    if look is None or look.seen is None:
        return ""
    key = "here", asked.model_dump_json(), measured.version()
    plan = look.once(key, lambda: plan_again(look.seen, asked))
    return words_place.cost_here(plan)


def _tile_of_jobs(placed: Placed, recipe: Recipe) -> words_place.Tile:
    if not placed.is_rented:
        return words_place.jobs(False, None, JOBS, 1)
    return words_place.jobs(True, placed.made, placed.where, recipe.num_processes)
