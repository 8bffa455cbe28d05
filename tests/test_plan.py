"""The plan: what fits, what it costs, and the ladder when it does not fit."""

import dataclasses
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import chat_rows, write_jsonl
from planned import A100, LAPTOP, LARGE, PLAIN, SMALL, T4, WITH_BITS, plan

from finetune_core import measured
from finetune_core.elsewhere import elsewhere
from finetune_core.facts import read_facts
from finetune_core.ladder import step_down
from finetune_core.machine import Gpu, Machine
from finetune_core.memory import HEAD_SCORES, TILE_COLUMNS, TILE_TOKENS, memory_parts
from finetune_core.pace import expected_rate, flops_per_token
from finetune_core.plan import make_plan
from finetune_core.precision import FUSED, IN_8_BITS, Formats
from finetune_core.presets import recipe_from_preset
from finetune_core.recipe import Recipe
from finetune_ui import words_plan


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


@pytest.mark.parametrize(("name", "like"), [("NVIDIA L40S", "L40S"), ("NVIDIA L4", "L4"), ("Tesla T4", "T4")])
def test_a_card_is_known_by_its_whole_name(name, like):
    def rate(name):
        gpus = (Gpu(name, 40, 40, 8.9),)
        return expected_rate(dataclasses.replace(A100, gpus=gpus), "bfloat16")

    assert rate(name) == rate(like)
    assert rate("L40S") > 2 * rate("L4")


def test_all_weights_move_at_the_speed_of_bfloat16_where_the_gpu_has_it():
    made = plan(facts=LARGE, machine=A100, method="full", lengths=[500] * 400, per_device_train_batch_size=16)
    assert made.recipe.dtype == "float32"
    assert made.tokens_per_second * made.flops_per_token == pytest.approx(expected_rate(A100, "bfloat16"))


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


@pytest.mark.parametrize(
    ("method", "short", "long"),
    [("lora", HEAD_SCORES, HEAD_SCORES), ("full", 8 * 64 * 2048, 4096 * 2048)],  # a head that moves is left to TRL
)
def test_a_cpu_holds_the_scores_of_a_frozen_head_s_tile_or_of_a_pass_for_the_words_that_fit_its_cache(
    method, short, long
):
    for length, scores in ((64, short), (1024, long)):
        made = plan(lengths=[length] * 64, packing=False, method=method, dtype="float32")
        assert made.memory_gb["logits"] == pytest.approx(scores * 12 / 1024**3, abs=0.001)


@pytest.mark.parametrize(("dtype", "bytes_a_score"), [("bfloat16", 2), ("float32", 4)])
def test_a_gpu_holds_one_tile_of_scores_as_wide_as_trl_takes_it(dtype, bytes_a_score):
    def scores(length):
        return plan(machine=A100, lengths=[length] * 64, packing=False, dtype=dtype).memory_gb["logits"]

    assert scores(64) == pytest.approx(8 * 64 * 32768 * bytes_a_score / 1024**3, abs=0.001)
    assert scores(1024) == pytest.approx(4096 * 32768 * bytes_a_score / 1024**3, abs=0.001)


def test_the_head_s_gradient_in_float32_is_counted_where_it_moves_in_bfloat16():
    head = LARGE.vocab_size * LARGE.hidden_size * 4 / 1024**3
    full, lora = (
        plan(LARGE, A100, lengths=[64] * 64, packing=False, dtype="bfloat16", method=method).memory_gb["logits"]
        for method in ("full", "lora")
    )
    assert full - lora == pytest.approx(head, abs=0.002)


def test_the_tiles_are_trl_s():
    """Read from its source: another test may have set another width in this process."""
    folder = Path(find_spec("trl").submodule_search_locations[0])
    loss, utils = (folder / "kernels" / "chunked_logprob.py"), (folder / "trainer" / "utils.py")
    assert f"\nTOKEN_CHUNK_SIZE = {TILE_TOKENS}\n" in loss.read_text()
    assert f"\n_CHUNKED_LOGPROB_CHUNK_SIZE = {TILE_COLUMNS['cuda']}\n" in utils.read_text()


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


def test_an_earlier_run_corrects_the_next_estimate(tiny_model_dir):
    first = plan()
    measured.remember(first.as_dict(), first.recipe, tiny_model_dir, LAPTOP, 50_000, 100.0, first.estimate_gb * 1.4)
    parameters = read_facts(tiny_model_dir).parameters
    speed = measured.speed_here(LAPTOP, "float32", parameters)
    factor = measured.memory_here(LAPTOP, Formats("float32", FUSED), parameters, "lora")
    again = make_plan(first.recipe, SMALL, [60] * 240, LAPTOP, speed, memory_factor=factor)
    assert again.tokens_per_second == pytest.approx(500, rel=0.01)
    assert again.memory_gb["total"] == pytest.approx(first.estimate_gb * 1.4, rel=0.01)
    assert again.rate_is_measured and again.memory_is_measured


def test_a_run_of_another_method_or_optimizer_corrects_nothing(tiny_model_dir):
    first = plan()
    measured.remember(first.as_dict(), first.recipe, tiny_model_dir, LAPTOP, 50_000, 100.0, 2.0)
    parameters = read_facts(tiny_model_dir).parameters
    assert measured.memory_here(LAPTOP, Formats("float32", FUSED), parameters, "full") is None
    assert measured.memory_here(LAPTOP, Formats("float32", IN_8_BITS), parameters, "lora") is None


@pytest.mark.parametrize("limit", [None, 2])
def test_rows_without_a_token_count_for_nothing(limit):
    """As those that the chat template refuses."""
    some, all_of_them = (plan(lengths=rows, max_minutes=limit) for rows in ([60] * 240 + [0] * 9, [0] * 9))
    assert some.as_dict() == plan(max_minutes=limit).as_dict()
    assert all_of_them.steps >= 1 and all_of_them.tokens_per_second > 0


def test_rows_that_are_cut_before_their_answer_are_not_planned(recipe, tmp_path):
    """The trainer leaves them out."""
    from finetune_core.encoded import encode, token_lengths
    from finetune_core.preflight import look, offers

    long = [{"prompt": f"{index} my lamp is broken. " * 40, "completion": "defect"} for index in range(30)]
    short = [{"prompt": f"order {index} is broken", "completion": "defect"} for index in range(30)]
    rows = write_jsonl(tmp_path / "some.jsonl", long + short)
    asked = recipe.replace(dataset_name=str(rows), max_length=64, max_steps=-1, num_train_epochs=1)
    seen = look(asked)
    learned = token_lengths(encode(seen.prepared.train, seen.tokenizer, 64, tmp_path / "rows.arrow"))
    assert len(learned) < 0.7 * seen.diagnosis.train_rows
    assert seen.plan.tokens == sum(learned) and seen.plan.steps == -(-len(learned) // 8)
    longer = look(asked.replace(max_length=100_000))  # than the model was made for
    assert offers(longer) == offers(look(asked.replace(max_length=longer.facts.context)))
    assert offers(longer)[0].seconds < elsewhere(longer.recipe, longer.facts, [100_000] * 60)[0].seconds


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


def test_a_config_with_the_names_of_gpt_2_is_read(tmp_path):
    from transformers import GPT2Config

    GPT2Config(vocab_size=512, n_embd=64, n_layer=2, n_head=4, n_positions=256).save_pretrained(tmp_path)
    facts = read_facts(tmp_path)
    shape = (facts.hidden_size, facts.layers, facts.heads, facts.head_dim, facts.intermediate_size, facts.context)
    assert shape == (64, 2, 4, 16, 256, 256) and facts.model_type == "gpt2"
