"""What can be tried before a training: prompts on the untuned model, and several settings at once. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from finetune_core.alone import WAITING
from finetune_core.amounts import duration, many
from finetune_core.job import Said, goes_on
from finetune_core.recipe import Recipe

from . import words_comparing, words_prove
from .words import esc, how_far, join, notice
from .words_fields import field_title

PROMPTS_TITLE = "Should you fine-tune at all?"
PROMPTS_TEXT = (
    "Perhaps a better prompt will do. This asks the untuned model your test rows as they are, with a better prompt, "
    "with examples, and with the most similar rows, and says what is left to win."
)
PROMPTS_START, PROMPTS_AGAIN = "Try prompts first", "Try again"
SWEEP_TITLE = "Try several settings"
SWEEP_TEXT = (
    "Trains once for each setting, gives up early on what falls behind, and ranks them by their loss on the validation "
    "rows. The test rows stay unseen until the best one is proved on them."
)
SWEEP_START, STARTING, STOP, STOPPING = "Start the trials", "Starting…", "Stop", "Ending…"
RATES = ("Learning rates", "With commas between.")
RANKS = ("Adapter ranks", "With commas between.")
EPOCHS = ("Epochs", "With commas between.")
TRIALS = ("Trials", "At most this many.")
OUTCOMES = {
    "finished": "", "running": "going on", "pruned": "fell behind", "stopped": "stopped", "failed": "failed",
}  # fmt: skip


def prompts(said: Said | None, report: Mapping[str, Any] | None, about: str, now: float) -> str:
    """The card that asks whether to train: the offer, how far it is, or what came out."""
    title = f'<h3 class="card-title">{PROMPTS_TITLE}</h3>'
    if goes_on(said):
        return words_comparing.progress(said, now, "Trying prompts.") + _on(about)
    if said is not None and said.outcome == "failed" and said.error:
        return f'{title}<p class="again-text">{PROMPTS_TEXT}</p>' + notice(
            "bad", said.error["problem"], said.error["fix"]
        )
    if not report:
        return f'{title}<p class="again-text">{PROMPTS_TEXT}</p>'
    sentence = str((report.get("verdict") or {}).get("sentence", ""))
    under = join([esc(about), many(int(report.get("n") or 0), "row"), esc(report.get("metric", "")),
                  f"tried in {duration(report['seconds'])}" if report.get("seconds") else ""])  # fmt: skip
    bars = words_prove.bars(report) if report.get("rivals") else ""
    return (
        f'{title}<p class="before-says num">{esc(sentence)}</p><p class="muted num">{under}</p>'
        f'<details class="before-more"><summary>What each prompt reached</summary>{bars}</details>'
    )


def _on(about: str) -> str:
    return f'<p class="muted num before-about">{esc(about)}</p>' if about else ""


def sweep_title(said: Said | None, found: Mapping[str, Any] | None) -> str:
    """The title of the fold, which is closed when the page is loaded again."""
    return f"{SWEEP_TITLE}: going on" if goes_on(said) else f"{SWEEP_TITLE}: tried" if found else SWEEP_TITLE


def sweep(said: Said | None, found: Mapping[str, Any] | None, about: str, now: float) -> str:
    """The trials: how far they are, and the table, best first."""
    top = ""
    if goes_on(said):
        top = how_far("Trying settings.", _trying(said, found or {}, now), said.fraction, "Trials")
    elif said is not None and said.outcome == "failed" and said.error:
        top = notice("bad", said.error["problem"], said.error["fix"])
    if not found or not found.get("trials"):
        return top
    sentence = f'<p class="before-says num">{esc(_titled(found["sentence"]))}</p>' if found.get("sentence") else ""
    proved = f'<p class="again-text num">On the test rows: {esc(found["proved"])}</p>' if found.get("proved") else ""
    return top + sentence + proved + _on(about) + _table(found["trials"])


def _trying(said: Said, found: Mapping[str, Any], now: float) -> str:
    """Which trial goes on, and the time that is left."""
    trials, left = found.get("trials") or [], said.seconds_left(now)
    trial = next((trial for trial in trials if trial["outcome"] == "running"), None)
    says = f"{_titled(said.says[:1].upper() + said.says[1:])}." if said.says else ""
    if trial:
        values = ", ".join(f"{field_title(name)} {_plain(value)}" for name, value in trial["values"].items())
        says = f"Trial {len(trials)} of {found['asked']}: {values}."
        if said.says.endswith(WAITING):
            says += " It waits for other work on this machine."
    return join([says, f"About {duration(left)} left." if left is not None else "", words_comparing.GOES_ON], " ")


def _titled(text: str) -> str:
    """A sentence with its settings under the names that the page has for them.

    >>> _titled("learning_rate 0.001, lora_r 16")
    'Learning rate 0.001, Adapter rank 16'
    """
    return re.sub(r"\b[a-z]+(?:_[a-z]+)+\b", lambda found: _known_title(found[0]), text)


def _known_title(name: str) -> str:
    return field_title(name) if name in Recipe.model_fields else name


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _table(trials: Sequence[Mapping[str, Any]]) -> str:
    fields = list(trials[0]["values"])
    head = "".join(f'<th scope="col">{esc(field_title(name))}</th>' for name in fields)
    rows = "".join(_trial(trial, fields) for trial in trials)
    return (
        '<div class="beside-scroll"><table class="beside-table"><thead><tr><th scope="col">Validation loss</th>'
        f'{head}<th scope="col"><span class="visually-hidden">Outcome</span></th>'
        '<th scope="col"><span class="visually-hidden">Its settings</span></th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _trial(trial: Mapping[str, Any], fields: Sequence[str]) -> str:
    loss = trial.get("validation_loss")
    cells = "".join(f"<td>{esc(_plain(trial['values'].get(name)))}</td>" for name in fields)
    outcome = OUTCOMES.get(trial["outcome"], trial["outcome"])
    why = f'<small class="trial-why">{esc(trial["problem"])}</small>' if trial.get("problem") else ""
    use = (
        f'<a class="btn quiet" href="./?run={esc(trial["run"])}">Open</a>'
        f'<button type="button" class="btn quiet" data-settings="{esc(trial["run"])}">Use these settings</button>'
        if trial.get("run")
        else ""
    )
    return (
        f'<tr><th scope="row">{"–" if loss is None else f"{loss:.3f}"}</th>{cells}'
        f"<td>{esc(outcome)}{why}</td><td>{use}</td></tr>"
    )
