"""Rows that were looked at, under other repairs of the kind that leaves rows out: nothing is read or measured again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..recipe import Recipe
from .measure import Measures, without_misfits
from .prepared import OnProgress, assemble
from .problems import TOKEN_FIXES
from .staying import LEAVING

if TYPE_CHECKING:
    from .prepared import Prepared

LEAVES_OUT = frozenset((*LEAVING, *TOKEN_FIXES))


def reads_as(recipe: Recipe) -> Recipe:
    """The recipe without the repairs that only leave rows out: where these are equal, the same rows are read."""
    return recipe.replace(fixes=[fix for fix in recipe.fixes if fix not in LEAVES_OUT])


def prepare_again(before: Prepared, measures: Measures, recipe: Recipe, tell: OnProgress) -> Prepared | None:
    """What `prepare` would give for a recipe that reads as the one of `before`, whose check took these measures.

    None where a row comes back that was not measured.
    """
    prepared = assemble(before.source, before.intake, recipe, tell, before)
    found = measures.of(np.concatenate([rows.numbers for rows in prepared.splits().values()]))
    return without_misfits(prepared, found, recipe) if found is not None else None
