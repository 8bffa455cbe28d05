"""A repair tried beside the rows as they are: what it would change is counted from the rows at hand.

Where only the source can tell (another header), the source is read with the repair, as it is when it is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from finetune_core.errors import explain

from . import words_repair
from .looking import what_it_reads

if TYPE_CHECKING:
    from finetune_core.data.changes import Difference
    from finetune_core.data.findings import Finding
    from finetune_core.recipe import Recipe

    from .looking import Look, Looks

CHANGES_NO_ROW = "replace-broken-characters"  # they were replaced as they were read; this accepts it
WAIT_SECONDS = 0.3


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
    """Only repairs that change rows; a longer max_length shows in the histogram."""
    changes = finding.suggestion.changes if finding.suggestion is not None else {}
    return set(changes) == {"fixes"} and changes["fixes"][-1] != CHANGES_NO_ROW


def begin(looks: Looks, look: Look, said: Mapping[str, Any], now: Trial | None) -> Trial | None:
    """The finding that was clicked, or none if it was open already: then a reading for it ends too."""
    clicked = Trial(str(said.get("code", "")), what_it_reads(look.recipe))
    recipe = _repaired(look, clicked)
    if recipe is None:
        return None
    if clicked == now:
        looks.leave(recipe)
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
    """The difference that the repair makes; counted in the background."""
    recipe = _repaired(look, trial)
    if recipe is None:
        return None
    try:
        found = looks.soon(look, ("trial", trial.code), lambda: _foretold(look, recipe)).result(WAIT_SECONDS)
        if found is not None:
            return _drawn(look, trial, found)
    except NotYet:
        return Shown(trial.code, words_repair.waiting(None), pending=True)
    except Exception as error:
        return Shown(trial.code, words_repair.failed(explain(error)))
    tried = looks.ask(recipe, who=f"{who} trial", wait_seconds=WAIT_SECONDS)
    if tried.error is not None:
        return Shown(trial.code, words_repair.failed(tried.error))
    if tried.seen is None:
        return Shown(trial.code, words_repair.waiting(tried.fraction), pending=True)
    return _drawn(look, trial, look.once(("read for", trial.code), lambda: _read_again(look, tried)))


def _foretold(look: Look, recipe: Recipe) -> Difference | None:
    from finetune_core.data.trying import try_repair

    seen = look.seen
    return try_repair(seen.prepared, seen.diagnosis.concerned, look.recipe, recipe.fixes[-1])


def _read_again(look: Look, tried: Look) -> Difference:
    from finetune_core.data.changes import difference

    return difference(look.seen.prepared, tried.seen.prepared)


def _drawn(look: Look, trial: Trial, found: Difference) -> Shown:
    from finetune_core.data.changes import Change

    finding, examples = _finding(look, trial.code), found.examples
    if not examples:  # rows that could not be used before either
        files = finding.files or ("",) * len(finding.rows)
        known = zip(finding.rows, finding.examples, files, strict=False)
        examples = tuple(Change(row, text, None, file) for row, text, file in known)
    return Shown(trial.code, words_repair.preview(found, examples[: words_repair.SHOWN]))
