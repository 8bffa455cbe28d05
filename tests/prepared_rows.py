"""Rows of a file as a training would get them, and the same forty rows for every format."""

import csv
import io
from pathlib import Path

from make_bad_inputs import sentence

from finetune_core.data import prepare
from finetune_core.recipe import Recipe

PAIRS = [{"question": sentence(i), "answer": sentence(i + 500)} for i in range(40)]
TABLE = [["question", "answer"], *[[row["question"], row["answer"]] for row in PAIRS]]


def prepared_from(path: Path, **fields):
    return prepare(Recipe(dataset_name=str(path), **fields))


def all_rows(prepared) -> list[dict]:
    """In the order of the source."""
    return sorted((row for part in prepared.splits().values() for row in part), key=lambda row: row["row"])


def said(row: dict) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in row["messages"]]


def delimited(delimiter: str) -> str:
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter).writerows(TABLE)
    return out.getvalue()
