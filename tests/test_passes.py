"""How the rows of a step are dealt out: packs, passes, and what padding costs."""

import dataclasses

import pytest
from planned import A100, H100, LAPTOP, LARGE, MIXED, SMALL, plan

from finetune_core import measured
from finetune_core.facts import read_facts
from finetune_core.machine import Gpu
from finetune_core.packing import filled_share, pack_lengths, padded_share
from finetune_core.plan import make_plan
from finetune_core.recipe import Recipe


def test_the_sample_of_many_rows_packs_like_all_of_them():
    lengths = [17 + (index * 7919) % 400 for index in range(60_000)]
    exact = sum(lengths) / (len(pack_lengths(lengths, 1024)) * 1024)
    assert filled_share(lengths, 1024) == pytest.approx(exact, abs=0.01)


@pytest.mark.parametrize(
    ("facts", "rows", "free", "passes"),
    [
        (SMALL, 8, 78, (2048, 1)),
        (SMALL, 64, 78, (16_384, 1)),  # the layers take as long for 8,192
        (SMALL, 512, 78, (32_768, 4)),
        (SMALL, 128, 16, (16_384, 2)),  # 32,768 would not leave room
        (SMALL, 128, 8, (8192, 4)),
        (LARGE, 128, 78, (8192, 4)),  # it is the products that take the time
        (dataclasses.replace(SMALL, model_type="olmoe"), 128, 78, (8192, 4)),  # its mask would grow with the square
    ],
)
def test_a_pass_is_as_long_as_fits_well_and_still_gains(facts, rows, free, passes):
    machine = dataclasses.replace(H100, gpus=(Gpu("NVIDIA H100", 80, free, 9.0),))
    made = plan(facts, machine, MIXED, per_device_train_batch_size=rows)
    length, a_step = passes
    assert made.fits == "fits" and made.recipe.gradient_accumulation_steps == a_step
    assert made.recipe.packing_length == pytest.approx(length, rel=0.05) and made.recipe.packing_length <= length
    filled = filled_share(MIXED, made.recipe.packing_length)
    assert a_step * made.recipe.packing_length * filled == pytest.approx(rows * sum(MIXED) / len(MIXED), rel=0.05)
    assert any("Expected, not measured" in reason for reason in made.reasons) == (length > 8192)


def test_two_processes_have_a_long_pass_each():
    made = plan(SMALL, dataclasses.replace(H100, gpus=H100.gpus * 2), MIXED, per_device_train_batch_size=128,
                num_processes=2, num_train_epochs=1)  # fmt: skip
    assert made.recipe.packing_length == pytest.approx(16_384, rel=0.05) and made.steps == pytest.approx(16, abs=1)


@pytest.mark.parametrize("rows", [18, 30, 50])
def test_what_a_step_holds_is_dealt_out_evenly(rows):
    made = plan(lengths=[60] * 2000, per_device_train_batch_size=rows)
    assert made.steps == pytest.approx(2000 * made.recipe.num_train_epochs / rows, rel=0.1)


@pytest.mark.parametrize("machine", [LAPTOP, A100], ids=["cpu", "gpu"])
@pytest.mark.parametrize(("batch", "accumulation"), [(8, 1), (32, 8), (4, 4)])
def test_a_run_s_own_recipe_is_planned_as_it_is(machine, batch, accumulation):
    lengths = [300 + (index * 7919) % 600 for index in range(3000)]
    asked = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
    first = plan(machine=machine, lengths=lengths, **asked)
    assert first.recipe.packing
    assert make_plan(first.recipe, SMALL, lengths, machine).settings == first.settings


def test_a_few_long_rows_do_not_pad_all_the_others():
    lengths = [150] * 990 + [1024] * 10
    padded = plan(lengths=lengths, packing=False)
    assert padded.seconds < 1.3 * plan(lengths=lengths, packing=True).seconds


def test_the_padding_is_that_of_the_batches_that_transformers_draws():
    from transformers.trainer_pt_utils import get_length_grouped_indices

    lengths = [17 + (index * index * 7919) % 400 for index in range(3000)]
    order = get_length_grouped_indices(lengths, 8 * 2)  # rows of a step: 8 in a batch, twice
    slots = sum(8 * max(lengths[row] for row in order[at : at + 8]) for at in range(0, 3000, 8))
    assert padded_share(lengths, 8, 2) == pytest.approx(sum(lengths) / slots, abs=0.01)


def test_batches_at_random_are_padded_more():
    import random

    lengths = [17 + (index * index * 7919) % 400 for index in range(3000)]
    order = random.Random(0).sample(lengths, len(lengths))
    slots = sum(8 * max(order[at : at + 8]) for at in range(0, 3000, 8))
    assert padded_share(lengths, 8, 2, grouped=False) == pytest.approx(sum(lengths) / slots, abs=0.04)
    grouped, mixed = (plan(lengths=lengths, packing=False, train_sampling_strategy=how) for how in (None, "random"))
    assert grouped.recipe.train_sampling_strategy == "group_by_length"
    assert mixed.seconds > 1.2 * grouped.seconds


def test_what_was_measured_with_padding_is_promised_with_padding(tiny_model_dir):
    first = plan(lengths=[20, 300] * 8, packing=False, per_device_train_batch_size=16)
    assert first.tokens_per_second < 0.6 * plan(lengths=[160] * 16, packing=False).tokens_per_second
    measured.remember(first.as_dict(), first.recipe, tiny_model_dir, LAPTOP, 50_000, 100.0, 2.0)
    speed = measured.speed_here(LAPTOP, "float32", read_facts(tiny_model_dir).parameters)
    again = make_plan(first.recipe, SMALL, [20, 300] * 8, LAPTOP, speed)
    assert again.tokens_per_second == pytest.approx(500, rel=0.01)


def test_validation_rows_are_read_as_far_as_max_length():
    long, cut = (
        make_plan(Recipe(max_length=256), SMALL, [60] * 240, LAPTOP, validation_lengths=[length] * 20).seconds
        for length in (30_000, 256)
    )
    assert long == cut


def test_a_pack_holds_the_longest_validation_row():
    made = make_plan(Recipe(packing=True), SMALL, [20] * 40, LAPTOP, validation_lengths=[900])
    assert made.recipe.packing_length >= 900


@pytest.mark.parametrize(("model_type", "packs"), [("llama", True), ("qwen3_5_text", False), ("", False)])
def test_rows_are_packed_only_where_that_is_known_to_be_exact(model_type, packs):
    made = plan(dataclasses.replace(SMALL, model_type=model_type))
    assert made.recipe.packing is packs
    assert any("No packing" in reason for reason in made.reasons) is not packs


def test_a_person_may_pack_all_the_same():
    assert plan(dataclasses.replace(SMALL, model_type="qwen3_5_text"), packing=True).recipe.packing is True


@pytest.mark.parametrize(("model_type", "says"), [("llama", "do not see"), ("qwen3_5_text", "may see")])
def test_a_person_who_packs_is_told_whether_rows_see_each_other(model_type, says):
    made = plan(dataclasses.replace(SMALL, model_type=model_type), packing=True)
    assert any(f"rows {says} each other" in reason for reason in made.reasons)


def test_rows_of_two_lengths_that_a_sample_would_take_for_one_are_planned_as_they_are():
    made = plan(SMALL, H100, [480, 600] * 20_000, per_device_train_batch_size=32)  # every second is of one length
    assert not made.recipe.packing and made.fits == "fits"


@pytest.mark.parametrize("longest", [2000, 8192])
@pytest.mark.parametrize("machine", [LAPTOP, H100], ids=["cpu", "gpu"])
def test_one_very_long_row_does_not_bring_more_rows_into_every_step(machine, longest):
    """Its pack would hold some tens of the others."""
    made = plan(machine=machine, lengths=[60] * 799 + [longest], max_length=8192, num_train_epochs=1)
    assert made.steps == 100 and not made.recipe.packing
    assert any(f"longest row, {longest:,} tokens" in reason for reason in made.reasons)
    assert plan(machine=machine, lengths=[60] * 799 + [longest], max_length=8192, packing=True).recipe.packing


@pytest.mark.parametrize("longest", [400, 700, 900, 1100])
def test_packs_are_as_long_as_the_rows_of_a_step_although_one_row_is_almost_that_long(longest):
    lengths = [150] * 795 + [longest] * 5
    made = plan(lengths=lengths, num_train_epochs=1)
    assert made.recipe.packing and made.steps == pytest.approx(100, rel=0.1)


@pytest.mark.parametrize("rows", [1, 3, 5])
def test_short_rows_are_not_more_in_a_step_for_the_sake_of_a_round_length(rows):
    made = plan(lengths=[16] * 900, per_device_train_batch_size=rows, num_train_epochs=1)
    assert made.steps == pytest.approx(900 / rows, rel=0.15)


@pytest.mark.parametrize("rows", [9, 12, 21])
def test_the_packs_of_a_step_are_dealt_out_evenly_to_processes(rows):
    two = dataclasses.replace(LAPTOP, cores=2)
    one, shared = (
        plan(machine=two, lengths=[100] * 3000 + [900] * 9, per_device_train_batch_size=rows, num_processes=processes)
        for processes in (1, 2)
    )
    assert shared.steps == pytest.approx(one.steps, rel=0.35)
    assert shared.recipe.gradient_accumulation_steps % 2 == 0 or not shared.recipe.packing


def test_packs_that_are_longer_than_asked_are_said():
    made = plan(lengths=[60] * 400 + [700], packing=True, packing_length=256)
    assert made.recipe.packing_length == 700
    assert any("Packs of 700 tokens instead of 256" in reason for reason in made.reasons)


def test_nothing_is_said_to_be_gained_where_padding_costs_less():
    [says] = [reason for reason in plan(lengths=[60] * 240).reasons if "Packing" in reason]
    assert "instead of" not in says and "rows do not see each other" in says


def test_rows_of_like_length_share_a_batch_where_that_was_asked_for():
    made = plan(train_sampling_strategy="group_by_length")
    assert (made.recipe.packing, made.recipe.train_sampling_strategy) == (False, "group_by_length")
