"""What workers leave behind that were killed: swept when the page or a training starts next."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from .job import Job
from .launch import BEFORE_TRAINING
from .run import Run

ENCODED = ".rows"  # in a run's folder, while it learns
YOUNG_SECONDS = 60.0  # a folder may be made a moment before its process begins


def sweep_leftovers(runs_dir: Path) -> None:
    """Delete token ids of runs that nobody trains, and measurements that were never finished. Results stay."""
    for encoded in runs_dir.glob(f"*/{ENCODED}"):
        if not Run(encoded.parent).is_alive():  # one that begins now makes its own, seconds later
            shutil.rmtree(encoded, ignore_errors=True)
    for folder in (runs_dir / BEFORE_TRAINING["plan"]).glob("*"):
        if _was_given_up(Job(folder, "plan")):
            shutil.rmtree(folder, ignore_errors=True)


def _was_given_up(job: Job) -> bool:
    """Its process died on the way, or never began."""
    said = job.said()
    if job.is_alive() or time.time() - job.folder.stat().st_mtime < YOUNG_SECONDS:
        return False
    return said is None or (said.error or {}).get("code") == "interrupted"
