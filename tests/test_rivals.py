"""The rivals of a tuned model: the best prompts that its training rows give."""

import json

import pytest
from conftest import chat_rows

from finetune_core.proof.contest import enter_rivals, prepare_contest
from finetune_core.proof.rivals import (
    Lookup,
    can_be_asked,
    choose_examples,
    draw_pool,
    question,
    reference,
    suggested_system_prompt,
    with_system,
    without_system,
)
from finetune_core.recipe import Recipe
from finetune_core.render import load_tokenizer

SHOP = [
    {"messages": [{"role": "system", "content": "Sort."}, {"role": "user", "content": ask},
                  {"role": "assistant", "content": json.dumps({"category": kind, "urgent": urgent})}]}
    for ask, kind, urgent in [
        ("my kettle broke", "defect", True), ("the lamp is late", "delivery", False),
        ("where is my chair", "delivery", True), ("the clock stopped", "defect", False),
        ("money back please", "return", False), ("my kettle leaks", "defect", True),
        ("the coat is too big", "return", True), ("is the rug blue", "question", False),
    ]
]  # fmt: skip


def test_examples_show_as_many_different_answers_as_they_can():
    chosen = [json.loads(reference(row))["category"] for row in choose_examples(SHOP, 4, seed=1)]
    assert sorted(chosen) == ["defect", "delivery", "question", "return"]


def test_examples_are_the_same_for_the_same_seed():
    assert choose_examples(SHOP, 3, seed=5) == choose_examples(SHOP, 3, seed=5)
    assert choose_examples(SHOP, 100, seed=5) and choose_examples([], 3, seed=5) == []


def test_the_most_similar_row_is_looked_up_and_stands_last():
    asked = {"messages": [{"role": "user", "content": "The kettle leaks!"}, {"role": "assistant", "content": "x"}]}
    found = Lookup(SHOP).similar(asked, 3)
    assert found[-1] is SHOP[5] and len(found) == 3


@pytest.mark.parametrize("text", ["", "?!", "zzz qqq", "東京"])
def test_a_question_without_a_similar_row_gets_some_rows_all_the_same(text):
    asked = {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "x"}]}
    assert len(Lookup(SHOP).similar(asked, 2)) == 2
    assert Lookup([]).similar(asked, 2) == []


def test_a_better_prompt_is_written_from_the_training_answers():
    prompt = suggested_system_prompt([reference(row) for row in SHOP], "json")
    assert '"category" (one of "defect", "delivery", "question", "return")' in prompt
    assert suggested_system_prompt(["free text"] * 3, "text") is None
    assert suggested_system_prompt([f"label {i}" for i in range(200)], "label") is None


def test_a_system_prompt_replaces_or_joins_the_rows_own():
    messages = question(SHOP[0])
    assert with_system(messages, "New.", replace=True)[0]["content"] == "New."
    assert with_system(messages, "New.", replace=False)[0]["content"] == "Sort.\n\nNew."
    assert with_system(messages[1:], "New.", replace=False)[0] == {"role": "system", "content": "New."}
    assert without_system(messages) == [{"role": "user", "content": "Sort.\n\nmy kettle broke"}]


@pytest.mark.parametrize(
    ("row", "asked"),
    [
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, True),
        ({"messages": [{"role": "assistant", "content": "b"}]}, False),
        ({"messages": [{"role": "user", "content": "a"}]}, False),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}]}, False),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "", "tool_calls": [
            {"function": {"name": "f", "arguments": {"x": 1}}}]}]}, True),
        ({"text": "a"}, False),
    ],
)  # fmt: skip
def test_only_rows_with_a_question_and_an_answer_are_asked(row, asked):
    assert can_be_asked(row) is asked


def test_a_call_of_a_tool_is_compared_as_json():
    call = {"function": {"name": "weather", "arguments": {"city": "Delft"}}}
    row = {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "", "tool_calls": [call]}]}
    assert json.loads(reference(row)) == {"name": "weather", "arguments": {"city": "Delft"}}


def test_the_persons_own_prompt_replaces_the_rows(tiny_model_dir):
    tokenizer = load_tokenizer(tiny_model_dir)
    recipe = Recipe(rival_system_prompt="Be brief.")
    contest = prepare_contest(SHOP, "test", recipe, tokenizer)
    (rival,) = enter_rivals(("system",), contest, recipe, lambda: SHOP, tokenizer)
    assert rival.messages(SHOP[0])[0] == {"role": "system", "content": "Be brief."}


def test_the_pool_of_examples_is_bounded_and_seeded():
    rows = chat_rows(50)
    assert len(draw_pool(rows, 1, size=10)) == 10
    assert draw_pool(rows, 1, size=10) == draw_pool(rows, 1, size=10)
