"""The same rows from every kind of file, whatever its name says."""

from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path

import pytest
from make_bad_inputs import lines, sentence, workbook
from prepared_rows import PAIRS, TABLE, all_rows, delimited, prepared_from, said


def write_parquet(path: Path) -> None:
    import pyarrow
    from pyarrow.parquet import write_table

    write_table(pyarrow.Table.from_pylist(PAIRS), path, row_group_size=7)


def write_arrow(path: Path, as_stream: bool) -> None:
    import pyarrow
    from pyarrow import ipc

    content = pyarrow.Table.from_pylist(PAIRS)
    with (ipc.new_stream if as_stream else ipc.new_file)(str(path), content.schema) as writer:
        writer.write_table(content)


def write_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data/rows.jsonl", lines(PAIRS))
        archive.writestr("__MACOSX/._rows.jsonl", "junk")
        archive.writestr("README.md", "about")


def write_zst(path: Path) -> None:
    import zstandard

    path.write_bytes(zstandard.compress(lines(PAIRS).encode()))


def write_folder(path: Path) -> None:
    path.mkdir()
    (path / "a.jsonl").write_text(lines(PAIRS[:20]))
    (path / "b.csv").write_text(delimited(",").splitlines()[0] + "\n" + "\n".join(delimited(",").splitlines()[21:]))
    (path / ".hidden.jsonl").write_text("junk")


FORMATS = {
    "rows.jsonl": lambda path: path.write_text(lines(PAIRS)),
    "rows.json": lambda path: path.write_text(json.dumps(PAIRS, indent=2)),
    "one-line.json": lambda path: path.write_text(json.dumps(PAIRS)),
    "wrapped.json": lambda path: path.write_text(json.dumps({"version": 1, "data": PAIRS, "more": {"a": [1]}})),
    "lines.json": lambda path: path.write_text(lines(PAIRS)),
    "pretty.jsonl": lambda path: path.write_text("\n".join(json.dumps(row, indent=1) for row in PAIRS)),
    "list.jsonl": lambda path: path.write_text(json.dumps(PAIRS)),
    "rows": lambda path: path.write_text(lines(PAIRS)),
    "rows.csv": lambda path: path.write_text(delimited(",")),
    "semicolon.csv": lambda path: path.write_text(delimited(";")),
    "pipe.csv": lambda path: path.write_text(delimited("|")),
    "rows.tsv": lambda path: path.write_text(delimited("\t")),
    "table": lambda path: path.write_text(delimited("\t")),
    "utf16.csv": lambda path: path.write_text(delimited(","), encoding="utf-16"),
    "rows.xlsx": workbook({"Sheet": TABLE}),
    "anki.txt": lambda path: path.write_text(delimited("\t")),
    "rows.parquet": write_parquet,
    "rows.arrow": lambda path: write_arrow(path, as_stream=False),
    "stream.arrow": lambda path: write_arrow(path, as_stream=True),
    "rows.jsonl.gz": lambda path: path.write_bytes(gzip.compress(lines(PAIRS).encode())),
    "rows.csv.gz": lambda path: path.write_bytes(gzip.compress(delimited(";").encode())),
    "rows.jsonl.zst": write_zst,
    "rows.zip": write_zip,
    "folder": write_folder,
}


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_rows_are_read_from_every_format(name, tmp_path):
    FORMATS[name](tmp_path / name)
    prepared = prepared_from(tmp_path / name)
    found = sorted(said(row) for row in all_rows(prepared))
    assert found == sorted([("user", row["question"]), ("assistant", row["answer"])] for row in PAIRS)
    assert prepared.shape == "question-answer"
    assert prepared.findings == ()


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("lines.csv", lines(PAIRS), "JSON"),
        ("table.jsonl", delimited(","), "CSV"),
        ("lines.txt", lines(PAIRS), "JSON"),
        ("list.csv", json.dumps(PAIRS), "JSON"),
    ],
)
def test_a_file_under_another_name_is_read_as_what_it_is(name, content, kind, tmp_path):
    (tmp_path / name).write_text(content)
    prepared = prepared_from(tmp_path / name)
    assert len(all_rows(prepared)) == 40
    assert [finding.code for finding in prepared.findings] == ["renamed"]
    assert kind in prepared.findings[0].says


def test_what_was_detected_is_shown(tmp_path):
    (tmp_path / "x.csv").write_text(delimited(";"), encoding="cp1252")
    source = prepared_from(tmp_path / "x.csv").source
    assert (source.first.kind, source.first.delimiter, source.first.has_header) == ("csv", ";", True)
    assert source.first.encoding == "UTF-8"
    assert source.bytes == (tmp_path / "x.csv").stat().st_size
    assert len(source.sha256) == 64


def test_class_numbers_get_their_names(tmp_path):
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    rows = {"text": [sentence(i) for i in range(20)], "label": [i % 2 for i in range(20)]}
    datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / "x.parquet")
    prepared = prepared_from(tmp_path / "x.parquet")
    assert prepared.shape == "labels"
    assert {said(row)[1][1] for row in prepared.train} == {"no", "yes"}


def test_a_dataset_saved_to_disk_is_read_with_its_splits(tmp_path):
    import datasets

    made = datasets.Dataset.from_list(PAIRS).train_test_split(0.25, seed=1)
    made.save_to_disk(tmp_path / "saved")
    prepared = prepared_from(tmp_path / "saved", validation_size=0)
    assert (len(prepared.train), len(prepared.test)) == (30, 10)


def test_rows_and_lines_are_those_of_the_file(tmp_path):
    (tmp_path / "x.csv").write_text('question,answer\n"two\nlines",a\n\nplain,b\nempty,\n')
    finding = next(f for f in prepared_from(tmp_path / "x.csv").findings if f.code == "empty-answers")
    assert (finding.rows, finding.lines) == ((3,), (6,))


def test_nothing_unpacked_stays_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    write_zip(tmp_path / "rows.zip")
    prepared_from(tmp_path / "rows.zip")
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_long_text_file_becomes_rows_of_whole_words(tmp_path):
    words = " ".join(sentence(i) for i in range(400))
    (tmp_path / "x.txt").write_text("Short.\n\nAnother.\n\n" + words)
    rows = [row["text"] for row in prepared_from(tmp_path / "x.txt", validation_size=0, test_size=0).train]
    assert " ".join(" ".join(rows).split()) == "Short. Another. " + words
    assert all(len(text) <= 2000 for text in rows)
