"""Lock files: who works on something holds one. The kernel frees it however its holder dies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from .errors import FinetuneError


def is_held(path: Path) -> bool:
    """Whether a process holds this lock file now."""
    if not path.exists():
        return False
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0.1, poll_interval=0.01)  # two who ask at once must not take each other for a holder
    except Timeout:
        return True
    lock.release()
    return False


@contextmanager
def hold(path: Path, refusal: FinetuneError, wait_seconds: float = 0.5) -> Iterator[None]:
    """Hold this lock file for the block; raises the refusal if another holds it. Who asks holds it for a moment."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=wait_seconds)
    except Timeout:
        raise refusal from None
    try:
        yield
    finally:
        lock.release()
