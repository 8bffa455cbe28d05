"""A repair tried on rows that were looked at already: only the rows that it is about are read again.

What comes out is what reading the source with the repair would give (`changes.difference`), in seconds for a million
rows. Where that cannot be had without reading the source, there is no answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from ..recipe import Recipe
from .changes import Difference, Read, numbers_of, reader, row_says, told
from .duplicates import Keys, row_keys
from .labels import find_labels, one_spelling
from .prepared import as_repaired
from .problems import DROP_REASONS, TOKEN_FIXES
from .rewriting import REWRITES
from .rows import Rows
from .staying import LEAVING, find_doubles, staying

if TYPE_CHECKING:
    from .intake import Places
    from .prepared import Prepared

ONE_SPELLING, AS_TEXT = "trim-labels", "numbers-to-text"
ASKS_LABELS = frozenset(["drop-conflicts", ONE_SPELLING])
ASKS_OTHERS = ASKS_LABELS | set(LEAVING)  # repairs that look at other rows than the one that is repaired


def try_repair(prepared: Prepared, concerned: Mapping[str, np.ndarray], recipe: Recipe, fix: str) -> Difference | None:
    """What one more repair would change. `concerned`: of the check of these rows.

    None: only reading the source again can tell (another encoding; new lengths where long rows are left out).
    """
    before, after = set(recipe.fixes), recipe.replace(fixes=[*recipe.fixes, fix])
    counts_tokens = bool(before & TOKEN_FIXES.keys())
    if fix in DROP_REASONS:  # they could never be used
        seen = prepared.intake.tally.get(DROP_REASONS[fix])
        return Difference(seen.count if seen else 0, 0, 0)
    if fix in TOKEN_FIXES:
        return _between(prepared, _without(numbers_of(prepared), concerned[fix]))
    if fix in LEAVING:
        return _left_out(prepared, recipe, after)
    if fix == ONE_SPELLING and not counts_tokens:
        return _respelled(prepared)
    if fix in REWRITES and not counts_tokens:
        return _rewritten(prepared, concerned, recipe, fix)
    if fix == AS_TEXT and not counts_tokens and not before & ASKS_OTHERS and recipe.max_rows is None:
        return _taken_in(prepared, recipe)
    return None


def _without(numbers: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The rows that are not among the others, in their order; numpy's setdiff1d looks for repeats first, which takes
    seconds for a million."""
    return numbers[~np.isin(numbers, others)]


def _between(prepared: Prepared, numbers: np.ndarray) -> Difference:
    """These rows instead of those that there are; none of them changes."""
    now, read = numbers_of(prepared), reader(prepared)
    gone, come = _without(now, numbers), _without(numbers, now)
    return Difference(len(gone), 0, len(come), told(gone, (), come, read, read))


def _left_out(prepared: Prepared, recipe: Recipe, after: Recipe) -> Difference | None:
    found, splits = prepared.doubles, prepared.intake.splits
    was, stays = (staying(found, splits, each)[0] for each in (recipe, after))
    misfits = _without(was, numbers_of(prepared))  # left out by their tokens since
    if len(misfits) and len(_without(stays, was)):
        return None  # another sample, with rows whose tokens nobody counted
    return _between(prepared, _without(stays, misfits))


def _respelled(prepared: Prepared) -> Difference:
    labels, now = prepared.labels, numbers_of(prepared)
    if labels is None:
        return Difference(0, 0, 0)
    changed = now[labels.is_variant[now]]
    after = _reader(prepared.intake.places, prepared.train.changed(one_spelling(labels)))
    return Difference(0, len(changed), 0, told((), _pairs(changed), (), reader(prepared), after))


def _rewritten(prepared: Prepared, concerned: Mapping[str, np.ndarray], recipe: Recipe, fix: str) -> Difference | None:
    """Texts change, and with them what repeats what; what is near what is always asked of the rows as read."""
    intake, now, labels = prepared.intake, numbers_of(prepared), prepared.labels
    rows = as_repaired(intake.rows, recipe.replace(fixes=[*recipe.fixes, fix]))
    about = intake.consecutive if fix == "merge-consecutive" else concerned[fix]
    stays = now
    if ASKS_OTHERS & set(recipe.fixes):
        everybody = np.concatenate([about, _concerned_elsewhere(prepared, recipe, fix, now)])
        keys = _with_keys_of(intake.keys, rows.view(everybody))
        if ASKS_LABELS & set(recipe.fixes):
            labels = find_labels(rows, keys)
            if (labels and labels.spelling) != (prepared.labels and prepared.labels.spelling):
                return None
        stays, _ = staying(find_doubles(keys, intake.splits, prepared.pairs, labels), intake.splits, recipe)
    if ONE_SPELLING in recipe.fixes and labels is not None:
        rows = rows.changed(one_spelling(labels))
    gone, come = _without(now, stays), _without(stays, now)
    changed = about[np.isin(about, now) & np.isin(about, stays)]
    examples = told(gone, _pairs(changed), come, reader(prepared), _reader(intake.places, rows))
    return Difference(len(gone), len(changed), len(come), examples)


def _concerned_elsewhere(prepared: Prepared, recipe: Recipe, fix: str, now: np.ndarray) -> np.ndarray:
    """Rows that are left out now and that the repair would change: they decide who repeats whom."""
    if fix == "merge-consecutive":
        return np.empty(0, dtype=np.int64)  # known of all rows
    others = _without(np.arange(len(prepared.intake.keys)), now)
    rows = as_repaired(prepared.intake.rows, recipe).view(others)
    pairs = zip(others.tolist(), rows, strict=True)
    return np.array([number for number, row in pairs if REWRITES[fix](row) is not row], dtype=np.int64)


def _with_keys_of(keys: Keys, rows: Rows) -> Keys:
    """The keys of all rows, where these have changed."""
    columns = [getattr(keys, name).copy() for name in Keys.__dataclass_fields__]
    for number, row in zip(rows.numbers.tolist(), rows, strict=True):
        for column, key in zip(columns, row_keys(row), strict=True):
            column[number] = key
    return Keys(*columns)


def _taken_in(prepared: Prepared, recipe: Recipe) -> Difference:
    spare = prepared.intake.spare
    come = np.arange(len(spare.rows))
    after = _reader(spare.places, as_repaired(spare.rows, recipe))
    return Difference(spare.dropped, 0, len(come), told((), (), come, reader(prepared), after))


def _reader(places: Places, rows: Rows) -> Read:
    return lambda number: (places[number], row_says(rows.view(np.array([number]))[0]))


def _pairs(numbers: np.ndarray) -> Iterable[tuple[int, int]]:
    """Rows that have the same number before and after."""
    return zip(numbers.tolist(), numbers.tolist(), strict=True)
