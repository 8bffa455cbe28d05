"""Rows as Parquet files that `datasets` and the Hub's viewer read: the same columns in every split, nothing guessed.

A JSON file would be guessed anew by each reader: a column that begins in the thousandth row, a text that looks like a
date. What a row does not have is None there, as Arrow has it; `tools` and `tool_calls` keep any shape (Json).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Features

ANY = "json"  # a value that no one type fits
OPEN = ("tools", "tool_calls")  # lists of objects whose keys differ from row to row
LARGEST = 2**63  # integers beyond it have no type of their own

Type = str | list[Any] | dict[str, Any] | None  # a type's name, [of the items], {key: of its value}, None: not seen yet


def widened(known: Type, value: Any, name: str = "") -> Type:
    """The type that fits what was seen until now and this value.

    >>> widened(widened(None, {"id": 1}), {"id": 2, "tags": ["a"]})
    {'id': 'int64', 'tags': ['string']}
    """
    if value is None or known == ANY:
        return known
    if name in OPEN and isinstance(value, list):
        return [ANY]
    if isinstance(value, list):
        if not isinstance(known, list | None):
            return ANY
        item = known[0] if known else None
        for each in value:
            item = widened(item, each)
        return [item]
    if isinstance(value, dict):
        if not value or not isinstance(known, dict | None):
            return ANY
        return (known or {}) | {key: widened((known or {}).get(key), each, key) for key, each in value.items()}
    kind = _kind(value)
    if known in (None, kind):
        return kind
    return "float64" if [known, kind] in (["int64", "float64"], ["float64", "int64"]) else ANY


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int64" if -LARGEST <= value < LARGEST else ANY
    return "float64" if isinstance(value, float) else "string"


def features(known: Mapping[str, Type]) -> Features:
    """The columns in the words of `datasets`."""
    from datasets import Features

    return Features({name: _feature(kind) for name, kind in known.items()})


def _feature(kind: Type) -> Any:
    from datasets import Json, List, Value

    if isinstance(kind, list):
        return List(_feature(kind[0]))
    if isinstance(kind, dict):
        return {key: _feature(each) for key, each in kind.items()}
    return Json() if kind == ANY else Value(kind or "string")


def write_parquet(rows: Iterable[dict[str, Any]], known: Mapping[str, Type], path: Path) -> None:
    """Write rows with these columns; what a row does not have is null."""
    from datasets.arrow_writer import ParquetWriter

    columns = features(known)
    with ParquetWriter(features=columns, path=str(path)) as writer:
        for row in rows:
            writer.write(columns.encode_example({name: row.get(name) for name in known}))
        writer.finalize()
