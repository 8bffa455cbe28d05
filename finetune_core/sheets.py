"""Rows as a table that a spreadsheet opens: text with a delimiter, or a workbook. A spreadsheet runs nothing in either.

Cells come from other people and from a model. In a text table one that begins as a formula does gets an apostrophe, as
OWASP advises against CSV injection; that holds where the table is opened with the delimiter it was written with. A
workbook says of each cell that it is text, so there nothing is changed.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .data.tables import as_cell

MOST_ROWS, MOST_COLUMNS, MOST_IN_CELL = 1_048_576, 16_384, 32_767  # of a workbook's sheet; Excel repairs what has more
PLAIN_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,9})")  # shown as it is: no leading zero to lose, and no 1.2E+11
NEGATIVE_NUMBER = re.compile(r"-[0-9]+([.,][0-9]+)?")
NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_text_table(path: Path, records: Iterable[Sequence[Any]], delimiter: str) -> None:
    """Every cell in quotation marks, in UTF-8 with the mark by which Excel knows it. A negative number stays one."""
    with path.open("w", encoding="utf-8-sig", errors="replace", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL)
        for record in records:
            texts = (text_of(value) for value in record)
            writer.writerow([text if NEGATIVE_NUMBER.fullmatch(text) else without_formula(text) for text in texts])
            file.flush()


def write_workbook(path: Path, records: Iterable[Sequence[Any]]) -> None:
    """One sheet; a whole number is a number, everything else is text, and what is too long for a cell is cut."""
    from xlsxwriter import Workbook

    with Workbook(str(path), {"in_memory": True}) as book:  # no temporary files: the rows lie nowhere else
        sheet = book.add_worksheet("Answers")
        for row, record in enumerate(records):
            for column, text in enumerate(map(text_of, record)):
                if PLAIN_NUMBER.fullmatch(text):
                    sheet.write_number(row, column, int(text))
                elif text:
                    sheet.write_string(row, column, _that_fits(text))


def without_formula(text: str) -> str:
    """A text that a spreadsheet would run as a formula begins with an apostrophe.

    >>> without_formula("=1+1"), without_formula("  @x"), without_formula("fine")
    ("'=1+1", "'  @x", 'fine')
    """
    return "'" + text if text.lstrip(" ")[:1] in ("=", "+", "-", "@", "\t", "\r", "\n") else text


def fits_cell(text: str) -> bool:
    """Whether a workbook's cell holds it, whose letters are counted as UTF-16 does."""
    return len(text) <= MOST_IN_CELL // 2 or len(text.encode("utf-16-le", "replace")) // 2 <= MOST_IN_CELL


def text_of(value: Any) -> str:
    """A cell as text; a list or an object as JSON."""
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict) else as_cell(value)


def _that_fits(text: str) -> str:
    """The text of a cell: cut where it is too long, without half characters, its lines ended as a workbook's are."""
    if not fits_cell(text):
        text = text.encode("utf-16-le", "replace")[: 2 * (MOST_IN_CELL - 1)].decode("utf-16-le", "ignore") + "…"
    return NOT_XML.sub("\ufffd", text.replace("\r\n", "\n").replace("\r", "\n"))
