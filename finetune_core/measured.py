"""What earlier runs on this machine really cost, kept so that the next estimate is better. No names, no data."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from .facts import read_facts
from .files import cache_dir
from .machine import Machine
from .precision import FUSED, Formats
from .recipe import Recipe


def remember(
    promised: dict[str, Any],
    recipe: Recipe,
    folder: Path,
    machine: Machine,
    tokens: int,
    seconds: float,
    peak_gb: float,
) -> None:
    """Append one line: the rate in FLOP/s that was reached, and the peak beside the estimate.

    `promised`: the plan as a dict. `tokens` in `seconds` of training steps, warm-up left out.
    """
    if not promised.get("flops_per_token") or tokens < 1 or seconds <= 0:  # planned by an older version, or elsewhere
        return
    line = {
        "machine": _kind(machine),
        "dtype": recipe.dtype,
        "method": recipe.method,
        "optim": recipe.optim,
        "parameters": read_facts(folder).parameters,
        "rate": round(tokens / seconds * promised["flops_per_token"]),
        "peak_gb": round(peak_gb, 3),
        "estimate_gb": promised.get("estimate_gb"),
    }
    path = cache_dir() / "measured.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def version() -> tuple[int, int]:
    """Changes with everything that is learned here."""
    try:
        state = (cache_dir() / "measured.jsonl").stat()
    except OSError:
        return 0, 0
    return state.st_size, state.st_mtime_ns


def rate_here(machine: Machine, dtype: str, parameters: int) -> float | None:
    """Median FLOP/s of the last runs on this kind of machine with weights like these."""
    rates = [line["rate"] for line in _like(machine, dtype, parameters) if line.get("rate")]
    return statistics.median(rates[-9:]) if rates else None


def memory_here(machine: Machine, kept_in: Formats, parameters: int, method: str) -> float | None:
    """Median of measured over estimated memory of the last runs like this one."""
    factors = [
        line["peak_gb"] / line["estimate_gb"]
        for line in _like(machine, kept_in.dtype, parameters)
        if (line.get("method"), line.get("optim", FUSED)) == (method, kept_in.optim)
        and line.get("peak_gb")
        and line.get("estimate_gb")
    ]
    return statistics.median(factors[-9:]) if factors else None


def _like(machine: Machine, dtype: str, parameters: int) -> list[dict[str, Any]]:
    """Runs on this kind of machine in this number format, of models within a factor of four in size.

    None for rented hardware: of that nothing is learned here, and its two cores need not be like these.
    """
    if machine.rented:
        return []
    return [
        line
        for line in _lines()
        if line.get("machine") == _kind(machine)
        and line.get("dtype") == dtype
        and parameters / 4 <= line.get("parameters", 0) <= parameters * 4
    ]


def _kind(machine: Machine) -> str:
    return machine.gpus[0].name if machine.gpus else f"{machine.kind}-{machine.cores}"


def _lines() -> list[dict[str, Any]]:
    try:
        text = (cache_dir() / "measured.jsonl").read_text(encoding="utf-8")
    except OSError:
        return []
    lines = []
    for line in text.splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines
