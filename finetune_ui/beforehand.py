"""Before training: do prompts do it already, and which settings are best? Two small cards at the end of Check."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from finetune_core import launch
from finetune_core.errors import FinetuneError
from finetune_core.files import read_json
from finetune_core.job import Job, Said, goes_on
from finetune_core.recipe import Recipe
from finetune_core.search_space import Space, combinations, read_space, usual_space
from finetune_core.sweep import MOST_TRIALS

from . import form, look, visitor, words, words_beforehand
from .held import QUICK, SLOW, settings_of, told
from .reading import require_readable
from .words import short_data, short_model

if TYPE_CHECKING:
    from .frame import Page
    from .looking import Look

OUTPUTS = 13  # in Before.outputs
USE_JS = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-settings]');
  if (button) trigger('settings', { run: button.dataset.settings });
});
"""


@dataclass(frozen=True)
class Drawn:
    """What the page shows now: of which recipe (launch.key_of), and each card as it was drawn last."""

    key: str = ""
    prompts: tuple[Any, ...] = ()
    sweep: tuple[Any, ...] = ()
    offered: tuple[str, ...] = ()  # what was written into the boxes of the sweep


@dataclass(frozen=True)
class Before:
    drawn: gr.State
    outputs: tuple[Any, ...]  # what show() fills


def build(page: Page, boxes: Sequence[Any]) -> Before:
    """Both cards, each with its own button and stop; a clock that runs while one of them has something to show."""
    drawn = gr.State(Drawn())
    clock = gr.Timer(1.0, active=False)
    with gr.Column(elem_classes=["card", "again", "before"]), gr.Row(elem_classes="again-row"):
        prompts = look.html(words_beforehand.prompts(None, None, "", 0.0), js_on_load=None)
        try_prompts = gr.Button(words_beforehand.PROMPTS_START, size="md", scale=0, min_width=150)
        stop_prompts = gr.Button(words_beforehand.STOP, size="md", scale=0, min_width=150, visible=False)
    with gr.Accordion(words_beforehand.SWEEP_TITLE, open=False, elem_classes=["settings", "before"]) as fold:
        look.html(f'<p class="again-text">{words_beforehand.SWEEP_TEXT}</p>', js_on_load=None)
        with gr.Row(elem_classes="sweep-boxes"):
            swept = [
                gr.Textbox("", label=label, info=info or None, max_lines=1, elem_classes="field")
                for label, info in (
                    words_beforehand.RATES, words_beforehand.RANKS, words_beforehand.EPOCHS, words_beforehand.TRIALS,
                )
            ]  # fmt: skip
        with gr.Row(elem_classes="share-buttons"):
            try_settings = gr.Button(words_beforehand.SWEEP_START, size="md")
            stop_settings = gr.Button(words_beforehand.STOP, size="md", visible=False)
        table = look.html(js_on_load=USE_JS)

    def busy() -> Any:
        return gr.update(value=words_beforehand.STARTING, interactive=False)

    outputs = (prompts, try_prompts, stop_prompts, table, try_settings, stop_settings, fold, *swept, drawn, clock)
    try_prompts.click(busy, None, try_prompts, queue=False, **QUICK).then(
        partial(ask_prompts, page.runs_dir), [drawn, *boxes], outputs, **SLOW
    )
    try_settings.click(busy, None, try_settings, queue=False, **QUICK).then(
        partial(ask_settings, page.runs_dir), [drawn, *swept, *boxes], outputs, **SLOW
    )
    stop_prompts.click(partial(stop, page.runs_dir, "should-i"), drawn, stop_prompts, **QUICK)
    stop_settings.click(partial(stop, page.runs_dir, "sweep"), drawn, stop_settings, **QUICK)
    clock.tick(partial(tick, page.runs_dir), [page.step, drawn], outputs, **QUICK)

    # gradio hands over what was clicked only to a function that names it itself, which a partial does not
    def on_settings(event: gr.EventData) -> tuple[Any, Any]:
        return settings_of(page.runs_dir, str(event.run))

    table.settings(on_settings, None, [page.held, page.step], **QUICK)
    return Before(drawn, outputs)


def job_of(runs_dir: Path, verb: str, name: str) -> Job:
    """Names are made by launch.key_of; nothing else may become a folder, and nobody else's job is answered.
    Raises FinetuneError (no-job)."""
    plain = len(name) == 16 and all(mark in "0123456789abcdef" for mark in name)
    job = launch.before_training(runs_dir, verb, name if plain else "none")
    if not plain or not (visitor.now().owns(job.folder) or not job.folder.exists()):
        raise FinetuneError("This page has nothing going on.", "Start it again.", code="no-job")
    return job


# --- handlers ---


def ask_prompts(runs_dir: Path, drawn: Drawn, *boxes: Any) -> list[Any]:
    """Start the look at the rivals."""
    try:
        recipe, asker = form.read_or_tell(boxes), visitor.require_machine()
        require_readable(asker, recipe, runs_dir)
        launch.start_before_training(runs_dir, "should-i", recipe, token=asker.token, owner=asker.name)
    except Exception as error:
        return _refused(error, 0, words_beforehand.PROMPTS_AGAIN)
    return _draw(runs_dir, replace(drawn, prompts=()), launch.key_of(recipe, visitor.now().name))


def ask_settings(
    runs_dir: Path, drawn: Drawn, rates: str, ranks: str, epochs: str, trials: str, *boxes: Any
) -> list[Any]:
    """Start the trials."""
    try:
        recipe, asker = form.read_or_tell(boxes), visitor.require_machine()
        require_readable(asker, recipe, runs_dir)
        space, most = read_sweep(recipe, rates, ranks, epochs, trials)
        values = [f"{name}={','.join(map(_number, found))}," for name, found in space.items()]
        options = [*values, "--trials", str(most)]
        launch.start_before_training(runs_dir, "sweep", recipe, *options, token=asker.token, owner=asker.name)
    except Exception as error:
        return _refused(error, 3, words_beforehand.SWEEP_START)
    return _draw(runs_dir, replace(drawn, sweep=()), launch.key_of(recipe, visitor.now().name))


def _refused(error: Exception, place: int, label: str) -> list[Any]:
    """Why nothing began, in the card at this place of `outputs`, and its button as it was."""
    parts = [gr.skip()] * OUTPUTS
    parts[place : place + 2] = words.error_card(told(error)), gr.update(value=label, interactive=True)
    return parts


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
            f"“{text[:20]}” is no number of trials." if text else "How many trials?",
            f"Write how many, from 1 to {MOST_TRIALS}.",
            code="bad-choice",
        )
    return space, int(text)


def stop(runs_dir: Path, verb: str, drawn: Drawn) -> Any:
    try:
        job_of(runs_dir, verb, drawn.key).ask_to_stop()
    except FinetuneError:
        return gr.skip()
    return gr.update(value=words_beforehand.STOPPING, interactive=False)


def tick(runs_dir: Path, step: str, drawn: Drawn) -> list[Any]:
    """How far the jobs are; the clock rests while neither goes on, and while another step is open."""
    if step != "check" or not drawn.key:
        return [*[gr.skip()] * (OUTPUTS - 1), gr.Timer(active=False)]
    parts = _draw(runs_dir, drawn, drawn.key)
    parts[-1] = gr.skip() if isinstance(parts[-1], gr.Timer) else gr.Timer(active=False)
    return parts


# --- drawing ---


def show(runs_dir: Path, recipe: Recipe | None, look: Look | None, drawn: Drawn) -> list[Any]:
    """Everything in `outputs` for what the boxes say now: what was tried for these rows, and what is worth trying.

    The truth lies in the job's folder, so a page that is loaded again shows it, and goes on watching it.
    """
    if recipe is None:
        return [gr.skip()] * OUTPUTS
    parts = _draw(runs_dir, drawn, launch.key_of(recipe, visitor.now().name))
    if look is None or look.seen is None:
        return parts
    offered = suggestion(look.seen.plan.recipe)
    if offered != drawn.offered:
        parts[7:11] = offered
        now = parts[-2] if isinstance(parts[-2], Drawn) else drawn
        parts[-2] = replace(now, offered=offered)
    return parts


def suggestion(recipe: Recipe) -> tuple[str, ...]:
    """What is usual to try around these settings, as the boxes of the sweep show it."""
    space = usual_space(recipe)
    values = [", ".join(map(_number, space.get(name, []))) for name in ("learning_rate", "lora_r", "num_train_epochs")]
    return *values, "6"


def _draw(runs_dir: Path, drawn: Drawn, key: str) -> list[Any]:
    """Both cards of this recipe; nothing where nothing changed. The clock is woken for one that goes on."""
    try:
        prompts, sweep = job_of(runs_dir, "should-i", key), job_of(runs_dir, "sweep", key)
    except FinetuneError:  # somebody else's
        return [gr.skip()] * OUTPUTS
    now = replace(drawn, key=key, prompts=_looks(prompts), sweep=_looks(sweep))
    parts = [gr.skip()] * OUTPUTS
    if now.prompts != drawn.prompts:
        said, report = prompts.said(), read_json(prompts.folder / "report.json")
        label = words_beforehand.PROMPTS_AGAIN if said else words_beforehand.PROMPTS_START
        parts[0] = words_beforehand.prompts(said, report, _about(prompts), time.time())
        parts[1:3] = _buttons(prompts, said, label)
    if now.sweep != drawn.sweep:
        said, found = sweep.said(), _found(sweep)
        parts[3] = words_beforehand.sweep(said, found, _about(sweep), time.time())
        parts[4:6] = _buttons(sweep, said, words_beforehand.SWEEP_START)
        parts[6] = gr.update(label=words_beforehand.sweep_title(said, found))
    if now != drawn:
        parts[-2] = now
    if any(goes_on(said) for _, said, *_ in (now.prompts, now.sweep)):
        parts[-1] = gr.Timer(active=True)
    return parts


def _looks(job: Job) -> tuple[Any, ...]:
    """Changes with everything that is drawn of a job."""
    return job.folder.name, job.said(), job.is_asked_to_stop(), _written(job)


def _written(job: Job) -> float:
    """When its report was written; 0 if there is none."""
    try:
        return (job.folder / "report.json").stat().st_mtime
    except OSError:
        return 0.0


def _found(sweep: Job) -> dict[str, Any] | None:
    """The table of trials; of a sweep that goes on only its own, and not that of the one before."""
    said = sweep.said()
    is_older = goes_on(said) and _written(sweep) < said.began
    return None if is_older else read_json(sweep.folder / "report.json")


def _buttons(job: Job, said: Said | None, label: str) -> tuple[Any, Any]:
    going, ending = goes_on(said), job.is_asked_to_stop()
    return (
        gr.update(visible=not going, interactive=True, value=label),
        gr.update(
            visible=going,
            interactive=not ending,
            value=words_beforehand.STOPPING if ending else words_beforehand.STOP,
        ),
    )


def _about(job: Job) -> str:
    """Which model and rows it was asked about."""
    try:
        recipe = Recipe.load(job.folder / "recipe.yaml")
    except FinetuneError:
        return ""
    return f"{short_model(recipe.model_name_or_path)}, {short_data(recipe.dataset_name)}"


def _number(value: Any) -> str:
    return form.number(value) if isinstance(value, float) else str(value)
