"""The plan measured instead of guessed: ten seconds of training, as a job whose truth lies in its folder."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from finetune_core import launch, preflight
from finetune_core.errors import FinetuneError
from finetune_core.job import goes_on

from . import form, visitor, words_measure, words_plan
from .beforehand import job_of
from .held import QUICK, SLOW, told
from .place import HERE
from .reading import require_readable

if TYPE_CHECKING:
    from .frame import Page
    from .looking import Look, Looks


@dataclass(frozen=True)
class Drawn:
    """What the page shows now: of which recipe (launch.key_of), the job as it was drawn last, and why none began."""

    key: str = ""
    looks: tuple[Any, ...] = ()
    refused: FinetuneError | None = None


@dataclass(frozen=True)
class Measuring:
    drawn: gr.State
    outputs: tuple[Any, ...]  # what show() fills beside the card
    turns: tuple[Any, ...]  # events after which the page is drawn anew


def build(page: Page, looks: Looks, plan: gr.HTML, boxes: Sequence[Any], on: gr.State) -> Measuring:
    """The button in the plan's card, and a clock that runs while something is measured. on: where it would run."""
    drawn, over = gr.State(Drawn()), gr.State("")
    clock = gr.Timer(1.0, active=False)
    plan.halt(partial(stop, page.runs_dir), drawn, None, **QUICK)
    seen = [page.step, on, drawn, *boxes]
    clock.tick(partial(tick, page.runs_dir, looks), seen, [plan, drawn, clock, over], **QUICK)
    turns = (
        plan.measure(partial(start, page.runs_dir), list(boxes), drawn, **SLOW),
        over.change(lambda: None, None, None, **QUICK),
    )
    return Measuring(drawn, (drawn, clock), turns)


# --- handlers ---


def start(runs_dir: Path, *boxes: Any) -> Drawn:
    """Start the measurement of what the boxes say; a second click on one that goes on does nothing."""
    try:
        recipe = form.read_or_tell(boxes)
        key = launch.key_of(recipe, visitor.now().name, "plan")
    except FinetuneError:
        return Drawn()
    try:
        asker = visitor.require_machine()
        require_readable(asker, recipe, runs_dir)
        launch.start_before_training(runs_dir, "plan", recipe, "--probe", token=asker.token, owner=asker.name)
    except Exception as error:
        return Drawn(key, refused=told(error))
    return Drawn(key)


def stop(runs_dir: Path, drawn: Drawn) -> None:
    try:
        job_of(runs_dir, "plan", drawn.key).ask_to_stop()
    except FinetuneError:
        return


def tick(runs_dir: Path, looks: Looks, step: str, on: str, drawn: Drawn, *boxes: Any) -> tuple[Any, Any, Any, Any]:
    """(plan's card, drawn, clock, over): how far it is; the clock rests when it is over or another step is open.

    So it does once another place was picked. The tick before may have drawn this machine's plan over that place's
    meanwhile, so the page is drawn anew.
    """
    skip, rest = gr.skip(), gr.Timer(active=False)
    if on != HERE:
        return skip, skip, rest, secrets.token_hex(4)
    if step != "check" or not drawn.key or form.problems(boxes):
        return skip, skip, rest, skip
    look = looks.ask(form.read(boxes))
    shown, now, clock = show(runs_dir, look, drawn)
    if not clock.active:
        return skip, skip, rest, str(now.looks)
    if now == drawn or look.seen is None:
        return skip, skip, skip, skip
    return plan_card(look, shown), now, skip, skip


# --- drawing ---


def show(runs_dir: Path, look: Look | None, drawn: Drawn) -> tuple[str, Drawn, gr.Timer]:
    """(html of the plan's card, drawn, clock): what is to be said about measuring this recipe, from the job's folder,
    so that a page that is loaded again goes on."""
    rest = gr.Timer(active=False)
    asker = visitor.now()
    if look is None or look.seen is None or look.seen.diagnosis.verdict == "blocked" or not asker.may_use_machine:
        return "", drawn, rest
    key = launch.key_of(look.recipe, asker.name, "plan")
    try:
        job = job_of(runs_dir, "plan", key)
    except FinetuneError:  # somebody else's
        return "", drawn, rest
    said, ending = job.said(), job.is_asked_to_stop()
    refused = drawn.refused if drawn.key == key else None
    now = Drawn(key, (said, ending), refused)
    return words_measure.measurement(said, refused, ending), now, gr.Timer(active=goes_on(said))


def plan_card(look: Look, measurement: str, rented: str = "") -> str:
    """The plan of what was looked at, with its measurement (html); or for hardware of this name, which is rented."""
    recipe, seen = look.recipe, look.seen
    if rented:
        return words_plan.plan(seen.plan, rented=rented)
    offers = look.once(("offers", recipe.model_dump_json()), lambda: preflight.offers(seen))
    return words_plan.plan(seen.plan, offers, measurement)
