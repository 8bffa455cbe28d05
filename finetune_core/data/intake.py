"""Rows as they come in: read once, recognised, converted, counted and put on disk; nothing is held in memory."""

from __future__ import annotations

import itertools
import json
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..garbage import fewer_collections
from ..recipe import Recipe
from .columns import ColumnMap, as_wished, is_weak, likely_answers, propose, unused
from .duplicates import KeyMaker, Keys, row_keys
from .findings import Place, Tally
from .json_rows import Record
from .problems import DROP_REASONS
from .readers import Reading
from .rewriting import REWRITES, merged
from .rows import Rows, RowWriter
from .shapes import PLACEHOLDER, Converter
from .split import SPLITS

SAMPLE = 200  # rows looked at before columns are guessed
FOLDED = list(Keys.__dataclass_fields__).index("folded")  # its place in what row_keys gives
Tell = Callable[[float, str], None]


@dataclass(frozen=True)
class Spare:
    """What rows that hold something else than text would be as text, and where they came from."""

    rows: Rows
    places: Places
    dropped: int  # those that the recipe would leave out then, for another reason


@dataclass
class Intake:
    """What came in."""

    rows: Rows  # as read: what a repair makes of them is made when they are read back
    keys: Keys  # of the rows as repaired
    folded: np.ndarray  # keys.folded of the rows as read
    consecutive: np.ndarray  # numbers of the rows that merging turns of one role would change
    spare: Spare
    splits: np.ndarray  # number in SPLITS for each row; -1: not said
    places: Places
    tally: Tally
    total: int  # rows in the source, usable or not
    shapes: dict[str, int]
    first_places: dict[str, Place]  # of each shape
    mapping: ColumnMap | None  # of the first row
    guess: ColumnMap | None  # what was proposed where no names were known
    is_weak_guess: bool
    columns: dict[str, str]  # name → type
    ignored: tuple[str, ...]  # columns that nothing reads
    answers: tuple[str, ...]  # of these, what may be the answers to a text that is read
    missing: tuple[str, ...]  # columns that the recipe names and the rows do not have
    dropped: dict[str, int]
    repaired: dict[str, int]


class Places:
    """Where each stored row came from, in a few bytes."""

    def __init__(self, files: list[str]):
        self.files = files
        self._row, self._line, self._file = array("q"), array("q"), array("H")

    def add(self, place: Place, file: int) -> None:
        self._row.append(place.row)
        self._line.append(place.line)
        self._file.append(file)

    def keys(self, numbers: np.ndarray) -> np.ndarray:
        """A number for each of these rows that is the same however the source is read: its file and row."""
        rows, files = np.frombuffer(self._row, dtype=np.int64), np.frombuffer(self._file, dtype=np.uint16)
        return rows[numbers] + (files[numbers].astype(np.int64) << 40)

    def __getitem__(self, number: int) -> Place:
        name = self.files[self._file[number]] if len(self.files) > 1 else ""
        return Place(self._row[number], self._line[number], name)


@dataclass
class _Reader:
    """One pass over all files."""

    recipe: Recipe
    places: Places
    writer: RowWriter = field(default_factory=RowWriter)
    keys: KeyMaker = field(default_factory=KeyMaker)
    splits: array = field(default_factory=lambda: array("b"))
    folded: array = field(default_factory=lambda: array("Q"))
    consecutive: array = field(default_factory=lambda: array("q"))
    spare: RowWriter = field(default_factory=RowWriter)
    spare_dropped: int = 0
    tally: Tally = field(default_factory=Tally)
    shapes: dict[str, int] = field(default_factory=dict)
    first_places: dict[str, Place] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    repaired: dict[str, int] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    maps: dict[Any, ColumnMap | None] = field(default_factory=dict)
    mapping: ColumnMap | None = None
    guess: ColumnMap | None = None
    is_weak_guess: bool = False
    sampled: list[dict[str, Any]] = field(default_factory=list)
    total: int = 0

    def __post_init__(self) -> None:
        self.converter = Converter(self.recipe)
        fixes = self.recipe.fixes
        self.with_text = Converter(self.recipe.replace(fixes=[*fixes, "numbers-to-text"]))
        self.rewrites = [(fix, change) for fix, change in REWRITES.items() if fix in fixes]
        self.leaves_out = {DROP_REASONS[fix] for fix in fixes if fix in DROP_REASONS}
        self.spare_places = Places(self.places.files)

    def read(self, reading: Reading, number: int) -> Iterator[int]:
        """Takes in a file; gives the number of rows so far now and then."""
        records: Iterable[Record] = iter(reading.records)
        head = list(itertools.islice(records, SAMPLE))
        self._look(reading, [record.value for record in head if record.value is not None])
        replaced = bool(reading.encoding and reading.encoding.replaced)
        for record in itertools.chain(head, records):
            self.total += 1
            file = reading.name if len(self.places.files) > 1 else ""
            place = Place(record.row, record.line, file)
            if record.value is None:
                self._refuse(record.problem, place, record.detail, record.example)
            else:
                self._take(record, place, number, record.split or reading.split)
                if record.is_repaired or (replaced and "\ufffd" in str(record.value)):
                    self.tally.add("broken-characters", place)
                    self.repaired["replace-broken-characters"] = self.repaired.get("replace-broken-characters", 0) + 1
            if self.total % 1000 == 0:
                yield self.total

    def _look(self, reading: Reading, sample: list[dict[str, Any]]) -> None:
        self.columns = dict(reading.columns) | self.columns
        self.sampled += sample[: max(0, SAMPLE - len(self.sampled))]
        unknown = [row for row in sample if as_wished(self.recipe.columns, self.recipe.template, row) is None]
        if self.guess is None and not self.recipe.columns and unknown:
            self.guess = propose(unknown)
            self.is_weak_guess = self.guess is not None and is_weak(self.guess, unknown)

    def _map(self, value: dict[str, Any]) -> ColumnMap | None:
        kinds = tuple((key, _kind(cell)) for key, cell in value.items())
        if kinds in self.maps:
            return self.maps[kinds]
        found = as_wished(self.recipe.columns, self.recipe.template, value)
        if found is None and self.guess is not None and self.guess.columns <= value.keys():
            found = self.guess
        for key, cell in value.items():
            if len(self.columns) < 200 and (key not in self.columns or self.columns[key] == "empty"):
                self.columns[key] = (
                    "empty" if cell is None else "text" if isinstance(cell, str) else type(cell).__name__
                )
        if found:
            self.used |= found.columns
        if len(self.maps) < 10_000:
            self.maps[kinds] = found
        return found

    def _take(self, record: Record, place: Place, file: int, split: str | None) -> None:
        value = record.value or {}
        mapping = self._map(value)
        if mapping is None:
            names = ", ".join(list(value)[:8]) or "none"
            self._refuse("unknown-shape", place, f"columns: {names}", _excerpt(value))
            return
        self.mapping = self.mapping or mapping
        self.shapes[mapping.shape] = self.shapes.get(mapping.shape, 0) + 1
        self.first_places.setdefault(mapping.shape, place)
        converted = self.converter.convert(value, mapping)
        if converted.row is None:
            if converted.problem == "not-desired":
                self.dropped["not-desired"] = self.dropped.get("not-desired", 0) + 1
            else:
                self._refuse(converted.problem, place, converted.detail, _excerpt(value))
                if converted.problem == "not-text":
                    self._keep_spare(value, mapping, place, file)
            return
        notes = dict(converted.notes)
        row = converted.row | {"row": record.row}
        if "consecutive-turns" in notes and merged(row) is not row:
            self.consecutive.append(len(self.writer))
        for code, detail in notes.items():
            self.tally.add(code, place, detail)
        self.writer.append(row)
        self._count(row, converted.repairs)
        self.splits.append(SPLITS.index(split) if split else -1)
        self.places.add(place, file)

    def _count(self, row: dict[str, Any], repairs: Iterable[str]) -> None:
        """What was repaired in a row, and the keys of what comes out."""
        repaired, made = list(repairs), row
        for fix, change in self.rewrites:
            before, made = made, change(made)
            if made is not before:
                repaired.append(fix)
        for repair in repaired:
            self.repaired[repair] = self.repaired.get(repair, 0) + 1
        keys = self.keys.add(made)
        self.folded.append((keys if made is row else row_keys(row))[FOLDED])

    def _keep_spare(self, value: dict[str, Any], mapping: ColumnMap, place: Place, file: int) -> None:
        converted = self.with_text.convert(value, mapping)
        if converted.row is not None:
            self.spare.append(converted.row | {"row": place.row})
            self.spare_places.add(place, file)
        elif converted.problem in self.leaves_out:
            self.spare_dropped += 1

    def _refuse(self, code: str, place: Place, detail: str, example: str) -> None:
        if code in self.leaves_out:
            self.dropped[code] = self.dropped.get(code, 0) + 1
        else:
            self.tally.add(code, place, detail, example)


def take_in(readings: list[Reading], recipe: Recipe, tell: Tell) -> Intake:
    """Read everything. `tell` gets the share that is read; what it raises ends the reading."""
    places = Places([reading.name for reading in readings])
    reader = _Reader(recipe, places)
    with fewer_collections():
        for number, reading in enumerate(readings):
            for count in reader.read(reading, number):
                tell((number + min(1.0, reading.fraction())) / len(readings), f"{count:,} rows read")
    named = set(recipe.columns.values()) | set(PLACEHOLDER.findall(recipe.template or ""))
    maps = ColumnMap("", {column: column for column in reader.used})
    ignored = tuple(unused(maps, reader.columns, recipe.template)) if reader.used else ()
    is_text = set(reader.shapes) == {"text"} and not recipe.columns
    return Intake(
        rows=reader.writer.finish(),
        keys=reader.keys.finish(),
        folded=np.frombuffer(reader.folded, dtype=np.uint64),
        consecutive=np.array(reader.consecutive, dtype=np.int64),
        spare=Spare(reader.spare.finish(), reader.spare_places, reader.spare_dropped),
        splits=np.frombuffer(reader.splits, dtype=np.int8),
        places=places,
        tally=reader.tally,
        total=reader.total,
        shapes=reader.shapes,
        first_places=reader.first_places,
        mapping=reader.mapping,
        guess=reader.guess if reader.guess and reader.guess.shape in reader.shapes else None,
        is_weak_guess=reader.is_weak_guess,
        columns=reader.columns,
        ignored=ignored,
        answers=tuple(likely_answers(reader.sampled, ignored)) if is_text else (),
        missing=tuple(sorted(named - reader.columns.keys())) if reader.columns else (),
        dropped=reader.dropped,
        repaired=reader.repaired,
    )


def _excerpt(value: dict[str, Any]) -> str:
    """The beginning of a row as a person would write it down.

    >>> _excerpt({"prompt": "Hi?", "completion": None, "n": [1]})
    'prompt: Hi? · completion: – · n: [1]'
    """
    cells = []
    for key, cell in itertools.islice(value.items(), 8):
        text = (
            cell
            if isinstance(cell, str)
            else "–"
            if cell is None
            else json.dumps(cell, ensure_ascii=False, default=str)
        )
        cells.append(f"{key}: {text[:300] or '–'}")
    return " · ".join(cells)[:300]


def _kind(cell: Any) -> Any:
    """What decides how a cell is read: its type, and for a list of objects their keys."""
    if isinstance(cell, list) and cell and isinstance(cell[0], dict):
        return frozenset(cell[0])
    return type(cell)
