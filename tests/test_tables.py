"""Tables: which delimiter, whether there is a header, and what a cell says."""

from __future__ import annotations

import pytest
from make_bad_inputs import sentence, workbook
from prepared_rows import prepared_from, said

from finetune_core.data import columns
from finetune_core.data.tables import find_dialect, has_header


def test_encoding_and_delimiter_can_be_said(tmp_path):
    (tmp_path / "x.csv").write_bytes("question,answer\nwat?,\xe9\xe9n\n".encode("latin-1") * 1)
    prepared = prepared_from(tmp_path / "x.csv", fixes=["encoding-cp1252", "delimiter-comma"])
    assert said(prepared.train[0])[1] == ("assistant", "één")


@pytest.mark.parametrize(
    ("sample", "delimiter"),
    [
        ("a,b\n1,2\n", ","),
        ("a;b\nx, y;2\nz, w, v;3\n", ";"),
        ("a\tb\nx, y\t2\n", "\t"),
        ('text,label\n"one; two; three",x\n"four; five",y\n', ","),
        ('text;label\n"one\ntwo, three";x\n', ";"),
    ],
)
def test_the_delimiter_is_the_one_that_makes_even_rows(sample, delimiter):
    assert find_dialect(sample).delimiter == delimiter


def test_prose_is_no_table():
    assert not find_dialect("Hello there, friend.\nIt was cold; very cold.\nAnd so, on and on, it went.\nEnd").is_table


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([["text", "label"], ["Fine.", "good"]], True),
        ([["Vraag", "Antwoord"], ["Hoe?", "Zo."]], True),
        ([["zin", "soort"], ["a b c", "x"], ["d e f", "y"]], True),
        ([["I like it a lot.", "good"], ["Not me.", "bad"], ["Yes!", "good"]], False),
        ([["1", "2"], ["3", "4"]], False),
        ([["same", "same"], ["3", "4"]], False),
        ([["alone"]], False),
    ],
)
def test_a_header_is_told_from_data(rows, expected):
    assert has_header(rows, columns.COLUMN_NAMES) is expected


def test_the_header_can_be_said(tmp_path):
    (tmp_path / "x.csv").write_text("aa,bb\n" + "".join(f"{sentence(i)},{i % 2}\n" for i in range(20)))
    assert prepared_from(tmp_path / "x.csv", fixes=["first-row-is-data"]).rows == 21
    assert prepared_from(tmp_path / "x.csv", fixes=["first-row-is-header"]).rows == 20


def test_numbers_of_a_workbook_are_written_as_a_person_reads_them(tmp_path):
    workbook({"S": [["question", "answer"], ["How many?", 3], ["Half?", 0.5], ["True?", True]]})(tmp_path / "x.xlsx")
    assert [said(row)[1][1] for row in prepared_from(tmp_path / "x.xlsx").train] == ["3", "0.5", "true"]


TITLED = [["Klantvragen Q3", None, None], ["Nr", "Vraag", "Antwoord"], *([n, sentence(n), "Ja."] for n in range(20))]


def test_a_title_above_the_names_of_the_columns_is_no_row(tmp_path):
    workbook({"S": TITLED})(tmp_path / "x.xlsx")
    (tmp_path / "x.csv").write_text("".join(";".join(str(cell or "") for cell in row) + "\n" for row in TITLED))
    for file in (tmp_path / "x.xlsx", tmp_path / "x.csv"):
        prepared = prepared_from(file)
        assert (prepared.rows, list(prepared.columns)) == (20, ["Nr", "Vraag", "Antwoord"])
        says = {finding.code: finding.says for finding in prepared.findings}
        assert "“Klantvragen Q3”" in says["titles"]
        assert prepared.shape == "question-answer"


def test_a_title_can_be_said_to_be_a_row(tmp_path):
    workbook({"S": TITLED})(tmp_path / "x.xlsx")
    said, rows = {}, []
    for code in ("titles", "no-header", "titles"):  # and back again
        found = prepared_from(tmp_path / "x.xlsx", **said).findings
        said = next(finding.suggestion.changes for finding in found if finding.code == code)
        rows.append(prepared_from(tmp_path / "x.xlsx", **said).rows)
    assert rows == [22, 20, 22]


@pytest.mark.parametrize(
    "rows",
    [
        [["question", ""], ["Where", "Here"], ["When", "Now"]],  # a column without a name
        [["Where is it?", ""], ["When is it?", "Now."], ["Who is it?", "Me."]],  # an empty answer
    ],
)
def test_a_first_row_with_an_empty_cell_is_not_taken_for_a_title(rows, tmp_path):
    workbook({"S": rows})(tmp_path / "x.xlsx")
    assert not prepared_from(tmp_path / "x.xlsx").source.first.above
