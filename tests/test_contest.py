"""A fair contest: which rows are asked, which rivals enter, and what is left out is counted."""

import pytest
from conftest import chat_rows

from finetune_core.errors import FinetuneError
from finetune_core.proof.contest import enter_rivals, held_out, prepare_contest, sample
from finetune_core.recipe import Recipe
from finetune_core.render import load_tokenizer, render_prompt


def test_no_test_row_is_ever_shown_as_an_example(proof_run, proof_chatter):
    split, rows = held_out(proof_run.path / "data")
    recipe = proof_run.recipe
    contest = prepare_contest(rows, split, recipe, proof_chatter.tokenizer)
    train = chat_rows(40)[:28]
    shown = {row["messages"][0]["content"] for row in rows}
    for rival in enter_rivals(("examples", "retrieved"), contest, recipe, lambda: train, proof_chatter.tokenizer):
        for row in rows:
            before = {message["content"] for message in rival.messages(row)[:-1]}
            assert not before & shown


def test_examples_that_do_not_fit_are_left_out_and_it_says_so(tiny_model_dir):
    tokenizer = load_tokenizer(tiny_model_dir)  # reads 512 tokens
    rows = [
        {"messages": [{"role": "user", "content": f"{i} " + "the cat " * 60}, {"role": "assistant", "content": "ja"}]}
        for i in range(20)
    ]
    recipe = Recipe(few_shot_examples=8)
    contest = prepare_contest(rows[:5], "test", recipe, tokenizer)
    (rival,) = enter_rivals(("examples",), contest, recipe, lambda: rows[5:], tokenizer)
    assert len(rival.messages(rows[0])) < 17 and "of 8 fit" in rival.note
    assert len(render_prompt(rival.messages(rows[0]), tokenizer)) <= 512 - contest.max_new_tokens


def test_rows_that_the_model_cannot_read_are_left_out_and_counted(tiny_model_dir):
    tokenizer = load_tokenizer(tiny_model_dir)
    long = {"messages": [{"role": "user", "content": "word " * 2000}, {"role": "assistant", "content": "x"}]}
    contest = prepare_contest([*chat_rows(6), long], "test", Recipe(), tokenizer)
    assert len(contest.rows) == 6 and "1 row was left out" in contest.note


def test_references_longer_than_an_answer_may_be_are_counted(tiny_model_dir):
    tokenizer = load_tokenizer(tiny_model_dir)
    rows = [
        {"messages": [{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": "the cat sat " * times}]}
        for i, times in enumerate([1, 1, 1, 60])
    ]
    cut = prepare_contest(rows, "test", Recipe(max_new_tokens=48), tokenizer)
    assert cut.max_new_tokens == 48 and cut.note.startswith("1 of the expected answers is longer than the 48 tokens")
    assert prepare_contest(rows, "test", Recipe(max_new_tokens=512), tokenizer).note == ""


def test_rows_that_the_template_refuses_are_left_out_and_counted(tiny_model_dir):
    tokenizer = load_tokenizer(tiny_model_dir)
    odd = {"messages": [{"role": "alien", "content": "?"}, {"role": "assistant", "content": "x"}]}
    contest = prepare_contest([odd, *chat_rows(6)], "test", Recipe(), tokenizer)
    assert len(contest.rows) == 6 and "1 row was left out" in contest.note


def test_a_system_prompt_that_does_not_fit_is_no_rival(tiny_model_dir):
    tokenizer = load_tokenizer(tiny_model_dir)
    recipe = Recipe(rival_system_prompt="the cat " * 600)
    contest = prepare_contest(chat_rows(6), "test", recipe, tokenizer)
    assert enter_rivals(("system",), contest, recipe, lambda: chat_rows(6), tokenizer) == []


def test_a_sample_is_seeded_and_keeps_the_order():
    assert sample(list(range(100)), 10, 1) == sorted(sample(list(range(100)), 10, 1))
    assert sample(list(range(100)), 10, 1) != sample(list(range(100)), 10, 2)
    assert sample([1, 2], 10, 1) == [1, 2]


@pytest.mark.parametrize("names", [("nobody",), ("base", "tunde")])
def test_an_unknown_rival_is_refused_with_the_known_ones(names, proof_chatter):
    contest = prepare_contest(chat_rows(4), "test", Recipe(), proof_chatter.tokenizer)
    with pytest.raises(FinetuneError, match="Rivals: base, tuned"):
        enter_rivals(names, contest, Recipe(), list, proof_chatter.tokenizer)


def test_an_unknown_metric_is_refused(proof_chatter):
    with pytest.raises(FinetuneError, match="Metrics: label, json, text, check, loss"):
        prepare_contest(chat_rows(4), "test", Recipe(), proof_chatter.tokenizer, metric="bleu")


@pytest.mark.parametrize(
    ("early_stopping", "says"), [(True, "choose when to stop"), (False, "If settings were chosen")]
)
def test_what_validation_rows_flatter_is_told_as_it_was(tiny_model_dir, early_stopping, says):
    recipe = Recipe(early_stopping=early_stopping)
    contest = prepare_contest(chat_rows(12), "validation", recipe, load_tokenizer(tiny_model_dir))
    assert says in contest.note
