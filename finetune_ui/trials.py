"""A repair tried beside the rows as they are: the rows are read again with it, and what differs is shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import words_repair
from .looking import what_it_reads

if TYPE_CHECKING:
    from finetune_core.data.findings import Finding
    from finetune_core.recipe import Recipe

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


def begin(looks: Looks, look: Look, said: Mapping[str, Any], now: Trial | None) -> Trial | None:
    """The finding that was clicked, or none if it was open already: then the reading for it ends too."""
    clicked = Trial(str(said.get("code", "")), what_it_reads(look.recipe))
    recipe = _repaired(look, clicked)
    if recipe is None:
        return None
    if clicked == now:
        if looks.ask(recipe).pending:
            looks.again(recipe)
        return None
    return clicked


def _repaired(look: Look | None, trial: Trial | None) -> Recipe | None:
    """The recipe with the repair; None where the finding is no longer there."""
    if trial is None or look is None or look.seen is None or trial.over != what_it_reads(look.recipe):
        return None
    finding = _finding(look, trial.code)
    return look.recipe.replace(**finding.suggestion.changes) if finding is not None else None


def _finding(look: Look, code: str) -> Finding | None:
    found = look.seen.diagnosis.findings
    return next((each for each in found if each.code == code and can_be_tried(each)), None)


def show(looks: Looks, look: Look | None, trial: Trial | None, who: str) -> Shown | None:
    """The difference that the repair makes; read in the background, so that applying it then is instant."""
    recipe = _repaired(look, trial)
    if recipe is None:
        return None
    tried = looks.ask(recipe, who=f"{who} trial", wait_seconds=0.3)
    if tried.error is not None:
        return Shown(trial.code, words_repair.failed(tried.error))
    if tried.seen is None:
        return Shown(trial.code, words_repair.waiting(tried.fraction), pending=True)
    return Shown(trial.code, look.once(("trial", trial.code), lambda: _drawn(look, tried, _finding(look, trial.code))))


def _drawn(look: Look, tried: Look, finding: Finding) -> str:
    from finetune_core.data.changes import Change, difference

    found = difference(look.seen.prepared, tried.seen.prepared)
    examples = found.examples
    if not examples:  # rows that could not be used before either
        pairs = zip(finding.rows, finding.examples, strict=False)
        examples = tuple(Change(row, text, None) for row, text in pairs)
    return words_repair.preview(found, examples[: words_repair.SHOWN])
