"""Train: where a run is, its curves, what it says as it learns, and the few buttons that it needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from finetune_core import launch, preflight
from finetune_core.children import tail
from finetune_core.errors import FinetuneError
from finetune_core.jobs.follow import next_start
from finetune_core.jobs.rung import rungs_of
from finetune_core.jobs.sent import Sent, sent_of
from finetune_core.ladder import as_overrides, harder_rungs, wider_rungs
from finetune_core.machine import this_machine
from finetune_core.progress import Progress, summarize
from finetune_core.recipe import Suggestion
from finetune_core.run import Run

from . import charts, following, look, visitor, words, words_actions, words_jobs, words_loss, words_run, words_space
from .following import Agreed
from .held import QUICK, SLOW, held_run, problem_card, told

if TYPE_CHECKING:
    from .frame import Page

NOT_ASKED = Agreed()

LOG_JS = """
let pinned = true;
const log = () => element.querySelector('.run-log');
element.addEventListener('scroll', () => {
  const area = log(); if (area) pinned = area.scrollTop + area.clientHeight > area.scrollHeight - 40;
}, true);
watch('value', () => { const area = log(); if (area && pinned) area.scrollTop = area.scrollHeight; });
"""

RUNG_JS = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-rung]');
  if (button) trigger('rung', { place: Number(button.dataset.rung) });
});
"""


@dataclass(frozen=True)
class Watch:
    panel: gr.Column
    outputs: tuple[Any, ...]


def build(page: Page) -> Watch:
    with gr.Column(visible=False, elem_classes=["panel", "watch"]) as panel:
        head = look.html(js_on_load=None)
        problem = look.html(visible=False, js_on_load=RUNG_JS)
        with gr.Row(elem_classes="run-actions", visible=False) as row:
            gentler = gr.Button(visible=False, size="md")
            prove = gr.Button("See whether it was worth it", visible=False, size="md")
            talk = gr.Button("Talk to it", visible=False, size="md")
            start = gr.Button(visible=False, size="md")
            change = gr.Button("Change the recipe", visible=False, size="md")
            stop = gr.Button(visible=False, size="md")
        loss = look.html(js_on_load=charts.HOVER_JS)
        samples = look.html(js_on_load=None)
        with gr.Accordion("Log", open=False, elem_classes="log-fold") as fold:
            log = look.html(words_loss.log_text(""), js_on_load=LOG_JS)
        discard = gr.Button(elem_classes="discard", size="md")
        with gr.Row(elem_classes="confirm", visible=False) as confirm:
            question = look.html(words_actions.DISCARD_QUESTION, js_on_load=None)
            keep = gr.Button("Keep it", size="md")
            delete = gr.Button("Delete this run", variant="stop", size="md")
    log_timer = gr.Timer(2, active=False)
    log_seen, agreed = gr.State(""), gr.State(NOT_ASKED)

    busy = partial(gr.update, interactive=False)
    start.click(lambda: busy(value="Starting…"), None, start, queue=False, **QUICK).then(
        partial(start_run, page.runs_dir), [page.held, agreed], [start, problem, agreed], **SLOW
    )
    went_down = [gentler, problem, page.held, agreed]
    gentler.click(lambda: busy(value="A moment…"), None, gentler, queue=False, **QUICK).then(
        lambda run_id, said: start_gentler(page.runs_dir, run_id, 0, said), [page.held, agreed], went_down, **SLOW
    )

    # gradio hands over what was clicked only to a function that names it itself, which a partial does not
    def on_rung(event: gr.EventData, run_id: str, said: Agreed) -> tuple[Any, ...]:
        return start_gentler(page.runs_dir, run_id, int(event.place), said)

    problem.rung(on_rung, [page.held, agreed], went_down, **SLOW)
    stop.click(partial(stop_run, page.runs_dir), page.held, [stop, problem], **QUICK)
    discard.click(lambda: gr.update(visible=True), None, confirm, queue=False, **QUICK)
    keep.click(lambda: gr.update(visible=False), None, confirm, queue=False, **QUICK)
    delete.click(lambda: busy(value="Deleting…"), None, delete, queue=False, **QUICK).then(
        partial(discard_run, page.runs_dir), page.held, [delete, confirm, problem, page.held], **SLOW
    )
    page.held.change(lambda: gr.update(visible=False), None, confirm, queue=False, **QUICK)
    prove.click(lambda: "prove", None, page.step, **QUICK)
    talk.click(lambda: "chat", None, page.step, **QUICK)
    change.click(lambda: "choose", None, page.step, **QUICK)
    tail = partial(read_log, page.runs_dir)
    fold.expand(lambda: gr.Timer(active=True), None, log_timer, queue=False, **QUICK).then(
        tail, [page.held, log_seen], [log, log_seen], **QUICK
    )
    fold.collapse(lambda: gr.Timer(active=False), None, log_timer, queue=False, **QUICK)
    log_timer.tick(tail, [page.held, log_seen], [log, log_seen], **QUICK)

    outputs = (head, problem, row, gentler, prove, talk, start, change, stop, discard, question, loss, samples,
               agreed)  # fmt: skip
    return Watch(panel=panel, outputs=outputs)


def show(run: Run) -> tuple[Any, ...]:
    """Everything on the panel, from the run's files alone."""
    recipe, sent = run.recipe, sent_of(run)
    status, events = run.status(), run.events()
    progress = summarize(events)
    rungs = rungs_for(run, progress)
    labels = words_jobs.rung_labels(rungs, sent) if sent else [words_actions.again_with(rung) for rung in rungs]
    gentler = labels[0] if labels else ""
    problem, halted = words_run.problem_card(status, progress, rungs, labels), words_run.HALTED
    if sent:
        after, kept = next_start(run), words_jobs.kept_step(events)
        can = words_jobs.actions(status, progress, sent, after, kept=kept, gentler=gentler, **_left_by(run))
        said = words_jobs.headline(status, progress, sent, after, kept)
        halted = words_jobs.LAST_SEEN if status == "interrupted" else halted
        problem = words_jobs.left_card(sent, status, visitor.now().space is not None) + problem
    else:
        checkpoint = last_checkpoint(run)
        can = words_actions.actions(status, progress, checkpoint=checkpoint, gentler=gentler, **_left_by(run))
        said = words_run.headline(status, progress, checkpoint=checkpoint)
    more = words_jobs.rented_line(sent) if sent else ""
    more += words_space.ends_first(visitor.now().seconds_left(), progress.seconds_left or 0.0)
    return (
        words_run.head(status, progress, recipe, said, halted) + more,
        gr.update(value=problem, visible=bool(problem)),
        gr.update(visible=can != words_actions.Actions()),
        *_buttons(can),
        gr.update(value="Discard this run…" if status == "running" else "Delete this run…"),
        words_jobs.discard_question(sent) if sent else words_actions.DISCARD_QUESTION,
        gr.update(
            value=words_loss.loss_card(status, progress, recipe, int((run.plan() or {}).get("steps") or 0)),
            visible=status in ("running", "new") or bool(progress.loss),
        ),
        gr.update(
            value=words_loss.samples_card(progress), visible=status in ("running", "new") or bool(progress.samples)
        ),
        NOT_ASKED,
    )


def _left_by(run: Run) -> dict[str, bool]:
    """What decides which buttons there are, beside the diary."""
    return {
        "has_result": run.has_result(),
        "has_report": (run.path / "report.json").is_file(),
        "stop_asked": (run.path / "stop").exists(),
    }


def _rented_start(run: Run, sent: Sent) -> str:
    """What the button that starts or follows its job says."""
    events = run.events()
    progress, kept = summarize(events), words_jobs.kept_step(events)
    return words_jobs.actions(run.status(), progress, sent, next_start(run), kept=kept, **_left_by(run)).start


def _buttons(can: words_actions.Actions) -> tuple[Any, ...]:
    """gentler, prove, talk, start, change, stop: at most one of them is primary."""

    def button(name: str, shown: bool, **more: Any) -> Any:
        return gr.update(
            visible=shown, interactive=True, variant="primary" if name == can.first else "secondary", **more
        )

    return (
        button("gentler", bool(can.gentler), value=can.gentler),
        button("prove", can.prove),
        button("talk", can.talk),
        button("start", bool(can.start), value=can.start),
        button("change", can.change),
        gr.update(visible=bool(can.stop), interactive=not can.stopping, value=can.stop),
    )


def rungs_for(run: Run, progress: Progress) -> list[Suggestion]:
    """What may be tried where memory ran out although its worker went down the ladder; [] for everything else."""
    if sent_of(run):
        return rungs_of(run) if run.status() == "failed" else []
    ran_out = run.status() == "failed" and (progress.error or {}).get("code") == "out-of-memory"
    if not ran_out:
        return []
    return [*wider_rungs(run.recipe, len(this_machine().gpus)), *harder_rungs(run.recipe)]


def last_checkpoint(run: Run) -> int | None:
    """The step from which a resume goes on."""
    checkpoints = run.checkpoints()
    return int(checkpoints[-1].name.rpartition("-")[2]) if checkpoints else None


# --- handlers: the id comes from a page and is looked up anew each time ---


def start_run(runs_dir: Path, run_id: str, agreed: Agreed = NOT_ASKED) -> tuple[Any, Any, Any]:
    """Start, resume or try again. The tick redraws the panel once the worker lives.

    agreed: the price that the button said last; of a job that has become dearer the person is asked first.
    """
    label = "Try again"
    try:
        run = held_run(runs_dir, run_id)
        if sent := sent_of(run):
            label = _rented_start(run, sent)
            if now := following.start(run, sent, agreed):
                button = gr.update(interactive=True, value=_rented_start(run, now))
                return button, problem_card(following.question(sent, now)), Agreed(run.id, now.dollars_at_most)
        else:
            launch.start(run, visitor.require_machine().token, options=launch.THEN_CHAT)
    except Exception as error:
        return gr.update(interactive=True, value=label), problem_card(error), NOT_ASKED
    return gr.skip(), gr.update(visible=False), NOT_ASKED


def start_gentler(runs_dir: Path, run_id: str, place: int = 0, agreed: Agreed = NOT_ASKED) -> tuple[Any, Any, Any, Any]:
    """A new run with a rung of the ladder that its worker does not go down by itself: a run's recipe is never edited.

    `place`: in `rungs_for`. agreed: as in `start_run`; of a rented run the first press finds out the price.
    """
    rungs: list[Suggestion] = []
    labels: list[str] = []
    try:
        run = held_run(runs_dir, run_id)
        rungs = rungs_for(run, summarize(run.events()))
        sent = sent_of(run)
        labels = words_jobs.rung_labels(rungs, sent) if sent else [words_actions.again_with(rung) for rung in rungs]
        if not 0 <= place < len(rungs):
            raise FinetuneError(*words_actions.NO_RUNG, code="out-of-memory")
        if sent:
            new = following.start_rung(run, sent, rungs[place], agreed)
            if not isinstance(new, Run):
                labels = words_jobs.rung_labels(rungs, sent, place, new)
                said = Agreed(run.id, new.dollars_at_most, as_overrides(rungs[place].changes))
                return *_rungs_again(words_jobs.rung_price(rungs[place], new), rungs, labels), gr.skip(), said
        else:
            token = visitor.require_machine().token
            recipe = run.recipe.replace(**rungs[place].changes, accept_warnings=True)
            new = preflight.create_run(recipe, runs_dir, token=token, owner=visitor.now().name)
            launch.start_new(new, token, options=launch.THEN_CHAT)
    except Exception as error:
        return *_rungs_again(words.error_card(told(error)), rungs, labels), gr.skip(), NOT_ASKED
    return gr.skip(), gr.skip(), new.id, NOT_ASKED


def _rungs_again(card: str, rungs: Sequence[Suggestion], labels: Sequence[str]) -> tuple[Any, Any]:
    """The button of the first rung, and those of the others under a card."""
    button = gr.update(interactive=True, value=labels[0] if labels else "Try again")
    return button, gr.update(value=card + words_actions.other_ways(rungs, labels), visible=True)


def stop_run(runs_dir: Path, run_id: str) -> tuple[Any, Any]:
    """Ask for a stop that keeps what was learned; a job that nobody follows is then followed to its end."""
    try:
        run, asker = held_run(runs_dir, run_id), visitor.now()
        was_followed = run.is_alive()
        launch.stop(run, asker.token)
        if sent_of(run) and not was_followed and next_start(run) == "follow":
            following.follow(run, asker)
    except Exception as error:
        return gr.skip(), problem_card(error)
    return gr.update(
        interactive=False, value=words_jobs.STOPPING if sent_of(run) else words_actions.STOPPING
    ), gr.skip()


def discard_run(runs_dir: Path, run_id: str) -> tuple[Any, Any, Any, Any]:
    """End the worker if there is one and delete the folder; then the page holds no run."""
    button = gr.update(interactive=True, value="Delete this run")
    try:
        run = held_run(runs_dir, run_id)
        server = launch.serving(runs_dir)
        if server and server.run_id == run.id:
            launch.stop_serving(runs_dir)
        launch.discard(run, visitor.now().token)
    except Exception as error:
        return button, gr.update(visible=False), problem_card(error), gr.skip()
    return button, gr.update(visible=False), gr.update(visible=False), ""


def read_log(runs_dir: Path, run_id: str, seen: str) -> tuple[Any, Any]:
    """The log's end, when it grew."""
    try:
        run = held_run(runs_dir, run_id)
        now = f"{run.id}:{run.log_path.stat().st_size if run.log_path.is_file() else 0}"
    except (FinetuneError, OSError):
        return words_loss.log_text(""), ""
    if now == seen:
        return gr.skip(), gr.skip()
    return words_loss.log_text(tail(run.log_path)), now
