"""The bar with Start: whether it may begin, what a press does, and the run that comes of it."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from finetune_core import launch, preflight
from finetune_core.errors import FinetuneError, explain
from finetune_core.recipe import Recipe
from finetune_core.turn import is_taken

from . import form, place, scripts, visitor, words, words_place, words_plan, words_share, words_space
from .look import html

if TYPE_CHECKING:
    from .frame import Page
    from .looking import Look, Looks
    from .renting import Renting

LOOK_SECONDS = 50.0  # a press waits this long for a look that is still going on
ASK_SECONDS = 30.0  # and this long for the Hub's prices


@dataclass(frozen=True)
class Begin:
    bar: gr.Column
    draft: gr.State  # names the draft on this page: a double click has the same one, and so starts one run
    outputs: tuple[Any, ...]  # what show() fills
    start: gr.Button
    see: gr.Button
    problem: gr.HTML
    says: gr.HTML


def build(page: Page) -> Begin:
    draft = gr.State("")
    with gr.Column(elem_classes="begin", elem_id="begin") as bar:
        problem = html("", js_on_load=words_share.COPY_JS)
        with gr.Row(elem_classes="begin-row"):
            says = html(words_plan.bar_waiting(), js_on_load=scripts.PLAN)
            see = gr.Button(words_plan.SEE_CHECK, size="md", min_width=120, scale=0)
            start = gr.Button(words_plan.START, variant="primary", size="md", min_width=150, scale=0)
    return Begin(bar, draft, (says, see, start), start, see, problem, says)


def press(
    looks: Looks,
    runs_dir: Path,
    step: str,
    draft: str,
    *boxes: Any,
    on: str = place.HERE,
    agreed: Sequence[Any] = (),
    renting: Renting | None = None,
) -> tuple[Any, Any, Any, Any]:
    """What Start does: (held run, step, draft, problem). Warnings are shown once before they are passed over.

    The same draft and recipe give the same run, so a double click starts one. on, agreed: where, and at which price,
    as place.py has them.
    """
    try:
        wrong = form.problems(boxes)
        if wrong:
            raise form.first_problem(wrong)
        recipe = form.read(boxes)
        placed = place.settle(looks.ask(recipe, wait_seconds=LOOK_SECONDS), on, renting, ASK_SECONDS)
        look = placed.look
        if look.error:
            raise look.error
        if look.seen is None:
            return gr.skip(), "check", gr.skip(), ""
        if step != "check" and not _is_clear(look):
            return gr.skip(), "check", gr.skip(), ""
        draft = draft or new_draft()
        if placed.is_rented:
            return place.start(placed, agreed, runs_dir, _tail(draft, recipe, on)).id, "train", draft, ""
        asker = visitor.require_machine()
        run = preflight.create_run_from(look.seen, runs_dir, _tail(draft, recipe), asker.name)
        launch.start_new(run, asker.token, options=launch.THEN_CHAT)
        return run.id, "train", draft, ""
    except Exception as error:
        return gr.skip(), gr.skip(), gr.skip(), _refusal(explain(error))


def _tail(draft: str, recipe: Recipe, on: str = "") -> str:
    """The end of the run's id, which nobody else's page has."""
    name = visitor.now().name
    return hashlib.sha256(f"{name}\n{draft}\n{recipe.as_yaml()}{on}".encode()).hexdigest()[: 32 if name else 12]


def _refusal(error: FinetuneError) -> str:
    """Why nothing started; on a Space of somebody else, the ways to train all the same."""
    asker = visitor.now()
    if error.code == visitor.NOT_YOURS and asker.space is not None:
        return words_space.ways(asker.space.id, asker.name)
    return words.error_card(error)


def starting() -> Any:
    return gr.update(value=words_plan.STARTING, interactive=False)


def new_draft() -> str:
    return secrets.token_hex(16)


def _is_clear(look: Look) -> bool:
    """Nothing that a person should have seen before it starts."""
    seen = look.seen
    return seen is not None and seen.diagnosis.verdict == "ready" and seen.plan.fits != "no"


def show(
    runs_dir: Path,
    step: str,
    look: Look | None,
    wrong: Sequence[str],
    problem: FinetuneError | None,
    placed: place.Placed | None = None,
) -> tuple[Any, ...]:
    """(what it says, the second button, the first button): exactly one next thing to do."""
    rented = placed if placed is not None and placed.is_rented else None
    see = gr.update(visible=step == "choose", value=words_plan.SEE_CHECK)

    def start(label: str = words_plan.START, ready: bool = True) -> Any:
        return gr.update(value=label, interactive=ready)

    if wrong:
        return words_plan.bar_wrong(len(wrong)), see, start(ready=False)
    error = problem or (look.error if look else None) or (rented.problem if rented else None)
    if error is not None and error.code == "starter-not-here":
        return words_plan.bar_fetching(launch.fetching(runs_dir)), see, start(ready=False)
    if error is not None:
        return words_plan.bar_error(error), see, start(ready=False)
    if look is None or look.seen is None:
        return words_plan.bar_waiting(look.says if look else "", look.fraction if look else None), see, start()
    if rented and rented.made is None:
        return words_place.bar_asking(), see, start(ready=False)
    diagnosis, plan, asker = look.seen.diagnosis, look.seen.plan, visitor.now()
    if rented:
        says = words_place.bar_rented(diagnosis, rented.made)
    else:
        says = words_plan.bar_ready(diagnosis, plan, queued=is_taken(runs_dir))
    if asker.may_use_machine and not rented:
        says += words_space.ends_first(asker.seconds_left(), plan.seconds)
    if step == "choose" and not _is_clear(look):
        hidden = gr.update(visible=False)
        label = words_plan.SEE_FIXES if diagnosis.verdict == "blocked" else words_plan.see_warnings(diagnosis)
        return says, hidden, start(label)
    if diagnosis.verdict == "blocked":
        return says, see, start(ready=False)
    if rented:
        return says, see, start(words_place.start(rented.made, anyway=not _is_clear(look)))
    if not asker.may_use_machine:
        return says, see, start(words_space.HOW)
    return says, see, start(words_plan.START if _is_clear(look) else words_plan.START_ANYWAY)
