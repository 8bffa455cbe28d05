"""What chat and share both ask about a run: whether its server is awake, which models it has, rows to ask about."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from finetune_core import launch
from finetune_core.locks import is_held
from finetune_core.run import Run
from finetune_core.turn import is_taken

from .words_talk import Suggestion, suggestion

SUGGESTIONS = 6
ANSWERED = ".answered"  # a file in the run's folder: somebody has talked to it


def state_of(run: Run) -> str:
    """awake, loading, asleep, or away when there is nothing to talk to; training when other work has the machine."""
    if not can_talk(run):
        return "away"
    runs_dir = run.path.parent
    server = launch.serving(runs_dir)
    if server and server.run_id == run.id:
        return "awake"
    if is_starting(runs_dir):
        return "loading"
    return "training" if is_taken(runs_dir) else "asleep"


def is_starting(runs_dir: Path) -> bool:
    """True while some page waits for the server to load its model."""
    return is_held(runs_dir / ".serve-start.lock")


def can_talk(run: Run) -> bool:
    """A result, or a checkpoint of a training that did not come to its end."""
    return run.has_result() or bool(run.checkpoints())


def keep_answered(run: Run) -> None:
    """Remember that it has answered a person, for the path of every page that shows it."""
    with suppress(OSError):  # the run was deleted meanwhile
        (run.path / ANSWERED).touch()


def has_answered(run: Run) -> bool:
    return (run.path / ANSWERED).exists()


def models(run: Run) -> list[str]:
    """base, then tuned if it is done, then the checkpoints that are still there, newest first."""
    tuned = ["tuned"] if run.has_result() else []
    return ["base", *tuned, *(checkpoint.name for checkpoint in reversed(run.checkpoints()))]


def suggestions(run: Run) -> tuple[Suggestion, ...]:
    """Rows that were kept out of training, with different questions; validation rows, else test rows."""
    for name in ("validation", "test"):
        found: dict[str, Suggestion] = {}
        for row in first_rows(run, name, 4 * SUGGESTIONS):
            each = suggestion(row)
            if each and each.question.strip() and len(each.question) < 2000:
                found.setdefault(each.question, each)
        if found:
            return tuple(found.values())[:SUGGESTIONS]
    return ()


def a_question(run: Run) -> Suggestion:
    """One row to show in an example, with the system prompt that the run's rows have."""
    for name in ("validation", "train"):
        for row in first_rows(run, name, 1):
            if each := suggestion(row):
                return each
    return Suggestion("Hello")


def first_rows(run: Run, name: str, most: int) -> list[dict[str, Any]]:
    """The first rows of a split. A half-written or missing file gives fewer, never an error."""
    rows: list[dict[str, Any]] = []
    try:
        with (run.path / "data" / f"{name}.jsonl").open(encoding="utf-8") as lines:
            for line, _ in zip(lines, range(most), strict=False):
                rows.append(json.loads(line))
    except (OSError, ValueError):
        return rows
    return rows
