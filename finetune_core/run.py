"""A run is one training and one folder. Files are the truth; status is computed, never stored."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import FinetuneError
from .events import Event, append_event, last_event, read_events
from .files import cache_dir, move, read_json, remove, write_json
from .locks import busy, forget_locks, hold, is_held
from .recipe import Recipe
from .space import OWNER, bucket

MAKING = ".making-"  # begins the name of a folder that is no run yet
STATUSES = ("new", "running", "finished", "stopped", "failed", "interrupted")


def default_runs_dir() -> Path:
    """FINETUNE_RUNS_DIR, else on a Space its mounted bucket, else ./runs. Chosen once, at the edge, and passed down."""
    mounted = bucket()
    return Path(os.environ.get("FINETUNE_RUNS_DIR") or (mounted / "runs" if mounted else "runs")).absolute()


@dataclass(frozen=True)
class Run:
    """A run's folder. Everything is read from its files when it is asked for."""

    path: Path

    @classmethod
    def create(
        cls,
        runs_dir: Path,
        recipe: Recipe,
        plan: Mapping[str, Any] | None = None,
        tail: str | None = None,
        owner: str = "",
        fill: Callable[[Path], None] | None = None,
    ) -> Run:
        """Make the folder, with its recipe and plan. The same `tail` twice gives the same run (a double click).

        fill: puts more into the folder before it counts as a run.
        owner: user name of who started it on a shared page; such a run's id cannot be guessed (128 random bits).
        Raises FinetuneError if the folder cannot be made; nothing half-made stays behind.
        """
        made = secrets.token_hex(16) if owner else secrets.token_urlsafe(6).replace("-", "x").replace("_", "y")
        tail = tail or made
        if not re.fullmatch(r"[A-Za-z0-9]{4,40}", tail):
            raise FinetuneError("That is no valid run id.", "Reload the page and start again.", code="bad-id")
        try:
            runs_dir.mkdir(parents=True, exist_ok=True)
            with making(runs_dir, wait_seconds=60):
                if earlier := [file.parent for file in runs_dir.glob(f"*-{tail}/recipe.yaml")]:
                    return cls(earlier[0])
                name = f"{time.strftime('%Y-%m-%d-%H%M')}-{_slug(recipe)}-{tail}"
                beside = runs_dir / f"{MAKING}{tail}"
                for left in runs_dir.glob(f"{MAKING}*"):  # with its rows, by a process that was ended
                    remove(left)
                beside.mkdir()
                try:
                    if plan is not None:
                        write_json(beside / "plan.json", plan)
                    if owner:
                        (beside / OWNER).write_text(owner + "\n", encoding="utf-8")
                    if fill is not None:
                        fill(beside)
                    recipe.save(beside / "recipe.yaml")
                    move(beside, runs_dir / name, last="recipe.yaml")
                except BaseException:
                    remove(runs_dir / name)  # a copy, where nothing can be renamed
                    raise
                finally:
                    remove(beside)
        except PermissionError:
            raise FinetuneError(
                f"{runs_dir} cannot be written to.", "Choose another folder with --runs-dir.", code="no-permission"
            ) from None
        return cls(runs_dir / name)

    @classmethod
    def find(cls, runs_dir: Path, name: str) -> Run:
        """A run by its folder, its id, or the end of its id. Raises FinetuneError if there is none, or several."""
        folder = Path(name)
        if folder.is_absolute() or len(folder.parts) > 1:
            if (folder / "recipe.yaml").is_file():
                return cls(folder.resolve())
        elif name not in ("", ".", ".."):
            if (runs_dir / name / "recipe.yaml").is_file():
                return cls(runs_dir / name)
            found = [run for run in list_runs(runs_dir) if run.id.endswith(f"-{name}")]
            if len(found) == 1:
                return found[0]
        raise FinetuneError(
            f"There is no run {name!r} in {runs_dir}.", "`python -m finetune_core runs` lists them.", code="no-run"
        )

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def diary(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def recipe(self) -> Recipe:
        return Recipe.load(self.path / "recipe.yaml")

    @property
    def log_path(self) -> Path:
        return self.path / "worker.log"

    @property
    def result_dir(self) -> Path:
        """Where the tuned weights are: adapter/ or, for full fine-tuning, model/."""
        return self.path / result_name(self.recipe)

    @property
    def inbox(self) -> Path:
        """Where its result is fetched to: a download locks, appends and renames, so it is on this machine's own disk
        wherever the runs are. Who follows its job makes it; it goes with the run."""
        return cache_dir() / "fetching" / self.id

    def plan(self) -> dict[str, Any] | None:
        return read_json(self.path / "plan.json")

    def report(self) -> dict[str, Any] | None:
        return read_json(self.path / "report.json")

    def write_report(self, report: Mapping[str, Any]) -> None:
        write_json(self.path / "report.json", report)

    def events(self) -> list[Event]:
        return read_events(self.diary)

    def last_event(self) -> Event | None:
        """The newest event, without reading the others."""
        return last_event(self.diary)

    def tell(self, kind: str, /, **data: Any) -> Event:
        """Append to the diary. Only the worker that holds the lock may."""
        return append_event(self.diary, kind, **data)

    def lock(self) -> AbstractContextManager[None]:
        """Work on this run for a block. Raises FinetuneError (running) if another worker does."""
        refusal = FinetuneError("This run is already going on.", "Watch it on the page.", code="running")
        return hold(self.path / "worker.lock", refusal)

    def starting(self, wait_seconds: float) -> AbstractContextManager[None]:
        """A lock for who starts a worker, until that holds the run itself. Raises FinetuneError (busy)."""
        return hold(self.path / ".start.lock", busy(), wait_seconds)

    def is_alive(self) -> bool:
        """True while a worker holds this run's lock."""
        return is_held(self.path / "worker.lock")

    def status(self) -> str:
        """One of STATUSES."""
        if self.is_alive():
            return "running"
        last = self.last_event()
        if last is None:
            return "new"
        if last.kind == "done":
            return str(last.data.get("outcome", "finished"))
        return "failed" if last.kind == "error" else "interrupted"

    def version(self) -> tuple[int, int, bool]:
        """Changes whenever there is something new to show; cheap enough to ask every second."""
        return _size(self.diary), _changed(self.path / "report.json"), self.is_alive()

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, oldest first (checkpoint-N holds the state after step N)."""
        found = [p for p in (self.path / "checkpoints").glob("checkpoint-*") if (p / "trainer_state.json").is_file()]
        return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))

    def has_result(self) -> bool:
        """Whether tuned weights are here. A run has one of the two folders, and its recipe need not be read for it."""
        return any(file for name in ("adapter", "model") for file in (self.path / name).glob("*.safetensors"))

    def delete(self) -> None:
        """Remove the folder. Raises FinetuneError while a worker is alive."""
        if self.is_alive():
            raise FinetuneError("This run is still going on.", "Stop it first, then delete it.", code="running")
        shutil.rmtree(self.path)
        shutil.rmtree(self.inbox, ignore_errors=True)
        forget_locks(self.path)


def result_name(recipe: Recipe) -> str:
    """The folder of the tuned weights in a run of this recipe."""
    return "model" if recipe.method == "full" else "adapter"


def making(runs_dir: Path, wait_seconds: float) -> AbstractContextManager[None]:
    """A lock for who prepares a folder in the runs folder, and by who sweeps out what was never finished, so that
    neither meets the other. Raises FinetuneError (busy)."""
    return hold(runs_dir / ".create.lock", busy(), wait_seconds)


def list_runs(runs_dir: Path) -> list[Run]:
    """Newest first. A folder counts as a run once its recipe is in place."""
    files = [file for file in runs_dir.glob("*/recipe.yaml") if not file.parent.name.startswith(".")]
    # a recipe is never edited after creation, so its time is the run's, to finer than the minute in the name
    return [
        Run(file.parent) for file in sorted(files, key=lambda f: (f.stat().st_mtime_ns, f.parent.name), reverse=True)
    ]


def _slug(recipe: Recipe) -> str:
    parts = [Path(recipe.model_name_or_path).name.lower(), Path(recipe.dataset_name).stem.lower()]
    return "-".join(re.sub(r"[^a-z0-9]+", "-", part).strip("-")[:28] or "x" for part in parts)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _changed(path: Path) -> int:
    """When it was last written, in nanoseconds; 0 if it is not there."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
