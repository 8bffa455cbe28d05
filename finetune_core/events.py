"""One line of a run's diary: a JSON object with `kind` and `time`. Append-only, one writer."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import redact
from .files import append

KINDS = ("start", "stage", "step", "eval", "sample", "checkpoint", "warning", "error", "done")
TAIL = 4096  # bytes; a line of a training step has a tenth of that


@dataclass(frozen=True)
class Event:
    """One line of the diary: what happened, when, and its values."""

    kind: str
    time: float  # seconds since 1970
    data: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> str:
        return json.dumps({"kind": self.kind, "time": round(self.time, 3), **plain(self.data)}, ensure_ascii=False)


def append_event(path: Path, kind: str, /, **data: Any) -> Event:
    """Write one line. A half line left by a killed writer is closed first, so it spoils only itself."""
    if kind not in KINDS:
        raise ValueError(f"unknown event kind {kind!r}; one of {', '.join(KINDS)}")
    event = Event(kind, time.time(), data)
    write_event(path, event)
    return event


def write_event(path: Path, event: Event) -> None:
    """Append a line as it is: one that another machine wrote keeps its time."""
    append(path, event.as_json().encode("utf-8", "replace"))


def read_events(path: Path) -> list[Event]:
    """All complete lines, oldest first. A line that is still being written, or was cut by a crash, is left out."""
    return events_from(path, 0)[0]


def events_from(path: Path, place: int) -> tuple[list[Event], int]:
    """The complete lines from this place (in bytes) on, and the place behind them."""
    try:
        with path.open("rb") as file:
            file.seek(place)
            content = file.read()
    except FileNotFoundError:
        return [], place
    *lines, unfinished = content.split(b"\n")
    events = [event for line in lines if (event := _event_in(line))]
    return events, place + len(content) - len(unfinished)


def last_event(path: Path) -> Event | None:
    """The newest complete line, as `read_events` has it, read from the end of a long diary."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            piece = TAIL
            while True:
                begin = file.seek(max(0, size - piece))
                lines = file.read(size - begin).split(b"\n")[:-1]
                for line in reversed(lines if begin == 0 else lines[1:]):  # the first may have lost its beginning
                    if event := _event_in(line):
                        return event
                if begin == 0:
                    return None
                piece *= 8
    except FileNotFoundError:
        return None


def _event_in(line: bytes) -> Event | None:
    try:
        data = json.loads(line)
        return Event(data.pop("kind"), data.pop("time"), data)
    except (ValueError, KeyError, AttributeError):
        return None


def plain(value: Any) -> Any:
    """JSON has no NaN and no Infinity, and a diary has no tokens."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return redact(value.encode("utf-8", "replace").decode("utf-8"))
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "item"):  # numpy and torch scalars
        return plain(value.item())
    return value
