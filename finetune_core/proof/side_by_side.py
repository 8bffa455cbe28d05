"""Runs beside each other: how good, how they learned, what they cost, and only the settings that differ."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..progress import Progress, kept_loss, summarize
from ..recipe import Recipe
from ..run import Run
from .verdict import compare

FEWEST_COMMON_ROWS = 5
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
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
    """What is read of a run for a comparison."""
    return Seen(run.id, run.status(), run.recipe, summarize(run.events()), run.report())


def side_by_side(runs: Sequence[Seen]) -> dict[str, Any]:
    """Everything that a page or a program shows of several runs, best first.

    Paired differences are only made between runs that were scored in the same way on the same rows.
    """
    ordered = _ranked(runs)
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
        "validation_loss": kept_loss(progress, run.recipe.early_stopping),
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
    if kind is None or kind == "check" or _scale(first) != _scale(second):  # two checks may be two different ones
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
    """The tuned model among a report's rivals; empty where it has none."""
    return next((rival for rival in report.get("rivals") or () if rival.get("name") == "tuned"), {})


def _scores(report: Mapping[str, Any]) -> dict[str, float]:
    """Question and reference -> the tuned model's score."""
    found = {}
    for row in report.get("rows") or ():
        score = (row.get("scores") or {}).get("tuned")
        if score is not None:
            found[json.dumps([row.get("prompt"), row.get("reference")], sort_keys=True)] = float(score)
    return found


def _ranked(runs: Sequence[Seen]) -> list[Seen]:
    """Best first, within what can be ranked together: the scale of most runs first, what was not proved last."""
    scales = [_scale(run) for run in runs]

    def rank(place: int) -> tuple[bool, int, int, float]:
        run, scale = runs[place], scales[place]
        score = tuned_of(run.report or {}).get("score")
        kept = kept_loss(run.progress, run.recipe.early_stopping)
        validation = math.inf if kept is None else kept
        worst_last = validation if score is None else score if scale[0] == "loss" else -score
        return score is None, -scales.count(scale), scales.index(scale), worst_last

    return [runs[place] for place in sorted(range(len(runs)), key=rank)]


def _scale(run: Seen) -> tuple[str, ...]:
    """What its score can be ranked with: the same metric; of a loss per token, only that of the same base model."""
    kind = str((run.report or {}).get("metric_kind") or "")
    scored = tuned_of(run.report or {}).get("score") is not None
    model = (run.recipe.model_name_or_path, run.recipe.model_revision or "")
    return (kind,) if scored and kind != "loss" else (kind if scored else "", *model)


def _sentence(ordered: Sequence[Seen], pairs: Sequence[Mapping[str, Any]]) -> str:
    """What can be said about the first of them, naming only runs that were compared with it."""
    if len(ordered) < 2:
        return "Choose at least two runs."
    if not pairs:
        return "These runs were not proved on the same rows in the same way, so only their curves can be compared."
    places = {run.id: place for place, run in enumerate(ordered)}
    found: dict[bool | None, list[int]] = {True: [], None: [], False: []}
    for pair in pairs:
        found[pair["better"]].append(places[pair["second"]])
    parts = []
    if found[True]:
        everyone = len(found[True]) == len(ordered) - 1 > 1
        others = "every other" if everyone else "the other" if len(ordered) == 2 else _named(found[True])
        parts.append(f"The first is better than {others}, by more than chance.")
        if len(pairs) > 1:
            parts.append(f"These very rows made it the best of {len(pairs) + 1}, which flatters it a little.")
    if found[None]:
        rows = f"{min(pair['n'] for pair in pairs if pair['better'] is None)} rows"
        whom = "" if len(found[None]) == len(ordered) - 1 else f" between the first and {_named(found[None])}"
        parts.append(f"No difference{whom} that {rows} can show: take the cheaper one.")
    if found[False]:
        parts.append(f"On the rows that both answered, {_named(found[False])} did better than the first.")
    if missing := sorted(set(range(1, len(ordered))) - {places[pair["second"]] for pair in pairs}):
        was = "was" if len(missing) == 1 else "were"
        parts.append(f"{_named(missing).capitalize()} {was} not proved on the same rows in the same way.")
    return " ".join(parts)


def _named(places: Sequence[int]) -> str:
    """
    >>> _named([1]), _named([1, 2, 3])
    ('the second', 'the second, the third and the fourth')
    """
    names = [f"the {ORDINALS[place]}" if place < len(ORDINALS) else f"number {place + 1}" for place in sorted(places)]
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
