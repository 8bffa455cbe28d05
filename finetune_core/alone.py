"""The machine for one job alone: it waits in line, and the chat's server gives its memory back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from . import launch
from .turn import turn

WAITING = "waiting for its turn"


@contextmanager
def alone(
    runs_dir: Path, on_wait: Callable[[], object], should_stop: Callable[[], bool] = lambda: False
) -> Iterator[None]:
    """Hold the machine for the block; `on_wait` is called once if another job has the machine. Raises
    StoppedWaiting."""
    runs_dir.mkdir(parents=True, exist_ok=True)
    with turn(runs_dir, on_wait, should_stop):
        launch.stop_serving(runs_dir)
        yield
