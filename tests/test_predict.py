"""Rows in, predictions out, in their order."""

import json

import pytest
from tuned import float32, make_tuned_run

from finetune_core.errors import FinetuneError
from finetune_core.predict import predict, predict_file
from finetune_core.render import render_prompt

ROWS = [
    {
        "id": "a",
        "messages": [{"role": "user", "content": "my kettle is broken"}, {"role": "assistant", "content": "no"}],
    },
    {"prompt": "lamp"},
    {"id": 9, "prompt": [{"role": "user", "content": "een kat zat op de mat en de stoel"}], "completion": "no"},
]


@pytest.fixture(scope="module")
def chatter(tmp_path_factory, tiny_model_dir):
    return float32(make_tuned_run(tmp_path_factory.mktemp("runs"), tiny_model_dir, system_prompt="Be brief."))


def write(path, rows):
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return path


def test_every_row_gets_its_own_answer_in_order(chatter):
    predicted = list(predict(chatter, ROWS, max_new_tokens=8))
    assert [each["id"] for each in predicted] == ["a", 2, 9]
    system = {"role": "system", "content": "Be brief."}  # as in training
    asked = [
        [system, ROWS[0]["messages"][0]],
        [system, {"role": "user", "content": "lamp"}],
        [system, *ROWS[2]["prompt"]],
    ]
    alone = [
        chatter.generate("tuned", [render_prompt(messages, chatter.tokenizer)], max_new_tokens=8)[0].text
        for messages in asked
    ]
    assert [each["prediction"] for each in predicted] == alone


def test_an_answer_in_the_row_is_not_read(chatter):
    without = [ROWS[0] | {"messages": ROWS[0]["messages"][:1]}]
    assert list(predict(chatter, ROWS[:1], max_new_tokens=8)) == list(predict(chatter, without, max_new_tokens=8))


def test_the_base_model_answers_too(chatter):
    tuned, base = (list(predict(chatter, ROWS, base=base, max_new_tokens=8)) for base in (False, True))
    assert tuned != base


def test_a_file_becomes_a_file(chatter, tmp_path):
    told = []
    source, target = write(tmp_path / "in.jsonl", [*ROWS, "", {"prompt": "één\u2028regel"}]), tmp_path / "out.jsonl"
    options = {"max_new_tokens": 4, "on_progress": lambda fraction, words: told.append(fraction)}
    assert predict_file(lambda: chatter, source, target, **options) == 4
    assert [json.loads(line)["id"] for line in target.read_text().splitlines()] == ["a", 2, 9, 4]
    assert told == sorted(told) and told[-1] == 1.0
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")] == []


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (["{"], "Line 1"),
        (["[" * 100_000], "Line 1"),
        ([{"prompt": "x"}, "[]"], "Line 2"),
        ([{"prompt": "x"}, {"question": "x"}], "Row 2"),
        ([{"messages": [{"role": "assistant", "content": "x"}]}], "Row 1"),
        ([{"messages": ["x"]}], "Row 1"),
    ],
)
def test_a_row_that_cannot_be_answered_is_named_before_a_model_is_loaded(tmp_path, rows, says):
    with pytest.raises(FinetuneError, match=says):
        predict_file(pytest.fail, write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl", max_new_tokens=4)
    assert not (tmp_path / "out.jsonl").exists()


def test_a_row_that_is_too_long_is_named_before_anything_is_written(chatter):
    with pytest.raises(FinetuneError, match="Row 2"):
        next(predict(chatter, [ROWS[0], {"prompt": "kettle " * 600}], max_new_tokens=4))


@pytest.mark.parametrize("message", [{"role": "human", "content": "x"}, {"role": "user", "content": [5]}])
def test_a_row_that_the_template_refuses_is_named(chatter, message):
    with pytest.raises(FinetuneError, match="Row 2: "):
        next(predict(chatter, [ROWS[0], {"messages": [message]}], max_new_tokens=4))


def test_text_parts_are_joined_as_training_joins_them(chatter):
    parts = [{"type": "text", "text": "my kettle"}, {"type": "text", "text": "is broken"}]
    rows = [{"messages": [{"role": "user", "content": content}]} for content in (parts, "my kettle\nis broken")]
    joined, whole = predict(chatter, rows, max_new_tokens=8)
    assert joined["prediction"] == whole["prediction"]


def test_half_a_character_costs_no_answer(chatter, tmp_path):
    (tmp_path / "in.jsonl").write_text('{"prompt": "kettle \\ud83d", "id": "\\ud83d"}\n')
    assert predict_file(lambda: chatter, tmp_path / "in.jsonl", tmp_path / "out.jsonl", max_new_tokens=4) == 1
    assert json.loads((tmp_path / "out.jsonl").read_text(encoding="utf-8"))["id"] == "\ufffd"


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(FinetuneError) as caught:
        predict_file(pytest.fail, tmp_path / "no.jsonl", tmp_path / "out.jsonl", max_new_tokens=4)
    assert caught.value.code == "unreadable-file"
