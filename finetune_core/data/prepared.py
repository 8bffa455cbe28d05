"""Rows from any source, ready to render: read, recognised, mapped, repaired, split. Nothing is left out silently."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..files import write_json
from ..recipe import Recipe
from .columns import SHAPES
from .duplicates import groups, near_pairs, repeats
from .findings import Finding, Place, Tally
from .hubdata import choices
from .intake import Intake, take_in
from .labels import LabelTable, find_labels, one_spelling, unseen_labels
from .leaks import duplicate_findings, leak_findings, with_split
from .overview import readiness, source_findings
from .problems import FIXES, TOKEN_FIXES, check_fixes, problem_findings
from .rewriting import rewriting
from .rows import Rows, write_rows
from .source import Source, SourceFile, open_source
from .split import SPLITS, split
from .staying import Doubles, among, find_doubles, staying, wanted
from .streamed import forget_streams
from .unpack import save_pasted

if TYPE_CHECKING:
    from ..render import ChatTokenizer
    from .measure import Measures

__all__ = ["FIXES", "Prepared", "Source", "SourceFile", "choices", "prepare", "readiness", "save_pasted",
           "write_data", "write_rows", "write_splits"]  # fmt: skip

OnProgress = Callable[[float | None, str], None]
MAX_NEAR_ROWS = 2_000_000  # beyond this near duplicates are not looked for
NEAR_NOT_SOUGHT = Finding(
    "near-duplicates-not-sought",
    "note",
    f"With more than {MAX_NEAR_ROWS:,} rows only exact repeats are looked for, not rows that are nearly the same.",
    fix="Set max_rows to look at fewer rows.",
)


@dataclass(frozen=True)
class Prepared:
    """Rows in their splits, and everything that is known of how they came to be."""

    train: Rows
    validation: Rows
    test: Rows
    shape: str  # of SHAPES, or "mixed"
    columns: tuple[str, ...]
    mapping: dict[str, str]  # role → column
    source: Source
    findings: tuple[Finding, ...]
    dropped: dict[str, int]  # why → how many
    rows: int  # read
    intake: Intake = field(repr=False)
    doubles: Doubles = field(repr=False)
    pairs: np.ndarray = field(repr=False)  # near rows, by their numbers
    shapes: dict[str, int] = field(default_factory=dict)
    proposal: dict[str, str] = field(default_factory=dict)  # role → column, where names were not known
    repaired: dict[str, int] = field(default_factory=dict)  # repair → rows it changed
    labels: LabelTable | None = None  # where the answers are few and short
    own_splits: tuple[str, ...] = ()  # splits that the data brought along
    settings: dict[str, Any] = field(default_factory=dict)
    measures: Measures | None = field(default=None, repr=False)  # where rows were left out by their tokens

    def splits(self) -> dict[str, Rows]:
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def place(self, number: int) -> Place:
        """Where a row came from, by its number in Rows.numbers."""
        return self.intake.places[number]

    def card(self) -> dict[str, Any]:
        """The data card: what was read, what was left out and why, what is where."""
        return {
            "source": self.source.as_dict(),
            "shape": self.shape,
            "shapes": self.shapes,
            "columns": list(self.columns),
            "mapping": self.mapping,
            "rows_read": self.rows,
            "dropped": self.dropped,
            "repaired": self.repaired,
            "rows": {name: len(rows) for name, rows in self.splits().items()},
            "own_splits": list(self.own_splits),
            "labels": self.labels.counts if self.labels else None,
            **self.settings,
        }


def prepare(
    recipe: Recipe,
    *,
    token: str | None = None,
    tokenizer: ChatTokenizer | None = None,
    on_progress: OnProgress | None = None,
) -> Prepared:
    """Read the rows that the recipe names, repair what it says, and split.

    `tokenizer` is needed only for repairs that count tokens (drop-too-long, drop-nothing-trained, drop-refused).
    `on_progress` hears the share that is done and may raise to cancel; nothing stays behind.
    Raises FinetuneError if nothing can be read at all; what is wrong with single rows is in `findings`.
    """
    check_fixes(recipe)
    tell = on_progress or (lambda fraction, words: None)
    with tempfile.TemporaryDirectory(prefix="fijn-") as folder:
        source, readings = open_source(recipe, token, Path(folder), tell)
        intake = take_in(readings, recipe, lambda fraction, words: tell(0.6 * fraction, words))
    source = replace(source, columns=intake.columns)
    prepared = assemble(source, intake, recipe, tell)
    if tokenizer is not None and any(fix in recipe.fixes for fix in TOKEN_FIXES):
        from .measure import measure, without_misfits

        splits, length = prepared.splits(), recipe.max_length
        measures = measure(splits, tokenizer, length, lambda part: tell(0.9 + 0.1 * part, "counting tokens"))
        prepared = without_misfits(prepared, measures, recipe)
    tell(1.0, "rows are read")
    return prepared


def assemble(
    source: Source, intake: Intake, recipe: Recipe, tell: OnProgress, before: Prepared | None = None
) -> Prepared:
    """What came in, as the recipe wants it. `before`: of the same intake, so that nothing is sought a second time."""
    met, repaired = Tally(intake.tally), dict(intake.repaired)
    if "merge-consecutive" in recipe.fixes:
        met.pop("consecutive-turns", None)
    findings = source_findings(source, replace(intake, tally=met), recipe)  # takes out what it says better itself
    findings += problem_findings(met, intake.total, recipe)
    keys, dropped = intake.keys, Counter(intake.dropped)
    own = tuple(name for number, name in enumerate(SPLITS) if (intake.splits == number).any())
    rows = as_repaired(intake.rows, recipe)

    tell(0.62, "looking for duplicates")
    if before is not None:
        labels, pairs, doubles = before.labels, before.pairs, before.doubles
    else:
        labels, pairs = find_labels(rows, keys), _near(intake, tell)
        doubles = find_doubles(keys, intake.splits, pairs, labels)
    if len(keys) > MAX_NEAR_ROWS:
        findings.append(NEAR_NOT_SOUGHT)
    kept, _ = wanted(doubles, recipe)
    left = doubles if kept.all() else among(doubles, kept, keys, intake.splits, pairs)
    if labels is not None:
        findings += labels.findings(left.conflicts, kept, intake.places, recipe)
        if "trim-labels" in recipe.fixes and labels.variants:
            rows = rows.changed(one_spelling(labels))
            repaired["trim-labels"] = sum(labels.variants.values())
    in_split = np.maximum(intake.splits, 0)
    findings += duplicate_findings(intake, left.again, left.near, in_split, recipe)
    findings += leak_findings(intake, left.shared, recipe)

    tell(0.88, "splitting")
    numbers, gone = staying(doubles, intake.splits, recipe)
    dropped.update(gone)
    parts = _split(numbers, groups(keys, pairs), in_split, own, labels, recipe)
    if labels is not None and (count := unseen_labels(labels, parts["train"], _others(parts))):
        findings.append(_unseen(count))
    shapes = intake.shapes
    return Prepared(
        **{name: rows.view(part) for name, part in parts.items()},
        shape=("mixed" if len(shapes) > 1 else next(iter(shapes), "unknown")),
        columns=tuple(intake.columns),
        mapping=dict(intake.mapping.roles) if intake.mapping else {},
        source=source,
        findings=tuple(findings),
        dropped=dict(dropped),
        rows=intake.total,
        shapes={SHAPES.get(shape, shape): count for shape, count in shapes.items()},
        proposal=dict(intake.guess.roles) if intake.guess else {},
        repaired=repaired,
        labels=labels,
        own_splits=own,
        settings=recipe.model_dump(include={"fixes", "columns", "template", "system_prompt", "max_rows", "seed",
                                            "validation_size", "test_size"}),
        intake=intake,
        doubles=doubles,
        pairs=pairs,
    )  # fmt: skip


def _near(intake: Intake, tell: OnProgress) -> np.ndarray:
    """Pairs of near rows; none are sought where there are too many rows."""
    if not 2 <= len(intake.keys) <= MAX_NEAR_ROWS:
        return np.empty((0, 2), dtype=np.int64)
    again = repeats(with_split(intake.folded, np.maximum(intake.splits, 0)))
    return near_pairs(intake.rows, again, lambda part: tell(0.62 + 0.25 * part, "looking for near duplicates"))


def as_repaired(rows: Rows, recipe: Recipe) -> Rows:
    """Rows as read, with the recipe's repairs of their texts; not yet with one spelling for each label."""
    change = rewriting(recipe.fixes)
    return rows.changed(change) if change else rows


def _split(
    numbers: np.ndarray,
    group: np.ndarray,
    in_split: np.ndarray,
    own: tuple[str, ...],
    labels: LabelTable | None,
    recipe: Recipe,
) -> dict[str, np.ndarray]:
    """The data's own splits; what it has not is taken from the rows to learn from."""
    pool = numbers[in_split[numbers] == 0]
    sizes = (
        0.0 if "validation" in own else recipe.validation_size,
        0.0 if "test" in own else recipe.test_size,
    )
    made = split(group[pool], labels.numbers[pool] if labels else None, *sizes, recipe.seed)
    parts = {name: pool[rows] for name, rows in made.items()}
    for number, name in enumerate(SPLITS):
        if number and name in own:
            parts[name] = numbers[in_split[numbers] == number]
    return parts


def _others(parts: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([parts["validation"], parts["test"]])


def _unseen(count: int) -> Finding:
    return Finding(
        "unseen-labels",
        "note",
        f"{count} {'label stands' if count == 1 else 'labels stand'} only in validation or test rows, so the model "
        "never learns to give it.",
        count=count,
        fix="Add rows with it to learn from.",
    )


def write_splits(prepared: Prepared, folder: Path) -> list[Path]:
    """The cleaned data as files to download: train, validation and test, those that have rows."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, rows in prepared.splits().items():
        if len(rows):
            path = folder / f"{name}.jsonl"
            write_rows(rows, path)
            written.append(path)
    return written


def write_data(prepared: Prepared, folder: Path, passed: list[dict[str, Any]] | None = None) -> None:
    """A run's rows: train/validation/test.jsonl and, last, card.json. A folder with a card is complete.

    `passed`: the warnings with which the person went on anyway; the card keeps them.
    """
    forget_streams()
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in prepared.splits().items():
        write_rows(rows, folder / f"{name}.jsonl")
    write_json(folder / "card.json", prepared.card() | {"warnings_passed": passed or []})
