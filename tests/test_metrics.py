"""Scores, intervals and verdicts: tables of what must come out."""

import json
import math

import numpy as np
import pytest

from finetune_core.progress import Progress
from finetune_core.proof.intervals import (
    difference_interval,
    mean_interval,
    needed_rows,
    student_quantile,
    tango,
    wilson,
)
from finetune_core.proof.metrics import METRICS, choose_metric, find_object, macro_f1, rouge_l, score, words
from finetune_core.proof.verdict import compare, cut_short, read_curves
from finetune_core.recipe import Recipe
from finetune_core.schedule import Shortened


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        (['{"a": 1}', ' {"b": [2]} '], "json"),
        (['{"a": 1}'], "json"),
        (['{"a": 1}', "no json"], "text"),
        (["[1, 2]"] * 4, "label"),  # a list is no object with fields
        (["yes", "no"] * 10, "label"),
        (["positive"] * 5 + ["negative"] * 5, "label"),
        ([f"name {i}" for i in range(20)], "text"),  # all different: no labels
        (["a long sentence " * 8] * 20, "text"),
        (["two\nlines", "two\nlines"] * 5, "text"),
        ([], "text"),
        (["", ""], "text"),
        (['{"a": NaN}'], "text"),
    ],
)
def test_the_metric_follows_from_the_answers(answers, kind):
    assert choose_metric(answers) == kind


@pytest.mark.parametrize(
    ("answer", "reference", "exact", "field_f1", "valid"),
    [
        ('{"a": 1, "b": "x"}', '{"b": "x", "a": 1}', 1, 1, 1),
        ('{"a": 1.0}', '{"a": 1}', 1, 1, 1),
        ('{"a": true}', '{"a": 1}', 0, 0, 1),
        ('{"a": "1"}', '{"a": 1}', 0, 0, 1),
        ('{"a": " x "}', '{"a": "x"}', 1, 1, 1),
        ('{"a": 1, "b": "y"}', '{"a": 1, "b": "x"}', 0, 0.5, 1),
        ('{"a": 1}', '{"a": 1, "b": "x"}', 0, 2 / 3, 1),
        ('{"a": 1, "b": "x", "c": 0}', '{"a": 1, "b": "x"}', 0, 0.8, 1),
        ('```json\n{"a": 1}\n```', '{"a": 1}', 1, 1, 0),
        ('Sure! {"a": 1} I hope this helps.', '{"a": 1}', 1, 1, 0),
        ('{"a": {"b": 1, "c": 2}}', '{"a": {"b": 1, "c": 3}}', 0, 0.5, 1),
        ('{"a": [1, 2]}', '{"a": [2, 1]}', 0, 1, 1),
        ('{"a": []}', '{"a": []}', 1, 1, 1),
        ("{}", "{}", 1, 1, 1),
        ('{"a": 1', '{"a": 1}', 0, 0, 0),
        ("", '{"a": 1}', 0, 0, 0),
        ("[1]", '{"a": 1}', 0, 0, 0),
        ("{" * 500, '{"a": 1}', 0, 0, 0),
        ('{"a":' * 5000, '{"a": 1}', 0, 0, 0),
    ],
)
def test_json_answers_are_scored_by_field(answer, reference, exact, field_f1, valid):
    scores = score("json", [answer], [reference])
    assert (scores["exact"], scores["valid"]) == ([exact], [valid])
    assert scores["field_f1"] == [pytest.approx(field_f1)]


@pytest.mark.parametrize(
    ("answer", "reference", "exact", "lenient"),
    [
        ("yes", "yes", 1, 1),
        (" yes\n", "yes", 1, 1),
        ("Yes.", "yes", 0, 1),
        ("yes, because", "yes", 0, 0),
        ("", "yes", 0, 0),
        ("Één", "één", 0, 1),
    ],
)
def test_labels_count_when_they_are_the_label(answer, reference, exact, lenient):
    assert score("label", [answer], [reference]) == {"exact": [exact], "lenient": [lenient]}


@pytest.mark.parametrize(
    ("answer", "reference", "token_f1", "rouge"),
    [
        ("the cat sat", "the cat sat", 1, 1),
        ("The CAT, sat!", "the cat sat", 1, 1),
        ("sat cat the", "the cat sat", 1, 1 / 3),
        ("a b", "c d", 0, 0),
        ("", "", 1, 1),
        ("", "a", 0, 0),
        ("ik fiets naar huis", "ik loop naar huis", 0.75, 0.75),
        ("東京", "東京都", 0.8, 0.8),
    ],
)
def test_texts_are_scored_by_their_words(answer, reference, token_f1, rouge):
    scores = score("text", [answer], [reference])
    assert scores["token_f1"] == [pytest.approx(token_f1)]
    assert scores["rouge_l"] == [pytest.approx(rouge)]
    assert 0 <= scores["chrf"][0] <= 1


def test_rouge_l_agrees_with_the_plain_definition():
    random = np.random.default_rng(0)
    for _ in range(50):
        a, b = (list(random.choice(list("abcd"), random.integers(1, 12))) for _ in range(2))
        table = np.zeros((len(a) + 1, len(b) + 1))
        for i, x in enumerate(a):
            for j, y in enumerate(b):
                table[i + 1, j + 1] = table[i, j] + 1 if x == y else max(table[i, j + 1], table[i + 1, j])
        assert rouge_l(a, b) == pytest.approx(2 * table[-1, -1] / (len(a) + len(b)))


def test_macro_f1_weighs_every_label_alike():
    assert macro_f1(["a"] * 10, ["a"] * 9 + ["b"]) == pytest.approx((18 / 19 + 0) / 2)
    assert macro_f1(["a", "b"], ["a", "b"]) == 1
    assert macro_f1(["nonsense"], ["a"]) == 0


def test_the_first_object_of_a_text_is_found():
    assert find_object('x {"a": {"b": 2}} {"c": 3}') == {"a": {"b": 2}}
    assert find_object("nothing here") is None
    assert words("Hé, Straße 12!") == ["hé", "strasse", "12"]


@pytest.mark.parametrize(
    ("gained", "lost", "n", "low", "high"),
    [
        (1, 7, 21, -0.517, -0.026),  # Fagerland, Lydersen and Laake 2014, airway reactivity
        (12, 2, 50, 0.0611, 0.3447),  # by maximising the likelihood numerically
        (9, 3, 32, -0.0271, 0.3897),
        (0, 0, 50, -0.0713, 0.0713),
        (50, 0, 50, 0.8573, 1.0),
    ],
)
def test_tango_gives_the_known_intervals(gained, lost, n, low, high):
    assert tango(gained, lost, n) == pytest.approx((low, high), abs=6e-4)


def test_tango_is_the_same_from_both_sides():
    low, high = tango(7, 3, 40)
    assert tango(3, 7, 40) == pytest.approx((-high, -low))


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(0, 50, 0.0, 0.0713), (50, 50, 0.9287, 1.0), (25, 50, 0.3664, 0.6336), (1, 50, 0.0010, 0.1050), (0, 0, 0.0, 1.0)],
)
def test_wilson_gives_the_known_intervals(successes, n, low, high):
    assert wilson(successes, n) == pytest.approx((low, high), abs=6e-4)


def test_student_quantiles_are_those_of_the_table():
    table = {1: 12.706, 2: 4.303, 5: 2.571, 7: 2.365, 9: 2.262, 20: 2.086, 100: 1.984}
    for freedom, value in table.items():
        assert student_quantile(freedom) == pytest.approx(value, abs=1.2e-3)


@pytest.mark.parametrize("n", [2, 5, 12, 50])
def test_intervals_of_graded_scores_hold_their_mean_and_stay_on_the_scale(n):
    scores = np.random.default_rng(n).beta(5, 1, n)
    low, high = mean_interval(scores)
    assert 0 <= low <= scores.mean() <= high <= 1


def test_a_graded_interval_is_the_same_every_time():
    random = np.random.default_rng(0)
    a, b = random.beta(3, 2, 60), random.beta(2, 2, 60)
    assert difference_interval(a, b) == difference_interval(a, b)


def test_graded_intervals_contain_the_truth_about_as_often_as_they_say():
    random = np.random.default_rng(1)
    hits = sum(
        low <= 0.1 <= high
        for low, high in (
            difference_interval(0.5 + 0.1 + random.normal(0, 0.15, 40), np.full(40, 0.5)) for _ in range(100)
        )
    )
    assert 0.90 <= hits / 100 <= 0.99


def test_a_single_row_has_an_interval_that_says_nothing():
    assert difference_interval([0.7], [0.2]) == (-1, 1)
    assert mean_interval([0.7]) == (0, 1)


def test_unequal_numbers_of_scores_are_refused():
    with pytest.raises(ValueError, match="not paired"):
        difference_interval([1, 0], [1])
    with pytest.raises(ValueError, match="same rows"):
        compare([1, 0], [1])


def test_the_rows_that_are_needed_would_show_the_difference_four_times_in_five():
    rows = needed_rows(0.1, 0.5)
    random = np.random.default_rng(2)
    shown = 0
    for _ in range(400):
        draws = random.choice([1.0, -1.0, 0.0], rows, p=[0.18, 0.08, 0.74])  # mean 0.1, deviation 0.5
        low, _ = tango(int((draws > 0).sum()), int((draws < 0).sum()), rows)
        shown += low > 0
    assert shown / 400 == pytest.approx(0.8, abs=0.06)


ROWS_60 = ([1] * 31 + [0] * 29, [0] * 4 + [1] * 23 + [0] * 33)


@pytest.mark.parametrize(
    ("a", "b", "tokens", "sentence"),
    [
        (
            [1] * 81 + [0] * 19,
            [1] * 52 + [0] * 48,
            (60, 700),
            "Tuning answers 81 of 100 correctly where a prompt answers 52: better by 21 to 39 points. "
            "It also needs 640 tokens less per request.",
        ),
        (*ROWS_60, None, "Tuning answers 31 of 60 correctly where a prompt answers 23: better by 7 to 24 points."),
        (
            [1] * 10 + [0] * 10 + [1] * 16 + [0] * 24,
            [0] * 10 + [1] * 6 + [0] * 4 + [1] * 16 + [0] * 24,
            None,
            "Tuning answers 26 of 60 correctly where a prompt answers 22: no difference that 60 rows can show; "
            "one of this size would need about 470.",
        ),
        (
            [1] * 50,
            [1] * 50,
            (100, 420),
            "Tuning answers 50 of 50 correctly where a prompt answers 50: no difference that 50 rows can show; "
            "if there is one, it is 7 points at most. It needs 320 tokens less per request.",
        ),
        ([1, 0], [0, 0], None, "Tuning answers 1 of 2 correctly where a prompt answers 0: "
         "no difference that 2 rows can show; start with at least 50."),
        ([1] * 20 + [0] * 30, [1] * 35 + [0] * 15, (100, 420),
         "Tuning answers 20 of 50 correctly where a prompt answers 35: worse by 19 to 44 points. "
         "But it needs 320 tokens less per request."),
        ([], [], None, "There are no rows to compare on."),
    ],
)  # fmt: skip
def test_the_verdict_is_one_honest_sentence(a, b, tokens, sentence):
    assert compare(a, b, ("tuning", "a prompt"), tokens=tokens).sentence == sentence


@pytest.mark.parametrize(("n", "shown"), [(4, False), (5, False), (6, True), (9, True)])
def test_a_few_rows_show_a_difference_only_where_chance_would_seldom_make_it(n, shown):
    """Tango's limits alone call 4 of 4 against 0 better, which two equal models come to 12 times of 100."""
    verdict = compare([1] * n, [0] * n)
    assert verdict.enough is shown and ("can show" in verdict.sentence) is not shown


@pytest.mark.parametrize("n", range(1, 10))
def test_two_equal_models_are_seldom_told_apart_on_a_few_rows(n):
    """Every row differs, and each is as likely to be won as lost."""
    wrong = sum(
        math.comb(n, gained) / 2**n
        for gained in range(n + 1)
        if compare([1] * gained + [0] * (n - gained), [0] * gained + [1] * (n - gained)).enough
    )
    assert wrong <= 0.05


def test_a_difference_that_was_not_shown_names_the_rows_that_would_show_it():
    verdict = compare([1] * 12 + [0] * 48, [0] * 4 + [1] * 12 + [0] * 44)
    assert not verdict.enough and verdict.better is None
    assert compare([1] * 14 + [0] * 46, [1] * 12 + [0] * 48).needed_rows > 60


def test_a_lower_loss_is_better():
    random = np.random.default_rng(0)
    tuned, base = random.gamma(4, 0.25, 60), random.gamma(9, 0.3, 60)
    verdict = compare(list(tuned), list(base), metric="loss")
    assert verdict.better is True and verdict.low > 0
    assert "nats per token" in verdict.sentence and "perplexity" in verdict.sentence


def test_a_single_loss_gives_a_verdict_that_json_can_hold():
    verdict = compare([1.0], [2.0], metric="loss")
    assert json.dumps(verdict.as_dict(), allow_nan=False)
    assert not verdict.enough


def test_a_graded_score_is_told_in_its_metric():
    random = np.random.default_rng(0)
    verdict = compare(list(random.beta(6, 2, 60)), list(random.beta(2, 6, 60)), metric="text")
    assert verdict.sentence.startswith("Tuning scores 7") and "chrF" in verdict.sentence


def curve(*losses: float, every: int = 10) -> tuple[tuple[int, float], ...]:
    return tuple((every * (place + 1), loss) for place, loss in enumerate(losses))


FALLING = curve(3.0, 2.0, 1.4, 1.0, 0.8, 0.7, 0.6, 0.55)


@pytest.mark.parametrize(
    ("train", "validation", "kind", "changed"),
    [
        (FALLING, curve(2.5, 1.5, 1.1, 0.95, 1, 1.2, 1.3, 1.4), "overfitting", {"early_stopping", "num_train_epochs"}),
        (FALLING, curve(2.5, 2.0, 1.6, 1.4, 1.2, 1.05, 0.9, 0.8), "unfinished", {"num_train_epochs", "max_minutes"}),
        (FALLING, curve(2.5, 1.5, 1.1, 1.0, 0.96, 0.95, 0.945, 0.95), "good", set()),
        (FALLING, (), "unwatched", set()),
        (FALLING, curve(2.0, 1.0), "short", set()),
        (curve(3.0, 2.9), (), "short", set()),
        (curve(3.0, 3.01, 2.99, 3.0), curve(3, 3, 3), "not-learning", {"learning_rate"}),
        (curve(3.0, 1.5, 1.0, 4.0, 6.0), curve(3, 2, 5), "diverged", {"learning_rate"}),
    ],
)  # fmt: skip
def test_curves_are_read_in_words_with_what_to_change(train, validation, kind, changed):
    reading = read_curves(Progress(loss=train, eval_loss=validation), Recipe(learning_rate=2e-4))
    assert reading.kind == kind
    assert set(reading.changes) == changed
    assert Recipe().replace(**reading.changes)
    assert reading.sentence.endswith(".")


def test_overfitting_suggests_the_epochs_at_which_validation_was_best():
    progress = Progress(loss=FALLING, eval_loss=curve(2.5, 1.5, 1.0, 0.9, 1.0, 1.1, 1.2, 1.3), best_step=40)
    reading = read_curves(progress, Recipe(num_train_epochs=4, early_stopping=True))
    assert reading.changes == {"num_train_epochs": 2.0}
    assert "best checkpoint was kept" in reading.sentence


@pytest.mark.parametrize("early_stopping", [True, False])
def test_a_training_that_was_stopped_early_is_counted_in_the_epochs_that_it_came_to(early_stopping):
    """Best after two of ten epochs, stopped after four: the next one needs two."""
    progress = Progress(loss=FALLING, eval_loss=curve(2.5, 1.5, 1.0, 0.9, 1.0, 1.1, 1.2, 1.3), step=80, epoch=4.0,
                        total_steps=200)  # fmt: skip
    reading = read_curves(progress, Recipe(num_train_epochs=10, early_stopping=early_stopping))
    assert reading.changes["num_train_epochs"] == 2.0


@pytest.mark.parametrize("asked, changes", [
    ({"num_train_epochs": 2, "max_minutes": 2}, {"num_train_epochs": 3.0, "max_minutes": None}),
    ({"num_train_epochs": 90}, {"num_train_epochs": 100.0, "max_minutes": None}),
    ({"num_train_epochs": 2, "max_steps": 75}, {"max_steps": 113}),
])  # fmt: skip
def test_half_as_long_again_is_longer_however_the_length_was_said(asked, changes):
    falling = curve(2.5, 2.0, 1.6, 1.4, 1.2, 1.05, 0.9, 0.8)
    recipe = Recipe(**asked)
    assert read_curves(Progress(loss=FALLING, eval_loss=falling), recipe).changes == changes
    assert recipe.replace(**changes)


@pytest.mark.parametrize("taken, asked, epochs, says", [
    (1.7, 3, 3.0, "3 times, instead of the 1.7"),
    (0.5, 1, 1.0, "once, instead of the 0.5"),
    (2.8, 3, 4.2, "half as long again"),
])  # fmt: skip
def test_where_minutes_left_fewer_epochs_the_advice_is_all_that_were_asked_for_or_more(taken, asked, epochs, says):
    falling = curve(2.5, 2.0, 1.6, 1.4, 1.2, 1.05, 0.9, 0.8)
    fewer = Shortened(taken, asked, 2)
    reading = read_curves(Progress(loss=FALLING, eval_loss=falling), Recipe(num_train_epochs=taken), fewer)
    assert reading.changes == {"num_train_epochs": epochs, "max_minutes": None} and says in reading.fix


@pytest.mark.parametrize("step, every, is_why", [(45, 1, True), (40, 10, True), (44, 1, False), (0, None, False)])
def test_minutes_are_why_a_training_was_short_only_if_it_came_to_the_end_of_its_plan(step, every, is_why):
    plan = {"shortened": {"epochs": 1.7, "asked": 3, "minutes": 2}}
    progress, recipe = Progress(step=step, total_steps=45 if step else 0), Recipe(logging_steps=every)
    assert (cut_short(progress, recipe, plan) is not None) is is_why
    assert cut_short(progress, recipe, None) is None


def test_overfitting_in_a_number_of_steps_suggests_fewer_steps():
    progress = Progress(loss=FALLING, eval_loss=curve(2.5, 1.5, 1.0, 0.9, 1.0, 1.1, 1.2, 1.3))
    assert read_curves(progress, Recipe(max_steps=80, early_stopping=True)).changes == {"max_steps": 40}


def test_without_early_stopping_the_result_is_that_of_the_last_step():
    """The trainer remembers its best checkpoint all the same."""
    progress = Progress(loss=FALLING, eval_loss=curve(2.5, 1.5, 1.0, 0.9, 1.0, 1.1, 1.2, 1.3), best_step=40)
    assert "was kept" not in (says := read_curves(progress, Recipe(num_train_epochs=4)).sentence)
    assert "The result is what it had become at the last step" in says


def test_every_metric_names_its_series():
    for kind, metric in METRICS.items():
        if kind not in ("loss", "check"):
            assert set(score(kind, ["a"], ["a"])) == set(metric.series)
    assert math.isclose(score("text", ["same"], ["same"])["chrf"][0], 1)
