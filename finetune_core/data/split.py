"""Which rows are learned from, which watch for overfitting, which prove: seeded, by groups, even over the labels."""

from __future__ import annotations

import numpy as np

SPLITS = ("train", "validation", "test")
MIN_TO_SPLIT = 10  # fewer rows are all learned from


def split(
    groups: np.ndarray, labels: np.ndarray | None, validation_size: float, test_size: float, seed: int
) -> dict[str, np.ndarray]:
    """Numbers of rows for each of SPLITS, in their first order. No group is in two of them.

    `groups`: a number for each row; rows of a group stay together. `labels`: a number for each row, or None;
    each label keeps its share in every split as far as groups allow.

    >>> {name: len(rows) for name, rows in split(np.arange(100), None, 0.1, 0.1, seed=42).items()}
    {'train': 80, 'validation': 10, 'test': 10}
    """
    count = len(groups)
    if count < MIN_TO_SPLIT:
        return {"train": np.arange(count), "validation": np.arange(0), "test": np.arange(0)}
    wanted = {"test": _share(count, test_size), "validation": _share(count, validation_size)}
    names, first, inverse, sizes = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    strata = np.zeros(len(names), dtype=np.int64) if labels is None else labels[first]
    shuffled = np.random.default_rng(seed).permutation(len(names))
    choice = np.zeros(len(names), dtype=np.int8)  # of SPLITS, for each group
    for number, name in ((2, "test"), (1, "validation")):
        quota = _quotas(strata, sizes, wanted[name])
        for group in shuffled.tolist():
            stratum = strata[group]
            # a group that is larger than what is left stays with the rows to learn from
            if choice[group] == 0 and 0 < sizes[group] <= quota[stratum]:
                choice[group] = number
                quota[stratum] -= sizes[group]
        if wanted[name] and not (choice == number).any():  # every group is larger than a quota: take one all the same
            free = np.flatnonzero(choice == 0)
            smallest = free[np.argmin(sizes[free])] if len(free) > 2 else None
            if smallest is not None and sizes[smallest] <= count // 4:
                choice[smallest] = number
    rows = choice[inverse]
    return {name: np.flatnonzero(rows == number) for number, name in enumerate(SPLITS)}


def _share(count: int, share: float) -> int:
    return max(1, round(count * share)) if share > 0 else 0


def _quotas(strata: np.ndarray, sizes: np.ndarray, wanted: int) -> np.ndarray:
    """How many rows of each stratum make up `wanted`: in proportion, the remainder to the largest fractions."""
    totals = np.bincount(strata, weights=sizes)
    exact = totals * wanted / totals.sum()
    quotas = np.floor(exact).astype(np.int64)
    rest = wanted - int(quotas.sum())
    quotas[np.argsort(quotas - exact, kind="stable")[:rest]] += 1
    return quotas
