"""Rows that were looked at, under other repairs or another max_length: no source is read again, and only rows that
changed are rendered again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..recipe import Recipe
from .duplicates import Keys, row_keys
from .labels import find_labels
from .measure import Measures, at_length, joined, measure, without_misfits
from .prepared import OnProgress, as_repaired, assemble
from .problems import TOKEN_FIXES
from .rewriting import REWRITES, rewriting
from .staying import LEAVING, find_doubles

if TYPE_CHECKING:
    from ..render import ChatTokenizer
    from .intake import Intake
    from .prepared import Prepared

WRITES_ANEW = frozenset((*REWRITES, "trim-labels"))
READS_NOTHING = frozenset((*LEAVING, *TOKEN_FIXES, *WRITES_ANEW))


def reads_as(recipe: Recipe) -> Recipe:
    """The recipe without what only changes the rows once they are read: where these are equal, the same is read."""
    fixes = [fix for fix in recipe.fixes if fix not in READS_NOTHING]
    return recipe.replace(fixes=fixes, max_length=Recipe.model_fields["max_length"].default)


def prepare_again(
    before: Prepared, measures: Measures, recipe: Recipe, tokenizer: ChatTokenizer, tell: OnProgress
) -> Prepared:
    """What `prepare` would give for a recipe that reads as the one of `before`, whose check took these measures."""
    old, intake, known = before.settings["fixes"], before.intake, before
    if {*old} & REWRITES.keys() != {*recipe.fixes} & REWRITES.keys():
        tell(0.0, "repairing")
        intake = rewritten(intake, old, recipe)
        labels = find_labels(as_repaired(intake.rows, recipe), intake.keys)
        doubles = find_doubles(intake.keys, intake.splits, before.pairs, labels)
        known = replace(before, intake=intake, labels=labels, doubles=doubles)
    prepared = assemble(before.source, intake, recipe, tell, known)
    numbers = np.concatenate([rows.numbers for rows in prepared.splits().values()])
    is_same = {*old} & WRITES_ANEW == {*recipe.fixes} & WRITES_ANEW
    changed = np.empty(0, dtype=np.int64) if is_same else differing(before, prepared, numbers)

    def counting(part: float) -> None:
        tell(0.9 + 0.1 * part, "counting tokens")

    return without_misfits(
        prepared, measured_again(prepared, measures, numbers, changed, recipe, tokenizer, counting), recipe
    )


def rewritten(intake: Intake, old: Iterable[str], recipe: Recipe) -> Intake:
    """What came in, repaired as the recipe says: its keys and counts. `old`: the repairs that these are of."""
    was, wanted = rewriting(old), [(fix, change) for fix, change in REWRITES.items() if fix in recipe.fixes]
    repaired = Counter({fix: count for fix, count in intake.repaired.items() if fix not in REWRITES})
    columns = [getattr(intake.keys, name).copy() for name in Keys.__dataclass_fields__]
    for number, row in zip(intake.rows.numbers.tolist(), intake.rows, strict=True):
        made = row
        for fix, change in wanted:
            last, made = made, change(made)
            repaired[fix] += made is not last
        if made != (was(row) if was else row):
            for column, key in zip(columns, row_keys(made), strict=True):
                column[number] = key
    return replace(intake, keys=Keys(*columns), repaired=dict(+repaired))


def differing(before: Prepared, after: Prepared, numbers: np.ndarray) -> np.ndarray:
    """Those of these rows that read otherwise than before."""
    pairs = zip(numbers.tolist(), before.train.view(numbers), after.train.view(numbers), strict=True)
    return np.array([number for number, was, now in pairs if was != now], dtype=np.int64)


def measured_again(
    prepared: Prepared,
    measures: Measures,
    numbers: np.ndarray,
    changed: np.ndarray,
    recipe: Recipe,
    tokenizer: ChatTokenizer,
    tell: Callable[[float], None],
) -> Measures:
    """The measures of the rows with these numbers, in their order; only those that changed, or were not known, are
    rendered again."""
    known, is_certain = at_length(measures, recipe.max_length)
    known = known.take(is_certain & np.isin(known.numbers, numbers) & ~np.isin(known.numbers, changed))
    missing = numbers[~np.isin(numbers, known.numbers)]
    if len(missing):
        known = joined(known, measure({"": prepared.train.view(missing)}, tokenizer, recipe.max_length, tell))
    found = known.of(numbers)
    assert found is not None
    return found
