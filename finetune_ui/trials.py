"""A repair tried beside the rows as they are: the rows are read again with it, and what differs is shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import words_repair
from .looking import what_it_reads

if TYPE_CHECKING:
    from finetune_core.data.findings import Finding

    from .looking import Look, Looks


@dataclass(frozen=True)
class Trial:
    """Which finding's repair is shown, over which rows."""

    code: str
    over: str  # key of the rows that the finding was about: for any other rows the trial is over


@dataclass(frozen=True)
class Shown:
    """The trial as html under its finding."""

    code: str
    html: str
    pending: bool = False


def can_be_tried(finding: Finding) -> bool:
    """Only repairs of rows; a longer max_length shows in the histogram."""
    return finding.suggestion is not None and set(finding.suggestion.changes) == {"fixes"}


def begin(look: Look, said: Mapping[str, Any], now: Trial | None) -> Trial | None:
    """The finding that was clicked, or none if it was open already."""
    code = str(said.get("code", ""))
    if look.seen is None or (now is not None and now.code == code and now.over == what_it_reads(look.recipe)):
        return None
    known = any(finding.code == code and can_be_tried(finding) for finding in look.seen.diagnosis.findings)
    return Trial(code, what_it_reads(look.recipe)) if known else None


def show(looks: Looks, look: Look | None, trial: Trial | None, who: str) -> Shown | None:
    """The difference that the repair makes; read in the background, so that applying it then is instant."""
    if trial is None or look is None or look.seen is None or trial.over != what_it_reads(look.recipe):
        return None
    finding = next((each for each in look.seen.diagnosis.findings if each.code == trial.code), None)
    if finding is None or not can_be_tried(finding):
        return None
    tried = looks.ask(look.recipe.replace(**finding.suggestion.changes), who=f"{who} trial", wait_seconds=0.3)
    if tried.error is not None:
        return Shown(trial.code, words_repair.failed(tried.error))
    if tried.seen is None:
        return Shown(trial.code, words_repair.waiting(tried.fraction), pending=True)
    return Shown(trial.code, look.once(("trial", trial.code), lambda: _drawn(look, tried, finding)))


def _drawn(look: Look, tried: Look, finding: Finding) -> str:
    from finetune_core.data.changes import Change, difference

    found = difference(look.seen.prepared, tried.seen.prepared)
    examples = found.examples
    if not examples:  # rows that could not be used before either
        pairs = zip(finding.rows, finding.examples, strict=False)
        examples = tuple(Change(row, text, None) for row, text in pairs)
    return words_repair.preview(found, examples[: words_repair.SHOWN])
