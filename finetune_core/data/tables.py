"""Rows of tables: CSV with any delimiter, workbooks, Parquet and Arrow. One row at a time, as column → cell."""

from __future__ import annotations

import csv
import datetime
import io
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import FinetuneError, first_line

Cells = tuple[int, list[Any]]  # (line in the file, cells)
DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}
MAX_CELL = 64 * 1024**2  # characters
RUNAWAY_LINES = 500  # a cell over more lines than this: its quote was never closed


@dataclass(frozen=True)
class Dialect:
    """How a text table is written."""

    delimiter: str
    columns: int
    agreement: float  # share of the first records that have this many columns
    records: int = 0  # looked at

    @property
    def is_table(self) -> bool:
        return self.columns > 1 and self.agreement >= 0.9 and self.records > 1


def find_dialect(sample: str, prefer: str | None = None) -> Dialect:
    """The delimiter under which most records have the same number of cells, more than one.

    csv.Sniffer counts letters and takes `e` for a delimiter in prose; here the csv module reads the sample once
    per candidate, quotes and all, and what agrees best wins.

    >>> find_dialect("a;b\\nx, y, z;1\\nw;2\\n").delimiter
    ';'
    """
    best = Dialect(prefer or ",", 1, 1.0)
    whole = sample[: sample.rfind("\n") + 1] or sample  # the last line may be cut
    for delimiter in [prefer] if prefer else DELIMITERS:
        widths: dict[int, int] = {}
        total = 0
        try:
            for record in itertools.islice(csv.reader(io.StringIO(whole, newline=""), delimiter=delimiter), 200):
                if record:
                    widths[len(record)] = widths.get(len(record), 0) + 1
                    total += 1
        except csv.Error:
            continue
        width, count = max(widths.items(), key=lambda item: (item[0] > 1, item[1])) if widths else (1, 0)
        found = Dialect(delimiter, width, count / total if total else 0.0, total)
        if (found.columns > 1, found.agreement, found.columns) > (best.columns > 1, best.agreement, best.columns):
            best = found
    return best


def name_columns(names: list[Any]) -> list[str]:
    """Every column has a name, and no two the same.

    >>> name_columns(["text", "", "text"])
    ['text', 'column 2', 'text 3']
    """
    taken: list[str] = []
    for number, name in enumerate(names, start=1):
        words = " ".join(as_cell(name).split()) or f"column {number}"
        taken.append(words if words not in taken else f"{words} {number}")
    return taken


def as_cell(value: Any) -> str:
    """A cell as a person reads it: 3.0 of a spreadsheet is 3.

    >>> as_cell(3.0), as_cell(None), as_cell(True)
    ('3', '', 'true')
    """
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case float() if value.is_integer() and abs(value) < 1e15:
            return str(int(value))
        case datetime.datetime() if value.time() == datetime.time():
            return value.date().isoformat()
        case datetime.datetime() | datetime.date() | datetime.time():
            return value.isoformat()
    return str(value)


def is_number(text: str) -> bool:
    """Whether a cell is a number, with a point or a comma."""
    try:
        float(text.replace(",", "."))
    except ValueError:
        return False
    return True


def usual_width(rows: list[list[Any]]) -> int:
    """Cells that most of these rows have; the larger number, where two are equally usual.

    >>> usual_width([["Title"], ["a", "b"], ["c", "d"], ["e", "f", "g"]])
    2
    """
    counts = Counter(map(len, rows))
    return max(counts, key=lambda width: (counts[width], width))


def read_csv(text: Iterable[str], delimiter: str) -> Iterator[Cells]:
    """Records with the line on which each begins. Blank lines are no records."""
    csv.field_size_limit(MAX_CELL)
    reader = csv.reader(text, delimiter=delimiter)
    line = 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise FinetuneError(
                f"The table cannot be read beyond line {line}: {first_line(error)}.",
                "Look for a quotation mark that is never closed near that line.",
                code="broken-table",
            ) from None
        begins, line = line, reader.line_num + 1
        if line - begins > RUNAWAY_LINES and any(cell.count("\n") > RUNAWAY_LINES for cell in cells):
            raise FinetuneError(
                f"The cell that begins on line {begins} goes on for {line - begins:,} lines.",
                f"Close the quotation mark that opens on line {begins} and try again.",
                code="broken-table",
            )
        if any(cell.strip() for cell in cells):
            yield begins, cells


def read_workbook(path: Path, name: str) -> tuple[str, list[str], Iterator[Cells]]:
    """(the sheet that is read, other sheets with cells, its records): the first sheet that has any."""
    from python_calamine import CalamineError, CalamineWorkbook

    try:
        book = CalamineWorkbook.from_path(path)
        sheets = [(sheet, book.get_sheet_by_name(sheet)) for sheet in book.sheet_names]
    except (CalamineError, OSError, ValueError) as error:
        raise FinetuneError(
            f"{name} is not a readable workbook ({first_line(error)}).", "Save it as .xlsx or CSV and try again.",
            code="unreadable-file",
        ) from None  # fmt: skip
    filled = [(title, sheet) for title, sheet in sheets if sheet.height]
    if not filled:
        raise FinetuneError(f"The workbook {name} is empty.", "Choose one that has rows.", code="empty")
    title, sheet = filled[0]
    first = (sheet.start or (0, 0))[0]

    def records() -> Iterator[Cells]:
        for line, cells in enumerate(sheet.iter_rows(), start=1):
            if line > first and any(as_cell(cell).strip() for cell in cells):
                yield line, cells

    return title, [other for other, _ in filled[1:]], records()


def read_parquet(path: Path, name: str) -> tuple[dict[str, str], int, Iterator[dict[str, Any]]]:
    """(column → type, number of rows, rows). Pictures, sound and other bytes are left out."""
    import pyarrow
    import pyarrow.parquet as parquet

    try:
        file = parquet.ParquetFile(path, memory_map=True)
        schema = file.schema_arrow
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise _unreadable(name, "Parquet", error) from None
    wanted = [field.name for field in schema if not _is_bytes(field.type)]
    batches = file.iter_batches(batch_size=500, columns=wanted)
    return _types(schema), file.metadata.num_rows, _arrow_rows(batches, label_names(schema), name)


def read_arrow(path: Path, name: str) -> tuple[dict[str, str], Iterator[dict[str, Any]]]:
    """An Arrow file or, as `datasets` writes it, stream."""
    import pyarrow
    from pyarrow import ipc

    source = pyarrow.memory_map(str(path))
    try:
        try:
            reader = ipc.open_file(source)
            batches = (reader.get_batch(index) for index in range(reader.num_record_batches))
        except pyarrow.ArrowInvalid:
            source.seek(0)
            reader = ipc.open_stream(source)
            batches = iter(reader)
        schema = reader.schema
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise _unreadable(name, "Arrow", error) from None
    kept = [index for index, field in enumerate(schema) if not _is_bytes(field.type)]
    small = (part for batch in batches for part in _pieces(batch.select(kept)))
    return _types(schema), _arrow_rows(small, label_names(schema), name)


def _pieces(batch: Any, size: int = 500) -> Iterator[Any]:
    for start in range(0, batch.num_rows, size):
        yield batch.slice(start, size)


def _arrow_rows(batches: Iterable[Any], labels: dict[str, list[str]], name: str) -> Iterator[dict[str, Any]]:
    import pyarrow

    try:
        for batch in batches:
            for row in batch.to_pylist():
                for column, names in labels.items():
                    if isinstance(row.get(column), int) and 0 <= row[column] < len(names):
                        row[column] = names[row[column]]
                yield row
    except (pyarrow.ArrowException, OSError) as error:
        raise _unreadable(name, "Parquet or Arrow", error) from None


def label_names(schema: Any) -> dict[str, list[str]]:
    """Columns of class numbers with the names of the classes, as `datasets` keeps them beside the columns."""
    import json

    try:
        kept = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = kept["info"]["features"]
        return {column: kind["names"] for column, kind in features.items() if kind.get("_type") == "ClassLabel"}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _types(schema: Any) -> dict[str, str]:
    return {field.name: "text" if _is_text(field.type) else str(field.type) for field in schema}


def _is_text(kind: Any) -> bool:
    return str(kind) in ("string", "large_string", "string_view") or str(kind).startswith("dictionary<values=string")


def _is_bytes(kind: Any) -> bool:
    return bool(re.search(r"\b(large_)?binary\b", str(kind)))


def _unreadable(name: str, kind: str, error: BaseException) -> FinetuneError:
    return FinetuneError(
        f"{name} is not a readable {kind} file ({first_line(error)}).", "Download or make it again.",
        code="unreadable-file",
    )  # fmt: skip
