"""The plan's measurement: its button, how far it is, what came of it. Pure."""

from __future__ import annotations

from typing import Any

from finetune_core.amounts import count, gib
from finetune_core.errors import FinetuneError
from finetune_core.job import Said, goes_on

from .words import error_card, esc, how_far, notice

START, AGAIN, STOP, STOPPING = "Measure (10 seconds)", "Measure again", "Stop measuring", "Ending…"
TEXT = "Trains for ten seconds with your model and rows, and keeps the speed and the memory, nothing else."
TITLE, WAITING = "Measuring.", "Waiting for its turn."
DOING = {
    "": "Starting.",
    "waiting for its turn": "Other work has the machine; this begins by itself.",
    "reading the rows": "Reading the rows.",
    "fetching the model": "Fetching the model, if it is not here yet.",
    "loading the model": "Reading the model's weights into memory.",
    "measuring": "Training for ten seconds; the plan then says what was measured.",
}


def measurement(said: Said | None, refused: FinetuneError | None, ending: bool) -> str:
    """The lowest part of the plan's card."""
    if goes_on(said):
        title = WAITING if said.says.startswith("waiting") else TITLE
        label = STOPPING if ending else STOP
        off = " disabled" if ending else ""
        return _part(
            how_far(title, DOING.get(said.says, ""), said.fraction, title)
            + f'<button type="button" class="btn" data-halt{off}>{label}</button>'
        )
    problem, says, label = "", TEXT, START
    if refused is not None:
        problem = error_card(refused)
    elif said is not None and said.outcome == "failed" and said.error:
        problem, label = notice("bad", said.error["problem"], said.error["fix"]), AGAIN
    elif said is not None and said.outcome == "finished" and said.made:
        says, label = measured(said.made), AGAIN
    return _part(
        f'{problem}<div class="measure-row"><p class="num">{esc(says)}</p>'
        f'<button type="button" class="btn" data-measure>{label}</button></div>'
    )


def measured(made: dict[str, Any]) -> str:
    """
    >>> measured({"tokens_per_second": 240.4, "peak_gb": 1.2})
    'Measured: 240 tokens a second, 1.2 GB at most.'
    """
    return f"Measured: {count(made['tokens_per_second'])} tokens a second, {gib(made['peak_gb'])} at most."


def _part(inner: str) -> str:
    return f'<div class="measure" aria-live="polite">{inner}</div>'
