"""The plan: what fits, what it costs, and the ladder when it does not fit."""

import dataclasses

import pytest
from conftest import chat_rows, write_jsonl

from finetune_core import measured
from finetune_core.elsewhere import elsewhere
from finetune_core.facts import ModelFacts, read_facts
from finetune_core.ladder import as_overrides, gentle_rungs, smaller_model, step_down
from finetune_core.machine import Gpu, Machine
from finetune_core.memory import memory_parts
from finetune_core.pace import default_rate, flops_per_token
from finetune_core.packing import filled_share, pack_lengths, padded_share
from finetune_core.plan import make_plan
from finetune_core.precision import FUSED, IN_8_BITS, Formats
from finetune_core.recipe import STARTER_MODEL, Recipe, recipe_from_preset
from finetune_ui import words_plan

PLAIN = {"packing": False, "use_liger_kernel": False}
LAPTOP = Machine(cores=2, memory_gb=24, available_gb=20)
T4 = Machine(cores=4, memory_gb=16, available_gb=12, gpus=(Gpu("Tesla T4", 15, 14.6, 7.5),), kind="cuda")
A100 = Machine(cores=8, memory_gb=64, available_gb=60, gpus=(Gpu("A100", 80, 79, 8.0),), kind="cuda")
H100 = Machine(cores=16, memory_gb=128, available_gb=120, gpus=(Gpu("NVIDIA H100", 80, 78, 9.0),), kind="cuda")
WITH_BITS = dataclasses.replace(A100, bitsandbytes=True)
SMALL = ModelFacts(134_515_008, 576, 30, 49152, 1536, 9, 3, 64, True, 8192, model_type="llama")
LARGE = ModelFacts(8_030_261_248, 4096, 32, 128_256, 14336, 32, 8, 128, False, 8192, model_type="llama")


def plan(facts=SMALL, machine=LAPTOP, lengths=(60,) * 240, **changes):
    return make_plan(Recipe(**changes), facts, list(lengths), machine)


def test_every_setting_is_filled_in():
    assert [name for name, value in plan().settings.items() if value is None and name != "packing_length"] == []


def test_a_small_model_fits_and_a_large_one_does_not():
    assert plan().fits == "fits"
    assert plan(LARGE, T4, method="full").fits == "no"


def test_the_parts_add_up_to_the_total():
    parts = plan().memory_gb
    assert sum(value for name, value in parts.items() if name != "total") == pytest.approx(parts["total"], abs=0.01)


@pytest.mark.parametrize(
    "more",
    [{"per_device_train_batch_size": 32}, {"max_length": 4096}, {"method": "full"}, {"dtype": "float32"}],
    ids=str,
)
def test_more_work_never_needs_less_memory(more):
    lengths = [900] * 100
    small = {"packing": False, "dtype": "bfloat16", "gradient_checkpointing": False, "max_length": 256}
    assert plan(lengths=lengths, **small | more).memory_gb["total"] >= plan(lengths=lengths, **small).memory_gb["total"]


def test_checkpointing_needs_less_memory_and_more_time():
    lengths = [900] * 100
    on, off = (plan(lengths=lengths, packing=False, gradient_checkpointing=value) for value in (True, False))
    assert on.memory_gb["total"] < off.memory_gb["total"] and on.seconds > off.seconds


def test_checkpointing_comes_only_when_it_is_needed():
    assert plan().recipe.gradient_checkpointing is False
    tight = Machine(cores=2, memory_gb=4, available_gb=2.0)
    assert plan(machine=tight, lengths=[900] * 100, packing=False).recipe.gradient_checkpointing is True


def test_tokens_that_are_not_trained_cost_no_head():
    all_trained = flops_per_token(SMALL, "lora", False, 1.0)
    assert flops_per_token(SMALL, "lora", False, 0.25) < 0.8 * all_trained


def test_the_sample_of_many_rows_packs_like_all_of_them():
    lengths = [17 + (index * 7919) % 400 for index in range(60_000)]
    exact = sum(lengths) / (len(pack_lengths(lengths, 1024)) * 1024)
    assert filled_share(lengths, 1024) == pytest.approx(exact, abs=0.01)


@pytest.mark.parametrize(("batch", "accumulation"), [(6, 2), (5, 1), (7, 2), (3, 1)])
def test_each_rung_keeps_the_rows_of_a_step(batch, accumulation):
    recipe = plan(
        packing=False, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation
    ).recipe  # fmt: skip
    for rung in gentle_rungs(recipe, 60, WITH_BITS):
        lower = recipe.replace(**rung.changes)
        assert lower.per_device_train_batch_size * lower.gradient_accumulation_steps == batch * accumulation


MIXED = tuple(100 + (index * 7919) % 300 for index in range(2000))  # tokens, 250 in the mean


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


def test_a_long_pass_is_halved_before_anything_else_where_memory_runs_out():
    resolved = plan(SMALL, H100, MIXED, per_device_train_batch_size=128).recipe
    lengths, packs = [resolved.packing_length], [resolved.gradient_accumulation_steps]
    for _ in range(2):
        resolved, _ = step_down(resolved, max(MIXED), H100)
        lengths.append(resolved.packing_length)
        packs.append(resolved.gradient_accumulation_steps)
    assert lengths[0] > 30_000 and [lengths[0] // each for each in lengths] == packs == [1, 2, 4]
    assert make_plan(resolved, SMALL, MIXED, H100).recipe == resolved  # nor does a plan lengthen it again


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
    from finetune_core.recipe import parse_override

    changes = {"packing": True, "packing_length": 256, "load_in_8bit": False, "model_name_or_path": "Qwen/Qwen3-0.6B"}
    changes["learning_rate"] = None
    typed = [parse_override(word) for word in as_overrides(changes).split(" ")]
    assert {name: value for each in typed for name, value in each.items()} == changes


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
    rate = measured.rate_here(LAPTOP, "float32", read_facts(tiny_model_dir).parameters)
    again = make_plan(first.recipe, SMALL, [20, 300] * 8, LAPTOP, rate)
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


@pytest.mark.parametrize(("name", "like"), [("NVIDIA L40S", "L40S"), ("NVIDIA L4", "L4"), ("Tesla T4", "T4")])
def test_a_card_is_known_by_its_whole_name(name, like):
    def rate(name):
        gpus = (Gpu(name, 40, 40, 8.9),)
        return default_rate(dataclasses.replace(A100, gpus=gpus), "bfloat16")

    assert rate(name) == rate(like)
    assert rate("L40S") > 2 * rate("L4")


def test_all_weights_move_at_the_speed_of_bfloat16_where_the_gpu_has_it():
    made = plan(facts=LARGE, machine=A100, method="full", lengths=[500] * 400, per_device_train_batch_size=16)
    assert made.recipe.dtype == "float32"
    assert made.tokens_per_second * made.flops_per_token == pytest.approx(default_rate(A100, "bfloat16"))


def test_what_autocast_computes_waits_in_two_bytes():
    values = {
        "dtype": "float32",
        "optim": FUSED,
        "autocast_adapter_dtype": True,
        "gradient_checkpointing": False,
    } | PLAIN
    recipe = Recipe(method="full")
    here, there = (memory_parts(recipe, values, SMALL, 4096, machine)["activations"] for machine in (A100, LAPTOP))
    assert here == pytest.approx(there / 2, abs=0.01)


def test_a_cpu_holds_the_scores_of_a_pass_for_the_words_that_fit_its_cache():
    short, long = (plan(lengths=[length] * 64, packing=False).memory_gb["logits"] for length in (64, 1024))
    assert short == pytest.approx(8 * 64 * 2048 * 12 / 1024**3, abs=0.001)
    assert long == pytest.approx(4096 * 2048 * 12 / 1024**3, abs=0.001)
    assert plan(machine=A100, lengths=[64] * 64, packing=False).memory_gb["logits"] == pytest.approx(0.188, abs=0.001)


def test_in_4_bits_are_the_layers_alone():
    values = {
        "dtype": "bfloat16",
        "optim": FUSED,
        "autocast_adapter_dtype": True,
        "gradient_checkpointing": True,
    } | PLAIN
    held = memory_parts(Recipe(method="qlora"), values, LARGE, 1024, A100)["weights"] * 1024**3
    assert held == pytest.approx(LARGE.block_parameters * 0.55 + 2 * 2 * 128_256 * 4096, rel=0.001)
    eight = memory_parts(Recipe(method="qlora", load_in_8bit=True), values, LARGE, 1024, A100)["weights"] * 1024**3
    assert eight - held == pytest.approx(LARGE.block_parameters * 0.45, rel=0.001)


def test_weights_in_8_bits_go_down_to_4_and_are_for_adapters_alone():
    from finetune_core.errors import FinetuneError

    recipe = Recipe(method="qlora", load_in_8bit=True, per_device_train_batch_size=1, gradient_checkpointing=True)
    lower, rung = step_down(recipe, 60, WITH_BITS)
    assert not lower.load_in_8bit and rung.says == "Weights in 4 bits instead of 8"
    assert step_down(lower, 60, WITH_BITS) is None
    with pytest.raises(FinetuneError, match="load_in_8bit"):
        Recipe.make({"load_in_8bit": True})


@pytest.mark.parametrize(
    "asked", [{"method": "qlora"}, {"optim": "adamw_8bit"}, {"optim": "paged_adamw_8bit"}], ids=str
)
@pytest.mark.parametrize(("machine", "code"), [(A100, "no-quantization"), (LAPTOP, "no-gpu")], ids=["gpu", "cpu"])
def test_fewer_bits_without_what_they_need_are_refused_before_anything_is_fetched(asked, machine, code):
    from finetune_core import preflight
    from finetune_core.errors import FinetuneError

    with pytest.raises(FinetuneError) as refused:
        preflight.look(Recipe(model_name_or_path="nobody/nothing", **asked), machine=machine)
    assert refused.value.code == code
    assert ("pip install bitsandbytes" in refused.value.fix) == (machine is A100)


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


def test_an_earlier_run_corrects_the_next_estimate(tiny_model_dir):
    first = plan()
    measured.remember(first.as_dict(), first.recipe, tiny_model_dir, LAPTOP, 50_000, 100.0, first.estimate_gb * 1.4)
    parameters = read_facts(tiny_model_dir).parameters
    rate = measured.rate_here(LAPTOP, "float32", parameters)
    factor = measured.memory_here(LAPTOP, Formats("float32", FUSED), parameters, "lora")
    again = make_plan(first.recipe, SMALL, [60] * 240, LAPTOP, rate, memory_factor=factor)
    assert again.tokens_per_second == pytest.approx(500, rel=0.01)
    assert again.memory_gb["total"] == pytest.approx(first.estimate_gb * 1.4, rel=0.01)
    assert again.rate_is_measured and again.memory_is_measured


def test_a_run_of_another_method_or_optimizer_corrects_nothing(tiny_model_dir):
    first = plan()
    measured.remember(first.as_dict(), first.recipe, tiny_model_dir, LAPTOP, 50_000, 100.0, 2.0)
    parameters = read_facts(tiny_model_dir).parameters
    assert measured.memory_here(LAPTOP, Formats("float32", FUSED), parameters, "full") is None
    assert measured.memory_here(LAPTOP, Formats("float32", IN_8_BITS), parameters, "lora") is None


def test_the_usual_cards_differ_in_what_they_hold_and_cost():
    offers = {offer.name: offer for offer in elsewhere(Recipe(), LARGE, [900] * 200)}
    assert offers["T4"].fits == "no" and offers["A100"].fits == "fits"
    assert offers["T4"].dollars is None and offers["A100"].dollars > 0
    assert offers["L4"].seconds > offers["A100"].seconds
    shared = elsewhere(Recipe(num_processes=4, fsdp=True), LARGE, [900] * 200)
    assert {offer.name: offer for offer in shared} == offers  # a card is priced for what it does alone


def test_the_plan_card_says_what_a_gpu_would_cost():
    shown = words_plan.plan(plan(), elsewhere(Recipe(), SMALL, [60] * 240))
    assert "On a GPU:" in shown and "± 50 %" in shown and shown.count('<th scope="row">') == 8


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


def test_a_probe_measures_what_the_next_plan_uses(tiny_model_dir, tmp_path):
    from finetune_core.preflight import look
    from finetune_core.speed import probe

    rows = write_jsonl(tmp_path / "rows.jsonl", chat_rows(60))
    recipe = Recipe(model_name_or_path=str(tiny_model_dir), dataset_name=str(rows))
    before = look(recipe)
    assert not before.plan.rate_is_measured
    tokens, seconds, peak = probe(before, 1.0)
    after = look(recipe).plan
    assert tokens > 0 and seconds < 30 and peak > 0
    assert after.rate_is_measured and after.memory_is_measured
    assert after.tokens_per_second == pytest.approx(tokens / seconds, rel=0.05)


def test_the_starter_models_learning_rate_is_questioned_on_a_large_model():
    rate = recipe_from_preset("quick-look").learning_rate
    assert plan(learning_rate=rate).suggestions == ()
    [asked] = plan(LARGE, A100, learning_rate=rate).suggestions
    assert asked.changes == {"learning_rate": None} and "0.0002" in asked.says and "0.002" in asked.says
    assert plan(LARGE, A100, **asked.changes).suggestions == ()
