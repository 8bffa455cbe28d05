"""Rows on disk that read like a list: a million of them take some megabytes of memory, not gigabytes.

One JSON object a line in a temporary file, memory-mapped, and where each line begins. Plain JSON and not Arrow
columns, because rows differ (messages, tools, text) and an Arrow schema would fill or refuse what differs.
"""

from __future__ import annotations

import json
import mmap
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, overload

import numpy as np
import orjson

from ..files import is_unsupported, replacing

Change = Callable[[dict[str, Any]], dict[str, Any]]
SCANNED = 16 * 1024**2  # bytes looked through at a time


class Rows(Sequence[dict[str, Any]]):
    """Some of the rows of a RowWriter, in an order of their own; views share the file."""

    def __init__(self, content: Any, starts: np.ndarray, numbers: np.ndarray, change: Change | None = None):
        self._content = content  # mmap, or b"" where there are no rows
        self._starts = starts  # int64, one more than there are rows
        self.numbers = numbers  # int64: which rows of the file this view has
        self._change = change

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> Rows: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self.view(self.numbers[index])
        return self._row(int(self.numbers[index]))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for number in self.numbers.tolist():
            yield self._row(number)

    def _row(self, number: int) -> dict[str, Any]:
        row = orjson.loads(self._content[self._starts[number] : self._starts[number + 1]])
        return self._change(row) if self._change else row

    def size(self, number: int) -> int:
        """Bytes of a row, by its number in the file."""
        return int(self._starts[number + 1] - self._starts[number])

    def view(self, numbers: np.ndarray) -> Rows:
        """Other rows of the same file, by their numbers in it (from 0)."""
        return Rows(self._content, self._starts, numbers, self._change)

    def changed(self, change: Change) -> Rows:
        """The same rows, each changed as it is read."""
        before = self._change
        return Rows(self._content, self._starts, self.numbers, (lambda row: change(before(row))) if before else change)

    def __repr__(self) -> str:
        return f"<{len(self)} rows>"


class RowWriter:
    """Append rows, then `finish()` for a Rows of all. The file has no name and goes when the last Rows goes."""

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile(prefix="fijn-rows-")  # noqa: SIM115 (lives on in the mmap)
        self._starts = array("q", [0])

    def __len__(self) -> int:
        return len(self._starts) - 1

    def append(self, row: dict[str, Any]) -> int:
        """Returns the number of the row, from 0."""
        self._starts.append(self._starts[-1] + self._file.write(as_json_line(row)))
        return len(self._starts) - 2

    def finish(self) -> Rows:
        self._file.flush()
        starts = np.frombuffer(self._starts, dtype=np.int64)
        content = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ) if starts[-1] else b""
        self._file.close()
        return Rows(content, starts, np.arange(len(starts) - 1))


def open_rows(path: Path) -> Rows:
    """The rows of a file of JSON lines that is ours; none if there is no such file."""
    if not path.is_file() or not path.stat().st_size:
        return Rows(b"", np.zeros(1, dtype=np.int64), np.arange(0))
    with path.open("rb") as file:
        content = _mapped(file)
    starts, size = [np.zeros(1, dtype=np.int64)], len(content)
    for begin in range(0, size, SCANNED):
        piece = np.frombuffer(content[begin : begin + SCANNED], dtype=np.uint8)
        starts.append(np.flatnonzero(piece == ord("\n")) + begin + 1)
    begins = np.concatenate([*starts, [size]])
    return Rows(content, begins, np.flatnonzero(np.diff(begins) > len("{}")))  # a shorter line is blank


def _mapped(file: IO[bytes]) -> mmap.mmap | bytes:
    """Its content, in memory only where its file system cannot map it."""
    try:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        if not is_unsupported(error):
            raise
        return file.read()


def as_json_line(row: dict[str, Any]) -> bytes:
    """Valid JSON in UTF-8, whatever is in the row: no NaN, no half characters, integers of any size."""
    try:
        return orjson.dumps(row) + b"\n"
    except TypeError:
        text = json.dumps(_plain(row), ensure_ascii=False, allow_nan=False, default=str)
        return text.encode("utf-8", "replace") + b"\n"


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def write_rows(rows: Iterable[dict[str, Any]], path: Path) -> int:
    """One JSON object a line; beside and renamed, so there is never half a file. Returns how many."""
    count = 0
    with replacing(path) as beside, beside.open("wb") as file:
        for row in rows:
            file.write(as_json_line(row))
            count += 1
    return count
