"""The whole comparison in words: what it would show, how far it is, what can be chosen about it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from finetune_core.amounts import duration
from finetune_core.errors import FinetuneError
from finetune_core.job import Said, goes_on

from .words import esc, how_far, icon, join, notice

Report = Mapping[str, Any]

START, AGAIN, NOW = "Compare with better prompts", "Compare again", "Compare now"
STARTING, STOP, STOPPING = "Starting…", "Stop comparing", "Ending…"
GOES_ON = "You may close the page; it goes on."
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
        return progress(said, now, "Comparing.")
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


def progress(said: Said, now: float, title: str) -> str:
    """A bar, who is being asked, and the time that is left."""
    if said.fraction is None:
        waits = said.says.startswith("waiting")
        text = "Other work has the machine; this begins by itself." if waits else "Loading the model."
        return how_far("Waiting for its turn." if waits else "Starting.", text, None, title)
    left = said.seconds_left(now)
    asked = {"the loss": "Measuring the loss.", "what was forgotten": "Asking general questions.",
             "the judge": "Asking the judge.", "loading the model": "Loading the model.",
             "reading the rows": "Reading the rows.", "": ""}  # fmt: skip
    parts = [
        asked.get(said.says, f"Now: {said.says}."),
        f"About {duration(left)} left." if left is not None else "",
        GOES_ON,
    ]
    return how_far(title, join(parts, " "), said.fraction, title)


def sends(address: str) -> str:
    """Beside the button: who is sent the rows. It stands there always, so that naming a judge moves nothing."""
    try:
        host = urlsplit(str(address or "").strip()).hostname
    except ValueError:
        host = None
    if not host or host in ("localhost", "127.0.0.1", "::1"):
        return f'<p class="again-sends" role="status">{icon("check")}The rows and the answers stay on this machine.</p>'
    says = f"The test rows and the answers go to <b>{esc(host)}</b>."
    return f'<p class="again-sends away" role="status">{icon("warn")}<span>{says}</span></p>'


def no_command(error: FinetuneError) -> str:
    """Instead of the line to copy, while a box is not filled in yet."""
    return f'<p class="again-text">No command yet. {esc(error.problem)} {esc(error.fix)}</p>'


def command_title(own_check: bool) -> str:
    return "In a terminal, from the folder of Fijn" + (", with your check saved there as check.py" if own_check else "")


def label(report: Report | None) -> str:
    return NOW if not report else START if report.get("quick") else AGAIN
