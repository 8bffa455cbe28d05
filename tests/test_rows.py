"""Rows on disk: read like a list, always valid JSON, never half a file."""

from __future__ import annotations

import json

import numpy as np
import pytest

from finetune_core.data import write_rows
from finetune_core.data.rows import RowWriter, as_json_line
from finetune_core.sheets import without_formula


def test_rows_read_like_a_list():
    writer = RowWriter()
    for i in range(10):
        writer.append({"text": str(i)})
    rows = writer.finish()
    assert len(rows) == 10
    assert rows[-1] == {"text": "9"}
    assert [row["text"] for row in rows[2:8:2]] == ["2", "4", "6"]
    assert rows.view(np.array([3, 1]))[0] == {"text": "3"}
    assert rows.changed(lambda row: row | {"x": 1})[0] == {"text": "0", "x": 1}
    with pytest.raises(IndexError):
        rows[10]


def test_no_rows_are_rows_too():
    assert list(RowWriter().finish()) == []


@pytest.mark.parametrize("row", [{"x": float("nan")}, {"x": 2**80}, {"x": "\ud83d"}, {"x": [float("inf"), {1: "a"}]}])
def test_a_row_is_always_written_as_valid_json(row):
    line = as_json_line(row)
    json.loads(line, parse_constant=lambda name: pytest.fail(name))
    assert line.endswith(b"\n")


@pytest.mark.parametrize("cell", ["=HYPERLINK(1)", "+1", "-1\n", "@x", "\t=1", "\r=1", "  =1"])
def test_a_spreadsheet_runs_no_cell(cell):
    assert without_formula(cell) == f"'{cell}"
    assert without_formula(f"fine {cell}") == f"fine {cell}"


def test_a_write_that_fails_leaves_no_half_file(tmp_path):
    def rows():
        yield {"text": "a"}
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_rows(rows(), tmp_path / "x.jsonl")
    assert not (tmp_path / "x.jsonl").exists()
