"""What can be done with a run now, in the words of its buttons. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from finetune_core.amounts import count, many
from finetune_core.progress import Progress, reached
from finetune_core.recipe import Suggestion

from .words import esc, short_model

STOPPING = "Stopping after this step…"
DISCARD_QUESTION = (
    '<p class="confirm-question" role="alert"><b>Delete this run?</b> Its curves, checkpoints and what it learned '
    "are gone for good.</p>"
)


@dataclass(frozen=True)
class Actions:
    """Which buttons a run has now. `first` is the next step, by name; labels are empty where there is no button."""

    first: str = ""
    start: str = ""
    gentler: str = ""
    prove: bool = False
    talk: bool = False
    change: bool = False
    stop: str = ""
    stopping: bool = False


def actions(
    status: str,
    progress: Progress,
    *,
    checkpoint: int | None,
    has_result: bool,
    has_report: bool,
    stop_asked: bool,
    gentler: str = "",
) -> Actions:
    """What can be done now."""
    resume = f"Resume from step {count(checkpoint)}" if checkpoint else ""
    can_talk = has_result or bool(checkpoint)
    match status:
        case "running" if progress.stage == "saving":
            return Actions()
        case "running" if progress.stage == "evaluating":
            return Actions(stop="Ending the comparison…" if stop_asked else "Stop comparing", stopping=stop_asked)
        case "running":
            learned = "Stop, keep what it learned" if progress.step else "Stop"
            return Actions(stop=STOPPING if stop_asked else learned, stopping=stop_asked)
        case "new":
            return Actions("start", start="Start training", change=True)
        case "finished":
            return Actions("prove" if has_report else "talk", prove=has_report, talk=has_result)
        case "stopped":
            more = resume if reached(progress) < progress.total_steps else ""
            return Actions("prove" if has_report else "talk", start=more, prove=has_report, talk=can_talk)
        case "failed":
            first = "gentler" if gentler else "start"
            return Actions(first, start=resume or "Try again", gentler=gentler, talk=can_talk, change=True)
        case _:
            return Actions("start", start=resume or "Start again", talk=can_talk)


def again_with(rung: Suggestion) -> str:
    """The button for a rung of the ladder that a person has to choose.

    >>> again_with(Suggestion("", {"max_length": 512}))
    'Run again with rows of 512 tokens'
    """
    changes = rung.changes
    if "model_name_or_path" in changes:
        what = short_model(changes["model_name_or_path"])
    elif "max_length" in changes:
        what = f"rows of {many(changes['max_length'], 'token')}"
    elif "method" in changes:
        what = "an adapter"
    elif changes.get("gradient_checkpointing"):
        what = "gradient checkpointing"
    elif "fsdp" in changes:
        what = "the weights shared"
    else:
        what = "smaller batches"
    return f"Run again with {what}"


def other_ways(rungs: Sequence[Suggestion], labels: Sequence[str] = ()) -> str:
    """Under the problem: the rungs behind the first, which has a button of its own. labels: of their buttons, where
    they say more than `again_with`."""
    labels = labels or [again_with(rung) for rung in rungs]
    items = "".join(
        f"<li><span>{esc(rung.says)}</span>"
        f'<button type="button" class="btn" data-rung="{place}">{esc(labels[place])}</button></li>'
        for place, rung in enumerate(rungs)
        if place
    )
    return f'<ul class="ladder">{items}</ul>' if items else ""


NO_RUNG = ("There is no setting left that saves memory here.", "Choose a smaller model, or a machine with more memory.")
