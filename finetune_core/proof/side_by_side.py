"""Runs beside each other: how good, how they learned, what they cost, and only the settings that differ."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..progress import Progress, summarize
from ..recipe import Recipe
from ..run import Run
from .verdict import compare

FEWEST_COMMON_ROWS = 5
NOT_LEARNED = ("accept_warnings", "sample_prompt", "evaluate")  # settings that change nothing about what is learned


@dataclass(frozen=True)
class Seen:
    """What is known about a run."""

    id: str
    status: str
    recipe: Recipe
    progress: Progress
    report: Mapping[str, Any] | None


def look_at(run: Run) -> Seen:
    return Seen(run.id, run.status(), run.recipe, summarize(run.events()), run.report())


def side_by_side(runs: Sequence[Seen]) -> dict[str, Any]:
    """Everything that a page or a program shows of several runs, best first.

    Paired differences are only made between runs that were scored in the same way on the same rows.
    """
    ordered = sorted(runs, key=_rank)
    best = ordered[0] if ordered else None
    pairs = [pair for other in ordered[1:] if (pair := pair_up(best, other))] if best else []
    return {
        "runs": [describe(run) for run in ordered],
        "settings": differences([run.recipe for run in ordered]),
        "pairs": pairs,
        "sentence": _sentence(ordered, pairs),
    }


def describe(run: Seen) -> dict[str, Any]:
    """One run: its score with its interval, its curves, its cost."""
    report, progress = run.report or {}, run.progress
    tuned = tuned_of(report)
    validation = min((loss for _, loss in progress.eval_loss), default=None)
    return {
        "id": run.id,
        "status": run.status,
        "metric": report.get("metric"),
        "metric_kind": report.get("metric_kind"),
        "n": report.get("n"),
        "score": tuned.get("score"),
        "low": tuned.get("low"),
        "high": tuned.get("high"),
        "tokens_per_request": tuned.get("tokens_per_request"),
        "verdict": (report.get("verdict") or {}).get("sentence"),
        "validation_loss": validation,
        "train_loss": progress.loss[-1][1] if progress.loss else None,
        "steps": progress.step,
        "seconds": round(progress.seconds, 1),
        "memory_gb": progress.memory_gb,
        "curves": {"train": progress.loss, "validation": progress.eval_loss},
    }


def differences(recipes: Sequence[Recipe]) -> dict[str, list[Any]]:
    """Only the settings in which recipes differ: field -> the value of each.

    >>> differences([Recipe(lora_r=8, seed=1), Recipe(lora_r=16, seed=1)])
    {'lora_r': [8, 16]}
    """
    values = [recipe.model_dump() for recipe in recipes]
    fields = [name for name in Recipe.model_fields if name not in NOT_LEARNED]
    columns = {name: [value[name] for value in values] for name in fields}
    return {name: column for name, column in columns.items() if any(each != column[0] for each in column)}


def pair_up(first: Seen, second: Seen) -> dict[str, Any] | None:
    """The paired difference of two tuned models on the rows that both answered; None if they cannot be compared."""
    a, b = first.report or {}, second.report or {}
    kind = a.get("metric_kind")
    if kind is None or kind != b.get("metric_kind") or kind == "check":  # two checks may be two different ones
        return None
    mine, theirs = _scores(a), _scores(b)
    common = [key for key in mine if key in theirs]
    if len(common) < FEWEST_COMMON_ROWS:
        return None
    verdict = compare(
        [mine[key] for key in common], [theirs[key] for key in common], ("the first", "the second"), metric=kind
    )
    return {"first": first.id, "second": second.id} | {
        name: value for name, value in verdict.as_dict().items() if name != "sentence"
    }


def tuned_of(report: Mapping[str, Any]) -> Mapping[str, Any]:
    return next((rival for rival in report.get("rivals") or () if rival.get("name") == "tuned"), {})


def _scores(report: Mapping[str, Any]) -> dict[str, float]:
    """Question and reference -> the tuned model's score."""
    found = {}
    for row in report.get("rows") or ():
        score = (row.get("scores") or {}).get("tuned")
        if score is not None:
            found[json.dumps([row.get("prompt"), row.get("reference")], sort_keys=True)] = float(score)
    return found


def _rank(run: Seen) -> tuple[bool, float, float]:
    """Best first: by score (of a loss, less is better), then by the lowest validation loss."""
    report = run.report or {}
    score = tuned_of(report).get("score")
    validation = min((loss for _, loss in run.progress.eval_loss), default=float("inf"))
    if score is None:
        return True, 0.0, validation
    return False, score if report.get("metric_kind") == "loss" else -score, validation


def _sentence(ordered: Sequence[Seen], pairs: Sequence[Mapping[str, Any]]) -> str:
    """What can be said about the best of them."""
    if len(ordered) < 2:
        return "Choose at least two runs."
    if not pairs:
        return "These runs were not proved on the same rows in the same way, so only their curves can be compared."
    open_pairs = [pair for pair in pairs if pair["better"] is not True]
    if not open_pairs:
        others = "the other" if len(ordered) == 2 else "every other"
        return f"The first is better than {others}, by more than chance."
    if len(open_pairs) == len(pairs):
        return f"No difference that {pairs[0]['n']} rows can show: take the cheaper one."
    return "The first is better than some, but not all, by more than chance."
