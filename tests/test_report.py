"""The report: what follows from the answers, in honest words."""

from dataclasses import dataclass

import pytest

from finetune_core.proof.contest import enter_rivals, prepare_contest
from finetune_core.proof.report import Entry, plain, write_up
from finetune_core.recipe import Recipe
from finetune_core.render import load_tokenizer


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


def test_before_tuning_a_few_rows_say_too_little(tiny_model_dir):
    sentence = contest_of(tiny_model_dir, {"base": 1, "examples": 2}, 5)["verdict"]["sentence"]
    assert sentence.endswith("answers 2 of 5 correctly: 5 rows say too little; start with at least 50.")


def test_before_tuning_nobody_is_promised_every_letter_of_a_text(tiny_model_dir):
    rows = [{"messages": [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": f"Story {i}."}]}
            for i in range(20)]  # fmt: skip
    tokenizer = load_tokenizer(tiny_model_dir)
    contest = prepare_contest(rows, "test", Recipe(), tokenizer)
    (rival,) = enter_rivals(("base",), contest, Recipe(), lambda: rows, tokenizer)
    scores = [0.2 + 0.01 * i for i in range(20)]
    entry = Entry(rival, [Said("Story", [1])] * 20, [9] * 20, {"chrf": scores}, 1.0)
    sentence = write_up(contest, [entry], {})["verdict"]["sentence"]
    assert "scores 30 of 100: 70 points short of perfect (" in sentence  # not the far end of the range, 73
    assert "of which no training wins all" in sentence and "left to win" not in sentence


def test_before_tuning_plain_text_has_nothing_to_ask(tiny_model_dir):
    rows = [{"text": f"A tale of {i}."} for i in range(20)]
    contest = prepare_contest(rows, "test", Recipe(), load_tokenizer(tiny_model_dir))
    report = write_up(contest, [], {"base": [2.0] * 20})
    assert report["verdict"]["sentence"].startswith("These rows are plain text: there is nothing to ask")


@pytest.mark.parametrize(
    ("right", "words"),
    [(20, "points are left to win"), (46, "at most"), (200, "hardly anything left")],
)
def test_before_tuning_the_room_that_is_left_is_told(tiny_model_dir, right, words):
    n = 200 if right == 200 else 50
    report = contest_of(tiny_model_dir, {"base": 2, "examples": right}, n)
    assert words in report["verdict"]["sentence"] and "four examples in the prompt" in report["verdict"]["sentence"]
