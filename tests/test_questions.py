"""New rows of any file that training reads: what is asked in each, and their answers as a table."""

import csv
import gzip
import json

import pytest
from make_bad_inputs import workbook
from tuned import make_tuned_run

from finetune_core.cli import main
from finetune_core.errors import FinetuneError
from finetune_core.files import write_json
from finetune_core.predict import predict, predict_file
from finetune_core.questions import read_questions
from finetune_core.recipe import Recipe

KETTLE, CAFE = "my kettle is broken", 'één café; of "twee"'


def asked(path, recipe=None, **options):
    """The last message of each row."""
    return [each["messages"][-1]["content"] for each in read_questions(path, recipe, **options).conversations]


def write_csv(path, rows, delimiter=",", encoding="utf-8"):
    with path.open("w", encoding=encoding, newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return path


def table(path, delimiter=","):
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.reader(file, delimiter=delimiter))


def sheet(path):
    """The cells of a workbook's first sheet, as a spreadsheet sees them."""
    import openpyxl

    return [[cell.value for cell in row] for row in openpyxl.load_workbook(path).active.iter_rows()]


def answered(chatter, source, target, **options):
    predict_file(lambda: chatter, source, target, max_new_tokens=4, **options)
    return table(target)


def said_by(chatter, *questions):
    return [each["prediction"] for each in predict(chatter, [{"prompt": q} for q in questions], max_new_tokens=4)]


def test_semicolons_and_latin_1_are_read_and_a_table_is_answered_beside_its_columns(tuned_chatter, tmp_path):
    rows = [["nr", "vraag", "klas"], ["1", KETTLE, "3B"], ["2", CAFE, ""]]
    source = write_csv(tmp_path / "new.csv", rows, ";", "latin-1")
    told = []
    predict_file(lambda: tuned_chatter, source, tmp_path / "out.csv", max_new_tokens=4, on_read=told.append)
    answers = said_by(tuned_chatter, KETTLE, CAFE)
    assert table(tmp_path / "out.csv", ";") == [
        ["nr", "vraag", "klas", "prediction"],
        [*rows[1], answers[0]],
        [*rows[2], answers[1]],
    ]
    assert (tmp_path / "out.csv").read_bytes().startswith(b"\xef\xbb\xbf")
    assert len(told) == 1 and "“vraag”" in told[0] and "UTF-8" in told[0]
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")] == []


@pytest.mark.parametrize("delimiter", [";", "\t", "|", ","])
def test_a_table_goes_out_with_the_delimiter_that_it_came_with(echo, tmp_path, delimiter):
    rows = [["nr", "vraag"], ["1", KETTLE], ["2", CAFE]]
    source = write_csv(tmp_path / "new.csv", rows, delimiter)
    predict_file(lambda: echo, source, tmp_path / "out.csv", max_new_tokens=4)
    assert table(tmp_path / "out.csv", delimiter) == [
        ["nr", "vraag", "prediction"],
        *([*row, SAID] for row in rows[1:]),
    ]


def test_a_tsv_has_tabs_and_rows_that_were_no_text_table_get_commas(echo, tmp_path):
    source = write_csv(tmp_path / "new.csv", [["vraag"], [KETTLE]], ";")
    workbook({"Rows": [["vraag"], [KETTLE]]})(tmp_path / "new.xlsx")
    (tmp_path / "new.jsonl").write_text(json.dumps({"vraag": KETTLE}))
    predict_file(lambda: echo, source, tmp_path / "out.tsv", max_new_tokens=4)
    assert table(tmp_path / "out.tsv", "\t") == [["vraag", "prediction"], [KETTLE, SAID]]
    for name in ("new.xlsx", "new.jsonl"):
        predict_file(lambda: echo, tmp_path / name, tmp_path / "out.csv", max_new_tokens=4)
        assert table(tmp_path / "out.csv") == [["vraag", "prediction"], [KETTLE, SAID]]


def test_a_workbook_holds_the_rows_as_they_are_and_no_formula(echo, tmp_path):
    rows = [["vraag", "nr", "code"], ["=1+1", "-3", "0012"], ["é & <b>€</b>\n_x0041_\x0b", "+31 6", "8712345678901"]]
    (tmp_path / "new.json").write_text(json.dumps([dict(zip(rows[0], row, strict=True)) for row in rows[1:]]))
    predict_file(lambda: echo, tmp_path / "new.json", tmp_path / "out.xlsx", max_new_tokens=4)
    import openpyxl

    made = openpyxl.load_workbook(tmp_path / "out.xlsx").active
    assert {cell.data_type for row in made for cell in row} == {"s", "n"}  # none is "f"
    assert sheet(tmp_path / "out.xlsx") == [
        ["vraag", "nr", "code", "prediction"],
        ["=1+1", -3, "0012", SAID],
        ["é & <b>€</b>\n_x0041_\ufffd", "+31 6", "8712345678901", SAID],
    ]
    assert read_questions(tmp_path / "out.xlsx").columns == ("vraag", "nr", "code", "prediction")


def test_what_a_workbook_does_not_hold_is_said_before_a_model_is_loaded(tmp_path, monkeypatch):
    source = write_csv(tmp_path / "new.csv", [["vraag", "tekst"], [KETTLE, "kort"], ["lamp", "é" * 32_768]])
    with pytest.raises(FinetuneError, match="Row 2 has a cell") as told:
        predict_file(pytest.fail, source, tmp_path / "out.xlsx", max_new_tokens=4)
    assert "out.csv" in told.value.fix
    monkeypatch.setattr("finetune_core.predict.MOST_ROWS", 2)
    with pytest.raises(FinetuneError, match="2 rows"):
        predict_file(pytest.fail, source, tmp_path / "out.xlsx", max_new_tokens=4)


def test_an_answer_that_is_too_long_for_a_cell_is_cut_visibly(tmp_path):
    from finetune_core.sheets import write_workbook

    write_workbook(tmp_path / "out.xlsx", [["a" * 40_000], ["😀" * 20_000]])
    (ascii_,), (emoji,) = sheet(tmp_path / "out.xlsx")
    assert ascii_ == "a" * 32_766 + "…" and emoji == "😀" * 16_383 + "…"


def test_a_workbook_is_read_without_an_answer_column(tuned_chatter, tmp_path):
    source = tmp_path / "new.xlsx"
    workbook({"Rows": [["id", "question", "context"], [7, KETTLE, "bought in May"], [8, "lamp", None]]})(source)
    assert asked(source) == [f"{KETTLE}\n\nbought in May", "lamp"]
    assert answered(tuned_chatter, source, tmp_path / "out.csv")[1][:3] == ["7", KETTLE, "bought in May"]
    predict_file(lambda: tuned_chatter, source, tmp_path / "out.jsonl", max_new_tokens=4)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [list(line) for line in lines] == [["id", "prediction"]] * 2 and lines[0]["id"] == "7"


def test_other_kinds_and_an_answer_that_stands_there_is_not_read(tmp_path):
    rows = [{"instruction": "Sum up.", "input": "a kettle", "output": "k"}, {"instruction": "Say.", "input": ""}]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    write_csv(tmp_path / "c.tsv", [["text", "label"], ["fine", "good"]], "\t")
    turns = [{"from": "human", "value": "one"}, {"from": "gpt", "value": "no"}, {"from": "human", "value": "two"}]
    (tmp_path / "d.json").write_text(json.dumps([{"conversations": [*turns, {"from": "gpt", "value": ""}]}, turns]))
    assert asked(tmp_path / "a.json") == asked(tmp_path / "b.jsonl.gz") == ["Sum up.\n\na kettle", "Say."]
    assert asked(tmp_path / "c.tsv") == ["fine"]
    assert asked(tmp_path / "d.json") == ["two", "two"]


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_parquet_and_arrow_are_read(tmp_path, ending):
    import pyarrow
    import pyarrow.feather
    import pyarrow.parquet

    rows, path = pyarrow.table({"prompt": [KETTLE, "lamp"]}), tmp_path / f"new.{ending}"
    (pyarrow.parquet.write_table if ending == "parquet" else pyarrow.feather.write_feather)(rows, path)
    assert asked(path) == [KETTLE, "lamp"]


def test_a_template_makes_the_question_as_in_training(tmp_path):
    recipe = Recipe(template="Sort {what}: {zin}", system_prompt="Be brief.", columns={"completion": "soort"})
    source = write_csv(tmp_path / "new.csv", [["zin", "what", "soort"], [KETTLE, "this", ""]])
    assert read_questions(source, recipe).conversations[0]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": f"Sort this: {KETTLE}"},
    ]
    with pytest.raises(FinetuneError, match="has no column “what”"):
        read_questions(write_csv(tmp_path / "other.csv", [["zin", "question"], [KETTLE, "x"]]), recipe)


def test_a_template_of_one_column_takes_the_column_that_a_person_names(tmp_path):
    source = write_csv(tmp_path / "new.csv", [["message", "klas"], [KETTLE, "3B"]])
    assert asked(source, Recipe(template="Sort: {zin}"), question="message") == [f"Sort: {KETTLE}"]


def test_mapped_columns_come_before_names_that_are_known(tmp_path):
    recipe = Recipe(columns={"prompt": "klacht", "completion": "soort"})
    source = write_csv(tmp_path / "new.csv", [["question", "klacht"], ["no", KETTLE]])
    assert asked(source, recipe) == [KETTLE]
    with pytest.raises(FinetuneError, match="has no column “klacht”") as caught:
        read_questions(write_csv(tmp_path / "other.csv", [["question", "x"], ["no", "x"]]), recipe)
    assert "--question" in caught.value.fix
    assert asked(tmp_path / "other.csv", recipe, question="question") == ["no"]


def test_columns_that_the_training_read_are_found_again(tmp_path):
    source = write_csv(tmp_path / "new.csv", [["vraag_leerling", "text"], [KETTLE, "no"]])
    assert asked(source, trained={"prompt": "vraag_leerling", "completion": "antwoord"}) == [KETTLE]


def test_unknown_columns_are_listed_and_one_can_be_named(tmp_path):
    source = write_csv(tmp_path / "new.csv", [["melding", "klas"], [KETTLE, "3B"]])
    with pytest.raises(FinetuneError, match="“melding”, “klas”") as caught:
        predict_file(pytest.fail, source, tmp_path / "out.csv", max_new_tokens=4)
    assert "--question" in caught.value.fix
    assert asked(source, question="melding") == [KETTLE]
    with pytest.raises(FinetuneError, match="has no column “nope”"):
        read_questions(source, question="nope")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", "question,klas\nkettle,3B\n,3B\n", r"Row 2 \(line 3\) has no question"),
        ("b.csv", "question,klas\nkettle,3B\nlamp,3B,4,5\n", r"Row 2 \(line 3\) has too many cells"),
        ("c.txt", "Once upon a time.\n\nThe end.\n", "plain text"),
    ],
)
def test_what_cannot_be_answered_is_named_before_a_model_is_loaded(tmp_path, name, content, says):
    (tmp_path / name).write_text(content)
    with pytest.raises(FinetuneError, match=says):
        predict_file(pytest.fail, tmp_path / name, tmp_path / "out.csv", max_new_tokens=4)
    assert not (tmp_path / "out.csv").exists()


SAID = "een; antwoord, met\ttab"


@pytest.fixture
def echo(tuned_chatter, monkeypatch):
    """A model that always says the same."""
    monkeypatch.setattr(type(tuned_chatter), "generate", lambda self, name, prompts, **_: [Said(SAID) for _ in prompts])
    return tuned_chatter


def test_a_table_that_was_written_runs_nothing_and_reads_back(tuned_chatter, tmp_path, monkeypatch):
    rows = [["question", "prediction", "=kop"], ["=1+1", "-3,5", "@x"], ['two\nlines, "so"', "-2+3", "+1"]]
    source = write_csv(tmp_path / "new.csv", rows)
    monkeypatch.setattr(type(tuned_chatter), "generate", lambda *_, **__: [Said("=HYPERLINK(1)"), Said("-cmd")])
    made = answered(tuned_chatter, source, tmp_path / "out.csv", question="question")
    assert made == [
        ["question", "prediction", "'=kop", "prediction 2"],
        ["'=1+1", "-3,5", "'@x", "'=HYPERLINK(1)"],
        ['two\nlines, "so"', "'-2+3", "'+1", "'-cmd"],
    ]
    assert read_questions(tmp_path / "out.csv").columns == tuple(made[0])


class Said:
    def __init__(self, text):
        self.text = text


def test_jsonl_of_conversations_is_taken_as_it_is_whatever_the_run_says(tmp_path):
    recipe = Recipe(template="Sort: {zin}", columns={"prompt": "zin"}, system_prompt="Be brief.")
    rows = [{"prompt": "lamp", "context": "c", "zin": "z"}, {"id": "a", "messages": [{"role": "user", "content": "x"}]}]
    for name in ("new.jsonl", "new.txt"):
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
        assert read_questions(tmp_path / name, recipe).conversations == [
            {"id": 1, "messages": [{"role": "user", "content": "lamp"}], "tools": None},
            {"id": "a", "messages": [{"role": "user", "content": "x"}], "tools": None},
        ]


def test_jsonl_with_columns_of_its_own_is_asked_as_a_table_is(tmp_path):
    (tmp_path / "new.jsonl").write_text(json.dumps({"vraag": KETTLE, "n": 3}) + "\n")
    assert asked(tmp_path / "new.jsonl") == [KETTLE]


@pytest.mark.parametrize("output", ["out.parquet", "new.jsonl", "../{}/new.jsonl", ".", "no/out.csv"])
def test_an_output_that_cannot_be_is_refused(tmp_path, output):
    (tmp_path / "new.jsonl").write_text(json.dumps({"prompt": KETTLE}))
    with pytest.raises(FinetuneError) as caught:
        predict_file(pytest.fail, tmp_path / "new.jsonl", tmp_path / output.format(tmp_path.name), max_new_tokens=4)
    assert caught.value.code == "usage" and (tmp_path / "new.jsonl").read_text()


def test_the_command_reads_a_workbook_as_the_run_was_trained(tiny_model_dir, tmp_path, capsys):
    run = make_tuned_run(tmp_path / "runs", tiny_model_dir)
    (run.path / "data").mkdir()
    write_json(run.path / "data" / "card.json", {"mapping": {"prompt": "vraag_leerling", "completion": "a"}})
    workbook({"Rows": [["vraag_leerling", "klas"], [KETTLE, "3B"]]})(tmp_path / "new.xlsx")
    given = ["--input", str(tmp_path / "new.xlsx"), "--output", str(tmp_path / "out.csv"), "--max-new-tokens", "4"]
    assert main(["predict", run.id, *given, "--runs-dir", str(run.path.parent)]) == 0
    assert table(tmp_path / "out.csv")[0] == ["vraag_leerling", "klas", "prediction"]
    assert "“vraag_leerling”" in capsys.readouterr().out
