"""What all handlers share: how they are bound, the way from a page's id to its run, and from an exception to words.

Ids come from an address bar, so none may lead out of the runs folder.
"""

from __future__ import annotations

import contextlib
import sys
import traceback
from pathlib import Path
from typing import Any

import gradio as gr

from finetune_core.errors import FinetuneError, explain
from finetune_core.run import Run

from . import visitor, words

# for every event: no public name, no spinner over the panel, as many at once as come
QUICK: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "concurrency_limit": None}
SLOW = QUICK | {"concurrency_limit": 4}  # what starts a process or waits for one


def held_run(runs_dir: Path, run_id: object) -> Run:
    """The run of this id, directly inside runs_dir, of who is asking. Raises FinetuneError (no-run, or sign-in-ended)
    for all else.

    Run.find also takes folders, which is right for a command line and wrong for a visitor. Somebody else's run gives
    the same answer as one that does not exist.
    """
    name = run_id if isinstance(run_id, str) else ""
    plain = 0 < len(name) < 256 and not name.startswith(".") and not any(mark in name for mark in "/\\\0:")
    if plain:
        with contextlib.suppress(FinetuneError):
            run = Run.find(runs_dir, name)
            if run.path.resolve().parent == runs_dir.resolve() and visitor.now().owns(run.path):
                return run
    visitor.require_sign_in_lasts()
    raise FinetuneError(
        "This page shows no run any more.", "Choose one on the left, or start a new one.", code="no-run"
    )


def run_to_work_on(runs_dir: Path, run_id: object) -> tuple[Run, str | None]:
    """A held run and the token of who is asking (None: this machine's own), for a handler that starts a process.

    Raises FinetuneError: no-run, and not-your-machine for a visitor who may not spend this machine's time.
    """
    run = held_run(runs_dir, run_id)
    return run, visitor.require_machine().token


def told(error: Exception) -> FinetuneError:
    """What to show for an exception that a handler caught; a bug of ours also goes to the terminal in full."""
    seen = explain(error)
    if seen.code == "bug":
        traceback.print_exception(error, file=sys.stderr)
    return seen


def problem_card(error: Exception) -> Any:
    """A panel's box for problems, with what went wrong and what to do."""
    return gr.update(value=words.error_card(told(error)), visible=True)


def settings_of(runs_dir: Path, run_id: object) -> tuple[Any, Any]:
    """(held run, step) so that Choose opens with this run's recipe in its boxes; nothing for a run that is gone."""
    try:
        return held_run(runs_dir, run_id).id, "choose"
    except FinetuneError:
        return gr.skip(), gr.skip()
