"""The proof: same rows for every rival, honest words, nothing that JSON or a mail cannot hold."""

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import chat_rows, write_jsonl
from tuned import make_tuned_run

from finetune_core.errors import FinetuneError
from finetune_core.proof.contest import enter_rivals, held_out, prepare_contest, sample
from finetune_core.proof.forgetting import kept_and_lost
from finetune_core.proof.probe import AREAS, follows, load_probe
from finetune_core.proof.report import Entry, plain, write_up
from finetune_core.proof.report_page import report_page
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
from finetune_core.render import load_tokenizer, render_prompt


def lay_rows(run, train=(), validation=(), test=()):
    for name, rows in (("train", train), ("validation", validation), ("test", test)):
        write_jsonl(run.path / "data" / f"{name}.jsonl", list(rows))


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_model_dir):
    """A tuned run with 28 rows to learn from and 12 to prove it on."""
    run = make_tuned_run(tmp_path_factory.mktemp("runs"), tiny_model_dir, max_new_tokens=12)
    lay_rows(run, chat_rows(40)[:28], (), chat_rows(40)[28:])
    return run


@pytest.fixture(scope="module")
def chatter(run):
    from finetune_core.answers.chatter import AdapterModels, Chatter
    from finetune_core.model import load_base

    base = load_base(Path(run.recipe.model_name_or_path), dtype="float32", device="cpu")
    models = AdapterModels(base, {"tuned": run.result_dir})
    return Chatter(models, load_tokenizer(run.result_dir), ["tuned", "base"])


@pytest.fixture(scope="module")
def told():
    return []


@pytest.fixture(scope="module")
def report(run, chatter, told):
    from finetune_core.evaluate import evaluate

    return evaluate(run, chatter, lambda kind, **data: told.append((kind, data)))


# --- the whole, on a real model ---


def test_every_rival_answers_the_same_rows(report):
    names = [rival["name"] for rival in report["rivals"]]
    assert names == ["base", "system", "examples", "retrieved", "tuned"]
    assert report["n"] == 12 and report["split"] == "test"
    for row in report["rows"]:
        assert set(row["answers"]) == set(row["scores"]) == set(names)


def test_the_report_is_written_as_json_that_any_program_reads(run, report):
    text = (run.path / "report.json").read_text()
    assert "NaN" not in text and "Infinity" not in text
    assert json.loads(text) == report


def test_the_report_says_what_a_reader_must_know(report):
    assert report["metric"] == "Exact match" and report["metric_kind"] == "label"
    assert report["verdict"]["sentence"].startswith("Tuning answers")
    assert report["verdict"]["against"] in ("base", "system", "examples", "retrieved")
    assert {"base", "tuned"} <= set(report["loss"])
    assert report["forgetting"]["n"] == 150 and set(report["forgetting"]["areas"]) == set(AREAS)
    assert 0 <= report["forgetting"]["drift"]["same"] <= 1
    assert report["curves"]["kind"] == "short" and report["complete"] is True
    for rival in report["rivals"]:
        assert rival["low"] <= rival["score"] <= rival["high"]
        assert rival["tokens_per_request"] == pytest.approx(rival["prompt_tokens"] + rival["answer_tokens"], abs=0.2)


def test_the_time_of_a_request_is_that_of_one_asked_alone(report):
    assert all(rival["seconds_per_request"] > 0 for rival in report["rivals"])


def test_progress_is_told_from_nothing_to_all(told, report):
    fractions = [data["fraction"] for kind, data in told if kind == "stage" and data["name"] == "evaluating"]
    assert fractions[0] == 0 and fractions[-1] == 1 and fractions == sorted(fractions)


def test_answers_written_in_batches_are_those_written_alone(report, chatter):
    for row in report["rows"][:4]:
        prompt = render_prompt(row["prompt"], chatter.tokenizer)
        for name in ("base", "tuned"):
            stream = chatter.stream(name, prompt, max_new_tokens=report["settings"]["max_new_tokens"])
            assert "".join(stream) == row["answers"][name]


def test_the_loss_is_the_one_that_training_would_report(report, run, chatter):
    import torch

    from finetune_core.proof.likelihood import borrowed
    from finetune_core.render import render

    losses = []
    for row in held_out(run.path / "data")[1]:
        rendered = render(row, chatter.tokenizer)
        with borrowed(chatter, "tuned") as model, torch.inference_mode():
            ids, labels = torch.tensor([rendered.input_ids]), torch.tensor([rendered.labels])
            losses.append(float(model(input_ids=ids, labels=labels).loss))
    assert report["loss"]["tuned"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)


def test_quick_asks_base_and_tuned_only(run, chatter, report):
    from finetune_core.evaluate import Asked, evaluate

    quick = evaluate(run, chatter, asked=Asked(quick=True, rows=5))
    assert [rival["name"] for rival in quick["rivals"]] == ["base", "tuned"]
    assert quick["forgetting"] is None and quick["n"] == 5 and quick["available"] == 12
    run.write_report(report)


def test_a_stop_ends_the_comparison_and_keeps_what_is_done(run, chatter, report, monkeypatch):
    from finetune_core.evaluate import evaluate

    turns, generate = [], chatter.generate

    def counted(*values, **more):
        turns.extend([values[0]] * (len(values[1]) > 1))  # those asked one by one belong to the turn before
        return generate(*values, **more)

    monkeypatch.setattr(chatter, "generate", counted)
    try:
        stopped = evaluate(run, chatter, should_stop=lambda: len(turns) > 2)
    finally:
        run.write_report(report)
    assert stopped["complete"] is False and [rival["name"] for rival in stopped["rivals"]] == ["base", "tuned"]


def test_one_stopped_before_the_tuned_model_spoke_leaves_the_earlier_report(run, chatter, report):
    from finetune_core.evaluate import evaluate

    assert evaluate(run, chatter, should_stop=lambda: True) == report == run.report()


def test_plain_texts_are_compared_by_loss(tmp_path, tiny_model_dir, chatter):
    from finetune_core.evaluate import Asked, evaluate

    run = make_tuned_run(tmp_path, tiny_model_dir)
    lay_rows(run, test=[{"text": f"the cat sat on the mat {i}"} for i in range(12)])
    report = evaluate(run, chatter, asked=Asked(forgetting=False))
    assert report["metric"] == "Loss" and [rival["name"] for rival in report["rivals"]] == ["base", "tuned"]
    assert "nats per token" in report["verdict"]["sentence"]
    assert report["rivals"][0]["score"] == pytest.approx(report["loss"]["base"], abs=1e-4)


def test_a_check_of_ones_own_decides_what_is_right(run, chatter, report, tmp_path):
    from finetune_core.evaluate import Asked, evaluate

    file = tmp_path / "check.py"
    file.write_text("def check(answer, reference, row):\n    return reference.startswith('defect') and bool(row)\n")
    try:
        checked = evaluate(run, chatter, asked=Asked(quick=True, check_file=file))
    finally:
        run.write_report(report)
    assert checked["metric"] == "Your own check" and [rival["score"] for rival in checked["rivals"]] == [1, 1]


def test_a_check_that_breaks_is_told_and_not_taken_for_wrong_answers(run, chatter, report, tmp_path):
    from finetune_core.evaluate import Asked, evaluate

    file = tmp_path / "check.py"
    file.write_text("def check(answer, reference, row):\n    return nobody_knows_this\n")
    try:
        checked = evaluate(run, chatter, asked=Asked(quick=True, check_file=file))
    finally:
        run.write_report(report)
    assert "24 of 24 answers" in checked["note"] and "nobody_knows_this" in checked["note"]


def test_a_judge_that_is_away_does_not_cost_the_comparison(run, chatter, report):
    from finetune_core.evaluate import Asked, evaluate

    asked = Asked(quick=True, rows=6, judge_url="http://127.0.0.1:9/v1", judge_model="judge")
    try:
        judged = evaluate(run, chatter, asked=asked)
    finally:
        run.write_report(report)
    assert judged["judge"]["error"]["code"] == "judge-away" and judged["verdict"]["sentence"]


def test_the_best_checkpoint_competes_where_the_last_one_was_kept(tmp_path, tiny_model_dir, chatter):
    from finetune_core.answers.chatter import AdapterModels, Chatter
    from finetune_core.evaluate import Asked, evaluate
    from finetune_core.proof.likelihood import borrowed

    run = make_tuned_run(tmp_path, tiny_model_dir, max_new_tokens=8)
    lay_rows(run, chat_rows(20), (), chat_rows(26)[20:])
    run.tell("done", outcome="finished", best_step=20)
    with borrowed(chatter, "base") as base:
        pass
    best = run.checkpoints()[-1]
    models = AdapterModels(base, {"tuned": run.result_dir, best.name: best, "checkpoint-40": run.result_dir})
    three = Chatter(models, chatter.tokenizer, ["tuned", "base", best.name, "checkpoint-40"])
    report = evaluate(run, three, asked=Asked(rivals=("base", "tuned", "best"), forgetting=False))
    assert [rival["title"] for rival in report["rivals"]] == ["Base model", "Tuned, best (20)", "Tuned model"]


def test_the_last_checkpoint_competes_where_an_earlier_one_was_kept(tmp_path, tiny_model_dir, chatter):
    from finetune_core.answers.chatter import AdapterModels, Chatter
    from finetune_core.evaluate import Asked, evaluate
    from finetune_core.proof.likelihood import borrowed

    run = make_tuned_run(tmp_path, tiny_model_dir, early_stopping=True, max_new_tokens=8)
    lay_rows(run, chat_rows(20), (), chat_rows(26)[20:])
    run.tell("done", outcome="finished", best_step=10)
    with borrowed(chatter, "base") as base:
        pass
    last = run.checkpoints()[-1]
    models = AdapterModels(base, {"tuned": run.result_dir, last.name: last})
    both = Chatter(models, chatter.tokenizer, ["tuned", "base", last.name])
    report = evaluate(run, both, asked=Asked(rivals=("base", "tuned", "last"), forgetting=False))
    assert [rival["name"] for rival in report["rivals"]] == ["base", "last", "tuned"]
    assert report["rivals"][1]["title"] == "Tuned, last (20)" and report["verdict"]["against"] == "base"


def test_without_test_rows_the_validation_rows_are_used_and_it_says_so(tmp_path, tiny_model_dir, chatter):
    from finetune_core.evaluate import Asked, evaluate

    run = make_tuned_run(tmp_path, tiny_model_dir)
    lay_rows(run, chat_rows(20), chat_rows(30)[20:])
    report = evaluate(run, chatter, asked=Asked(quick=True))
    assert report["split"] == "validation" and "validation rows were used" in report["note"]


def test_without_any_rows_there_is_a_report_that_says_so(tmp_path, tiny_model_dir, chatter):
    from finetune_core.evaluate import Asked, evaluate

    run = make_tuned_run(tmp_path, tiny_model_dir)
    report = evaluate(run, chatter, asked=Asked(quick=True))
    assert report["n"] == 0 and "no rows" in report["verdict"]["sentence"] and report["verdict"]["better"] is None


def test_a_run_without_a_result_is_refused(tmp_path, tiny_model_dir):
    from finetune_core.evaluate import evaluate

    run = make_tuned_run(tmp_path, tiny_model_dir, result=False)
    with pytest.raises(FinetuneError, match="no tuned model"):
        evaluate(run)


def test_should_i_says_what_is_left_to_win_before_any_training(tmp_path, tiny_model_dir):
    from finetune_core.evaluate import should_i

    data = write_jsonl(tmp_path / "rows.jsonl", chat_rows(60))
    recipe = Recipe(model_name_or_path=str(tiny_model_dir), dataset_name=str(data), max_new_tokens=8)
    report = should_i(recipe)
    assert "points are left to win" in report["verdict"]["sentence"]
    assert {rival["model"] for rival in report["rivals"]} == {"base"} and len(report["rivals"]) == 4


def test_likelihoods_in_batches_are_those_of_single_answers(chatter):
    import random

    from finetune_core.answers.generate import answer_logprob
    from finetune_core.proof.likelihood import Asked, borrowed, likelihoods

    drawn = random.Random(0)

    def ids(longest):
        return [drawn.randrange(3, 500) for _ in range(drawn.randint(1, longest))]

    shared = ids(30) + ids(30)
    asked = [Asked([*shared, *ids(20)], [ids(6) for _ in range(drawn.randint(1, 4))]) for _ in range(20)]
    asked += [Asked(ids(9), [ids(5)]) for _ in range(10)] + [Asked([7], [ids(5)])]
    with borrowed(chatter, "tuned") as model:
        found = likelihoods(model, asked, pad_id=0)
        for item, results in zip(asked, found, strict=True):
            for answer, result in zip(item.answers, results, strict=True):
                assert -result.loss == pytest.approx(answer_logprob(model, item.prompt, answer), rel=1e-4)
                assert result.tokens == len(answer)


def _answered(chatter, name, prompts, **more):
    return chatter.generate(name, prompts, max_new_tokens=12, **more)


@pytest.mark.parametrize("name", ["base", "tuned"])
def test_answers_are_the_same_whatever_references_are_read_along(chatter, name):
    import random

    from finetune_core.answers.generate import answer_logprob
    from finetune_core.proof.likelihood import borrowed

    drawn = random.Random(3)
    prompts = [[drawn.randrange(3, 500) for _ in range(drawn.randint(2, 25))] for _ in range(14)]
    plain = _answered(chatter, name, prompts)
    own = [answer.token_ids for answer in plain]
    stop = min(chatter.tokenizer.stop_ids)
    references = [
        # none, its own answer, the first part of it and then another word, and something else altogether
        [[], [*ids, stop], [*ids[: len(ids) // 2], 7, 8, stop], [9, 10, stop]][place % 4]
        for place, ids in enumerate(own)
    ]
    along = _answered(chatter, name, prompts, references=references)
    assert [answer.token_ids for answer in along] == own
    assert [answer.finish_reason for answer in along] == [answer.finish_reason for answer in plain]
    with borrowed(chatter, name) as model:
        for prompt, reference, answer in zip(prompts, references, along, strict=True):
            assert (answer.reference is None) == (not reference)
            if reference:
                assert -answer.reference.loss == pytest.approx(answer_logprob(model, prompt, reference), rel=1e-4)


def test_a_single_prompt_reads_its_reference_too(chatter):
    [plain] = _answered(chatter, "tuned", [[5, 6, 7]])
    [along] = _answered(chatter, "tuned", [[5, 6, 7]], references=[[*plain.token_ids[:3], 11]])
    assert along.token_ids == plain.token_ids and along.reference.tokens == 4


def test_references_too_large_for_the_memory_are_left_for_later(chatter, monkeypatch):
    from finetune_core.answers import generate

    monkeypatch.setattr(generate, "MOST_LOGITS", 10)
    [answer] = _answered(chatter, "tuned", [[5, 6, 7]], references=[[9, 10]])
    assert answer.reference is None and answer.token_ids == _answered(chatter, "tuned", [[5, 6, 7]])[0].token_ids


def test_a_smaller_memory_gives_the_same_likelihoods(chatter, monkeypatch):
    from finetune_core.proof import likelihood

    asked = [likelihood.Asked([5, 6, 7 + i], [[9, 10], [11], [12, 13, 14]]) for i in range(9)]
    with likelihood.borrowed(chatter, "base") as model:
        whole = likelihood.likelihoods(model, asked, pad_id=0)
        monkeypatch.setattr(likelihood, "MOST_LOGITS", 512 * 3 * 4)
        parts = likelihood.likelihoods(model, asked, pad_id=0)
    assert [[one.loss for one in item] for item in parts] == [
        [pytest.approx(one.loss, rel=1e-4) for one in item] for item in whole
    ]


# --- rivals ---

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


def test_no_test_row_is_ever_shown_as_an_example(run, chatter):
    split, rows = held_out(run.path / "data")
    recipe = run.recipe
    contest = prepare_contest(rows, split, recipe, chatter.tokenizer)
    train = chat_rows(40)[:28]
    shown = {row["messages"][0]["content"] for row in rows}
    for rival in enter_rivals(("examples", "retrieved"), contest, recipe, lambda: train, chatter.tokenizer):
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


def test_the_persons_own_prompt_replaces_the_rows(tiny_model_dir):
    tokenizer = load_tokenizer(tiny_model_dir)
    recipe = Recipe(rival_system_prompt="Be brief.")
    contest = prepare_contest(SHOP, "test", recipe, tokenizer)
    (rival,) = enter_rivals(("system",), contest, recipe, lambda: SHOP, tokenizer)
    assert rival.messages(SHOP[0])[0] == {"role": "system", "content": "Be brief."}


def test_a_sample_is_seeded_and_keeps_the_order():
    assert sample(list(range(100)), 10, 1) == sorted(sample(list(range(100)), 10, 1))
    assert sample(list(range(100)), 10, 1) != sample(list(range(100)), 10, 2)
    assert sample([1, 2], 10, 1) == [1, 2]


@pytest.mark.parametrize("names", [("nobody",), ("base", "tunde")])
def test_an_unknown_rival_is_refused_with_the_known_ones(names, run, chatter):
    contest = prepare_contest(chat_rows(4), "test", Recipe(), chatter.tokenizer)
    with pytest.raises(FinetuneError, match="Rivals: base, tuned"):
        enter_rivals(names, contest, Recipe(), list, chatter.tokenizer)


def test_an_unknown_metric_is_refused(chatter):
    with pytest.raises(FinetuneError, match="Metrics: label, json, text, check, loss"):
        prepare_contest(chat_rows(4), "test", Recipe(), chatter.tokenizer, metric="bleu")


# --- what follows from answers ---


@dataclass
class Said:
    text: str
    token_ids: list
    finish_reason: str = "stop"


def contest_of(tiny_model_dir, rights: dict[str, int], n: int = 50):
    """A write-up in which each rival gets its first so many rows right."""
    rows = [
        {"messages": [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": ["yes", "no"][i % 2]}]}
        for i in range(n)
    ]
    tokenizer = load_tokenizer(tiny_model_dir)
    contest = prepare_contest(rows, "test", Recipe(), tokenizer, max_rows=n)
    line_up = enter_rivals(tuple(rights), contest, Recipe(), lambda: rows, tokenizer)
    entries = []
    for rival in line_up:
        texts = [contest.references[i] if i < rights[rival.name] else "maybe" for i in range(n)]
        exact = [float(text == right) for text, right in zip(texts, contest.references, strict=True)]
        tokens = 300 if rival.name in ("examples", "retrieved") else 20
        entries.append(
            Entry(rival, [Said(text, [1, 2]) for text in texts], [tokens] * n, {"exact": exact, "lenient": exact}, 1.0)
        )
    return plain(write_up(contest, entries, {"base": [2.0] * n, "tuned": [0.5] * n}))


def test_tuning_is_judged_against_the_strongest_rival(tiny_model_dir):
    report = contest_of(tiny_model_dir, {"base": 5, "tuned": 45, "examples": 20, "retrieved": 25, "system": 10})
    assert report["verdict"]["against"] == "retrieved" and report["verdict"]["better"] is True
    assert report["verdict"]["sentence"] == (
        "Tuning answers 45 of 50 correctly where four similar rows in the prompt answer 25: better by 28 to 54 points. "
        "It also needs 280 tokens less per request."
    )
    assert report["verdict"]["others"]["base"]["difference"] == 0.8


def test_of_two_equal_rivals_the_cheaper_one_is_the_stronger(tiny_model_dir):
    report = contest_of(tiny_model_dir, {"base": 20, "tuned": 45, "examples": 20})
    assert report["verdict"]["against"] == "base"


def test_a_worse_tuned_model_is_called_worse(tiny_model_dir):
    verdict = contest_of(tiny_model_dir, {"base": 10, "tuned": 20, "examples": 40})["verdict"]
    assert verdict["better"] is False and "worse by" in verdict["sentence"]


def test_labels_also_get_macro_f1_with_its_interval(tiny_model_dir):
    report = contest_of(tiny_model_dir, {"base": 10, "tuned": 45})
    tuned = report["rivals"][-1]
    assert tuned["macro_f1_low"] < tuned["macro_f1"] < tuned["macro_f1_high"]


@pytest.mark.parametrize(
    ("right", "words"),
    [(20, "points are left to win"), (46, "at most"), (200, "hardly anything left")],
)
def test_before_tuning_the_room_that_is_left_is_told(tiny_model_dir, right, words):
    n = 200 if right == 200 else 50
    report = contest_of(tiny_model_dir, {"base": 2, "examples": right}, n)
    assert words in report["verdict"]["sentence"] and "four examples in the prompt" in report["verdict"]["sentence"]


# --- the probe ---


def test_the_probe_has_150_questions_of_five_kinds():
    items = [item for item in load_probe() if item.area != "open"]
    assert len(items) == 150 and {item.area for item in items} == set(AREAS)
    assert len({item.id for item in load_probe()}) == len(load_probe())
    assert sum(item.language == "nl" for item in items) >= 25


def test_every_probe_question_can_be_scored():
    for item in load_probe():
        if item.area == "open":
            assert not item.right and item.rule is None
        else:
            assert bool(item.right) != bool(item.rule), item.id
            assert not item.right or (item.wrong and item.right not in item.wrong), item.id


@pytest.mark.parametrize(
    ("rule", "answer", "keeps"),
    [
        ({"contains": ["sea"]}, "The SEA is blue", True),
        ({"contains": ["sea", "sky"]}, "The sea", False),
        ({"any": ["red", "blue", "green"], "at_least": 2}, "Red and blue", True),
        ({"any": ["red", "blue", "green"], "at_least": 2}, "red", False),
        ({"regex": r"1\D+2\D+3"}, "1, 2, 3", True),
        ({"regex": r"1\D+2\D+3"}, "123", False),
        ({"contains": ["a"], "max_words": 3}, "a b c d", False),
    ],
)
def test_rules_look_at_what_was_written(rule, answer, keeps):
    assert follows(rule, answer) is keeps


@pytest.mark.parametrize(
    ("before", "after", "state", "words"),
    [
        (110, 70, "lost", "tuning cost 20 to 34 points"),
        (110, 108, "kept", "no loss that 150 questions can show"),
        (70, 110, "gained", "even gained"),
        (150, 150, "kept", "2 points at most"),
    ],
)
def test_forgetting_is_told_as_kept_or_lost(before, after, state, words):
    found = kept_and_lost([i < before for i in range(150)], [i < after for i in range(150)])
    assert found["state"] == state and words in found["sentence"]
    assert found["won"] - found["lost"] == after - before


# --- the page ---


@pytest.fixture(scope="module")
def page(report, run):
    from finetune_core.progress import Progress

    nasty = json.loads(json.dumps(report))
    nasty["rows"][0]["answers"]["tuned"] = "<script>alert(1)</script>"
    nasty["rows"][0]["prompt"] = [{"role": "user", "content": "<img src=x onerror=alert(1)>"}]
    nasty["rivals"][1]["note"] = '"><iframe src="//evil">'
    loss = tuple((step, 3.0 / step) for step in range(1, 30))
    recipe = run.recipe.replace(dataset_name="/home/ada/secret/rows.jsonl")
    return report_page(nasty, Progress(loss=loss, eval_loss=loss[::6]), recipe, run.id)


def test_the_page_needs_nothing_from_outside(page):
    assert not re.search(r"<(script|link|img|iframe|object)\b", page)
    assert not re.search(r"(?:src|href|url)\s*[=(]\s*[\"']?(?:https?:)?//", re.sub(r"&quot;.*", "", page))


def test_words_from_data_are_escaped_on_the_page(page):
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page and "onerror=alert(1)&gt;" in page


def test_the_page_holds_the_verdict_the_rivals_the_curves_and_the_rows(page, report):
    assert report["verdict"]["sentence"].replace("'", "&#x27;") in page
    assert page.count("<tr class=") == len(report["rivals"])
    assert '<svg class="curves"' in page and page.count('<article class="row') == 12
    assert "prefers-color-scheme: dark" in page


def test_a_mailed_page_does_not_tell_whose_folder_it_was(page):
    assert "/home/ada" not in page and "rows.jsonl" in page


def test_the_page_of_a_report_without_rows_is_still_a_page():
    from finetune_core.progress import Progress

    page = report_page({"verdict": {"sentence": "Nothing."}, "rivals": [], "rows": []}, Progress(), Recipe(), "run")
    assert "Nothing." in page and page.endswith("</html>\n")


def test_the_light_files_of_the_proof_leave_torch_alone():
    files = "metrics intervals verdict rivals contest report report_page probe"
    names = ", ".join("finetune_core.proof." + name for name in files.split())
    code = f"import sys, {names}; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert out.stdout.strip() == "False", out.stderr


def test_the_pool_of_examples_is_bounded_and_seeded():
    rows = chat_rows(50)
    assert len(draw_pool(rows, 1, size=10)) == 10
    assert draw_pool(rows, 1, size=10) == draw_pool(rows, 1, size=10)
