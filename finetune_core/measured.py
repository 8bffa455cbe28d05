"""What earlier runs on this machine really cost, kept so that the next estimate is better. No names, no data."""

from __future__ import annotations

import json
import os
import statistics
from pathlib import Path
from typing import Any

from .machine import Machine
from .plan import flops_per_token, read_facts
from .recipe import Recipe
from .run import Run


def cache_dir() -> Path:
    """Fijn's own cache: FIJN_CACHE, else ~/.cache/fijn."""
    return Path(os.environ.get("FIJN_CACHE") or Path.home() / ".cache" / "fijn")


def remember(
    run: Run, recipe: Recipe, folder: Path, machine: Machine, tokens: int, seconds: float, peak_gb: float
) -> None:
    """Append one line: the rate in FLOP/s that this run reached, and its peak beside the promised one."""
    if tokens < 2000 or seconds < 5:  # too short: mostly warm-up
        return
    facts = read_facts(folder)
    rate = tokens / seconds * flops_per_token(facts, recipe.method, bool(recipe.gradient_checkpointing))
    promised = ((run.plan() or {}).get("memory_gb") or {}).get("total")
    line = {
        "machine": _kind(machine),
        "dtype": recipe.dtype,
        "method": recipe.method,
        "parameters": facts.parameters,
        "rate": round(rate),
        "peak_gb": round(peak_gb, 3),
        "promised_gb": promised,
    }
    path = cache_dir() / "measured.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def rate_here(machine: Machine, dtype: str, parameters: int) -> float | None:
    """Median FLOP/s of the last runs on this kind of machine with weights like these (within a factor of four)."""
    rates = [
        line["rate"]
        for line in _lines()
        if line.get("machine") == _kind(machine)
        and line.get("dtype") == dtype
        and parameters / 4 <= line.get("parameters", 0) <= parameters * 4
    ]
    return statistics.median(rates[-9:]) if rates else None


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
