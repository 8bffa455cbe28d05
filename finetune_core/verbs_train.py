"""The verb `train`: a new run of a recipe, or an earlier run that goes on; here, or followed on rented hardware."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import FinetuneError
from .events import Event
from .ladder import as_typed
from .locks import is_held
from .output import Output
from .presets import list_presets, resolve_recipe
from .recipe import Suggestion
from .run import Run, list_runs
from .verbs import GOOD, REFUSED, STOPPED, bring_starter, ctrl_c_stops

if TYPE_CHECKING:
    from .answers.chatter import Chatter

READY_SECONDS = 600  # a training's models stay loaded so long for a chat that nobody has begun


def train(options: argparse.Namespace, out: Output) -> int:
    from . import verbs_jobs
    from .leftovers import sweep_leftovers
    from .train import train as work

    sweep_leftovers(options.runs_dir)
    if run := verbs_jobs.run_for_jobs(options, out):
        return verbs_jobs.train(run, options, out)
    run = _run_to_train(options, out)
    out.say(f"Run {run.id}")
    loaded: list[Chatter] = []

    def learn(show: Callable[[Event], None]) -> str:
        return work(
            run,
            on_event=show,
            token=os.environ.get("HF_TOKEN"),
            evaluate=not options.no_evaluate,
            on_compared=loaded.append if options.then_serve else None,
        )

    outcome, _ = tell_as_it_goes(run, out, learn)
    if outcome is None:
        return REFUSED
    if verdict := (run.report() or {}).get("verdict"):
        out.say(f"{verdict['sentence']} All of it: python -m finetune_core evaluate {run.id}")
    if loaded:
        _go_on_as_chat(run, loaded.pop())
    return STOPPED if outcome == "stopped" else GOOD


def tell_as_it_goes(
    run: Run, out: Output, work: Callable[[Callable[[Event], None]], str]
) -> tuple[str | None, list[str]]:
    """Do the work, and print each line of the run's diary that it hands on; Ctrl-C asks it to stop.

    work: gets the function to hand lines to. Returns (its outcome, the kinds of the lines). Raises what it raises; but
    with --json a FinetuneError is printed, and the outcome is None.
    """
    told: list[str] = []

    def show(event: Event) -> None:
        told.append(event.kind)
        if out.as_json:
            out.json(json.loads(event.as_json()))
        elif words := line_of(event):
            out.say(words)

    with ctrl_c_stops(run.path / "stop"):
        try:
            return work(show), told
        except FinetuneError as error:
            if not out.as_json:
                raise
            if told[-1:] != ["error"]:  # refused before its diary was opened
                out.json({"error": error.as_dict(), "run": run.id})
            return None, told


def line_of(event: Event) -> str:
    """A line of the diary as a person reads it at a terminal; "" for one that says nothing to them."""
    data = event.data
    match event.kind:
        case "stage":
            far = f" {data['fraction']:.0%}" if data.get("fraction") is not None else ""
            return f"{data['name']}{far} {data.get('says', '')}".rstrip()
        case "step":
            accuracy, loss = data.get("token_accuracy"), data.get("loss")  # None in the diary: not a number any more
            return (
                f"step {data['step']}/{data['total_steps']}  loss {'not a number' if loss is None else f'{loss:.3f}'}"
                + (f"  tokens right {accuracy:.0%}" if accuracy is not None else "")
                + (f"  {data['tokens_per_second']:.0f} tokens/s" if data.get("tokens_per_second") else "")
            )
        case "eval":
            return f"validation loss {data['loss']:.3f}" if data.get("loss") is not None else ""
        case "sample":
            return f"  it now answers: {data['answer'][:100]!r}"
        case "warning":
            return f"warning: {data.get('says', '')}"
        case "done":
            return f"{data['outcome']} after {data['seconds']:.0f} s"
    return ""


def _go_on_as_chat(run: Run, chatter: Chatter) -> None:
    """Answer questions with the models that this process has loaded, unless another job waits for their memory."""
    from .serve import serve as work

    if any(other.is_alive() for other in list_runs(run.path.parent)) or is_held(run.path.parent / ".gpu.lock"):
        return
    os.environ.pop("HF_TOKEN", None)  # nothing is fetched from here on
    with suppress(FinetuneError):  # another chat was faster
        work(run, idle_seconds=READY_SECONDS, chatter=chatter)


# --- which run ---


def _run_to_train(options: argparse.Namespace, out: Output) -> Run:
    """RECIPE makes a new run; RUN is an earlier one that goes on."""
    from .preflight import create_run

    if run := run_to_go_on(options):
        return run
    recipe = resolve_recipe(options.recipe, options.overrides)
    bring_starter(recipe, out)
    run = create_run(recipe, options.runs_dir, token=os.environ.get("HF_TOKEN"))
    promised = run.plan() or {}
    for passed in promised.get("passed") or ():
        out.say(f"warning: {passed['says']}")
    if promised.get("fits") == "no":
        out.say(f"warning: {too_large(promised)}")
    return run


def run_to_go_on(options: argparse.Namespace) -> Run | None:
    """The run that a person means by a folder, an id or the end of one; None for a recipe's file or a preset's name.

    Raises FinetuneError (usage) if it is also to be changed.
    """
    name = options.recipe
    if name in {preset.name for preset in list_presets()} or Path(name).is_file():
        return None
    try:
        run = Run.find(options.runs_dir, name)
    except FinetuneError:
        return None
    if options.overrides:
        raise FinetuneError("A run's recipe is never changed.", "Start a new run to change values.", code="usage")
    return run


def too_large(promised: dict[str, Any]) -> str:
    """Why a plan (`Plan.as_dict`) does not fit, and what would need less."""
    needs = f"It needs {promised['memory_gb']['total']:.1f} GB, and {promised['available_gb']:.1f} are free."
    says = "Memory ran out when it was measured." if promised["ran_out"] else needs
    rungs = [as_typed(Suggestion(rung["says"], rung["changes"])) for rung in promised["suggestions"][:1]]
    return " Or: ".join([f"It does not fit on this machine. {says}", *rungs])
