"""From answers and scores to the report: a summary of each rival, the verdict, the rows. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..recipe import Recipe
from .contest import Contest
from .intervals import FEW, START_WITH, is_binary, mean_interval, statistic_interval
from .metrics import macro_f1, perplexity
from .rivals import Rival, question
from .verdict import Verdict, compare

SHOWN_ORDER = ("base", "system", "examples", "retrieved", "best", "last", "tuned")
MOST_ROWS_IN_REPORT = 1000


class Written(Protocol):
    """What a model wrote: generate.Answer, without its torch."""

    token_ids: list[int]
    text: str
    finish_reason: str


@dataclass(frozen=True)
class Entry:
    """What one rival wrote, and how good it was."""

    rival: Rival
    answers: Sequence[Written]
    prompt_tokens: list[int]
    scores: dict[str, list[float]]
    seconds: float
    latency: float | None = None  # seconds of one request answered alone
    kept: int = 0  # answers that were known from an earlier comparison


def write_up(contest: Contest, entries: Sequence[Entry], loss: dict[str, list[float]]) -> dict[str, Any]:
    """The part of the report that follows from answers and losses alone."""
    metric = contest.metric
    if metric.kind == "loss":
        rivals = [_loss_summary(name, loss[name]) for name in ("base", "tuned") if name in loss]
    else:
        rivals = [_summary(entry, contest) for entry in entries]
    rivals.sort(key=lambda rival: SHOWN_ORDER.index(rival["name"]))
    count = len(loss.get("base", ())) if metric.kind == "loss" else len(contest.rows)
    return {
        "n": count,
        "available": contest.available,
        "split": contest.split,
        "note": contest.note,
        "metric": metric.title,
        "metric_kind": metric.kind,
        "metric_explains": metric.explains,
        "rivals": rivals,
        "verdict": judge(contest, entries, loss),
        "loss": _losses(loss),
        "rows": [_row(contest, entries, loss, place) for place in range(min(len(contest.rows), MOST_ROWS_IN_REPORT))],
    }


def judge(contest: Contest, entries: Sequence[Entry], loss: dict[str, list[float]]) -> dict[str, Any]:
    """Tuned against the strongest rival; without a tuned model, what is left to win."""
    metric, by_name = contest.metric, {entry.rival.name: entry for entry in entries}
    if metric.kind == "loss":
        if "tuned" not in loss or "base" not in loss:
            return _nothing(contest)
        verdict = compare(loss["tuned"], loss["base"], metric=metric)
        return verdict.as_dict() | {"against": "base"}
    helped = [entry for entry in entries if entry.rival.model == "base"]
    if not helped or not contest.rows:
        return _nothing(contest)
    # the strongest was picked by these very rows, which flatters it a little: the verdict errs against tuning
    strongest = max(helped, key=lambda entry: (np.mean(entry.scores[metric.main]), -_tokens(entry)))
    if "tuned" not in by_name:
        return left_to_win(contest, strongest)
    tuned = by_name["tuned"]
    verdict = compare(
        tuned.scores[metric.main],
        strongest.scores[metric.main],
        (tuned.rival.phrase, strongest.rival.phrase),
        metric=metric,
        tokens=(_tokens(tuned), _tokens(strongest)),
    )
    others = {
        entry.rival.name: _short(
            compare(tuned.scores[metric.main], entry.scores[metric.main], ("tuning", entry.rival.phrase), metric=metric)
        )
        for entry in entries
        if entry is not tuned
    }
    return verdict.as_dict() | {"against": strongest.rival.name, "others": others}


def left_to_win(contest: Contest, strongest: Entry) -> dict[str, Any]:
    """Before tuning: how far is the strongest prompt from perfect?"""
    scores = strongest.scores[contest.metric.main]
    n, mean = len(scores), float(np.mean(scores))
    low, high = mean_interval(scores)
    counted = contest.metric.main in ("exact", "check") and is_binary(scores)
    reached = f"{round(sum(scores))} of {n} correctly" if counted else f"{100 * mean:.0f} of 100"
    verb = "answers" if counted else "scores"
    with_help = "as it is" if strongest.rival.name == "base" else f"with {strongest.rival.phrase}"
    least, most = 100 * (1 - high), 100 * (1 - low)
    if n < FEW:
        rows = "one row says" if n == 1 else f"{n} rows say"
        end = f"{rows} too little; start with at least {START_WITH}."
    elif contest.metric.kind == "text":  # nobody writes every reference letter for letter
        elsewhere = f"{least:.0f} to {most:.0f} on other rows"
        end = f"{100 * (1 - mean):.0f} points short of perfect ({elsewhere}), of which no training wins all."
    elif most < 5:
        end = "there is hardly anything left to win; a prompt will do."
    elif least < 10:
        end = f"at most {most:.0f} points are left to win."
    else:
        end = f"{least:.0f} to {most:.0f} points are left to win; a training is worth a try."
    return {
        "sentence": f"The untuned model {with_help} {verb} {reached}: {end}",
        "difference": None,
        "low": round(1 - high, 4),
        "high": round(1 - low, 4),
        "n": n,
        "better": None,
        "enough": None,
        "needed_rows": None,
        "against": strongest.rival.name,
    }


def settings(recipe: Recipe, contest: Contest, line_up: Sequence[Rival]) -> dict[str, Any]:
    """What has to be said to do it again."""
    return {
        "model_name_or_path": recipe.model_name_or_path,
        "rows": len(contest.rows),
        "rows_available": contest.available,
        "seed": recipe.seed,
        "few_shot_examples": recipe.few_shot_examples,
        "max_new_tokens": contest.max_new_tokens,
        "temperature": 0.0,
        "rivals": [rival.name for rival in line_up],
    }


def _summary(entry: Entry, contest: Contest) -> dict[str, Any]:
    scores, n = entry.scores[contest.metric.main], len(contest.rows)
    low, high = mean_interval(scores) if n else (0.0, 1.0)
    lengths = [len(answer.token_ids) for answer in entry.answers]
    found = {name: float(np.mean(series)) for name, series in entry.scores.items()} if n else {}
    summary = {
        "name": entry.rival.name,
        "title": entry.rival.title,
        "phrase": entry.rival.phrase,
        "note": entry.rival.note,
        "model": entry.rival.model,
        "score": float(np.mean(scores)) if n else 0.0,
        "low": low,
        "high": high,
        "scores": found,
        "tokens_per_request": round(_tokens(entry), 1),
        "prompt_tokens": round(float(np.mean(entry.prompt_tokens)), 1) if n else 0.0,
        "answer_tokens": round(float(np.mean(lengths)), 1) if n else 0.0,
        "mean_length": round(float(np.mean(lengths)), 1) if n else 0.0,
        "stop_rate": sum(answer.finish_reason == "stop" for answer in entry.answers) / max(1, n),
        "seconds": round(entry.seconds, 2),
        "answers_kept": entry.kept,
        "seconds_per_request": None if entry.latency is None else round(entry.latency, 3),
    }
    if contest.metric.kind == "label" and n:
        answers, references = [answer.text for answer in entry.answers], contest.references
        summary["macro_f1"] = macro_f1(answers, references)
        summary["macro_f1_low"], summary["macro_f1_high"] = statistic_interval(
            lambda drawn: macro_f1([answers[at] for at in drawn], [references[at] for at in drawn]), n, resamples=400
        )
    return summary


def _loss_summary(name: str, losses: Sequence[float]) -> dict[str, Any]:
    low, high = mean_interval(losses, bounded=False)
    title = {"base": "Base model", "tuned": "Tuned model"}[name]
    mean = float(np.mean(losses))
    return {
        "name": name, "title": title, "phrase": title, "note": "", "model": name, "score": mean, "low": low,
        "high": high, "scores": {"loss": mean}, "tokens_per_request": None, "stop_rate": None, "mean_length": None,
        "seconds": None,
    }  # fmt: skip


def _losses(loss: dict[str, list[float]]) -> dict[str, Any]:
    means = {name: float(np.mean(values)) for name, values in loss.items() if values}
    return {**means, "perplexity": {name: perplexity(value) for name, value in means.items()}}


def _row(contest: Contest, entries: Sequence[Entry], loss: dict[str, list[float]], place: int) -> dict[str, Any]:
    row, main = contest.rows[place], contest.metric.main
    found: dict[str, Any] = {"id": row.get("id", row.get("row", place + 1))}
    if contest.metric.kind == "loss":
        text = row.get("text") or ""
        aligned = all(len(values) == len(contest.rows) for values in loss.values())
        scores = {name: values[place] for name, values in loss.items()} if aligned else {}
        return found | {"prompt": text[:2000], "reference": "", "answers": {}, "scores": scores}
    return found | {
        "prompt": question(row),
        "reference": contest.references[place],
        "answers": {entry.rival.name: entry.answers[place].text for entry in entries},
        "scores": {entry.rival.name: entry.scores[main][place] for entry in entries},
    }


def _nothing(contest: Contest) -> dict[str, Any]:
    sentence = "Nothing was compared."
    if not contest.rows:
        sentence = "There were no rows to compare on; keep some apart (test_size) next time."
    elif contest.metric.kind == "loss":
        sentence = "These rows are plain text: there is nothing to ask, so only a training shows what is to be won."
    return Verdict(0.0, 0.0, 0.0, 0, False, None, None, sentence).as_dict() | {"difference": None, "against": None}


def _short(verdict: Verdict) -> dict[str, Any]:
    keep = ("difference", "low", "high", "better", "needed_rows", "sentence")
    return {name: value for name, value in verdict.as_dict().items() if name in keep}


def _tokens(entry: Entry) -> float:
    """Tokens of a request: prompt and answer."""
    answers = [len(answer.token_ids) for answer in entry.answers]
    return float(np.mean(entry.prompt_tokens) + np.mean(answers)) if answers else 0.0


def plain(value: Any) -> Any:
    """A value as JSON can hold it: no NaN, no numpy, six digits."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, bool) or value is None or isinstance(value, str | int):
        return value
    number = float(value)
    return round(number, 6) if math.isfinite(number) else None
