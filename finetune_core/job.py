"""Work beside training that a page starts and watches: a comparison, a sweep, an export, a push. Its truth is files.

A job called "evaluate" in a folder has evaluate.lock (held while it goes on), evaluate.json (its last word),
evaluate.log (what it printed) and evaluate.stop (exists = please stop).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeGuard

from .errors import FinetuneError, explain
from .events import plain
from .files import read_json, write_json
from .locks import hold, is_held
from .turn import StoppedWaiting


@dataclass(frozen=True)
class Said:
    """A job's last word."""

    pid: int = 0
    began: float = 0.0  # seconds since 1970
    fraction: float | None = None
    says: str = ""
    stage: str = ""  # of what has several
    made: dict[str, Any] = field(default_factory=dict)  # what an export or a push answers
    outcome: str = ""  # "" while it goes on, then finished, stopped or failed
    error: dict[str, str] | None = None
    time: float = 0.0  # of this word
    moving: float = 0.0  # when it began to get on: what it stood in line before does not count

    def seconds_left(self, now: float) -> float | None:
        """Seconds to go, or None while it is too early to say."""
        passed, share = now - max(self.began, self.moving), self.fraction or 0.0
        return passed / share - passed if share > 0.04 and passed > 5 else None


def goes_on(said: Said | None) -> TypeGuard[Said]:
    """Whether a job with this last word is not over yet."""
    return said is not None and not said.outcome


@dataclass(frozen=True)
class Job:
    """One piece of such work, by its folder and the name of its files."""

    folder: Path
    name: str

    @property
    def log_path(self) -> Path:
        return self.folder / f"{self.name}.log"

    @property
    def stop_path(self) -> Path:
        return self.folder / f"{self.name}.stop"

    def is_alive(self) -> bool:
        """True while its process holds the lock, however else that process may die."""
        return is_held(self._lock_path)

    def said(self) -> Said | None:
        """Its last word; None if there never was one. One that died without an outcome has failed."""
        said = self._read()
        if said is None or said.outcome or self.is_alive():
            return said
        said = self._read() or said  # it may have ended well between the two looks
        if said.outcome:
            return said
        lost = FinetuneError("It was interrupted.", "Start it again; its log says more.", code="interrupted")
        return replace(said, outcome="failed", error=lost.as_dict())

    def is_asked_to_stop(self) -> bool:
        return self.stop_path.exists()

    def ask_to_stop(self) -> None:
        """Ask it to end and keep what it has. Raises FinetuneError if it is not going on."""
        if not self.is_alive():
            raise FinetuneError("This is not going on.", "There is nothing to stop.", code="not-running")
        self.stop_path.touch()

    @contextmanager
    def working(self) -> Iterator[Callable[[float | None, str], None]]:
        """Hold the job and get a function that says how far it is. What is raised inside becomes its last word."""
        self.folder.mkdir(parents=True, exist_ok=True)
        now = Said(os.getpid(), time.time())

        def say(fraction: float | None, says: str = "", **more: Any) -> None:
            nonlocal now
            moving = now.moving if now.fraction or fraction else time.time()
            now = replace(now, fraction=fraction, says=says, time=time.time(), moving=moving, **more)
            write_json(self._said_path, plain(now.__dict__))

        refusal = FinetuneError("This is already going on.", "Wait for its end, or stop it.", code="running")
        with hold(self._lock_path, refusal):
            try:
                self.stop_path.unlink(missing_ok=True)
                say(None)
                yield say
                say(now.fraction, "", outcome="stopped" if self.is_asked_to_stop() else "finished")
            except (KeyboardInterrupt, SystemExit, StoppedWaiting):
                say(now.fraction, "", outcome="stopped")
                raise
            except BaseException as error:
                say(now.fraction, "", outcome="failed", error=explain(error).as_dict())
                raise
            finally:
                self.stop_path.unlink(missing_ok=True)

    def _read(self) -> Said | None:
        try:
            return Said(**read_json(self._said_path))
        except TypeError:  # there is none, or another version wrote it
            return None

    @property
    def _lock_path(self) -> Path:
        return self.folder / f"{self.name}.lock"

    @property
    def _said_path(self) -> Path:
        return self.folder / f"{self.name}.json"
