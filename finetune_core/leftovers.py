"""What processes leave behind that were killed: swept when the page or a training starts next."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from .errors import FinetuneError
from .files import cache_dir, remove
from .job import Job
from .launch import BEFORE_TRAINING
from .locks import forget_locks, is_held
from .run import MAKING, Run, making

PULLING, HELD = ".pulling-", "lock"  # how a pull's download begins, in the cache; the lock that its process holds there
ENCODED = ".rows"  # in a run's folder, while it learns
YOUNG_SECONDS = 60.0  # a folder may be made a moment before its process begins
OLD_SECONDS = 2 * 24 * 3600.0  # nobody reads, fetches or converts for so long


def sweep_leftovers(runs_dir: Path) -> None:
    """Delete token ids of runs that nobody trains, rows of runs that were never made, measurements that were never
    finished, downloads of a pull that was killed, and what was unpacked or fetched days ago. Results stay, and what
    another process is making."""
    for encoded in runs_dir.glob(f"*/{ENCODED}/"):
        run = Run(encoded.parent)
        _sweep(run.starting(0), [encoded], lambda _, run=run: not run.is_alive())
    if unmade := list(runs_dir.glob(f"{MAKING}*/")):
        _sweep(making(runs_dir, 0), unmade, lambda _: True)
    if measured := list((runs_dir / BEFORE_TRAINING["plan"]).glob("*/")):
        _sweep(making(runs_dir, 0), measured, _was_given_up)
    temporary, cache = Path(tempfile.gettempdir()), cache_dir()
    for folder in (*temporary.glob("fijn-*/"), *cache.glob(f"{PULLING}*/"), *cache.glob(".making-*/")):
        with contextlib.suppress(FileNotFoundError):  # another process tidies too
            if not folder.is_symlink() and (_was_let_go(folder) or _age(folder) > OLD_SECONDS):
                remove(folder)


def _sweep(lock: AbstractContextManager[Any], folders: list[Path], is_left: Callable[[Path], bool]) -> None:
    try:
        with lock:
            for folder in filter(is_left, folders):
                remove(folder)
                forget_locks(folder)
    except PermissionError:  # the folder is another user's
        return
    except FinetuneError as error:
        if error.code != "busy":
            raise


def _was_let_go(folder: Path) -> bool:
    """A pull's download whose process is gone: it held its lock from the first moment of the download."""
    lock = folder / HELD
    return folder.name.startswith(PULLING) and lock.exists() and _age(lock) > YOUNG_SECONDS and not is_held(lock)


def _age(path: Path) -> float:
    return time.time() - path.stat().st_mtime


def _was_given_up(folder: Path) -> bool:
    """Whether its process died on the way, or never began."""
    job = Job(folder, "plan")
    said = job.said()
    if not folder.exists() or job.is_alive() or _age(folder) < YOUNG_SECONDS:
        return False
    return said is None or (said.error or {}).get("code") == "interrupted"
