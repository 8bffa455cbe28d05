"""What earlier runs on this machine really cost, kept so that the next estimate is better. No names, no data."""

from __future__ import annotations

import json
import statistics
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from .facts import read_facts
from .files import append, cache_dir, read_json, read_json_lines, write_json
from .machine import Machine
from .precision import FUSED, Formats
from .recipe import Recipe

FILE = "measured.jsonl"  # in Fijn's cache
SAME_FREE = 1.05  # free memory goes up and down by some per cent by itself
SAME_RATE = 1.05  # and so does the rate of matrix products


def remember(
    promised: dict[str, Any],
    recipe: Recipe,
    folder: Path,
    machine: Machine,
    tokens: int,
    seconds: float,
    peak_gb: float,
) -> None:
    """Append one line: how many times as fast as expected it was, and the peak beside the estimate.

    `promised`: the plan as a dict. `tokens` in `seconds` of training steps, warm-up left out.
    """
    if not promised.get("expected_speed") or tokens < 1 or seconds <= 0:  # planned by an older version, or elsewhere
        return
    line = {
        "machine": _kind(machine),
        "dtype": recipe.dtype,
        "method": recipe.method,
        "optim": recipe.optim,
        "parameters": read_facts(folder).parameters,
        "speed": float(f"{tokens / seconds / promised['expected_speed']:.4g}"),
        "product_rate": promised.get("product_rate"),
        "peak_gb": round(peak_gb, 3),
        "estimate_gb": promised.get("estimate_gb"),
    }
    _append(line)


def remember_ran_out(promised: dict[str, Any], recipe: Recipe, parameters: int, machine: Machine) -> None:
    """Append one line: what was estimated, and what was free, when memory ran out."""
    _append({
        "machine": _kind(machine),
        "dtype": recipe.dtype,
        "method": recipe.method,
        "optim": recipe.optim,
        "parameters": parameters,
        "ran_out_of_gb": promised["available_gb"],
        "estimate_gb": promised["estimate_gb"],
    })  # fmt: skip


def ran_out(promised: dict[str, Any], recipe: Recipe, parameters: int, machine: Machine) -> bool:
    """Whether memory ran out here for a training like this one that was to take no more, with no less free.

    The last word counts: one that has run since, and was to take as much, shows that this one fits.
    """
    alike = (recipe.method, recipe.optim, parameters)
    for line in reversed(_like(machine, recipe.dtype or "float32", parameters)):
        estimate = line.get("estimate_gb")
        if (line.get("method"), line.get("optim", FUSED), line["parameters"]) != alike or not estimate:
            continue
        free_then = line.get("ran_out_of_gb")
        if free_then is None and estimate >= promised["estimate_gb"]:
            return False
        if free_then is not None and estimate <= promised["estimate_gb"]:
            return promised["available_gb"] <= free_then * SAME_FREE
    return False


def version() -> tuple[int, int]:
    """A number that changes with everything that is learned here."""
    try:
        state = (cache_dir() / "measured.jsonl").stat()
    except OSError:
        return 0, 0
    return state.st_size, state.st_mtime_ns


def speed_here(machine: Machine, dtype: str, parameters: int) -> float | None:
    """How many times as fast as expected: median of the last runs on this kind of machine with weights like these.

    Of a processor whose products have been measured faster since, as much more is expected now.
    """

    def since(line: dict[str, Any]) -> float:
        then, now = line.get("product_rate"), machine.product_rate
        return then / now if then and now else 1.0

    factors = [line["speed"] * since(line) for line in _like(machine, dtype, parameters) if line.get("speed")]
    return statistics.median(factors[-9:]) if factors else None


def with_products(machine: Machine) -> Machine:
    """The machine with the rate of its matrix products, where they tell its speed: the best that was ever measured.

    While other work has the cores, less is measured than a training will have.
    """
    if machine.kind != "cpu" or machine.rented:
        return machine
    from .products import product_rate

    path, kind = cache_dir() / "products.json", _kind(machine)
    known = read_json(path) or {}
    best, now = known.get(kind, 0.0), product_rate()
    if now > SAME_RATE * best:
        with suppress(OSError):  # it is measured again
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, known | {kind: round(now)})
    return replace(machine, product_rate=max(now, best))


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


def _append(line: dict[str, Any]) -> None:
    path = cache_dir() / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    append(path, json.dumps(line).encode())


def _lines() -> list[dict[str, Any]]:
    return [line for line in read_json_lines(cache_dir() / FILE) if isinstance(line, dict)]
