"""What was handed in, a file, an archive or pasted text, becomes files to read."""

from __future__ import annotations

import gzip
import json

import pytest
from make_bad_inputs import lines
from prepared_rows import PAIRS, delimited, prepared_from

from finetune_core.data import save_pasted, unpack
from finetune_core.data.filenames import split_of
from finetune_core.errors import FinetuneError


def test_a_gzip_that_grows_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(unpack.Inbox.__init__, "__defaults__", (100_000,))
    (tmp_path / "bomb.jsonl.gz").write_bytes(gzip.compress(b" " * 1_000_000))
    with pytest.raises(FinetuneError, match="unpacks to more"):
        prepared_from(tmp_path / "bomb.jsonl.gz")


@pytest.mark.parametrize(
    ("text", "suffix", "count"),
    [
        (lines(PAIRS), ".json", 40),
        (json.dumps(PAIRS), ".json", 40),
        (delimited("\t"), ".tsv", 40),
        (delimited(","), ".csv", 40),
        ("Once upon a time there was a king. He had a castle, and a horse.\n\nThe end.", ".txt", 1),
    ],
)
def test_pasted_text_is_kept_as_what_it_is(text, suffix, count, tmp_path):
    path = save_pasted(text, tmp_path / "pasted")
    assert path.suffix == suffix
    assert save_pasted(text, tmp_path / "pasted") == path
    assert prepared_from(path).rows == count


def test_pasting_nothing_is_refused(tmp_path):
    with pytest.raises(FinetuneError, match="empty"):
        save_pasted(" \n", tmp_path)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("train.jsonl", "train"), ("data/validation-00000-of-00001.parquet", "validation"), ("dev.csv", "validation"),
        ("test/data.arrow", "test"), ("my_test.csv", "test"), ("latest.csv", None), ("trainers.csv", None),
        ("contest.csv", None), ("attest-train-tickets.csv", None),
    ],
)  # fmt: skip
def test_a_split_is_a_word_of_the_name_and_not_a_part_of_one(name, expected):
    assert split_of(name) == expected


@pytest.mark.parametrize(
    "name",
    [
        "leesmij.txt",
        "README.md",
        "Lees-mij.txt",
        "LICENSE.txt",
        "LICENCE.md",
        "CITATION.txt",
        "NOTICE.txt",
        "LICENSE-CC-BY-4.0.txt",
        "DATA_CARD.md",
    ],
)
def test_what_is_written_about_the_data_is_no_row(tmp_path, name):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    (tmp_path / name).write_text("These are the rows of class 3B.")
    assert [file.name for file in unpack.unpack(tmp_path, tmp_path / "into")[0]] == ["rows.jsonl"]
