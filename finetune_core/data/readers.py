"""Any file as a stream of records, each with its row and line. What cannot be read is a record too, with the reason."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ..errors import FinetuneError
from . import tables
from .columns import COLUMN_NAMES
from .encoding import Encoding, find_encoding
from .headers import find_header
from .json_rows import Record, is_rows, json_lines, json_values, parse_json
from .unpack import DataFile

JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
TABLE_SUFFIXES = (".csv", ".tsv", ".tab")
PROSE_SUFFIXES = (".txt", ".text", ".md")
SAMPLE = 65_536  # characters read to recognise a table
TEXT_ROW = 2_000  # characters of plain text in one row, about 500 tokens


@dataclass
class Reading:
    """An opened file: what it turned out to be, and its records."""

    name: str
    kind: str  # jsonl, json, csv, excel, parquet, arrow, text
    records: Iterable[Record]
    fraction: Callable[[], float] = lambda: 0.0  # how far it is read
    encoding: Encoding | None = None
    delimiter: str | None = None
    has_header: bool | None = None
    above: tuple[str, ...] = ()  # what stands above the names of the columns, a line each
    sheet: str | None = None
    other_sheets: tuple[str, ...] = ()
    columns: dict[str, str] = field(default_factory=dict)  # name → type, where the file says so
    split: str | None = None


def read_file(file: DataFile, fixes: Iterable[str] = ()) -> Reading:
    """Open a file for what its content says it is. Raises FinetuneError if it is empty or nothing readable."""
    size = file.path.stat().st_size
    if size == 0:
        raise FinetuneError(f"{file.name} is empty (0 bytes).", "Choose a file with rows.", code="empty")
    with file.path.open("rb") as content:
        head = content.read(16)
    suffix = Path(file.name).suffix.casefold()
    if head.startswith(b"PAR1"):
        reading = _parquet(file)
    elif head.startswith((b"ARROW1", b"\xff\xff\xff\xff")) or suffix in (".arrow", ".feather"):
        reading = _arrow(file)
    elif head.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        reading = _workbook(file, fixes)
    else:
        reading = _text_file(file, suffix, list(fixes))
    reading.split = file.split
    return reading


def _text_file(file: DataFile, suffix: str, fixes: list[str]) -> Reading:
    encoding = find_encoding(file.path, wish(fixes, "encoding-"))
    with _open_text(file.path, encoding) as text:
        sample = text.read(SAMPLE).lstrip("\ufeff")
    if not sample.strip():
        raise FinetuneError(
            f"{file.name} is empty: there is nothing but blank lines.", "Choose a file with rows.", code="empty"
        )
    first = sample.lstrip()
    dialect = tables.find_dialect(sample, _wished_delimiter(fixes))
    kind = _text_kind(first, suffix, dialect)
    if kind == "json":
        return _json_file(file, encoding, first)
    if kind == "csv":
        return _csv(file, encoding, sample, dialect.delimiter, fixes)
    stream, fraction = _tracked(file.path)
    lines = io.TextIOWrapper(stream, encoding.codec, errors="replace")
    return Reading(file.name, "text", _closing(lines, paragraphs(lines)), fraction, encoding)


def _text_kind(first: str, suffix: str, dialect: tables.Dialect) -> str:
    """json, csv or text: by the name, unless the content is plainly something else."""
    line = first.partition("\n")[0]
    try:
        is_json = first[0] in "{[" and isinstance(parse_json(line.encode("utf-8", "replace"))[0], dict | list)
    except (ValueError, RecursionError):
        is_json = False
    if suffix in JSON_SUFFIXES:
        return "csv" if first[0] not in '{["' and dialect.is_table else "json"
    if suffix in TABLE_SUFFIXES:
        return "json" if is_json else "csv"
    if suffix in PROSE_SUFFIXES:
        is_export = dialect.is_table and dialect.delimiter == "\t" and dialect.records > 2
        return "json" if is_json else "csv" if is_export else "text"
    return "json" if first[0] in "{[" else "csv" if dialect.is_table else "text"


def wish(fixes: Iterable[str], prefix: str) -> str | None:
    """The rest of the repair that begins with prefix.

    >>> wish(["encoding-cp1252"], "encoding-")
    'cp1252'
    """
    return next((fix.removeprefix(prefix) for fix in fixes if fix.startswith(prefix)), None)


def _wished_delimiter(fixes: list[str]) -> str | None:
    word = wish(fixes, "delimiter-")
    return next((delimiter for delimiter, name in tables.DELIMITERS.items() if name == word), None)


def _open_text(path: Path, encoding: Encoding) -> IO[str]:
    return path.open(encoding=encoding.codec, errors="replace", newline="")


def _tracked(path: Path) -> tuple[IO[bytes], Callable[[], float]]:
    file = path.open("rb")
    size = path.stat().st_size
    return file, lambda: 1.0 if file.closed else file.tell() / size


def _closing(file: IO[str], records: Iterator[Record]) -> Iterator[Record]:
    with file:
        yield from records


def _json_file(file: DataFile, encoding: Encoding, first: str) -> Reading:
    """JSON lines if the first line is a value of its own and not all there is; else values one after the other."""
    stream, fraction = _tracked(file.path)
    line, newline, rest = first.partition("\n")
    try:
        value, _ = parse_json(line.encode("utf-8", "surrogatepass"))
        holds_rows = isinstance(value, list) or any(is_rows(key, item) for key, item in value.items())
        is_lines = bool(rest.strip()) or (isinstance(value, dict) and not holds_rows)
    except (ValueError, RecursionError, AttributeError):
        # a broken first line, or a value over several lines
        begins = re.match(r"[\[{]\s*(\n|$)|\[\s*\{|\{\s*\"[^\"]*\"\s*:\s*\[?\s*\n", first)
        is_lines = bool(newline) and not begins
    if is_lines:
        return Reading(file.name, "jsonl", json_lines(stream, encoding), fraction, encoding)
    text = io.TextIOWrapper(stream, encoding.codec, errors="replace")
    return Reading(file.name, "json", _closing(text, json_values(text)), fraction, encoding)


def _csv(file: DataFile, encoding: Encoding, sample: str, delimiter: str, fixes: list[str]) -> Reading:
    head = [cells for _, cells in itertools.islice(tables.read_csv(io.StringIO(sample, newline=""), delimiter), 200)]
    if not head:
        raise FinetuneError(f"{file.name} is empty: no cell holds anything.", "Choose a file with rows.", code="empty")
    header, above = _wished_header(fixes, head)
    stream, fraction = _tracked(file.path)
    text = io.TextIOWrapper(stream, encoding.codec, errors="replace", newline="")
    rows = itertools.islice(tables.read_csv(_without_mark(text), delimiter), len(above), None)
    names, records = _cells_as_records(rows, header, tables.usual_width(head))
    columns = dict.fromkeys(names, "text")
    return Reading(
        file.name, "csv", _closing(text, records), fraction, encoding, delimiter, header, above, columns=columns
    )


def _without_mark(lines: Iterable[str]) -> Iterator[str]:
    for number, line in enumerate(lines):
        yield line.lstrip("\ufeff") if number == 0 else line


def _workbook(file: DataFile, fixes: Iterable[str]) -> Reading:
    title, others, cells = tables.read_workbook(file.path, file.name)
    head = list(itertools.islice(cells, 200))
    rows = [row for _, row in head]
    header, above = _wished_header(fixes, rows)
    left = itertools.chain(head[len(above) :], cells)
    names, records = _cells_as_records(left, header, tables.usual_width(rows))
    columns = dict.fromkeys(names, "text")
    return Reading(
        file.name,
        "excel",
        records,
        has_header=header,
        above=above,
        sheet=title,
        other_sheets=tuple(others),
        columns=columns,
    )


def _wished_header(fixes: Iterable[str], head: list[list[Any]]) -> tuple[bool, tuple[str, ...]]:
    """(whether a row names the columns, what stands above it)"""
    if "first-row-is-data" in fixes:
        return False, ()
    return find_header(head, COLUMN_NAMES, is_said="first-row-is-header" in fixes)


def _cells_as_records(rows: Iterator[tables.Cells], header: bool, width: int) -> tuple[list[str], Iterator[Record]]:
    names = tables.name_columns(next(rows)[1] if header else [""] * width)

    def records() -> Iterator[Record]:
        for row, (line, cells) in enumerate(rows, start=1):
            extra = [cell for cell in cells[len(names) :] if tables.as_cell(cell).strip()]
            if extra:
                example = " | ".join(tables.as_cell(cell) for cell in cells)
                detail = f"{len(cells)} cells where {len(names)} are expected"
                yield Record(row, line, None, "ragged-rows", detail, example)
            else:
                texts = (tables.as_cell(cell) for cell in cells)
                yield Record(row, line, dict(zip(names, texts, strict=False)))

    return names, records()


def _parquet(file: DataFile) -> Reading:
    columns, total, rows = tables.read_parquet(file.path, file.name)
    return _numbered(file.name, "parquet", columns, rows, total)


def _arrow(file: DataFile) -> Reading:
    columns, rows = tables.read_arrow(file.path, file.name)
    return _numbered(file.name, "arrow", columns, rows, 0)


def _numbered(name: str, kind: str, columns: dict[str, str], rows: Iterator[dict], total: int) -> Reading:
    done = 0

    def records() -> Iterator[Record]:
        nonlocal done
        for done, row in enumerate(rows, start=1):
            yield Record(done, done, row)

    return Reading(name, kind, records(), lambda: done / total if total else 0.5, columns=columns)


def paragraphs(lines: Iterable[str]) -> Iterator[Record]:
    """Plain text as rows of whole paragraphs, up to TEXT_ROW characters each; a longer one is cut between words."""
    row, begins, held, length = 0, 1, [], 0
    for number, line in enumerate(itertools.chain(lines, [""]), start=1):
        text = line.rstrip()
        if text and not held:
            begins = number
        if text:
            held.append(text)
            length += len(text) + 1
        is_end = not text and (length >= TEXT_ROW // 2 or line == "")
        if not text and held and not is_end:
            held.append("")  # the blank line between two short paragraphs
        if held and (is_end or length >= TEXT_ROW):
            for piece in pieces("\n".join(held).strip()):
                row += 1
                yield Record(row, begins, {"text": piece})
            held, length = [], 0


def pieces(text: str, limit: int = TEXT_ROW) -> Iterator[str]:
    """
    >>> list(pieces("one two three", 8))
    ['one two', 'three']
    """
    while len(text) > limit:
        cut = text.rfind(" ", limit // 2, limit + 1)
        cut = cut if cut > 0 else limit
        yield text[:cut].rstrip()
        text = text[cut:].lstrip()
    if text:
        yield text
