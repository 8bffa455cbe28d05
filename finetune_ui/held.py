"""From the id that a page holds to its run, and from any exception to one with a next step.

Ids come from an address bar, so none may lead out of the runs folder.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Any

import gradio as gr

from finetune_core.errors import FinetuneError, explain
from finetune_core.run import Run


def held_run(runs_dir: Path, run_id: object) -> Run:
    """The run of this id, directly inside runs_dir. Raises FinetuneError (no-run) for everything else.

    Run.find also takes folders, which is right for a command line and wrong for a visitor.
    """
    name = run_id if isinstance(run_id, str) else ""
    plain = 0 < len(name) < 256 and not name.startswith(".") and not any(mark in name for mark in "/\\\0:")
    if plain:
        run = Run.find(runs_dir, name)
        if run.path.resolve().parent == runs_dir.resolve():
            return run
    raise FinetuneError(
        "This page shows no run any more.", "Choose one on the left, or start a new one.", code="no-run"
    )


def told(error: Exception) -> FinetuneError:
    """What to show for an exception that a handler caught; a bug of ours also goes to the terminal in full."""
    seen = explain(error)
    if seen.code == "bug":
        traceback.print_exception(error, file=sys.stderr)
    return seen


def settings_of(runs_dir: Path, run_id: object) -> tuple[Any, Any]:
    """(held run, step) so that Choose opens with this run's recipe in its boxes; nothing for a run that is gone."""
    try:
        return held_run(runs_dir, run_id).id, "choose"
    except FinetuneError:
        return gr.skip(), gr.skip()
