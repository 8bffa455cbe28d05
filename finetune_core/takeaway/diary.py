"""What is being taken away from a run right now: a diary of its own beside the training's, so that every page sees it.

takeaway.jsonl   one line each, as in events.jsonl: start (what), stage, then done or error
takeaway.lock    held while a process works on it
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
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
        tell("start", what=what)
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
            found[what] = Job(what, True)
            continue
        if not found:
            continue
        what = next(reversed(found))
        now = found[what]
        if event.kind == "stage":
            found[what] = Job(what, True, str(data.get("name", "")), data.get("fraction"), str(data.get("says", "")))
        elif event.kind == "done":
            found[what] = Job(what, False, made=data)
        elif event.kind == "error":
            error = {key: str(data.get(key, "")) for key in ("code", "problem", "fix")}
            found[what] = Job(what, False, now.stage, error=error)
    if found and not busy:
        what = next(reversed(found))
        if found[what].busy:  # its process died
            lost = {"code": "interrupted", "problem": "It was interrupted.", "fix": "Start it again."}
            found[what] = Job(what, False, found[what].stage, error=lost)
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
