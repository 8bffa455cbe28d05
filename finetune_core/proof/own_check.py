"""A person's own Python check of answers, in child processes with limits. Stdlib only; runs on Linux and macOS.

The check is a file with `def check(answer: str, reference: str, row: dict) -> bool | float` (1 or True: right; between
0 and 1: partly). For code or SQL it may run the answer: what it does stays in a child process with little memory and
time, an empty environment, a folder of its own that is thrown away, and, where the kernel allows it, no network. That
keeps accidents and a model's bad ideas inside; it is no defence against a check that its own author wrote to do harm.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import FinetuneError

SECONDS = 5.0  # for one answer
MEMORY_MB = 1024
CHILD = Path(__file__).with_name("own_check_child.py")


@dataclass(frozen=True)
class Checked:
    """`scores` between 0 and 1; `problems` says for the place of a row why its check did not come to a score."""

    scores: list[float]
    problems: dict[int, str]
    network_closed: bool


def run_check(
    file: Path,
    answers: Sequence[str],
    references: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    *,
    seconds: float = SECONDS,
    memory_mb: int = MEMORY_MB,
) -> Checked:
    """Score every answer with the file's `check`. An answer whose check fails, hangs or eats memory scores 0.

    Raises FinetuneError (bad-check) if the file is missing, does not load, or has no `check`.
    """
    if os.name != "posix":
        raise FinetuneError(
            "A check of your own runs on Linux and macOS only.", "Choose another metric.", code="bad-check"
        )
    if not file.is_file():
        raise FinetuneError(f"There is no file {file}.", "Give the path of a Python file.", code="bad-check")
    tasks = [
        {"answer": answer, "reference": reference, "row": dict(row)}
        for answer, reference, row in zip(answers, references, rows, strict=True)
    ]
    with tempfile.TemporaryDirectory(prefix="fijn-check-") as folder:
        said = _run(file, tasks, Path(folder), seconds, memory_mb)
    scores, problems = [], {}
    for place in range(len(tasks)):
        score, problem = _score(said.get(place, {"error": "the check ended before this answer"}))
        scores.append(score)
        if problem:
            problems[place] = problem
    return Checked(scores, problems, bool(said.get("closed")))


def _run(file: Path, tasks: list[dict], folder: Path, seconds: float, memory_mb: int) -> dict[Any, Any]:
    """What the child reported, by place; also "closed": the network was. The child's own group dies with it."""
    job = folder / "job.json"
    job.write_text(json.dumps(tasks, ensure_ascii=False), encoding="utf-8")
    results = folder / "results.jsonl"
    work = folder / "work"
    work.mkdir()
    child = subprocess.Popen(
        [sys.executable, "-I", "-B", str(CHILD), str(file.resolve()), str(job), str(results), str(seconds),
         str(memory_mb)],
        cwd=work, env={"PATH": os.environ.get("PATH", ""), "HOME": str(work), "LANG": "C.UTF-8"},
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True, text=True,
    )  # fmt: skip
    try:
        _, errors = child.communicate(timeout=20 + (seconds + 1) * len(tasks))
    except subprocess.TimeoutExpired:
        errors = ""
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    said: dict[Any, Any] = {}
    for line in results.read_text(encoding="utf-8").splitlines() if results.exists() else ():
        found = json.loads(line)
        if "refused" in found:
            raise FinetuneError(
                f"{file.name} cannot be used as a check: {found['refused']}",
                "It needs a function check(answer, reference, row) that returns True, False or a number from 0 to 1.",
                code="bad-check",
            )
        said |= {"closed": found["closed"]} if "closed" in found else {found["place"]: found}
    if not said:
        last = (errors or "it ended without a word").strip().splitlines()[-1]
        raise FinetuneError(f"{file.name} could not be run: {last[:200]}", "Try it by hand first.", code="bad-check")
    return said


def _score(found: Mapping[str, Any]) -> tuple[float, str]:
    if "error" in found:
        return 0.0, str(found["error"])[:300]
    value = found.get("score")
    if isinstance(value, bool | int | float) and math.isfinite(value) and 0 <= value <= 1:
        return float(value), ""
    return 0.0, f"check returned {str(value)[:80]!r}, which is neither True, False nor between 0 and 1"
