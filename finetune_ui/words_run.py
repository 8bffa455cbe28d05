"""What a run says while it trains and when it is over. Pure: Progress and Recipe in, text or escaped html out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_core.amounts import clock, count, duration, many, percent
from finetune_core.progress import STAGES, Progress, reached
from finetune_core.recipe import Recipe, Suggestion

from .words import esc, join, notice
from .words_actions import other_ways

STAGE_TITLES = {
    "waiting for its turn": "Waiting",
    "fetching": "Fetching",
    "preparing data": "Preparing data",
    "loading the model": "Loading model",
    "training": "Training",
    "saving": "Saving",
    "evaluating": "Comparing",
}
STAGE_SENTENCES = {
    "starting": ("Starting.", "The training process is waking up; this takes a few seconds."),
    "waiting for its turn": (
        "Waiting for its turn.",
        "Another training or comparison has the machine. This one begins by itself after it; you may close the page.",
    ),
    "fetching": ("Getting the model.", "If it is not on this machine yet, it is fetched now; only this once."),
    "preparing data": ("Preparing the rows.", "Splitting them, and turning words into tokens."),
    "loading the model": ("Loading the model.", "Reading its weights into memory."),
    "training": ("Learning.", ""),
    "saving": ("Saving what was learned.", ""),
    "evaluating": (
        "Comparing with the base model.",
        "Every rival answers the same test rows, none of which it was trained on.",
    ),
}


# --- text ---


def trained_line(progress: Progress) -> str:
    """One line for the folded step."""
    if not progress.step:
        return STAGE_SENTENCES.get(progress.stage, ("Not begun yet.", ""))[0].rstrip(".")
    validation = f"validation loss {progress.eval_loss[-1][1]:.2f}" if progress.eval_loss else ""
    steps = (
        many(reached(progress), "step")
        if progress.outcome == "finished"
        else f"{count(reached(progress))} of {many(progress.total_steps, 'step')}"
    )
    return join([f"{steps} in {duration(progress.seconds)}", validation])


def headline(status: str, progress: Progress, *, checkpoint: int | None = None) -> tuple[str, str]:
    """The large sentence and the quiet one under it."""
    match status:
        case "new":
            return "Not begun yet.", "Everything is decided; press Start when you like."
        case "running" if progress.stage == "training" and not progress.step:
            return "Learning.", "It answers the fixed question once as it is; then the first step."
        case "running" if progress.stage == "training":
            again = " It was resumed from a checkpoint." if progress.workers > 1 else ""
            return f"Learning: step {count(reached(progress))} of {count(progress.total_steps)}.", _pace(
                progress
            ) + again
        case "running":
            stage = progress.stage if progress.outcome is None and progress.error is None else "starting"
            return STAGE_SENTENCES.get(stage, (f"{stage.capitalize()}.", ""))
        case "finished":
            best = f" The best checkpoint, step {count(progress.best_step)}, is kept." if progress.best_step else ""
            return f"Trained in {duration(progress.seconds)}.", f"{_fall(progress)}{best}"
        case "stopped":
            return (
                f"Stopped at step {count(reached(progress))} of {count(progress.total_steps)}.",
                "What it learned until then is kept: you can talk to it, or let it go on.",
            )
        case "failed" if (progress.error or {}).get("code") == "stopped-waiting":
            return "It left the queue.", "It was stopped while it waited for its turn."
        case "failed":
            kept = f"Step {count(checkpoint)} is kept; it can go on from there." if checkpoint else ""
            return f"It failed while {progress.stage}.", kept or "Nothing was lost: no step had been saved yet."
        case _:
            if checkpoint:
                return (
                    f"Interrupted after step {count(reached(progress))}.",
                    f"The process ended without a word (a restart, perhaps). Step {count(checkpoint)} is kept.",
                )
            return "Interrupted.", "The process ended before its first checkpoint; it starts again from the beginning."


def _pace(progress: Progress) -> str:
    if progress.seconds_left is None:
        return "The first steps are slower and say little about the time that is left."
    return f"About {duration(progress.seconds_left)} left. You may close the page; it goes on."


def _fall(progress: Progress) -> str:
    """What the curves did, in a sentence."""
    points = progress.eval_loss if len(progress.eval_loss) > 1 else progress.loss
    if len(points) < 2:
        return ""
    name = "validation loss" if points is progress.eval_loss else "loss"
    first, last = points[0][1], points[-1][1]
    verb = "fell" if last < first else "rose"
    return f"The {name} {verb} from {first:.2f} to {last:.2f}."


# --- html ---


HALTED = "stopped here"


def head(status: str, progress: Progress, recipe: Recipe, said: tuple[str, str], halted: str = HALTED) -> str:
    """The large sentence and the one under it (`said`), and the stages with their own progress.

    halted: what stands at the stage in which nothing moves any more.
    """
    says, under = said
    return (
        f'<section class="run-head {esc(status)}"><h2 class="run-says">{esc(says)}</h2>'
        f'<p class="run-under">{esc(under)}&nbsp;</p>'
        f"{stages(status, progress, recipe, halted)}</section>"
    )


def stages(status: str, progress: Progress, recipe: Recipe, halted: str = HALTED) -> str:
    """The way of a run: each stage with its share done, the seconds it took, and a mark."""
    shown = [
        name
        for name in STAGES
        if (name != "waiting for its turn" or progress.stage == name or progress.stage_seconds.get(name, 0) >= 2)
        and (name != "evaluating" or recipe.evaluate)
    ]
    now = shown.index(progress.stage) if progress.stage in shown else -1
    parts = []
    if status == "stopped" and "training" in shown:  # it saved after it stopped, but it is training that was cut
        now = shown.index("training")
    for index, name in enumerate(shown):
        done = (index < now and status != "new") or status == "finished"
        done = done or (status == "stopped" and name == "saving")
        current = index == now and not done
        state = "done" if done else _current_state(status) if current else "ahead"
        share = 1.0 if done else _share(name, progress) if current else 0.0
        unknown = " unknown" if share is None and state == "now" else ""
        seconds = progress.stage_seconds.get(name)
        small = clock(seconds) if done and seconds is not None else _small(share, state, halted)
        parts.append(
            f'<li class="stage {state}{unknown}{" wide" if name == "training" else ""}"'
            f"{' aria-current=step' if state == 'now' else ''}>"
            f'<i class="stage-bar"><i style="width:{100 * (share or 0):.1f}%"></i></i>'
            f'<span class="stage-name">{STAGE_TITLES[name]}</span>'
            f'<span class="stage-note num">{small}&nbsp;</span></li>'
        )
    return f'<ol class="stages" aria-label="Stages of the training">{"".join(parts)}</ol>'


def _current_state(status: str) -> str:
    return {"running": "now", "failed": "broken", "interrupted": "halted", "stopped": "halted"}.get(status, "now")


def _share(name: str, progress: Progress) -> float | None:
    if name == "training":
        return min(1.0, reached(progress) / progress.total_steps) if progress.total_steps and progress.step else None
    return progress.stage_fraction


def _small(share: float | None, state: str, halted: str) -> str:
    if state == "broken":
        return "failed"
    if state == "halted":
        return halted
    return percent(share) if state == "now" and share is not None else ""


def problem_card(status: str, progress: Progress, rungs: Sequence[Suggestion] = (), labels: Sequence[str] = ()) -> str:
    """The diary's error as problem and fix, what may be tried instead, and its warnings; empty when all is well."""
    card = ""
    if status == "failed" and progress.error and progress.error["code"] != "stopped-waiting":
        card = notice("bad", progress.error["problem"], progress.error["fix"]) + other_ways(rungs, labels)
    if progress.warnings:
        items = "".join(f"<li>{esc(says)}</li>" for says in progress.warnings[:5])
        card += f'<ul class="run-warnings">{items}</ul>'
    return card


# --- the proof in a line, for the folded step and the list of runs ---


def proved_line(report: Mapping[str, Any] | None) -> str:
    """The verdict's first sentence."""
    sentence = str((report or {}).get("verdict", {}).get("sentence", ""))
    first, dot, _ = sentence.partition(". ")
    return first + "." if dot else sentence


def verdict_short(report: Mapping[str, Any] | None) -> str:
    """The verdict in two words; empty when there is none.

    >>> verdict_short({"metric": "Exact match", "verdict": {"difference": 0.29, "better": "tuning"}})
    '+29 points'
    """
    verdict = (report or {}).get("verdict") or {}
    if verdict.get("difference") is None:
        return ""
    if verdict.get("better") is None:
        return "no clear gain"
    if "loss" in str((report or {}).get("metric", "")).lower():  # nats are no points
        return "lower loss" if verdict["difference"] > 0 else "higher loss"
    points = round(100 * verdict["difference"])
    return f"{'+' if points > 0 else '−' if points < 0 else '±'}{abs(points)} points"


def verdict_tone(report: Mapping[str, Any] | None) -> str:
    """good for a gain that the rows show, bad for a loss that they show, even for everything else.

    >>> verdict_tone({"verdict": {"difference": 0.02, "better": None}})
    'even'
    """
    verdict = (report or {}).get("verdict") or {}
    if verdict.get("better") is None or not verdict.get("difference"):
        return "even"
    return "good" if verdict["difference"] > 0 else "bad"
