"""What to do where memory is short: rungs that keep the rows of a step, in their order."""

import dataclasses
import shlex

import pytest
from planned import A100, H100, LARGE, MIXED, SMALL, T4, WITH_BITS, plan

from finetune_core.ladder import as_overrides, gentle_rungs, smaller_model, step_down
from finetune_core.memory import memory_parts
from finetune_core.plan import make_plan
from finetune_core.recipe import STARTER_MODEL, Recipe


@pytest.mark.parametrize(("batch", "accumulation"), [(6, 2), (5, 1), (7, 2), (3, 1)])
def test_each_rung_keeps_the_rows_of_a_step(batch, accumulation):
    recipe = plan(
        packing=False, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation
    ).recipe  # fmt: skip
    for rung in gentle_rungs(recipe, 60, WITH_BITS):
        lower = recipe.replace(**rung.changes)
        assert lower.per_device_train_batch_size * lower.gradient_accumulation_steps == batch * accumulation


def test_a_long_pass_is_halved_before_anything_else_where_memory_runs_out():
    resolved = plan(SMALL, H100, MIXED, per_device_train_batch_size=128).recipe
    lengths, packs = [resolved.packing_length], [resolved.gradient_accumulation_steps]
    for _ in range(2):
        resolved, _ = step_down(resolved, max(MIXED), H100)
        lengths.append(resolved.packing_length)
        packs.append(resolved.gradient_accumulation_steps)
    assert lengths[0] > 30_000 and [lengths[0] // each for each in lengths] == packs == [1, 2, 4]
    assert make_plan(resolved, SMALL, MIXED, H100).recipe == resolved  # nor does a plan lengthen it again


def test_half_the_packed_length_keeps_the_rows_of_a_step():
    lengths = [60] * 2000
    first = plan(machine=A100, lengths=lengths, per_device_train_batch_size=64)
    [rung] = [rung for rung in first.ladder if "packed length" in rung.says]
    lower = make_plan(Recipe(per_device_train_batch_size=64).replace(**rung.changes), SMALL, lengths, A100)
    assert lower.recipe.packing_length == first.recipe.packing_length // 2
    assert lower.steps == pytest.approx(first.steps, abs=2)


def test_an_adapter_instead_of_all_weights_takes_the_steps_of_an_adapter():
    first = plan(LARGE, T4, method="full")
    [rung] = [rung for rung in first.ladder if rung.changes.get("method") == "lora"]
    lower = make_plan(first.recipe.replace(**rung.changes), LARGE, [60] * 240, T4)
    assert lower.recipe.learning_rate == plan(LARGE, T4).recipe.learning_rate > first.recipe.learning_rate


@pytest.mark.parametrize("dtype", [None, "bfloat16", "float16"])
def test_an_adapter_instead_of_all_weights_needs_less(dtype):
    first = plan(LARGE, T4, method="full", dtype=dtype)  # a GPU on which float32 would be chosen
    [rung] = [rung for rung in first.ladder if rung.changes.get("method") == "lora"]
    lower = make_plan(first.recipe.replace(**rung.changes), LARGE, [60] * 240, T4)
    assert lower.memory_gb["total"] < first.memory_gb["total"]
    assert lower.recipe.dtype == (dtype or "float32") and plan(LARGE, A100, method="full").recipe.dtype == "float32"


@pytest.mark.parametrize(
    ("name", "smaller"),
    [
        ("Qwen/Qwen3-1.7B", "Qwen/Qwen3-0.6B"),
        ("owner/name", STARTER_MODEL),
        (STARTER_MODEL, None),
        ("/data/mine", None),
        ("./mine", None),
    ],
)
def test_a_smaller_model_is_the_next_of_its_family(name, smaller):
    assert smaller_model(name) == smaller


def test_a_rung_can_be_typed():
    from finetune_core.presets import parse_override

    changes = {"packing": True, "packing_length": 256, "load_in_8bit": False, "model_name_or_path": "Qwen/Qwen3-0.6B"}
    changes["learning_rate"] = None
    typed = [parse_override(word) for word in as_overrides(changes).split(" ")]
    assert {name: value for each in typed for name, value in each.items()} == changes


def test_a_repair_can_be_typed():
    from finetune_core.presets import resolve_recipe

    changes = {"fixes": ["drop-leaks", "drop-duplicates"], "columns": {"prompt": "My question", "completion": "Answer"}}
    recipe = resolve_recipe("quick-look", shlex.split(as_overrides(changes)))
    assert {"fixes": recipe.fixes, "columns": recipe.columns} == changes


def test_the_ladder_ends_and_every_rung_of_the_estimate_is_lower():
    recipe = plan(lengths=[500] * 64, packing=False, per_device_train_batch_size=8, dtype="float32").recipe
    totals, said = [], []
    while True:
        slots = 500 * recipe.per_device_train_batch_size
        totals.append(memory_parts(recipe, recipe.model_dump(), SMALL, slots, T4)["total"])
        lower = step_down(recipe, 500, WITH_BITS)
        if lower is None:
            break
        recipe, rung = lower
        said.append(rung.says)
    assert totals == sorted(totals, reverse=True) and len(set(totals)) == len(totals)
    assert recipe.method == "qlora" and recipe.gradient_checkpointing and recipe.per_device_train_batch_size == 1


def test_a_pack_is_never_made_shorter_than_its_longest_row():
    recipe = plan(packing=True, packing_length=512).recipe
    assert all("packing_length" not in rung.changes for rung in gentle_rungs(recipe, 300, A100))


def test_what_does_not_fit_comes_with_suggestions_that_can_be_applied():
    made = plan(LARGE, T4, lengths=[900] * 200)
    assert made.fits == "no" and made.suggestions
    for suggestion in made.suggestions:
        assert made.recipe.replace(**suggestion.changes) != made.recipe


def test_half_the_longest_row_is_half_of_what_is_read():
    def halved(length):
        return [rung.changes for rung in plan(LARGE, T4, lengths=[length] * 200).ladder if "max_length" in rung.changes]

    assert [changes["max_length"] for changes in halved(600)] == [300]
    assert [changes["max_length"] for changes in halved(3000)] == [512]
    assert halved(60) == []  # no row would be cut


def test_a_shorter_longest_row_keeps_the_rows_of_a_step():
    lengths = [30] * 600 + [300] * 20
    first = plan(LARGE, T4, lengths=lengths, packing=True, max_length=300)
    [rung] = [rung for rung in first.ladder if "max_length" in rung.changes]
    lower = make_plan(first.recipe.replace(**rung.changes), LARGE, lengths, T4)
    assert lower.steps == pytest.approx(first.steps, rel=0.25)


@pytest.mark.parametrize(("parameters", "is_said"), [(70e6, False), (134_515_008, False), (8e9, True)])
def test_the_starter_model_is_proposed_where_it_is_smaller(parameters, is_said):
    """Of a family that is not known here, or as SmolLM2-135M, which is not the Instruct model."""
    facts = dataclasses.replace(LARGE, parameters=int(parameters))
    rungs = plan(facts, T4, model_name_or_path="owner/name", method="full").ladder
    assert any("model_name_or_path" in rung.changes for rung in rungs) is is_said


def test_a_step_may_be_added_up_from_more_passes_than_a_person_would_ask_for():
    asked = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1024}
    lower, _ = step_down(plan(packing=False, **asked).recipe, 60, A100)
    assert (lower.per_device_train_batch_size, lower.gradient_accumulation_steps) == (4, 2048)
    assert plan(lengths=MIXED * 100, packing=True, **asked).recipe.gradient_accumulation_steps > 1024


def test_at_the_foot_of_the_ladder_the_plan_says_so():
    made = plan(LARGE, WITH_BITS, method="qlora", model_name_or_path="/data/mine", lengths=[60], packing=False,
                per_device_train_batch_size=1, gradient_checkpointing=True, dtype="float32", lora_r=256)  # fmt: skip
    assert made.ladder == () and "Nothing is left" not in " ".join(made.reasons)
    little = dataclasses.replace(WITH_BITS, gpus=(dataclasses.replace(WITH_BITS.gpus[0], free_gb=2.0),))
    assert "Nothing is left here" in make_plan(made.recipe, LARGE, [60], little).reasons[-1]
