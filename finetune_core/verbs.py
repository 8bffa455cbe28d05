"""The shorter verbs of the command line, and parts that several verbs need. A verb returns its exit code; heavy imports
wait inside."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from . import hub, launch
from .errors import FinetuneError, refusal
from .fitting import STARTER_PRESET, Fitting, better_preset
from .ladder import as_overrides
from .locks import lock_at
from .machine import this_machine
from .output import Output
from .presets import list_presets, resolve_recipe
from .progress import summarize
from .recipe import STARTER_MODEL, Recipe
from .run import Run, list_runs

GOOD, REFUSED, USAGE, STOPPED = 0, 1, 2, 3


def presets(options: argparse.Namespace, out: Output) -> int:
    found = []
    for preset in list_presets():
        recipe = Recipe.make(preset.recipe)
        found.append(
            {"name": preset.name, "title": preset.title, "description": preset.description}
            | recipe.model_dump(include={"model_name_or_path", "dataset_name", "method"})
        )
    out.give(found, "\n".join(f"{p['name']:24}{p['title']}: {p['description']}" for p in found))
    return GOOD


def check(options: argparse.Namespace, out: Output) -> int:
    seen = look_at(options, out)
    answer = seen.diagnosis.as_dict()
    lines = [f"{answer['verdict']}: {answer['rows']} rows, {answer['train_rows']} to learn from"]
    for found in seen.diagnosis.findings:
        lines.append(f"  {found.level:8}{found.says} {found.fix}")
        if found.suggestion:
            lines.append(f"{'':10}{found.suggestion.says}: {as_overrides(found.suggestion.changes)}")
    better = better_preset(seen)
    out.give(
        answer | {"better_preset": better and better.as_dict()},
        "\n".join([*lines, *words_of_better(better, options.recipe)]),
    )
    return REFUSED if answer["verdict"] == "blocked" else GOOD


def words_of_better(better: Fitting | None, chosen: str) -> list[str]:
    """At most one line: the preset that fits these rows. `chosen`: the preset or file that was named."""
    if better is None:
        return []
    if chosen == STARTER_PRESET:
        fits = f"fits them better than {STARTER_PRESET}, which is made for the starter rows"
    else:
        fits = "is made for such rows"
    return [f"{better.why} The preset {better.preset.name} {fits}."]


def runs(options: argparse.Namespace, out: Output) -> int:
    found = []
    for run in list_runs(options.runs_dir):
        progress = summarize(run.events())
        report = run.report() or {}
        found.append(
            {
                "id": run.id,
                "status": run.status(),
                "standing": _standing(run),
                "step": progress.step,
                "total_steps": progress.total_steps,
                "stage": progress.stage,
                "loss": progress.loss[-1][1] if progress.loss else None,
                "verdict": (report.get("verdict") or {}).get("sentence"),
                "path": str(run.path),
            }
        )
    width = max((len(r["id"]) for r in found), default=0)
    room = max((len(r["standing"]) for r in found), default=0)
    lines = [
        f"{r['id']:{width}}  {r['standing']:{room}}  {r['step']}/{r['total_steps']}"
        + (f"\n  {r['verdict']}" if r["verdict"] else "")
        for r in found
    ]
    out.give(found, "\n".join(lines) or "No runs yet.")
    return GOOD


def _standing(run: Run) -> str:
    """Its status; of one on rented hardware that nobody here follows, what the list on the page says of it."""
    from .jobs.follow import next_start
    from .jobs.sent import sent_of
    from .jobs.standing import standing

    status = run.status()
    with suppress(FinetuneError):  # its recipe cannot be read
        return (standing(status, next_start(run)) if sent_of(run) else "") or status
    return status


def stop(options: argparse.Namespace, out: Output) -> int:
    run = Run.find(options.runs_dir, options.run)
    launch.stop(run)
    out.give({"id": run.id, "stopping": True}, "It stops after this step and keeps what was learned.")
    return GOOD


def delete(options: argparse.Namespace, out: Output) -> int:
    run = Run.find(options.runs_dir, options.run)
    if run.is_alive():
        run.delete()  # refuses, in words
    if (server := launch.serving(run.path.parent)) and server.run_id == run.id:
        launch.stop_serving(run.path.parent)
    launch.discard(run)
    out.give({"id": run.id, "deleted": True}, f"Deleted {run.id}.")
    return GOOD


def fetch(options: argparse.Namespace, out: Output) -> int:
    options.runs_dir.mkdir(parents=True, exist_ok=True)
    with lock_at(options.runs_dir / ".fetch.lock"):
        folder, where = _fetch_starter(out, streamed=True)
    out.give({"path": str(folder), "where": where}, f"The starter model is in {folder}.")
    return GOOD


def env(options: argparse.Namespace, out: Output) -> int:
    from .model import require_same_gpu
    from .starter import where_is_starter
    from .train import versions

    folder, where = where_is_starter()
    machine = this_machine(options.runs_dir)
    missing = [name for name in ("torch", "transformers", "trl", "peft", "datasets") if name not in versions()]
    problem = None if "torch" in missing else refusal(require_same_gpu, machine)
    answer = {
        "versions": versions(),
        "machine": machine.as_dict(),
        "hub": {"endpoint": hub.endpoint(), "reachable": hub.reachable(), "signed_in": _signed_in()},
        "starter_model": {"name": STARTER_MODEL, "path": str(folder) if folder else None, "where": where},
        "runs_dir": str(options.runs_dir),
        "missing": missing,
        "gpu_problem": problem.as_dict() if problem else None,
    }
    words = [
        machine.title + (" · bfloat16" if machine.has_bf16 else " · float32"),
        f"Hub: {'reachable' if answer['hub']['reachable'] else 'away'}",
        f"Starter model: {folder or 'not here yet (python -m finetune_core fetch)'}",
        f"Runs: {options.runs_dir}",
        "  ".join(f"{name} {number}" for name, number in answer["versions"].items()),
    ]
    if missing:
        words.append(f"Missing: {', '.join(missing)}. Run: pip install -r requirements.txt")
    if problem:
        words.append(str(problem))
    out.give(answer, "\n".join(words))
    return GOOD


# --- parts of verbs ---


def look_at(options: argparse.Namespace, out: Output) -> Any:
    """The rows read and checked, and the plan, of the recipe that was named (a Preflight). Raises FinetuneError."""
    from .preflight import look

    recipe = resolve_recipe(options.recipe, options.overrides)
    bring_starter(recipe, out)
    with out.progress() as show:
        return look(recipe, token=os.environ.get("HF_TOKEN"), on_progress=show)


def bring_starter(recipe: Recipe, out: Output) -> None:
    """Fetch the starter model, if the recipe has it and it is not here."""
    wanted = recipe.model_name_or_path == STARTER_MODEL and recipe.model_revision is None
    if wanted and hub.local_model(STARTER_MODEL) is None:
        _fetch_starter(out)


def _fetch_starter(out: Output, streamed: bool = False) -> tuple[Path, str]:
    """The starter model's folder and where it came from. `streamed`: progress is part of the answer, as JSON lines."""
    from .starter import ensure_starter

    if out.as_json and streamed:
        return ensure_starter(lambda fraction, says="": out.json({"fraction": round(fraction, 3), "says": says}))
    with out.progress() as show:
        return ensure_starter(show)


def needs_result(run: Run) -> None:
    """Raises FinetuneError (no-result) while the run has nothing to answer with."""
    if not run.has_result():
        raise FinetuneError(
            f"This run has no tuned model yet (it is {run.status()}).",
            f"Finish it first: python -m finetune_core train {run.id}",
            code="no-result",
        )


def _signed_in() -> bool:
    from huggingface_hub import get_token

    return bool(get_token())


@contextmanager
def ctrl_c_stops(stop: Path) -> Iterator[None]:
    """The first Ctrl-C writes this file, which asks for a stop that keeps what was learned; the second ends at once."""

    def ask(*_: object) -> None:
        print("\nstopping after this step; press Ctrl-C again to end now", file=sys.stderr)
        stop.touch()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    try:
        before = signal.signal(signal.SIGINT, ask)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
