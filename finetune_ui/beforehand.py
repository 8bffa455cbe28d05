"""Before training: do prompts do it already, and which settings are best? Two small cards at the end of Check."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from finetune_core import launch
from finetune_core.errors import FinetuneError
from finetune_core.files import read_json
from finetune_core.job import Job, goes_on
from finetune_core.recipe import Recipe
from finetune_core.sweep import MOST_TRIALS, Space, combinations, read_space, usual_space

from . import form, look, visitor, words, words_beforehand
from .held import QUICK, SLOW, settings_of, told
from .reading import require_readable
from .words import short_data, short_model

if TYPE_CHECKING:
    from .frame import Page
    from .looking import Looks

Asked = tuple[str, str]  # (the job's folder name, what it is about); ("", "") before the first press
NOBODY: Asked = ("", "")
USE_JS = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-settings]');
  if (button) trigger('settings', { run: button.dataset.settings });
});
"""


def build(page: Page, looks: Looks, boxes: Sequence[Any]) -> None:
    """Both cards, each with its own button and stop; a clock that runs while one of them has something to show."""
    prompts_asked, sweep_asked = gr.State(NOBODY), gr.State(NOBODY)
    prompts_seen, sweep_seen = gr.State(()), gr.State(())
    clock = gr.Timer(1.0, active=False)
    with gr.Column(elem_classes=["card", "again", "before"]), gr.Row(elem_classes="again-row"):
        prompts = look.html(words_beforehand.prompts(None, None, "", 0.0), js_on_load=None)
        try_prompts = gr.Button(words_beforehand.PROMPTS_START, size="md", scale=0, min_width=150)
        stop_prompts = gr.Button(words_beforehand.STOP, size="md", scale=0, min_width=150, visible=False)
    with gr.Accordion(words_beforehand.SWEEP_TITLE, open=False, elem_classes=["settings", "before"]) as fold:
        look.html(f'<p class="again-text">{words_beforehand.SWEEP_TEXT}</p>', js_on_load=None)
        with gr.Row(elem_classes="sweep-boxes"):
            rates, ranks, epochs, trials = (
                gr.Textbox(label=label, info=info or None, max_lines=1, elem_classes="field")
                for label, info in (
                    words_beforehand.RATES, words_beforehand.RANKS, words_beforehand.EPOCHS, words_beforehand.TRIALS,
                )
            )  # fmt: skip
        with gr.Row(elem_classes="share-buttons"):
            try_settings = gr.Button(words_beforehand.SWEEP_START, size="md")
            stop_settings = gr.Button(words_beforehand.STOP, size="md", visible=False)
        table = look.html(js_on_load=USE_JS)

    def busy() -> Any:
        return gr.update(value=words_beforehand.STARTING, interactive=False)

    tick = partial(now, page.runs_dir)
    drawn = [prompts, try_prompts, stop_prompts, prompts_seen, table, try_settings, stop_settings, sweep_seen, clock]
    state = [prompts_asked, sweep_asked, prompts_seen, sweep_seen]

    try_prompts.click(busy, None, try_prompts, queue=False, **QUICK).then(
        partial(ask_prompts, page.runs_dir), list(boxes), [prompts_asked, prompts, try_prompts, clock], **SLOW
    )
    swept = [rates, ranks, epochs, trials]
    fold.expand(partial(suggest, looks), [*swept, *boxes], swept, **QUICK)
    try_settings.click(busy, None, try_settings, queue=False, **QUICK).then(
        partial(ask_settings, page.runs_dir), [*swept, *boxes], [sweep_asked, table, try_settings, clock], **SLOW
    )
    stop_prompts.click(partial(stop, page.runs_dir, "should-i"), prompts_asked, stop_prompts, **QUICK)
    stop_settings.click(partial(stop, page.runs_dir, "sweep"), sweep_asked, stop_settings, **QUICK)
    clock.tick(tick, state, drawn, **QUICK)

    # gradio hands over what was clicked only to a function that names it itself, which a partial does not
    def on_settings(event: gr.EventData) -> tuple[Any, Any]:
        return settings_of(page.runs_dir, str(event.run))

    table.settings(on_settings, None, [page.held, page.step], **QUICK)


def job_of(runs_dir: Path, verb: str, name: str) -> Job:
    """Names are made by launch.key_of and kept on the page; nothing else may become a folder, and nobody else's job is
    answered. Raises FinetuneError (no-job)."""
    plain = len(name) == 16 and all(mark in "0123456789abcdef" for mark in name)
    job = launch.before_training(runs_dir, verb, name if plain else "none")
    if not plain or not visitor.now().owns(job.folder):
        raise FinetuneError("This page has nothing going on.", "Start it again.", code="no-job")
    return job


# --- handlers ---


def ask_prompts(runs_dir: Path, *boxes: Any) -> tuple[Any, ...]:
    """Start the look at the rivals: (asked, card, button, clock)."""
    try:
        recipe, asker = _recipe(boxes), visitor.require_machine()
        require_readable(asker, recipe, runs_dir)
        job = launch.start_before_training(runs_dir, "should-i", recipe, token=asker.token, owner=asker.name)
    except Exception as error:
        again = gr.update(value=words_beforehand.PROMPTS_AGAIN, interactive=True)
        return NOBODY, words.error_card(told(error)), again, gr.skip()
    return (job.folder.name, _about(recipe)), gr.skip(), gr.skip(), gr.Timer(active=True)


def ask_settings(runs_dir: Path, rates: str, ranks: str, epochs: str, trials: str, *boxes: Any) -> tuple[Any, ...]:
    """Start the trials: (asked, table, button, clock)."""
    try:
        recipe, asker = _recipe(boxes), visitor.require_machine()
        require_readable(asker, recipe, runs_dir)
        space, most = read_sweep(recipe, rates, ranks, epochs, trials)
        values = [f"{name}={','.join(map(_number, found))}," for name, found in space.items()]
        options = [*values, "--trials", str(most)]
        job = launch.start_before_training(runs_dir, "sweep", recipe, *options, token=asker.token, owner=asker.name)
    except Exception as error:
        again = gr.update(value=words_beforehand.SWEEP_START, interactive=True)
        return NOBODY, words.error_card(told(error)), again, gr.skip()
    return (job.folder.name, _about(recipe)), gr.skip(), gr.skip(), gr.Timer(active=True)


def read_sweep(recipe: Recipe, rates: str, ranks: str, epochs: str, trials: str) -> tuple[Space, int]:
    """What the boxes of a sweep ask for. Raises FinetuneError in words."""
    given = {"learning_rate": rates, "lora_r": ranks, "num_train_epochs": epochs}
    _, space = read_space([f"{name}={text.strip()}," for name, text in given.items() if text.strip()])
    space = {name: [value for value in found if value is not None] for name, found in space.items()}
    space = {name: found for name, found in space.items() if found}
    if not space:
        raise FinetuneError("There is nothing to try.", "Write some values, with commas between.", code="bad-choice")
    for values in combinations(space)[:2000]:
        recipe.replace(**values)
    text = trials.strip()
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text) <= MOST_TRIALS:
        raise FinetuneError(
            f"{text[:20]!r} is no number of trials.", f"Write a number from 1 to {MOST_TRIALS}.", code="bad-choice"
        )
    return space, int(text)


def suggest(looks: Looks, rates: str, ranks: str, epochs: str, trials: str, *boxes: Any) -> tuple[Any, ...]:
    """Fill the empty boxes of the sweep with what is usual around the settings, once the plan has chosen them."""
    if any((rates, ranks, epochs, trials)) or form.problems(boxes):
        return (gr.skip(),) * 4
    seen = looks.ask(form.read(boxes), wait_seconds=5).seen
    if seen is None:
        return (gr.skip(),) * 4
    space = usual_space(seen.plan.recipe)
    values = [", ".join(map(_number, space.get(name, []))) for name in ("learning_rate", "lora_r", "num_train_epochs")]
    return *values, "6"


def stop(runs_dir: Path, verb: str, asked: Asked) -> Any:
    try:
        job_of(runs_dir, verb, asked[0]).ask_to_stop()
    except FinetuneError:
        return gr.skip()
    return gr.update(value=words_beforehand.STOPPING, interactive=False)


def now(
    runs_dir: Path, prompts_asked: Asked, sweep_asked: Asked, prompts_seen: Any, sweep_seen: Any
) -> tuple[Any, ...]:
    """Both cards as they are now; nothing while nothing changed. The clock rests while neither goes on."""
    parts: list[Any] = []
    alive = False
    for asked, seen, verb, draw, label in (
        (prompts_asked, prompts_seen, "should-i", _draw_prompts, words_beforehand.PROMPTS_AGAIN),
        (sweep_asked, sweep_seen, "sweep", _draw_sweep, words_beforehand.SWEEP_START),
    ):
        job = _last_job(runs_dir, verb, asked)
        if job is None:
            parts += [gr.skip()] * 4
            continue
        said, report = job.said(), read_json(job.folder / "report.json")
        going = goes_on(said)
        alive = alive or going
        found = (asked[0], repr(said), repr(report)[:20_000], job.is_asked_to_stop())
        if found == tuple(seen or ()):
            parts += [gr.skip()] * 4
            continue
        asked_to_stop = job.is_asked_to_stop()
        parts += [
            draw(said, report, asked[1]),
            gr.update(visible=not going, interactive=True, value=label),
            gr.update(
                visible=going,
                interactive=not asked_to_stop,
                value=words_beforehand.STOPPING if asked_to_stop else words_beforehand.STOP,
            ),
            found,
        ]
    return *parts, gr.skip() if alive else gr.Timer(active=False)


def _last_job(runs_dir: Path, verb: str, asked: Asked) -> Job | None:
    """The job of the last press; None before it, and for one who is signed out by now."""
    try:
        return job_of(runs_dir, verb, asked[0])
    except FinetuneError:
        return None


def _draw_prompts(said: Any, report: Mapping[str, Any] | None, about: str) -> str:
    return words_beforehand.prompts(said, report, about, time.time())


def _draw_sweep(said: Any, report: Mapping[str, Any] | None, about: str) -> str:
    return words_beforehand.sweep(said, report, time.time())


def _recipe(boxes: Sequence[Any]) -> Recipe:
    if wrong := form.problems(boxes):
        raise form.first_problem(wrong)
    return form.read(boxes)


def _about(recipe: Recipe) -> str:
    return f"{short_model(recipe.model_name_or_path)}, {short_data(recipe.dataset_name)}"


def _number(value: Any) -> str:
    return form.number(value) if isinstance(value, float) else str(value)
