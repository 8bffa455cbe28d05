"""How many epochs a time limit leaves, and how fast this machine is taken to be before anything was trained on it."""

import dataclasses

import pytest
from planned import LAPTOP, SMALL, plan

from finetune_core import measured, products
from finetune_core.elsewhere import elsewhere
from finetune_core.facts import read_facts
from finetune_core.pace import expected_rate
from finetune_core.plan import make_plan
from finetune_core.presets import recipe_from_preset
from finetune_core.recipe import Recipe
from finetune_ui.words_frame import checked_line

SLOW = dataclasses.replace(LAPTOP, product_rate=20e9)
ROWS = [75] * 240


def test_a_limit_leaves_as_many_epochs_as_it_has_time_for():
    asked = {"num_train_epochs": 3, "max_minutes": 2, "lengths": ROWS, "machine": SLOW}
    asked["per_device_train_batch_size"] = 4
    made, whole = plan(**asked), plan(**asked | {"max_minutes": None})
    assert whole.seconds > 240
    assert 0.85 * 120 < made.seconds <= 1.05 * 120 and made.recipe.num_train_epochs < 3
    assert made.steps == pytest.approx(whole.steps * made.recipe.num_train_epochs / 3, abs=1)
    assert made.recipe.eval_steps < made.steps  # it is looked at as often as any training that long
    assert any("2 minutes" in reason for reason in made.reasons)


def test_the_plan_keeps_how_many_epochs_were_asked_for():
    asked = {"num_train_epochs": 3, "lengths": ROWS, "machine": SLOW}
    made = plan(**asked, max_minutes=2)
    kept = {"epochs": made.recipe.num_train_epochs, "asked": 3, "minutes": 2}
    assert made.as_dict()["shortened"] == kept
    assert checked_line(made.as_dict()).startswith(f"Ready · {kept['epochs']:g} of 3 epochs · ")
    assert plan(**asked).as_dict()["shortened"] is None


def test_the_way_to_all_epochs_is_one_click():
    recipe = {"num_train_epochs": 3, "max_minutes": 2, "lengths": ROWS, "machine": SLOW}
    [back] = plan(**recipe).suggestions
    assert back.changes == {"max_minutes": None}
    assert plan(**recipe | back.changes).recipe.num_train_epochs == 3


@pytest.mark.parametrize(("epochs", "says"), [(3, "Go through the rows 3 times"), (1, "Go through the rows once")])
def test_the_way_to_all_epochs_is_said_without_the_word(epochs, says):
    [back] = plan(num_train_epochs=epochs, max_minutes=0.5, lengths=ROWS, machine=SLOW).suggestions
    assert back.says.startswith(f"{says} instead of ") and "epoch" not in back.says


@pytest.mark.parametrize("more", [{"max_minutes": 600}, {"max_minutes": 0.1, "max_steps": 50}])
def test_a_limit_that_is_wide_and_one_beside_a_number_of_steps_change_nothing(more):
    asked = {"num_train_epochs": 3, "lengths": ROWS, "machine": SLOW}
    limited, free = plan(**asked | more), plan(**asked | more | {"max_minutes": None})
    assert (limited.steps, limited.suggestions) == (free.steps, free.suggestions)


def test_looks_at_validation_rows_leave_the_epochs_alone():
    """They are the price of watching, and many of them would leave nothing to learn."""
    recipe = Recipe(num_train_epochs=3, max_minutes=2)
    few, many = (make_plan(recipe, SMALL, ROWS, SLOW, validation_lengths=[75] * rows) for rows in (0, 200))
    assert many.seconds > few.seconds and many.recipe.num_train_epochs == few.recipe.num_train_epochs


@pytest.mark.parametrize("rows", [240, 5000, 100_000])
def test_looks_at_many_validation_rows_do_not_outlast_the_learning(rows):
    recipe, watched = recipe_from_preset("quick-look"), [75] * (rows // 9)
    made = make_plan(recipe, SMALL, [75] * rows, SLOW, validation_lengths=watched)
    assert 110 < made.seconds < 1.4 * 120 and 8 <= made.recipe.eval_rows < len(watched)
    assert any(f"at {made.recipe.eval_rows:,} of the {len(watched):,} validation" in reason for reason in made.reasons)
    assert make_plan(made.recipe, SMALL, [75] * rows, SLOW, validation_lengths=watched).seconds == made.seconds
    free = make_plan(recipe.replace(max_minutes=None), SMALL, [75] * rows, SLOW, validation_lengths=watched)
    assert free.recipe.eval_rows is None


def test_a_person_says_how_many_validation_rows_are_looked_at():
    few, many = (
        make_plan(Recipe(eval_rows=rows), SMALL, ROWS, SLOW, validation_lengths=[75] * 200) for rows in (20, 200)
    )
    assert few.seconds < many.seconds and (few.recipe.eval_rows, many.recipe.eval_rows) == (20, 200)


def test_the_look_at_the_end_is_counted():
    """transformers looks there too, where the steps between two looks do not add up to all steps."""
    whole, odd = (
        make_plan(Recipe(max_steps=8, eval_steps=every), SMALL, ROWS, SLOW, validation_lengths=[75] * 200)
        for every in (4, 5)
    )
    assert whole.seconds == odd.seconds


def test_a_run_says_what_came_of_the_limit_and_is_not_limited_again():
    made = plan(num_train_epochs=3, max_minutes=2, lengths=ROWS, machine=SLOW)
    assert made.recipe.max_minutes is None


def test_quick_look_is_two_minutes_where_a_machine_is_slow():
    recipe = recipe_from_preset("quick-look")
    assert (recipe.num_train_epochs, recipe.max_minutes) == (3, 2)


def test_a_sample_of_many_rows_is_given_its_part_of_the_time():
    slow = {offer.name: offer.seconds for offer in elsewhere(Recipe(max_minutes=1), SMALL, [900] * 40_000)}
    assert 55 < max(slow.values()) < 63


def test_more_products_a_second_are_more_tokens_a_second():
    slow, fast = (plan(machine=dataclasses.replace(LAPTOP, product_rate=rate)) for rate in (50e9, 100e9))
    assert fast.tokens_per_second == pytest.approx(2 * slow.tokens_per_second)


@pytest.mark.parametrize("products, format, reached", [
    (180e9, "float32", 107e9),  # an EPYC with AVX2: 64 tokens a row, the starter model, benchmarks/estimates.py
    (257e9, "float32", 131e9),  # a Xeon with AVX-512 and without AMX
    (360e9, "bfloat16", 346e9),  # an EPYC with AVX512-BF16
])  # fmt: skip
def test_three_processors_reach_what_is_expected_of_them(products, format, reached):
    """To a fifth: what trainings of the starter model were seen to reach there."""
    machine = dataclasses.replace(LAPTOP, product_rate=products, cpu_bf16=format == "bfloat16")
    assert expected_rate(machine, format, 453e6, 366e3) == pytest.approx(reached, rel=0.2)


def test_this_machine_s_products_are_measured_and_the_best_is_kept(monkeypatch):
    assert products.product_rate() > 1e9
    monkeypatch.setattr(products, "product_rate", lambda: 100e9)
    assert measured.with_products(LAPTOP).product_rate == 100e9
    monkeypatch.setattr(products, "product_rate", lambda: 40e9)  # something else computes
    assert measured.with_products(LAPTOP).product_rate == 100e9
    rented = dataclasses.replace(LAPTOP, rented=True)
    assert measured.with_products(rented) is rented


def test_a_run_tells_how_much_faster_than_expected_it_was(tiny_model_dir):
    made = plan(machine=SLOW)
    measured.remember(made.as_dict(), made.recipe, tiny_model_dir, SLOW, 1000, 1000 / (2 * made.expected_speed), 1.0)
    factor = measured.speed_here(SLOW, "float32", read_facts(tiny_model_dir).parameters)
    assert factor == pytest.approx(2, rel=0.01)
    expected, corrected = (make_plan(Recipe(), SMALL, [900] * 40, SLOW, speed) for speed in (None, factor))
    assert corrected.tokens_per_second == pytest.approx(2 * expected.tokens_per_second, rel=0.01)
    assert corrected.rate_is_measured and not expected.rate_is_measured


def test_a_processor_whose_products_are_measured_faster_later_is_not_expected_to_train_faster(tiny_model_dir):
    """While something else computed, less was measured, and the first run was faster than expected from that."""
    made, parameters = plan(machine=SLOW), read_facts(tiny_model_dir).parameters
    measured.remember(made.as_dict(), made.recipe, tiny_model_dir, SLOW, 1000, 1000 / (3 * made.expected_speed), 1.0)
    idle = dataclasses.replace(SLOW, product_rate=3 * SLOW.product_rate)
    later = make_plan(Recipe(), SMALL, [60] * 240, idle, measured.speed_here(idle, "float32", parameters))
    assert later.tokens_per_second == pytest.approx(3 * made.expected_speed, rel=0.01)
