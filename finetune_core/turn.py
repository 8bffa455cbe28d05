"""One job at a time on this machine: who comes later waits in line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import Timeout

from .locks import is_held, lock_at

LOCK = ".gpu.lock"  # in the runs folder


class StoppedWaiting(Exception):
    """A stop was asked for while it stood in line, or before anything came of it."""


def is_taken(runs_dir: Path) -> bool:
    """Whether a training, a comparison or a trial of prompts has the machine now."""
    return is_held(runs_dir / LOCK)


@contextmanager
def turn(runs_dir: Path, on_wait: Callable[[], object], should_stop: Callable[[], bool]) -> Iterator[None]:
    """Hold the machine for the block; `on_wait` is called once if another has it. Raises StoppedWaiting."""
    lock = lock_at(runs_dir / LOCK)
    said = False
    while True:
        try:
            lock.acquire(timeout=1.0 if said else 0.1)
            break
        except Timeout:
            if not said:
                on_wait()
                said = True
        if should_stop():
            raise StoppedWaiting
    try:
        yield
    finally:
        lock.release()
