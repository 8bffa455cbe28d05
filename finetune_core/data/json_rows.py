"""Rows of JSON: one a line, or the elements of lists, taken one by one however large the file is."""

from __future__ import annotations

import io
import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import orjson

from .columns import MESSAGES, TOOLS
from .encoding import Encoding
from .filenames import SPLITS

MAX_LINE = 64 * 1024**2  # bytes of one line of JSON lines
WHITESPACE = re.compile(r"[\s,]*")


@dataclass(frozen=True)
class Record:
    """One row as it is in the file, or why it is none."""

    row: int  # from 1
    line: int  # from 1; the same as row where a file has no lines
    value: dict[str, Any] | None
    problem: str = ""  # code of a finding
    detail: str = ""
    example: str = ""
    split: str | None = None  # where one file holds several
    is_repaired: bool = False  # it had characters that no text can hold


def parse_json(line: bytes) -> tuple[Any, bool]:
    """(value, whether half characters were replaced). Takes NaN and Infinity, which JSON does not have.

    Raises ValueError or RecursionError for what is no JSON.
    """
    try:
        return orjson.loads(line), False
    except orjson.JSONDecodeError:
        text = line.decode("utf-8", "replace")
        return whole_characters(json.loads(text), "\ufffd" in text)


def whole_characters(value: Any, is_repaired: bool = False) -> tuple[Any, bool]:
    """Half of a surrogate pair has no place in UTF-8: replaced by the replacement character."""
    if isinstance(value, str):
        if value.isascii():
            return value, is_repaired
        whole = value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return whole, is_repaired or whole != value
    if isinstance(value, list):
        pairs = [whole_characters(item) for item in value]
        return [item for item, _ in pairs], is_repaired or any(was for _, was in pairs)
    if isinstance(value, dict):
        pairs = [(whole_characters(key), whole_characters(item)) for key, item in value.items()]
        was = any(key[1] or item[1] for key, item in pairs)
        return {key[0]: item[0] for key, item in pairs}, is_repaired or was
    return value, is_repaired


def as_record(row: int, line: int, value: Any, is_repaired: bool = False, split: str | None = None) -> Record:
    """A JSON value as a row: an object, or a list of messages."""
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        value = {"messages": value}
    if isinstance(value, dict):
        return Record(row, line, value, split=split, is_repaired=is_repaired)
    kind = {list: "a list", str: "text", bool: "true or false", type(None): "null"}.get(type(value), "a number")
    return Record(row, line, None, "unknown-shape", f"{kind} instead of an object", json.dumps(value)[:200])


def is_rows(key: str, value: Any) -> bool:
    """A list of rows, and not the messages or tools of one row."""
    if not isinstance(value, list) or not value or not isinstance(value[0], dict):
        return False
    return key.casefold() not in (*MESSAGES, *TOOLS) and not {"role", "from"} & value[0].keys()


def json_lines(stream: IO[bytes], encoding: Encoding) -> Iterator[Record]:
    """One record a line; a line that is no JSON is a record with the problem `broken-lines`."""
    row = 0
    with stream:
        for number, line in enumerate(_lines(stream, encoding), start=1):
            content = line.strip()
            if not content:
                continue
            row += 1
            try:
                value, is_repaired = parse_json(content)
            except (ValueError, RecursionError) as error:
                words = "it is too deep or too large"
                if isinstance(error, json.JSONDecodeError):
                    words = f"{error.msg.removesuffix(' starting at')}, character {error.pos + 1}"
                if len(line) > MAX_LINE:
                    words = f"longer than {MAX_LINE // 1024**2} MB"
                start = content[:200].decode("utf-8", "replace")
                yield Record(row, number, None, "broken-lines", words, start)
                continue
            yield as_record(row, number, value, is_repaired)


def _lines(stream: IO[bytes], encoding: Encoding) -> Iterator[bytes]:
    if encoding.codec not in ("utf-8", "utf-8-sig"):
        for text in io.TextIOWrapper(stream, encoding.codec, errors="replace", newline="\n"):
            yield text.encode("utf-8", "replace")
        return
    line = stream.readline(MAX_LINE + 1).removeprefix(b"\xef\xbb\xbf")
    while line:
        yield line
        while len(line) > MAX_LINE and not line.endswith(b"\n"):  # the rest of a line that is too long
            line = stream.readline(MAX_LINE + 1)
        line = stream.readline(MAX_LINE + 1)


def json_values(text: IO[str]) -> Iterator[Record]:
    """Rows of a JSON file without holding it in memory: the elements of its list, or of each list of its object
    (whose key may be a split's name), or several values one after the other.
    """
    scan = _Scan(text)
    row = 0
    try:
        while (mark := scan.peek()) is not None:
            if mark == "[":
                for line, value in scan.elements():
                    row += 1
                    yield as_record(row, line, *whole_characters(value))
            elif mark == "{":
                single: dict[str, Any] = {}
                line, found = scan.line, False
                for key, is_list in scan.members():
                    if not is_list:
                        single[key] = scan.value()
                        continue
                    values = scan.elements()
                    start = list(itertools.islice(values, 1))
                    if start and is_rows(key, [start[0][1]]):
                        found = True
                        for at, value in itertools.chain(start, values):
                            row += 1
                            repaired = whole_characters(value)
                            yield as_record(row, at, *repaired, split=SPLITS.get(key.casefold()))
                    else:
                        single[key] = [value for _, value in itertools.chain(start, values)]
                if not found:
                    row += 1
                    yield as_record(row, line, *whole_characters(single))
            else:
                raise ValueError("expected a list or an object")
    except (ValueError, RecursionError) as error:
        words = error.msg if isinstance(error, json.JSONDecodeError) else str(error)[:80]
        yield Record(row + 1, scan.line, None, "broken-json", words, scan.text[scan.at : scan.at + 200])


class _Scan:
    """A window on JSON text that moves on as values are taken from it."""

    BLOCK = 1 << 18

    def __init__(self, file: IO[str]):
        self.file = file
        self.text = file.read(self.BLOCK).lstrip("\ufeff")
        self.at = 0
        self.line = 1
        self.decoder = json.JSONDecoder()

    def peek(self) -> str | None:
        """The next character that is no space or comma; None at the end."""
        while True:
            end = WHITESPACE.match(self.text, self.at).end()  # type: ignore[union-attr]
            self._go(end)
            if self.at < len(self.text):
                return self.text[self.at]
            if not self._more():
                return None

    def value(self) -> Any:
        """The value that begins here, reading on as long as it is not complete."""
        self.peek()
        while True:
            try:
                value, end = self.decoder.raw_decode(self.text, self.at)
                if end < len(self.text) or not self._more():  # a number at the very end may go on
                    self._go(end)
                    return value
            except json.JSONDecodeError:
                if len(self.text) - self.at > MAX_LINE or not self._more():
                    raise

    def elements(self) -> Iterator[tuple[int, Any]]:
        """(line, value) of each element of the list that begins here."""
        self._go(self.at + 1)
        while (mark := self.peek()) != "]":
            if mark is None:
                raise ValueError("the list is not closed: the file breaks off")
            line = self.line
            yield line, self.value()
        self._go(self.at + 1)

    def members(self) -> Iterator[tuple[str, bool]]:
        """(key, whether its value is a list) of the object that begins here; the caller takes the value."""
        self._go(self.at + 1)
        while (mark := self.peek()) != "}":
            if mark is None:
                raise ValueError("the object is not closed: the file breaks off")
            key = self.value()
            if self.peek() != ":" or not isinstance(key, str):
                raise ValueError("expected a key and a colon")
            self._go(self.at + 1)
            yield key, self.peek() == "["
        self._go(self.at + 1)

    def _go(self, to: int) -> None:
        self.line += self.text.count("\n", self.at, to)
        self.at = to

    def _more(self) -> bool:
        block = self.file.read(max(self.BLOCK, len(self.text) - self.at))
        self.text = self.text[self.at :] + block
        self.at = 0
        return bool(block)
