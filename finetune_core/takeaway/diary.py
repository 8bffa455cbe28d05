"""What is being taken away from a run right now: a diary of its own beside the training's, so that every page sees it.

takeaway.jsonl   one line each, as in events.jsonl: start (what), stage, then done or error
takeaway.lock    held while a process works on it
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..errors import FinetuneError, explain
from ..events import append_event, read_events
from ..run import Run

FILE, LOCK = "takeaway.jsonl", "takeaway.lock"


@dataclass(frozen=True)
class Job:
    """One export or push."""

    what: str  # adapter, merged, gguf, push
    busy: bool
    stage: str = ""
    fraction: float | None = None
    says: str = ""
    made: dict[str, Any] = field(default_factory=dict)  # what the verb answered
    error: dict[str, str] = field(default_factory=dict)
    pid: int = 0
    began: float = 0.0  # seconds since 1970


@contextmanager
def written(run: Run, what: str, also: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """Write a job into the run's diary while the block works. One at a time: raises FinetuneError (busy) otherwise."""
    lock = FileLock(run.path / LOCK)
    try:
        lock.acquire(timeout=0.5)
    except Timeout:
        raise FinetuneError(
            "This run is being exported already.", "Wait until that is done, then try again.", code="busy"
        ) from None

    def tell(kind: str, /, **data: Any) -> None:
        append_event(run.path / FILE, kind, **data)
        also(kind, **data)

    try:
        tell("start", what=what, pid=os.getpid())
        yield tell
    except (KeyboardInterrupt, SystemExit):
        raise  # no last line: it reads as interrupted
    except BaseException as error:
        append_event(run.path / FILE, "error", **explain(error).as_dict())
        raise
    finally:
        lock.release()


def jobs(run: Run) -> dict[str, Job]:
    """The last job of each kind, newest last."""
    found: dict[str, Job] = {}
    busy = is_busy(run)
    for event in read_events(run.path / FILE):
        data = event.data
        if event.kind == "start":
            what = str(data.get("what", ""))
            found.pop(what, None)
            found[what] = Job(what, True, pid=int(data.get("pid") or 0), began=event.time)
            continue
        if not found:
            continue
        what = next(reversed(found))
        now = found[what]
        if event.kind == "stage":
            found[what] = replace(
                now, stage=str(data.get("name", "")), fraction=data.get("fraction"), says=str(data.get("says", ""))
            )
        elif event.kind == "done":
            found[what] = replace(now, busy=False, made=data)
        elif event.kind == "error":
            error = {key: str(data.get(key, "")) for key in ("code", "problem", "fix")}
            found[what] = replace(now, busy=False, error=error)
    if found and not busy:
        what = next(reversed(found))
        if found[what].busy:  # its process died
            lost = {"code": "interrupted", "problem": "It was interrupted.", "fix": "Start it again."}
            found[what] = replace(found[what], busy=False, error=lost)
    return found


def is_busy(run: Run) -> bool:
    path = run.path / LOCK
    if not path.exists():
        return False
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0.1, poll_interval=0.01)
    except Timeout:
        return True
    lock.release()
    return False


def version(run: Run) -> tuple[int, bool]:
    """Changes whenever there is something new to show."""
    path: Path = run.path / FILE
    return (path.stat().st_size if path.is_file() else 0), is_busy(run)
