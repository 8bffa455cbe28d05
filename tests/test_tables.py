"""Tables: which delimiter, whether there is a header, and what a cell says."""

from __future__ import annotations

import pytest
from make_bad_inputs import sentence, workbook
from prepared_rows import prepared_from, said

from finetune_core.data.tables import find_dialect


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


def test_a_title_without_delimiters_does_not_decide_how_many_columns_there_are(tmp_path):
    rows = "".join(f"{sentence(n)};{sentence(n + 500)}\n" for n in range(20))
    (tmp_path / "x.csv").write_text(f"Klantvragen Q3\nVraag;Antwoord\n{rows}")
    assert prepared_from(tmp_path / "x.csv").rows == 20
    as_data = prepared_from(tmp_path / "x.csv", fixes=["first-row-is-data"])
    assert as_data.rows == 22 and "ragged-rows" not in {finding.code for finding in as_data.findings}


def test_the_numbers_that_pandas_writes_are_a_column_without_a_name(tmp_path):
    (tmp_path / "x.csv").write_text(",opmerking,soort\n" + "".join(f"{n},{sentence(n)},{n % 2}\n" for n in range(20)))
    prepared = prepared_from(tmp_path / "x.csv")
    assert (prepared.rows, list(prepared.columns)) == (20, ["column 1", "opmerking", "soort"])
