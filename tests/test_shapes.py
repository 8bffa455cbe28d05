"""Rows of every known shape become messages, and each objective is told whether they fit it."""

from __future__ import annotations

import json

import pytest
from make_bad_inputs import chat, lines, sentence
from prepared_rows import prepared_from, said

from finetune_core.data import readiness

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
