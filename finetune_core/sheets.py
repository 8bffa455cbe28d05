"""Rows as a table that a spreadsheet opens: text with a delimiter, or a workbook. A spreadsheet runs nothing in either.

Cells come from other people and from a model. In a text table one that begins as a formula does gets an apostrophe, as
OWASP advises against CSV injection; that holds where the table is opened with the delimiter it was written with. A
workbook says of each cell that it is text, so there nothing is changed.
"""

from __future__ import annotations

import csv
import json
import re
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from .data.tables import as_cell

MOST_ROWS, MOST_COLUMNS, MOST_IN_CELL = 1_048_576, 16_384, 32_767  # of a workbook's sheet; Excel repairs what has more
PLAIN_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,9})")  # shown as it is: no leading zero to lose, and no 1.2E+11
NEGATIVE_NUMBER = re.compile(r"-[0-9]+([.,][0-9]+)?")
NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
LIKE_AN_ESCAPE = re.compile(r"_(?=x[0-9A-Fa-f]{4}_)")  # which a workbook would read as the letter of this number

TYPES = "http://schemas.openxmlformats.org/package/2006/content-types"
RELATIONS = "http://schemas.openxmlformats.org/package/2006/relationships"
DOCUMENT = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
SHEET = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
MAIN = "application/vnd.openxmlformats-officedocument.spreadsheetml"
HEAD = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
PARTS = {
    "[Content_Types].xml": f'<Types xmlns="{TYPES}">'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    f'<Override PartName="/xl/workbook.xml" ContentType="{MAIN}.sheet.main+xml"/>'
    f'<Override PartName="/xl/worksheets/sheet1.xml" ContentType="{MAIN}.worksheet+xml"/></Types>',
    "_rels/.rels": f'<Relationships xmlns="{RELATIONS}"><Relationship Id="rId1" Type="{DOCUMENT}/officeDocument" '
    'Target="xl/workbook.xml"/></Relationships>',
    "xl/workbook.xml": f'<workbook xmlns="{SHEET}" xmlns:r="{DOCUMENT}"><sheets>'
    '<sheet name="Answers" sheetId="1" r:id="rId1"/></sheets></workbook>',
    "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{RELATIONS}"><Relationship Id="rId1" '
    f'Type="{DOCUMENT}/worksheet" Target="worksheets/sheet1.xml"/></Relationships>',
}


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
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as book:
        for name, content in PARTS.items():
            book.writestr(name, HEAD + content)
        with book.open("xl/worksheets/sheet1.xml", "w", force_zip64=True) as sheet:
            sheet.write(f'{HEAD}<worksheet xmlns="{SHEET}"><sheetData>'.encode())
            for record in records:
                cells = "".join(_cell(text_of(value)) for value in record)
                sheet.write(f"<row>{cells}</row>".encode())
            sheet.write(b"</sheetData></worksheet>")


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


def _cell(text: str) -> str:
    """
    >>> _cell("12"), _cell("=1+1"), _cell("")
    ('<c><v>12</v></c>', '<c t="inlineStr"><is><t xml:space="preserve">=1+1</t></is></c>', '<c/>')
    """
    if not text:
        return "<c/>"
    if PLAIN_NUMBER.fullmatch(text):
        return f"<c><v>{text}</v></c>"
    if not fits_cell(text):
        text = text.encode("utf-16-le", "replace")[: 2 * (MOST_IN_CELL - 1)].decode("utf-16-le", "ignore") + "…"
    text = LIKE_AN_ESCAPE.sub("_x005F_", NOT_XML.sub("\ufffd", text.replace("\r\n", "\n").replace("\r", "\n")))
    return f'<c t="inlineStr"><is><t xml:space="preserve">{escape(text)}</t></is></c>'
