"""The whole comparison in words: what it would show, how far it is, what can be chosen about it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune_core.job import Said, goes_on

from .words import duration, esc, notice, percent, wait_bar

Report = Mapping[str, Any]

START, AGAIN, NOW = "Compare with better prompts", "Compare again", "Compare now"
STARTING, STOP, STOPPING = "Starting…", "Stop comparing", "Ending…"
OPTIONS = "What to compare, and how"
METRICS = (
    ("What fits the answers", ""),
    ("Exact match (labels)", "label"),
    ("Fields of JSON", "json"),
    ("Likeness of texts (chrF)", "text"),
    ("Loss only", "loss"),
)
SYSTEM = ("Your own prompt for the untuned model", "The best instructions that you can think of. Empty: written from "
          "what the training answers look like.")  # fmt: skip
EXAMPLES = ("Examples in the prompt", "For the rivals with examples; 0 leaves them out.")
ROWS = ("Test rows", "More rows show smaller differences, and take longer.")
METRIC = ("Scored by", "")
FORGETTING = ("Ask 150 general questions too", "Facts, sums, instructions, language, refusing: what was forgotten.")
JUDGE_URL = ("Judge: address", "A second opinion by any OpenAI-compatible endpoint. It is sent the test rows and the "
             "answers; leave it empty to keep them on this machine.")  # fmt: skip
JUDGE_MODEL = ("Judge: model", "Its name there.")
JUDGE_KEY = ("Judge: key", "Used for this comparison and kept nowhere.")
CHECK = ("Your own check", "Python that says whether an answer is right, for code or SQL perhaps. It runs in a process "
         "of its own with limits on time and memory, and without the network where this system can do so.")  # fmt: skip
CHECK_EXAMPLE = "def check(answer, reference, row):\n    return reference in answer"


def card(report: Report | None, said: Said | None, error: bool, now: float) -> str:
    """What stands above the button: how far it is, or what pressing it would show."""
    if goes_on(said):
        return _progress(said, now)
    problem = notice("bad", said.error["problem"], said.error["fix"]) if error and said and said.error else ""
    if not report:
        return problem
    if report.get("quick"):
        return problem + _says(
            "Would a better prompt have done it too?",
            "So far only the untuned model was asked. The whole comparison also gives it a better prompt, examples, "
            f"and the most similar rows, and sees what was forgotten. {_about(report)}",
        )
    return problem + _says(
        "Compare again",
        "With a prompt of your own, more rows, another score, a judge, or a check of your own.",
    )


def _says(title: str, text: str) -> str:
    return f'<h3 class="card-title">{esc(title)}</h3><p class="again-text">{esc(text)}</p>'


def _about(report: Report) -> str:
    """How long, from what base and tuned took: longer prompts, three more rivals and the probe."""
    seconds = float(report.get("seconds") or 0)
    return f"It takes about {duration(5 * seconds)} here." if seconds else ""


def _progress(said: Said, now: float) -> str:
    """A bar, who is being asked, and the time that is left."""
    if said.fraction is None:
        waits = said.says.startswith("waiting")
        title = "Waiting for its turn." if waits else "Starting."
        text = (
            "Another training or comparison has the machine; this begins by itself." if waits else "Loading the model."
        )
        return _bar(title, text, None)
    left = said.seconds_left(now)
    end = f" About {duration(left)} left." if left is not None else ""
    asked = {"the loss": "Measuring the loss.", "what was forgotten": "Asking general questions.",
             "the judge": "Asking the judge.", "loading the model": "Loading the model.", "": ""}  # fmt: skip
    now_asked = asked.get(said.says, f"Now: {said.says}.")
    return _bar("Comparing.", f"{now_asked}{end} You may close the page; it goes on.", said.fraction)


def _bar(title: str, text: str, fraction: float | None) -> str:
    return (
        f'<h3 class="card-title">{esc(title)} <span class="num again-share">'
        f"{percent(fraction) if fraction is not None else ''}</span></h3>"
        f'{wait_bar(fraction, "Comparison")}<p class="again-text num">{esc(text)}&nbsp;</p>'
    )


def label(report: Report | None) -> str:
    return NOW if not report else START if report.get("quick") else AGAIN
