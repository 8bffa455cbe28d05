"""What the scores and the curves say, in words that keep to what the rows can show. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ..progress import Progress, smooth
from ..recipe import Recipe
from ..schedule import Shortened, rounds
from .intervals import FEW, START_WITH, difference_interval, is_binary, needed_rows
from .metrics import METRICS, Metric, perplexity


@dataclass(frozen=True)
class Verdict:
    """Is a better than b? In the metric's own unit (0.16 = 16 points; nats for a loss), positive when a is better."""

    difference: float
    low: float  # 95 % interval
    high: float
    n: int
    enough: bool  # the rows show a difference: the interval leaves zero out
    better: bool | None  # a is better than b; None while nothing is shown
    needed_rows: int | None  # to show a difference of this size, where it was not shown; None: no number would do
    sentence: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def compare(
    scores_a: Sequence[float],
    scores_b: Sequence[float],
    names: tuple[str, str] = ("tuning", "the untuned model"),
    *,
    metric: Metric | str = "label",
    tokens: tuple[float, float] | None = None,
    seed: int = 0,
) -> Verdict:
    """Two rivals scored on the same rows. `tokens`: what a request costs each, for the last sentence.

    >>> compare([1] * 81 + [0] * 19, [1] * 52 + [0] * 48, ("tuning", "five examples in the prompt")).sentence
    'Tuning answers 81 of 100 correctly where five examples in the prompt answer 52: better by 21 to 39 points.'
    """
    metric = METRICS[metric] if isinstance(metric, str) else metric
    if len(scores_a) != len(scores_b):
        raise ValueError(f"{len(scores_a)} scores against {len(scores_b)}: they are not on the same rows")
    n = len(scores_a)
    if n == 0:
        return Verdict(0.0, -1.0, 1.0, 0, False, None, None, "There are no rows to compare on.")
    first, second = (scores_a, scores_b) if metric.higher_is_better else (scores_b, scores_a)
    paired = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    difference = float(paired.mean())
    low, high = difference_interval(first, second, bounded=metric.bounded, seed=seed)
    if not (math.isfinite(low) and math.isfinite(high)):  # a loss on a single row has no interval
        low, high = min(difference, -1.0), max(difference, 1.0)
    enough = low > 0 or high < 0
    needed = None
    if not enough and n > 1:
        needed = needed_rows(difference, float(paired.std(ddof=1)))
        needed = None if needed is None else max(needed, n + 1)
    better = difference > 0 if enough else None
    sentence = " ".join(
        part
        for part in (
            _scores(scores_a, scores_b, names, metric)
            + ": "
            + _outcome(difference, low, high, n, needed, metric)
            + ".",
            _cost(tokens, enough, difference),
        )
        if part
    )
    return Verdict(difference, low, high, n, enough, better, needed, sentence)


def _scores(a: Sequence[float], b: Sequence[float], names: tuple[str, str], metric: Metric) -> str:
    """The first half: what each of them reached."""
    first, mean_a, mean_b = names[0][:1].upper() + names[0][1:], float(np.mean(a)), float(np.mean(b))
    if metric.kind == "loss":
        verbs = _verb(names[0], "have"), _verb(names[1], "have")
        return (
            f"{first} {verbs[0]} a loss of {mean_a:.2f} nats per token (perplexity {perplexity(mean_a):.3g}) "
            f"where {names[1]} {verbs[1]} {mean_b:.2f} (perplexity {perplexity(mean_b):.3g})"
        )
    if metric.main in ("exact", "check") and is_binary(a) and is_binary(b):
        verbs = _verb(names[0], "answer"), _verb(names[1], "answer")
        return f"{first} {verbs[0]} {round(sum(a))} of {len(a)} correctly where {names[1]} {verbs[1]} {round(sum(b))}"
    verbs = _verb(names[0], "score"), _verb(names[1], "score")
    title = metric.title if metric.kind == "text" else metric.title[0].lower() + metric.title[1:]
    return f"{first} {verbs[0]} {100 * mean_a:.0f} in {title} where {names[1]} {verbs[1]} {100 * mean_b:.0f}"


def _verb(name: str, verb: str) -> str:
    """The verb as it goes with a rival's name: "the untuned model answers", "four examples answer"."""
    several = re.match(r"(two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\d+) ", name)
    return verb if several else {"have": "has"}.get(verb, f"{verb}s")


def _outcome(difference: float, low: float, high: float, n: int, needed: int | None, metric: Metric) -> str:
    """The second half: what follows from it, and what does not."""
    rows = "one row" if n == 1 else f"{n} rows"
    if low > 0 or high < 0:
        word = "better" if difference > 0 else "worse"
        near, far = sorted((abs(low), abs(high)))
        return f"{word} by {_span(near, far, metric)}"
    if n < FEW:
        return f"no difference that {rows} can show; start with at least {START_WITH}"
    if needed is None:
        largest = max(abs(low), abs(high))
        return f"no difference that {rows} can show; if there is one, it is {_size(largest, metric)} at most"
    return f"no difference that {rows} can show; one of this size would need about {_about(needed):,}"


def _cost(tokens: tuple[float, float] | None, enough: bool, difference: float) -> str:
    """A difference in tokens per request, where it is worth a sentence."""
    if tokens is None:
        return ""
    less = round(tokens[1] - tokens[0])
    if abs(less) < max(10, 0.1 * max(tokens)):
        return ""
    also = "also" if (less > 0) == (difference > 0) and enough else "but" if enough else ""
    verb = {"also": "It also needs", "but": "But it needs", "": "It needs"}[also]
    return f"{verb} {_about(abs(less), 2):,} tokens {'less' if less > 0 else 'more'} per request."


def _span(near: float, far: float, metric: Metric) -> str:
    if metric.kind == "loss":
        return f"{near:.2g} to {far:.2g} nats per token"
    low, high = 100 * near, 100 * far
    digits = 0 if low >= 1 else 1
    if round(low, 1) == 0:
        return f"up to {high:.0f} points"
    return f"{low:.{digits}f} to {high:.{digits}f} points"


def _size(value: float, metric: Metric) -> str:
    if metric.kind == "loss":
        return f"{value:.2g} nats per token"
    points = 100 * value
    return f"{points:.0f} points" if points >= 1.5 else f"{points:.1f} points"


def _about(rows: int, digits: int = 2) -> int:
    """Rounded to two digits: a plan needs no more.

    >>> _about(238), _about(12345), _about(7)
    (240, 12000, 7)
    """
    return int(round(rows, digits - len(str(rows)))) if rows >= 100 else rows


HALF_AS_LONG_AGAIN = "Train half as long again."


@dataclass(frozen=True)
class Reading:
    """What the curves of a training say, and what to change next time."""

    kind: str  # good | overfitting | unfinished | not-learning | diverged | unwatched | short
    sentence: str
    fix: str = ""
    changes: dict[str, Any] = field(default_factory=dict)  # Recipe fields

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def read_curves(progress: Progress, recipe: Recipe | None = None, shortened: Shortened | None = None) -> Reading:
    """Overfitting and its opposites, read from the training and validation loss.

    The validation rows are the same at every look, so a rise of two per cent there is no accident of the draw.
    shortened: where the plan left fewer epochs than were asked for.
    """
    train, validation = smooth(progress.loss, 0.6), progress.eval_loss
    rate = recipe.learning_rate if recipe else None
    epochs = recipe.num_train_epochs if recipe else None
    if len(train) < 3:
        return Reading("short", "The training was too short to read anything from its curves.")
    start, end, lowest = train[0][1], train[-1][1], min(loss for _, loss in train)
    if end > 1.2 * lowest + 0.05 and end > 0.9 * start:
        return Reading(
            "diverged",
            f"The training loss fell to {lowest:.2f} and rose again to {end:.2f}: the steps were too large.",
            "Lower the learning rate to a third.",
            {"learning_rate": _two_digits(rate / 3)} if rate else {},
        )
    if end > 0.97 * start:
        return Reading(
            "not-learning",
            f"The training loss hardly moved ({start:.2f} to {end:.2f}): almost nothing was learned.",
            "Raise the learning rate three times, or train longer.",
            {"learning_rate": _two_digits(min(1.0, rate * 3))} if rate else {},
        )
    if not validation:
        return Reading(
            "unwatched",
            "There were no validation rows, so nobody can tell whether it learned the rule or the rows.",
            "Keep a tenth of the rows for validation.",
            {"validation_size": 0.1} if recipe and not recipe.validation_size else {},
        )
    if len(validation) < 3:
        return Reading("short", "The validation rows were looked at too seldom to see a trend.")
    best_step, best = min(validation, key=lambda point: (point[1], point[0]))
    last_step, last = validation[-1]
    if last > 1.02 * best and best_step < last_step:
        kept = ""
        if recipe and not recipe.early_stopping:
            kept = " The result is what it had become at the last step, not at its best."
        elif progress.best_step == best_step:
            kept = " The best checkpoint was kept, so the result does not suffer."
        changes: dict[str, Any] = {} if recipe and recipe.early_stopping else {"early_stopping": True}
        if recipe and recipe.max_steps > 0:
            changes["max_steps"] = best_step
        elif epochs and (fewer := _two_digits(_epochs_until(best_step, progress, epochs))) < epochs:
            changes["num_train_epochs"] = fewer
        return Reading(
            "overfitting",
            f"The validation loss was lowest at step {best_step} ({best:.2f}) and rose to {last:.2f} by step "
            f"{last_step} while the training loss went on falling: it began to learn rows by heart.{kept}",
            "Stop early, see the rows fewer times, or add rows.",
            changes,
        )
    before = validation[max(0, math.ceil(len(validation) * 2 / 3) - 1)][1]
    if last < 0.95 * before and last == best:
        return Reading(
            "unfinished",
            f"The validation loss was still falling at the end ({before:.2f} to {last:.2f} in the last third): "
            "there was more to learn.",
            *_longer(recipe, shortened),
        )
    return Reading(
        "good", f"The validation loss fell to {best:.2f} and stayed there: no overfitting, and little left to learn."
    )


def cut_short(progress: Progress, recipe: Recipe, plan: Mapping[str, Any] | None) -> Shortened | None:
    """What a run's plan says about a limit in minutes, if it came to the end of that plan: a stop has other reasons.

    The last step that is told of may be some before it, as the recipe says.
    """
    kept = (plan or {}).get("shortened")
    went_to_its_end = progress.step > 0 and progress.total_steps - progress.step < (recipe.logging_steps or 1)
    return Shortened(**kept) if kept and went_to_its_end else None


def _longer(recipe: Recipe | None, shortened: Shortened | None) -> tuple[str, dict[str, Any]]:
    """Half as long again, or all the epochs that were asked for where those are more; and what to change for it.

    By what says how long it takes: steps where they are limited, else epochs, and then no limit in minutes.
    """
    if recipe is None:
        return HALF_AS_LONG_AGAIN, {}
    if recipe.max_steps > 0:
        return HALF_AS_LONG_AGAIN, {"max_steps": math.ceil(recipe.max_steps * 1.5)}
    epochs = min(100.0, _two_digits(recipe.num_train_epochs * 1.5))
    says = HALF_AS_LONG_AGAIN
    if shortened and shortened.asked >= epochs:
        epochs = shortened.asked
        says = f"Go through the rows {rounds(epochs)}, instead of the {shortened.epochs:g} that there was time for."
    return says, {"num_train_epochs": epochs, "max_minutes": None}


def _epochs_until(step: int, progress: Progress, epochs: float) -> float:
    """How often every row had been seen by then; a training that was stopped early did not come to all its epochs."""
    if progress.epoch and progress.step:
        return progress.epoch * step / progress.step
    return epochs * step / progress.eval_loss[-1][0]


def _two_digits(value: float) -> float:
    return float(f"{value:.2g}")
