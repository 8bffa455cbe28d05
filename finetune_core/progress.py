"""Fold a run's events into what a screen shows. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from .events import Event

STAGES = (
    "waiting for its turn",
    "fetching",
    "preparing data",
    "loading the model",
    "training",
    "saving",
    "evaluating",
)


@dataclass(frozen=True)
class Progress:
    """Where a run is, folded from its diary. Curves are (step, value) pairs, oldest first."""

    stage: str = "starting"
    stage_fraction: float | None = None  # of the stage, where it is known
    stage_seconds: dict[str, float] = field(default_factory=dict)  # finished stages of the last worker
    step: int = 0
    total_steps: int = 0
    epoch: float = 0.0
    loss: tuple[tuple[int, float], ...] = ()  # (step, nats per token)
    eval_loss: tuple[tuple[int, float], ...] = ()
    accuracy: tuple[tuple[int, float], ...] = ()  # share of trained tokens predicted right
    eval_accuracy: tuple[tuple[int, float], ...] = ()
    tokens_per_second: float | None = None  # real tokens, without padding
    memory_gb: float | None = None  # highest so far
    seconds_left: float | None = None
    seconds: float = 0.0  # that its workers took, without the pauses between them
    samples: tuple[tuple[int, str, str], ...] = ()  # (step, prompt, answer)
    best_step: int | None = None
    warnings: tuple[str, ...] = ()
    error: dict[str, str] | None = None
    outcome: str | None = None
    workers: int = 0  # 2 or more: it was resumed
    machine: str = ""
    settings: dict[str, Any] = field(default_factory=dict)


def summarize(events: Iterable[Event]) -> Progress:
    """What has happened so far. After a resume, points beyond the checkpoint are replaced as they come again."""
    losses: dict[int, float] = {}
    evals: dict[int, float] = {}
    accuracies: dict[int, float] = {}
    eval_accuracies: dict[int, float] = {}
    samples: dict[int, tuple[str, str]] = {}
    now: dict[str, Any] = {"settings": {}}
    stage_seconds: dict[str, float] = {}
    warnings: list[str] = []
    first = last = stage_began = train_began = None
    earlier = 0.0  # seconds that earlier workers took; the pause between two workers is nobody's
    for event in events:
        data = event.data
        began, before = first, last
        first = event.time if first is None else first
        last = event.time
        match event.kind:
            case "start":
                earlier, first = earlier + (before - began if before is not None else 0.0), event.time
                now |= {"error": None, "outcome": None, "stage_fraction": None}
                now["workers"] = now.get("workers", 0) + 1
                now["machine"] = data.get("machine", "")
                stage_seconds, train_began = {}, None
            case "stage":
                name = str(data.get("name", ""))
                if name != now.get("stage"):
                    if now.get("stage") and stage_began is not None:
                        stage_seconds[now["stage"]] = event.time - stage_began
                    stage_began = event.time
                now |= {"stage": name, "stage_fraction": data.get("fraction")}
                now["settings"] = now["settings"] | data.get("settings", {})
                if "total_steps" in data:
                    now["total_steps"] = data["total_steps"]
                if "step" in data:  # resumed: forget what lies beyond the checkpoint
                    now["step"] = data["step"]
                    for series in (losses, evals, accuracies, eval_accuracies, samples):
                        for step in [step for step in series if step > data["step"]]:
                            del series[step]
            case "step":
                step = data["step"]
                now |= {"step": step, "total_steps": data["total_steps"], "epoch": data.get("epoch", 0.0)}
                if train_began is None:
                    train_began = (event.time, step)
                if data.get("loss") is not None:
                    losses[step] = data["loss"]
                if data.get("token_accuracy") is not None:
                    accuracies[step] = data["token_accuracy"]
                now["tokens_per_second"] = data.get("tokens_per_second") or now.get("tokens_per_second")
                if data.get("memory_gb") is not None:
                    now["memory_gb"] = max(data["memory_gb"], now.get("memory_gb") or 0.0)
                now["seconds_left"] = seconds_left(
                    event.time - train_began[0], train_began[1], step, data["total_steps"]
                )
            case "eval":
                if data.get("loss") is not None:
                    evals[data["step"]] = data["loss"]
                if data.get("token_accuracy") is not None:
                    eval_accuracies[data["step"]] = data["token_accuracy"]
            case "sample":
                samples[data["step"]] = (data.get("prompt", ""), data.get("answer", ""))
            case "warning":
                warnings.append(str(data.get("says", "")))
            case "error":
                now["error"] = {key: str(data.get(key, "")) for key in ("code", "problem", "fix")}
            case "done":
                now["outcome"] = str(data.get("outcome", "finished"))
                now["best_step"] = data.get("best_step")
                if now.get("stage") and stage_began is not None:
                    stage_seconds[now["stage"]] = event.time - stage_began
    if now.get("stage") != "training":
        now["seconds_left"] = None
    return Progress(
        **now,
        loss=tuple(sorted(losses.items())),
        eval_loss=tuple(sorted(evals.items())),
        accuracy=tuple(sorted(accuracies.items())),
        eval_accuracy=tuple(sorted(eval_accuracies.items())),
        samples=tuple((step, *sample) for step, sample in sorted(samples.items())),
        stage_seconds=stage_seconds,
        warnings=tuple(dict.fromkeys(warnings)),
        seconds=earlier + (last - first if last is not None else 0.0),
    )


def seconds_left(seconds: float, first_step: int, step: int, total_steps: int) -> float | None:
    """Time to go in training, or None while it is too early to say.

    Counted from this worker's own first step, so it is right after a resume too.

    >>> seconds_left(30.0, 10, 20, 40)
    60.0
    """
    done = step - first_step
    if done < 2 or seconds <= 0:  # the first steps compile kernels and fill caches; they predict nothing
        return None
    return seconds / done * max(0, total_steps - step)


def reached(progress: Progress) -> int:
    """The last step that is known of: the loss is told every few steps, a look at the validation rows in between."""
    return max([progress.step, *(step for step, _ in progress.eval_loss[-1:])])


def kept_loss(progress: Progress, early_stopping: bool) -> float | None:
    """Validation loss of the weights that a run keeps: those of its best look with early stopping, else the last ones.

    >>> kept_loss(Progress(eval_loss=((10, 0.5), (20, 0.4), (30, 0.6))), early_stopping=False)
    0.6
    """
    losses = [loss for _, loss in progress.eval_loss]
    if not losses:
        return None
    return min(losses) if early_stopping else losses[-1]


def smooth(points: tuple[tuple[int, float], ...], weight: float = 0.8) -> tuple[tuple[int, float], ...]:
    """Exponential moving average with bias correction (Kingma & Ba 2015), point by point.

    >>> smooth(((1, 2.0), (2, 2.0)))
    ((1, 2.0), (2, 2.0))
    """
    average, smoothed = 0.0, []
    for count, (step, value) in enumerate(points, start=1):
        average = weight * average + (1 - weight) * value
        smoothed.append((step, round(average / (1 - weight**count), 6)))
    return tuple(smoothed)
