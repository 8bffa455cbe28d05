"""Lock files: who works on something holds one. The kernel frees it however its holder dies."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from .errors import FinetuneError
from .files import cache_dir, is_unsupported

try:
    import fcntl
except ImportError:  # Windows, whose locks are no matter of the file system
    fcntl = None  # type: ignore[assignment]


def lock_at(path: Path, timeout: float = -1) -> FileLock:
    """The lock of this file. Where its folder has no locks (a mounted bucket), of a file that stands for it on this
    machine's own disk: so the kernel still frees it, and nobody beside this machine holds it.

    Raises FinetuneError (no-locks) where that has none either.
    """
    if _has_locks(path):
        return FileLock(path, timeout=timeout)
    standing = _stand_in(path)
    if not _has_locks(standing):
        raise FinetuneError(
            f"Neither {path.parent} nor {standing.parent} has file locks, by which one work at a time is held to.",
            "Put runs on a disk of this machine: --runs-dir, or FINETUNE_RUNS_DIR; or Fijn's cache: FIJN_CACHE.",
            code="no-locks",
        )
    return FileLock(standing, timeout=timeout)


def _stand_ins(folder: Path) -> Path:
    """The folder of the files that stand for the lock files of this one."""
    name = hashlib.sha256(str(folder.absolute()).encode("utf-8", "surrogateescape")).hexdigest()[:32]
    return cache_dir() / "locks" / name


def _stand_in(path: Path) -> Path:
    return _stand_ins(path.parent) / path.name


def forget_locks(folder: Path) -> None:
    """Delete what stands for the lock files of a folder that was deleted."""
    shutil.rmtree(_stand_ins(folder), ignore_errors=True)


_known: dict[int, bool] = {}  # by device


def _has_locks(path: Path) -> bool:
    """Whether this file's file system has locks; tried once for each file system."""
    if fcntl is None:
        return True
    path.parent.mkdir(parents=True, exist_ok=True)
    device = _device_of(path)
    if device not in _known:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            finally:
                os.close(file)
            _known[device] = True
        except BlockingIOError:  # somebody holds it
            _known[device] = True
        except OSError as error:
            if not is_unsupported(error):
                raise
            _known[device] = False
    return _known[device]


def _device_of(path: Path) -> int:
    return path.parent.stat().st_dev


def is_held(path: Path) -> bool:
    """Whether a process holds this lock file now. Who asks makes nothing: a folder that was deleted stays away."""
    if fcntl is not None:
        return _is_locked(path) or _is_locked(_stand_in(path))
    if not path.exists():
        return False
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0.1, poll_interval=0.01)  # two who ask at once must not take each other for a holder
    except Timeout:
        return True
    lock.release()
    return False


def _is_locked(path: Path) -> bool:
    """Whether it is locked: asked by a shared lock, so that two who ask at once do not take each other for a holder."""
    try:
        file = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        finally:
            os.close(file)
    except BlockingIOError:
        return True
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        if not is_unsupported(error):
            raise
    return False


@contextmanager
def hold(path: Path, refusal: FinetuneError, wait_seconds: float = 0.5) -> Iterator[None]:
    """Hold this lock file for the block; raises the refusal if another holds it. Who asks holds it for a moment."""
    lock = lock_at(path)
    try:
        lock.acquire(timeout=wait_seconds)
    except Timeout:
        raise refusal from None
    try:
        yield
    finally:
        lock.release()


def busy() -> FinetuneError:
    """The refusal of who waited in vain for what another start is making."""
    return FinetuneError("Another start is going on.", "Wait a moment, then start again.", code="busy")
