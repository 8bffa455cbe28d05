"""Rows from any file, of any shape, split and repaired."""

from __future__ import annotations

import csv
import gzip
import json
import random
import time
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from make_bad_inputs import chat, chats, lines, sentence, workbook

from finetune_core.data import (
    choices,
    columns,
    personal,
    prepare,
    readiness,
    save_pasted,
    unpack,
    write_csv,
    write_rows,
    write_splits,
)
from finetune_core.data.duplicates import KeyMaker, near_pairs, shingles
from finetune_core.data.encoding import find_encoding
from finetune_core.data.json_rows import json_values
from finetune_core.data.rows import RowWriter, as_json_line, without_formula
from finetune_core.data.split import split
from finetune_core.data.tables import find_dialect, has_header
from finetune_core.errors import FinetuneError
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


# Reading


def delimited(delimiter: str) -> str:
    import io

    out = io.StringIO()
    csv.writer(out, delimiter=delimiter).writerows(TABLE)
    return out.getvalue()


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


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Een reünie in het café, één keer", "cp1252"),
        ("Größe, Mädchen, schön", "latin-1"),
        ("Привет, как дела? Сегодня хорошо", "cp1251"),
        ("今日はいい天気ですね。散歩に行きましょう", "shift_jis"),
        ("dzień dobry, zażółć gęślą jaźń i tak dalej", "cp1250"),
        ("plain", "ascii"),
        ("naïve 😀", "utf-8"),
        ("naïve 😀", "utf-16"),
        ("naïve 😀", "utf-32"),
        ("just letters here", "utf-16-be"),
    ],
)
def test_letters_survive_their_encoding(text, encoding, tmp_path):
    (tmp_path / "x").write_bytes(text.encode(encoding))
    assert (tmp_path / "x").read_text(find_encoding(tmp_path / "x").codec).lstrip("\ufeff") == text


def test_the_replacement_character_itself_is_valid_text(tmp_path):
    (tmp_path / "x").write_text("� is a character")
    assert find_encoding(tmp_path / "x").certain


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


def test_a_json_file_is_read_in_blocks(tmp_path):
    class Slow:
        """A file that gives seven characters at a time."""

        def __init__(self, text):
            self.text, self.at = text, 0

        def read(self, _):
            self.at += 7
            return self.text[self.at - 7 : self.at]

    for content in (json.dumps(PAIRS), json.dumps(PAIRS, indent=3), json.dumps({"a": 1.25, "rows": PAIRS, "b": "]"})):
        assert [record.value for record in json_values(Slow(content))] == PAIRS


def test_splits_inside_a_json_object_are_kept(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps({"train": PAIRS[:20], "test": PAIRS[20:]}))
    prepared = prepared_from(tmp_path / "x.json", validation_size=0)
    assert (len(prepared.train), len(prepared.test)) == (20, 20)


def test_a_gzip_that_grows_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(unpack.Inbox.__init__, "__defaults__", (100_000,))
    (tmp_path / "bomb.jsonl.gz").write_bytes(gzip.compress(b" " * 1_000_000))
    with pytest.raises(FinetuneError, match="unpacks to more"):
        prepared_from(tmp_path / "bomb.jsonl.gz")


def test_nothing_unpacked_stays_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    write_zip(tmp_path / "rows.zip")
    prepared_from(tmp_path / "rows.zip")
    assert list((tmp_path / "tmp").iterdir()) == []


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


# Where from


@pytest.mark.parametrize("name", ["nowhere.csv", "./nowhere", "/nowhere/at/all", "https://example.com/x.csv", "a b c"])
def test_what_does_not_exist_is_refused_with_a_way_out(name):
    with pytest.raises(FinetuneError) as caught:
        prepare(Recipe(dataset_name=name))
    assert caught.value.code == "no-file"
    assert "owner/name" in caught.value.fix


@pytest.mark.parametrize("name", ["acme/faq", "squad", "https://huggingface.co/datasets/acme/faq"])
def test_a_hub_that_is_away_is_said_at_once(name):
    began = time.monotonic()
    with pytest.raises(FinetuneError) as caught:
        prepare(Recipe(dataset_name=name))
    assert caught.value.code == "hub-away"
    with pytest.raises(FinetuneError):
        choices("acme/faq")
    assert time.monotonic() - began < 5


def test_hub_splits_become_readings(tmp_path):
    import datasets

    from finetune_core.data.hubdata import _reading, _wanted

    rows = datasets.Dataset.from_list(PAIRS)
    reading = _reading("acme/faq", "train", rows, "train")
    assert [record.value for record in reading.records] == PAIRS
    assert reading.columns == {"question": "text", "answer": "text"}
    assert reading.fraction() == 1.0
    assert _wanted(["train", "validation", "test"], "train", "x") == {
        "train": "train", "validation": "validation", "test": "test"
    }  # fmt: skip
    with pytest.raises(FinetuneError, match="it has a, b"):
        _wanted(["a", "b"], "train", "x")


# Shapes

USER, ANSWER = ("user", "Hi?"), ("assistant", "Yo.")
CALL = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
TURNS = chat("Hi?", "Yo.")
SHARED = [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Yo."}]
SHAPES = [
    ("messages", TURNS, [USER, ANSWER]),
    ("messages", {"conversations": TURNS["messages"]}, [USER, ANSWER]),
    ("messages", {"messages": json.dumps(TURNS["messages"])}, [USER, ANSWER]),
    ("messages", chat([{"type": "text", "text": "Hi?"}], "Yo."), [USER, ANSWER]),
    ("messages", {"messages": [{"role": "developer", "content": "S"}, *TURNS["messages"]]},
     [("system", "S"), USER, ANSWER]),
    ("sharegpt", {"conversations": SHARED}, [USER, ANSWER]),
    ("sharegpt", {"system": "S", "conversations": SHARED}, [("system", "S"), USER, ANSWER]),
    ("alpaca", {"instruction": "Hi?", "input": "", "output": "Yo."}, [USER, ANSWER]),
    ("alpaca", {"instruction": "Add", "input": "1 2", "output": "3"}, [("user", "Add\n\n1 2"), ("assistant", "3")]),
    ("alpaca", {"instruction": "Hi?", "context": "", "response": "Yo.", "category": "qa"}, [USER, ANSWER]),
    ("prompt-completion", {"prompt": "Hi?", "completion": "Yo."}, [USER, ANSWER]),
    ("prompt-completion", {"prompt": [{"role": "user", "content": "Hi?"}],
                           "completion": [{"role": "assistant", "content": "Yo."}]}, [USER, ANSWER]),
    ("prompt-completion", {"prompt": "Hi?", "completion": '{"a": 1}'}, [USER, ("assistant", '{"a": 1}')]),
    ("prompt-completion", {"prompt": "2+2?", "completion": 4}, [("user", "2+2?"), ("assistant", "4")]),
    ("question-answer", {"Question": "Hi?", "Answer": "Yo."}, [USER, ANSWER]),
    ("question-answer", {"vraag": "Hi?", "antwoord": "Yo.", "system": "S"}, [("system", "S"), USER, ANSWER]),
    ("labels", {"text": "Hi?", "label": "Yo."}, [USER, ANSWER]),
    ("labels", {"tekst": "Hi?", "categorie": "Yo."}, [USER, ANSWER]),
    ("labels", {"text": "Hi?", "label": 1}, [USER, ("assistant", "1")]),
    ("preference", {"prompt": "Hi?", "chosen": "Yo.", "rejected": "No."}, [USER, ANSWER]),
    ("preference", {"chosen": TURNS["messages"], "rejected": chat("Hi?", "No.")["messages"]}, [USER, ANSWER]),
    ("kto", {"prompt": "Hi?", "completion": "Yo.", "label": True}, [USER, ANSWER]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "row", "expected"), SHAPES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_shape_becomes_messages(shape, row, expected, tmp_path):
    (tmp_path / "x.jsonl").write_text(lines([row]))
    prepared = prepared_from(tmp_path / "x.jsonl")
    assert prepared.shape == shape
    assert said(prepared.train[0]) == expected


def test_plain_text_stays_text(tmp_path):
    (tmp_path / "x.jsonl").write_text(lines([{"text": "Once."}]))
    assert prepared_from(tmp_path / "x.jsonl").train[0] == {"text": "Once.", "row": 1}


def test_a_long_text_file_becomes_rows_of_whole_words(tmp_path):
    words = " ".join(sentence(i) for i in range(400))
    (tmp_path / "x.txt").write_text("Short.\n\nAnother.\n\n" + words)
    rows = [row["text"] for row in prepared_from(tmp_path / "x.txt", validation_size=0, test_size=0).train]
    assert " ".join(" ".join(rows).split()) == "Short. Another. " + words
    assert all(len(text) <= 2000 for text in rows)


def test_bad_answers_of_kto_rows_are_counted_and_left_out(tmp_path):
    rows = [{"prompt": sentence(i), "completion": "x", "label": i % 2 == 0} for i in range(10)]
    (tmp_path / "x.jsonl").write_text(lines(rows))
    assert prepared_from(tmp_path / "x.jsonl").dropped == {"not-desired": 5}


def test_weights_tools_and_tool_calls_are_kept(tmp_path):
    tool = {"type": "function", "function": {"name": "add", "parameters": {}}}
    row = {
        "messages": [
            {"role": "user", "content": "1+1"},
            {"role": "assistant", "content": None, "tool_calls": [CALL], "weight": 0},
            {"role": "tool", "content": "2", "tool_call_id": "1"},
            {"role": "assistant", "content": "2", "weight": 1},
        ],
        "tools": [tool],
        "parallel_tool_calls": False,
    }
    (tmp_path / "x.jsonl").write_text(lines([row]))
    found = prepared_from(tmp_path / "x.jsonl")
    messages = found.train[0]["messages"]
    assert found.train[0]["tools"] == [tool]
    assert messages[1] == {"role": "assistant", "tool_calls": [CALL], "content": "", "weight": 0}
    assert messages[2]["tool_call_id"] == "1"
    assert [finding.says for finding in found.findings] == ["Not used: parallel_tool_calls."]


def test_older_function_calls_become_tool_calls(tmp_path):
    call = {"name": "add", "arguments": "{}"}
    answer = {"role": "assistant", "content": None, "function_call": call}
    row = {"messages": [{"role": "user", "content": "1+1"}, answer], "functions": [{"name": "add"}]}
    (tmp_path / "x.jsonl").write_text(lines([row]))
    found = prepared_from(tmp_path / "x.jsonl").train[0]
    assert found["messages"][1]["tool_calls"] == [{"type": "function", "function": call}]
    assert found["tools"] == [{"type": "function", "function": {"name": "add"}}]


@pytest.mark.parametrize(
    "row",
    [
        {"my_question": "a", "final_answer": "b"},  # a part of a name is no name
        {"questions": "a", "answers": "b"},
        {"context_text": "a", "label_id": "b"},
        {"prompt": "a", "question": "b", "answer": "c"},  # two could be the prompt
    ],
)
def test_columns_are_known_by_their_whole_name_only(row):
    assert columns.recognise(row) is None


def test_a_proposal_names_only_real_columns():
    rows = [{"body": sentence(i), "n": i, "kind": "ab"[i % 2]} for i in range(50)]
    proposal = columns.propose(rows)
    assert dict(proposal.roles) == {"prompt": "body", "completion": "kind"}


def test_a_proposal_is_not_taken_for_granted(tmp_path):
    (tmp_path / "x.csv").write_text("body,verdict\n" + "".join(f"{sentence(i)},{'ab'[i % 2]}\n" for i in range(40)))
    prepared = prepared_from(tmp_path / "x.csv")
    finding = next(finding for finding in prepared.findings if finding.code == "columns-guessed")
    assert finding.suggestion.changes == {"columns": {"prompt": "body", "completion": "verdict"}}
    assert readiness(prepared)["sft"][0] == "needs-mapping"
    agreed = prepared_from(tmp_path / "x.csv", **finding.suggestion.changes)
    assert agreed.findings == ()
    assert readiness(agreed)["sft"][0] == "ready"


def test_columns_of_the_recipe_go_first(tmp_path):
    rows = [{"prompt": "a", "completion": "b", "extra": f"{sentence(i)}"} for i in range(5)]
    (tmp_path / "x.jsonl").write_text(lines(rows))
    prepared = prepared_from(tmp_path / "x.jsonl", columns={"prompt": "extra"})
    assert said(prepared.train[0]) == [("user", rows[0]["extra"]), ("assistant", "b")]


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path):
    (tmp_path / "x.jsonl").write_text(lines(PAIRS))
    finding = prepared_from(tmp_path / "x.jsonl", columns={"completion": "reply"}).findings[0]
    assert (finding.code, finding.level) == ("no-such-column", "error")
    assert "'reply'" in finding.says and "question, answer" in finding.says


def test_a_template_makes_the_prompt(tmp_path):
    (tmp_path / "x.jsonl").write_text(lines([{"word": "cat", "target": "kat", "language": "Dutch"}]))
    prepared = prepared_from(tmp_path / "x.jsonl", template="Say {word} in {language}: {{x}}")
    assert said(prepared.train[0])[0] == ("user", "Say cat in Dutch: {{x}}")


def test_a_template_with_an_unknown_column_is_an_error(tmp_path):
    (tmp_path / "x.jsonl").write_text(lines([{"word": "cat", "target": "kat"}]))
    assert prepared_from(tmp_path / "x.jsonl", template="{wrod}").findings[0].code == "no-such-column"


def test_a_system_prompt_is_added_only_where_there_is_none(tmp_path):
    rows = [chat("a", "b"), {"messages": [{"role": "system", "content": "own"}, *chat("a", "c")["messages"]]}]
    (tmp_path / "x.jsonl").write_text(lines(rows))
    prepared = prepared_from(tmp_path / "x.jsonl", system_prompt="added")
    assert [said(row)[0][1] for row in prepared.train] == ["added", "own"]


READINESS = [
    (chat("a", "b"), {"sft": "ready", "dpo": "not-fit", "continued pre-training": "not-fit"}),
    ({"text": "a"}, {"sft": "not-fit", "continued pre-training": "ready"}),
    (
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        {"sft": "ready", "dpo": "ready", "kto": "ready", "reward": "ready"},
    ),
    ({"prompt": "a", "completion": "b", "label": True}, {"sft": "ready", "kto": "ready", "dpo": "not-fit"}),
    ({"aa": sentence(1), "bb": sentence(2)}, {"sft": "needs-mapping", "dpo": "not-fit"}),
    ({"n": 1}, {"sft": "not-fit", "dpo": "not-fit", "reward": "not-fit"}),
]


@pytest.mark.parametrize(("row", "expected"), READINESS)
def test_every_objective_is_told_whether_rows_fit(row, expected, tmp_path):
    (tmp_path / "x.jsonl").write_text(lines([row]))
    answer = readiness(prepared_from(tmp_path / "x.jsonl"))
    assert {objective: answer[objective][0] for objective in expected} == expected


# Splits


def test_a_split_is_80_10_10_and_loses_nothing():
    parts = split(np.arange(1000), None, 0.1, 0.1, seed=1)
    assert [len(part) for part in parts.values()] == [800, 100, 100]
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(1000))


def test_a_split_is_the_same_for_a_seed_and_another_for_another():
    first, again, other = (split(np.arange(100), None, 0.1, 0.1, seed)["test"].tolist() for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("seed", range(20))
def test_no_group_straddles_a_split(seed):
    draw = np.random.default_rng(seed)
    group = draw.integers(0, 80, 200)
    parts = split(group, draw.integers(0, 3, 200), 0.1, 0.1, seed)
    sets = [set(group[part].tolist()) for part in parts.values()]
    assert not (sets[0] & sets[1] or sets[0] & sets[2] or sets[1] & sets[2])
    assert all(len(part) for part in parts.values())


def test_labels_keep_their_shares():
    labels = np.array([0] * 700 + [1] * 250 + [2] * 50)
    for name, part in split(np.arange(1000), labels, 0.1, 0.1, seed=3).items():
        shares = np.bincount(labels[part]) / len(part)
        assert shares == pytest.approx([0.7, 0.25, 0.05], abs=0.011), name


@pytest.mark.parametrize(("count", "expected"), [(1, [1, 0, 0]), (9, [9, 0, 0]), (10, [8, 1, 1]), (60, [48, 6, 6])])
def test_small_sets_get_sensible_splits(count, expected):
    assert [len(part) for part in split(np.arange(count), None, 0.1, 0.1, 0).values()] == expected


def test_no_share_no_split():
    assert [len(part) for part in split(np.arange(100), None, 0.0, 0.0, 0).values()] == [100, 0, 0]


def test_few_large_groups_still_leave_something_to_test_with():
    parts = split(np.arange(60) % 5, None, 0.1, 0.1, 0)
    assert [len(part) for part in parts.values()] == [36, 12, 12]


def test_rows_that_are_alike_stay_together(tmp_path):
    draw = random.Random(5)
    rows = []
    for i in range(120):
        first = chat(sentence(i, 20), sentence(i + 300, 12))["messages"]
        longer = [*first, {"role": "user", "content": "More?"}, {"role": "assistant", "content": sentence(i + 700)}]
        near = [{"role": "user", "content": sentence(i, 20) + " please"}, first[1]]
        loud = [{"role": "user", "content": sentence(i, 20).upper()}, first[1]]
        pair = draw.choice([(first, longer), (first, near), (first, loud), (longer, loud)])
        rows += [{"messages": turns, "id": i} for turns in pair]
    (tmp_path / "x.jsonl").write_text(lines(rows))
    prepared = prepared_from(tmp_path / "x.jsonl")
    where = {name: {row["id"] for row in part} for name, part in prepared.splits().items()}
    assert not (where["train"] & where["validation"] or where["train"] & where["test"])
    assert not where["validation"] & where["test"]
    assert len(prepared.test) == pytest.approx(24, abs=2)


def test_a_fixed_greeting_does_not_tie_all_rows_together(tmp_path):
    rows = [
        {"messages": [*chat("Hello", "How can I help?")["messages"], *chat(sentence(i), sentence(i + 99))["messages"]]}
        for i in range(100)
    ]
    (tmp_path / "x.jsonl").write_text(lines(rows))
    prepared = prepared_from(tmp_path / "x.jsonl")
    assert [len(part) for part in prepared.splits().values()] == [80, 10, 10]


def test_own_splits_are_kept(tmp_path):
    for name, part in (("train", chats(30)), ("dev", chats(10, 50)), ("test-00000-of-00001", chats(5, 80))):
        (tmp_path / f"{name}.jsonl").write_text(lines(part))
    prepared = prepared_from(tmp_path)
    assert [len(part) for part in prepared.splits().values()] == [30, 10, 5]
    assert prepared.own_splits == ("train", "validation", "test")


def test_a_missing_own_split_is_taken_from_the_training_rows(tmp_path):
    (tmp_path / "train.jsonl").write_text(lines(chats(50)))
    (tmp_path / "test.jsonl").write_text(lines(chats(10, 60)))
    assert [len(part) for part in prepared_from(tmp_path).splits().values()] == [45, 5, 10]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("train.jsonl", "train"), ("data/validation-00000-of-00001.parquet", "validation"), ("dev.csv", "validation"),
        ("test/data.arrow", "test"), ("my_test.csv", "test"), ("latest.csv", None), ("trainers.csv", None),
        ("contest.csv", None), ("attest-train-tickets.csv", None),
    ],
)  # fmt: skip
def test_a_split_is_a_word_of_the_name_and_not_a_part_of_one(name, expected):
    assert unpack.split_of(name) == expected


def test_max_rows_are_drawn_with_the_seed(tmp_path):
    (tmp_path / "x.jsonl").write_text(lines(chats(100)))
    first, again = (all_rows(prepared_from(tmp_path / "x.jsonl", max_rows=30)) for _ in range(2))
    assert first == again
    assert len(first) == 30
    assert [row["row"] for row in first] != list(range(1, 31))


# Duplicates


def test_near_pairs_agree_with_comparing_all_pairs():
    draw = random.Random(3)
    texts = [sentence(i, 30) for i in range(1500)]
    for i in range(0, 300, 3):
        words = texts[i].split()
        for _ in range(draw.randint(0, 4)):
            words[draw.randrange(len(words))] = "changed"
        texts[i + 1] = " ".join(words)
    writer, maker = RowWriter(), KeyMaker()
    for text in texts:
        writer.append({"text": text})
        maker.add({"text": text})
    rows = writer.finish()
    found = {tuple(pair) for pair in near_pairs(rows, np.zeros(len(rows), dtype=bool)).tolist()}
    sets = [shingles(text) for text in texts]
    expected = {
        (i, i + 1) for i in range(len(texts) - 1) if len(sets[i] & sets[i + 1]) >= 0.8 * len(sets[i] | sets[i + 1])
    }
    assert len(expected) > 20
    assert found <= expected
    assert len(found) >= 0.97 * len(expected)


def test_a_form_letter_does_not_make_rows_near(tmp_path):
    form = "Please read the following message of a customer and say which of the five kinds it is, in one word: "
    rows = [chat(form + sentence(i, 6), sentence(i + 500, 3)) for i in range(100)]
    (tmp_path / "x.jsonl").write_text(lines(rows))
    assert prepared_from(tmp_path / "x.jsonl").findings == ()


def test_sums_that_differ_in_a_sign_are_no_duplicates(tmp_path):
    rows = [{"prompt": f"{i} {sign} 3 =", "completion": str(i)} for i in range(20) for sign in "+-*/"]
    (tmp_path / "x.jsonl").write_text(lines(rows))
    assert not {"duplicates", "conflicting-labels"} & {f.code for f in prepared_from(tmp_path / "x.jsonl").findings}


def test_runs_of_words_are_the_same_numbers_in_every_process():
    assert shingles("the cat sat") == {3046709398}
    assert shingles("the cat sat") != shingles("sat cat the")


# Repair


REPAIRS = [
    ("drop-duplicates", [*chats(40), *chats(10)], "duplicates", 10),
    ("drop-near-duplicates", [chat(sentence(i, 40) + end, "x") for i in range(20) for end in ("", " now")],
     "near-duplicates", 20),
    ("drop-conflicts", [*chats(40), chat("same", "good"), chat("Same.", "bad")], "conflicting-labels", 2),
]  # fmt: skip


@pytest.mark.parametrize(("fix", "rows", "reason", "count"), REPAIRS)
def test_a_repair_is_counted_by_its_reason(fix, rows, reason, count, tmp_path):
    (tmp_path / "x.jsonl").write_text(lines(rows))
    before, after = prepared_from(tmp_path / "x.jsonl"), prepared_from(tmp_path / "x.jsonl", fixes=[fix])
    assert reason in {finding.code for finding in before.findings}
    assert reason not in {finding.code for finding in after.findings}
    assert after.dropped == {reason: count}
    assert after.card()["dropped"] == {reason: count}
    assert len(all_rows(after)) == len(rows) - count


def test_leaks_are_taken_out_of_the_training_rows(tmp_path):
    (tmp_path / "train.jsonl").write_text(lines(chats(60)))
    (tmp_path / "test.jsonl").write_text(lines(chats(20, 50)))
    prepared = prepared_from(tmp_path, fixes=["drop-leaks"], validation_size=0)
    assert (len(prepared.train), len(prepared.test), prepared.dropped) == (50, 20, {"leaks": 10})


def test_labels_get_one_spelling(tmp_path):
    rows = [[f"{sentence(i)}", ["good", " Good", "good.", "bad", "BAD "][i % 5]] for i in range(50)]
    (tmp_path / "x.jsonl").write_text(lines([{"text": text, "label": label} for text, label in rows]))
    prepared = prepared_from(tmp_path / "x.jsonl", fixes=["trim-labels"])
    answers = Counter(said(row)[-1][1] for row in all_rows(prepared))
    assert answers == {"good": 30, "bad": 20}
    assert prepared.repaired == {"trim-labels": 30}
    assert prepared.card()["labels"] == {"good": 30, "bad": 20}


def test_turns_in_a_row_are_merged_when_asked(tmp_path):
    row = {"messages": [{"role": "user", "content": "One."}, *chat("Two.", "Three.")["messages"]]}
    (tmp_path / "x.jsonl").write_text(lines([row]))
    prepared = prepared_from(tmp_path / "x.jsonl", fixes=["merge-consecutive"])
    assert said(prepared.train[0]) == [("user", "One.\n\nTwo."), ("assistant", "Three.")]


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("mail jan@dewinkel.nl now", "mail [e-mail address] now"),
        ("pay NL91 ABNA 0417 1643 00 today", "pay [IBAN] today"),
        ("pay NL92 ABNA 0417 1643 00 today", "pay NL92 ABNA 0417 1643 00 today"),  # its checksum is wrong
        ("call +31 6 1234 5678 or 06-12345678", "call [phone number] or [phone number]"),
        ("bsn 111222333 is valid, bsn 111222334 is not", "bsn [citizen service number] is valid, bsn 111222334 is not"),
        ("card 4111 1111 1111 1111.", "card [card number]."),
        ("order 20261122001, 3.14159265358, 1234-5678", "order 20261122001, 3.14159265358, 1234-5678"),
        ("key hf_abcdefghijklmnopqrstuvwxyzABCDEF12", "key [key]"),
        ("write to info@example.com", "write to info@example.com"),
    ],
)
def test_personal_data_is_found_by_its_form_and_checksum(text, masked):
    assert personal.mask(text) == masked


# On disk


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


def test_the_cleaned_data_reads_back_as_it_was(tmp_path):
    (tmp_path / "x.jsonl").write_text(lines([*chats(60), *chats(10)]))
    prepared = prepared_from(tmp_path / "x.jsonl", fixes=["drop-duplicates"])
    paths = write_splits(prepared, tmp_path / "clean")
    assert [path.name for path in paths] == ["train.jsonl", "validation.jsonl", "test.jsonl"]
    again = prepared_from(tmp_path / "clean")
    for name, rows in prepared.splits().items():
        assert [said(row) for row in rows] == [said(row) for row in again.splits()[name]]
    assert again.findings == ()


def test_a_csv_runs_nothing_in_a_spreadsheet(tmp_path):
    write_csv([chat("=HYPERLINK(1)", "+1"), {"text": "@x"}, chat("fine", "-1\n")], tmp_path / "x.csv")
    with (tmp_path / "x.csv").open(encoding="utf-8-sig", newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not any(cell.startswith(("=", "+", "-", "@", "\t")) for cell in cells)
    assert "'=HYPERLINK(1)" in cells
    assert without_formula("fine") == "fine"


def test_a_write_that_fails_leaves_no_half_file(tmp_path):
    def rows():
        yield {"text": "a"}
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_rows(rows(), tmp_path / "x.jsonl")
    assert not (tmp_path / "x.jsonl").exists()


def test_progress_goes_up_and_cancelling_ends_it(tmp_path):
    (tmp_path / "x.jsonl").write_text(lines(chats(5000)))
    heard = []
    prepare(Recipe(dataset_name=str(tmp_path / "x.jsonl")), on_progress=lambda fraction, words: heard.append(fraction))
    assert heard == sorted(heard)
    assert heard[-1] == 1.0

    def cancel(fraction, words):
        if fraction > 0.2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(Recipe(dataset_name=str(tmp_path / "x.jsonl")), on_progress=cancel)


def test_the_data_card_says_where_rows_came_from_and_went(tmp_path):
    (tmp_path / "x.jsonl").write_text(lines([*chats(30), {"messages": [{"role": "user", "content": "?"}]}]))
    card = prepared_from(tmp_path / "x.jsonl", fixes=["drop-missing-answers"]).card()
    assert card["rows_read"] == 31
    assert card["dropped"] == {"missing-answers": 1}
    assert card["rows"] == {"train": 24, "validation": 3, "test": 3}
    assert card["source"]["sha256"]
    assert card["shapes"] == {"chat messages (OpenAI)": 30 + 1}
    json.dumps(card, allow_nan=False)
