"""What can be tried before a training: prompts on the untuned model, and several settings at once. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_core.job import Said, goes_on

from . import words_prove
from .words import duration, esc, join, many, notice, percent, wait_bar
from .words_choose import field_title

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
        return title + _bar(said, now, "Trying prompts.")
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


def sweep(said: Said | None, found: Mapping[str, Any] | None, now: float) -> str:
    """The trials: how far they are, and the table, best first."""
    top = ""
    if goes_on(said):
        top = _bar(said, now, "Trying settings.")
    elif said is not None and said.outcome == "failed" and said.error:
        top = notice("bad", said.error["problem"], said.error["fix"])
    if not found or not found.get("trials"):
        return top
    sentence = f'<p class="before-says num">{esc(found["sentence"])}</p>' if found.get("sentence") else ""
    proved = f'<p class="again-text num">On the test rows: {esc(found["proved"])}</p>' if found.get("proved") else ""
    return top + sentence + proved + _table(found["trials"])


def _table(trials: Sequence[Mapping[str, Any]]) -> str:
    fields = list(trials[0]["values"])
    head = "".join(f'<th scope="col">{esc(field_title(name))}</th>' for name in fields)
    rows = "".join(_trial(trial, fields) for trial in trials)
    return (
        '<div class="beside-scroll"><table class="beside-table"><thead><tr><th scope="col">Validation loss</th>'
        f"{head}<th></th><th></th></tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _trial(trial: Mapping[str, Any], fields: Sequence[str]) -> str:
    loss = trial.get("validation_loss")
    cells = "".join(f"<td>{esc(f'{value:g}' if isinstance(value, float) else value)}</td>"
                    for value in (trial["values"].get(name) for name in fields))  # fmt: skip
    outcome = OUTCOMES.get(trial["outcome"], trial["outcome"])
    tip = f' title="{esc(trial["problem"])}"' if trial.get("problem") else ""
    use = (
        f'<button type="button" class="btn quiet" data-settings="{esc(trial["run"])}">Use these settings</button>'
        if trial.get("run")
        else ""
    )
    return (
        f'<tr><th scope="row">{"–" if loss is None else f"{loss:.3f}"}</th>{cells}'
        f"<td{tip}>{esc(outcome)}</td><td>{use}</td></tr>"
    )


def _bar(said: Said, now: float, title: str) -> str:
    seconds, share = said.seconds_left(now), said.fraction
    left = "" if seconds is None else f" About {duration(seconds)} left."
    waits = said.says.startswith("waiting")
    text = "Waiting for its turn: another training or comparison has the machine." if waits else f"{said.says}{left}"
    far = "" if share is None else percent(share)
    return f'{wait_bar(share, title)}<p class="again-text num">{esc(title)} {far} {esc(text)}&nbsp;</p>'
