"""What stands around the panels: header, rail of runs, stepper, folded steps; and which run and step are open."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import gradio as gr

from finetune_core import Progress, Recipe, Run, hub, summarize
from finetune_core.errors import FinetuneError
from finetune_core.jobs.follow import next_start
from finetune_core.jobs.sent import sent_of
from finetune_core.machine import this_machine

from . import scripts, serving, visitor, words_frame, words_jobs, words_run
from .look import html
from .words import STEPS, esc, short_data

RAIL_LIMIT = 60  # newest runs shown; the others are still on disk and on the command line


@dataclass(frozen=True)
class Page:
    """What every panel gets: where runs are, which run is held, and which step is open."""

    runs_dir: Path
    held: gr.State  # run id, "" for none
    step: gr.State  # one of STEPS


def build_header() -> gr.HTML:
    return html(words_frame.header(), js_on_load=scripts.HEADER, elem_id="top")


def build_rail() -> gr.HTML:
    return html(words_frame.rail((), ""), js_on_load=scripts.RAIL, elem_id="rail")


def build_path() -> tuple[gr.HTML, gr.HTML]:
    path = words_frame.stepper("choose", (), reachable_steps(None))  # until the page knows which run it holds
    return html(path, js_on_load=scripts.PATH, elem_id="path"), html("", js_on_load=scripts.FOLDS, elem_id="folds")


def chips(runs_dir: Path) -> str:
    """The header with this machine and the Hub, asked off the page's critical path."""
    return words_frame.header(this_machine(runs_dir).title, hub.reachable())


# --- which run, which step ---


def arrive(runs_dir: Path, asked: str | None, step: str | None, new: bool = False) -> tuple[str, str]:
    """Where a fresh page opens: the run asked for, else the running one, else the newest, else Choose."""
    runs = {run.id: run for run in visitor.own_runs(runs_dir) if is_readable(run)}
    if new and asked not in runs:
        return "", step if step in ("choose", "check") else "choose"
    run = runs.get(asked or "") or next((r for r in runs.values() if r.is_alive()), next(iter(runs.values()), None))
    if run is None:
        return "", "choose"
    return run.id, step if step in reachable_steps(run) else natural_step(run)


def natural_step(run: Run) -> str:
    """Where a run opens when nothing else is asked: its proof if there is one, else its training."""
    return "prove" if run.report() is not None and not run.is_alive() else "train"


def reachable_steps(run: Run | None) -> tuple[str, ...]:
    """Steps that have something to show."""
    if run is None:
        return ("choose", "check")
    if run.has_result():
        return STEPS
    return ("choose", "check", "train", "chat") if run.checkpoints() else ("choose", "check", "train")


def finished_steps(run: Run | None) -> tuple[str, ...]:
    if run is None:
        return ()
    done = ["choose", "check"]
    if run.status() in ("finished", "stopped"):
        done.append("train")
    if run.report() is not None:
        done.append("prove")
    if serving.has_answered(run):
        done.append("chat")
    return tuple(done)


def find(runs_dir: Path, run_id: str) -> Run | None:
    """The run with this id, or None. Ids come from the browser, so only a plain folder name counts, and only the
    run of who is asking."""
    if not run_id or Path(run_id).name != run_id or run_id.startswith("."):
        return None
    run = Run(runs_dir / run_id)
    is_shown = (run.path / "recipe.yaml").is_file() and visitor.now().owns(run.path) and is_readable(run)
    return run if is_shown else None


def is_readable(run: Run) -> bool:
    """Whether its recipe can be read: another version may have written it, or a hand."""
    try:
        return bool(_recipe(run.path))
    except FinetuneError:
        return False


# --- drawing ---


def draw_path(run: Run | None, step: str) -> str:
    place = f'<div data-place hidden data-run="{esc(run.id) if run else ""}" data-step="{step}"></div>'
    return place + words_frame.stepper(step, finished_steps(run), reachable_steps(run))


def draw_folds(run: Run | None, step: str) -> str:
    """Lines for the finished steps before the open one."""
    if run is None:
        return ""
    lines = {}
    for name in STEPS[: STEPS.index(step)]:
        if name in finished_steps(run):
            lines[name] = _fold_line(run, name)
    return words_frame.folds(lines)


def _fold_line(run: Run, step: str) -> str:
    match step:
        case "choose":
            return words_frame.chosen_line(_recipe(run.path))
        case "check":
            return words_frame.checked_line(run.plan())
        case "train":
            return words_run.trained_line(_progress(run.path, run.version()))
        case "prove":
            return words_run.proved_line(run.report())
        case _:
            return words_frame.TALKED


def draw_rail(runs_dir: Path, held: str) -> str:
    return words_frame.rail([_rail_run(run) for run in visitor.own_runs(runs_dir)[:RAIL_LIMIT]], held)


def rail_version(runs_dir: Path) -> tuple:
    """Changes whenever the rail would look different."""
    return tuple((run.id, run.version()) for run in visitor.own_runs(runs_dir)[:RAIL_LIMIT])


def _rail_run(run: Run) -> words_frame.RailRun:
    try:
        recipe = _recipe(run.path)
    except FinetuneError as error:
        return words_frame.unreadable(run.id, error.problem, str(run.path))
    status, version = run.status(), run.version()
    progress = _progress(run.path, version)
    verdict, tone = _verdict(run.path, version)
    began = (run.path / "recipe.yaml").stat().st_mtime
    word, note = words_jobs.rail(status, next_start(run)) if sent_of(run) else ("", "")
    return words_frame.RailRun(
        id=run.id,
        title=short_data(recipe.dataset_name),
        under=words_frame.rail_under(
            recipe, status, began, left=progress.seconds_left, stage=progress.stage, note=note
        ),
        status=status,
        loss=progress.loss,
        verdict=verdict,
        tone=tone,
        word=word,
    )


@lru_cache(maxsize=256)
def _recipe(path: Path) -> Recipe:
    """A run's recipe never changes, so it is read once."""
    return Run(path).recipe


@lru_cache(maxsize=256)
def _progress(path: Path, _version: tuple) -> Progress:
    return summarize(Run(path).events())


@lru_cache(maxsize=256)
def _verdict(path: Path, _version: tuple) -> tuple[str, str]:
    """A report is large, so it is read once for each version of the run."""
    report = Run(path).report()
    return words_run.verdict_short(report), words_run.verdict_tone(report)
