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


def table(path):
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.reader(file))


def answered(chatter, source, target, **options):
    predict_file(lambda: chatter, source, target, max_new_tokens=4, **options)
    return table(target)


def said_by(chatter, *questions):
    return [each["prediction"] for each in predict(chatter, [{"prompt": q} for q in questions], max_new_tokens=4)]


def test_semicolons_and_latin_1_are_read_and_a_table_is_answered_beside_its_columns(tuned_chatter, tmp_path):
    rows = [["nr", "vraag", "klas"], ["1", KETTLE, "3B"], ["2", CAFE, ""]]
    source = write_csv(tmp_path / "new.csv", rows, ";", "latin-1")
    told = []
    made = answered(tuned_chatter, source, tmp_path / "out.csv", on_read=told.append)
    answers = said_by(tuned_chatter, KETTLE, CAFE)
    assert made == [["nr", "vraag", "klas", "prediction"], [*rows[1], answers[0]], [*rows[2], answers[1]]]
    assert (tmp_path / "out.csv").read_bytes().startswith(b"\xef\xbb\xbf")
    assert len(told) == 1 and "“vraag”" in told[0] and "UTF-8" in told[0]
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")] == []


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


def test_an_output_that_cannot_be_is_refused(tmp_path):
    source = write_csv(tmp_path / "new.csv", [["question"], [KETTLE]])
    for target in (tmp_path / "out.xlsx", source):
        with pytest.raises(FinetuneError) as caught:
            predict_file(pytest.fail, source, target, max_new_tokens=4)
        assert caught.value.code == "usage"


def test_the_command_reads_a_workbook_as_the_run_was_trained(tiny_model_dir, tmp_path, capsys):
    run = make_tuned_run(tmp_path / "runs", tiny_model_dir)
    (run.path / "data").mkdir()
    write_json(run.path / "data" / "card.json", {"mapping": {"prompt": "vraag_leerling", "completion": "a"}})
    workbook({"Rows": [["vraag_leerling", "klas"], [KETTLE, "3B"]]})(tmp_path / "new.xlsx")
    given = ["--input", str(tmp_path / "new.xlsx"), "--output", str(tmp_path / "out.csv"), "--max-new-tokens", "4"]
    assert main(["predict", run.id, *given, "--runs-dir", str(run.path.parent)]) == 0
    assert table(tmp_path / "out.csv")[0] == ["vraag_leerling", "klas", "prediction"]
    assert "“vraag_leerling”" in capsys.readouterr().out
