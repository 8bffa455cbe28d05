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
from .columns import ColumnMap, as_wished, is_weak, propose, unused
from .duplicates import KeyMaker, Keys
from .findings import Place, Tally
from .json_rows import Record
from .personal import mask
from .problems import DROP_REASONS
from .readers import Reading
from .rows import Rows, RowWriter
from .shapes import PLACEHOLDER, Converter
from .split import SPLITS

SAMPLE = 200  # rows looked at before columns are guessed
Tell = Callable[[float, str], None]


@dataclass
class Intake:
    """What came in."""

    rows: Rows
    keys: Keys
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
        self.is_masking = "mask-personal-data" in self.recipe.fixes
        self.leaves_out = {DROP_REASONS[fix] for fix in self.recipe.fixes if fix in DROP_REASONS}

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
            return
        for code, detail in dict(converted.notes).items():
            self.tally.add(code, place, detail)
        for repair in converted.repairs:
            self.repaired[repair] = self.repaired.get(repair, 0) + 1
        row = _masked(converted.row) if self.is_masking else converted.row
        if self.is_masking and row != converted.row:
            self.repaired["mask-personal-data"] = self.repaired.get("mask-personal-data", 0) + 1
        row["row"] = record.row
        self.writer.append(row)
        self.keys.add(row)
        self.splits.append(SPLITS.index(split) if split else -1)
        self.places.add(place, file)

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
    return Intake(
        rows=reader.writer.finish(),
        keys=reader.keys.finish(),
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
        ignored=tuple(unused(maps, reader.columns, recipe.template)) if reader.used else (),
        missing=tuple(sorted(named - reader.columns.keys())) if reader.columns else (),
        dropped=reader.dropped,
        repaired=reader.repaired,
    )


def _masked(row: dict[str, Any]) -> dict[str, Any]:
    if "text" in row:
        return row | {"text": mask(row["text"])}
    return row | {"messages": [turn | {"content": mask(turn["content"])} for turn in row["messages"]]}


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
