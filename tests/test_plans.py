"""Plans by chance: whatever is asked for, of whatever model and machine, a plan keeps what it promises."""

import dataclasses
import functools
import html
import math
import random
import re

import pytest
from planned import A100, H100, LAPTOP, LARGE, SMALL, T4, WITH_BITS

from finetune_core.errors import FinetuneError
from finetune_core.facts import ModelFacts
from finetune_core.machine import Gpu, Machine
from finetune_core.packing import pack_lengths
from finetune_core.plan import make_plan
from finetune_core.precision import first_that_fits
from finetune_core.preflight import refuse_impossible
from finetune_core.recipe import Recipe
from finetune_core.sharing import share
from finetune_ui import words_plan

TRIALS = 1000
MODELS = (
    SMALL,
    LARGE,
    ModelFacts(494_032_768, 896, 24, 151_936, 4864, 14, 2, 64, True, 32_768, model_type="qwen2"),
    ModelFacts(70_553_706_496, 8192, 80, 128_256, 28_672, 64, 8, 128, False, 131_072, model_type="llama"),
    ModelFacts(30_532_122_624, 2048, 48, 151_936, 6144, 32, 4, 128, False, 40_960, model_type="qwen3_moe",
               experts=128, experts_met=8, expert_size=768),
    ModelFacts(124_439_808, 768, 12, 50_257, 3072, 12, 12, 64, True, 1024, model_type="gpt2"),
    ModelFacts(4_000_000_000, 2560, 36, 151_936, 9728, 32, 8, 128, True, 262_144, model_type="qwen3_5_text"),
)  # fmt: skip
MACHINES = (
    LAPTOP, dataclasses.replace(LAPTOP, cpu_bf16=True), Machine(1, 1, 0.5), Machine(8, 16, 10, kind="mps"),
    T4, A100, WITH_BITS, H100, dataclasses.replace(H100, gpus=H100.gpus * 2),
    Machine(4, 16, 12, (Gpu("something new", 16, 15, 0.0),), kind="cuda", bitsandbytes=True),
)  # fmt: skip
CHOICES = {
    "method": ("lora", "qlora", "full"), "dtype": (None, None, "float32", "bfloat16", "float16"),
    "lora_r": (16, 1, 128), "use_dora": (False, False, True), "lora_dropout": (0.0, 0.1),
    "per_device_train_batch_size": (8, 1, 3, 32, 1024), "gradient_accumulation_steps": (1, 4, 7, 1024),
    "num_processes": (1, 1, 2), "fsdp": (None, None, True, False), "max_length": (1024, 8, 300, 8192),
    "packing": (None, None, True, False), "packing_length": (None, None, None, 64, 4096),
    "gradient_checkpointing": (None, True, False), "optim": (None, None, "adamw_torch_fused", "adamw_8bit"),
    "num_train_epochs": (2.0, 0.1, 1.0, 1.1, 100.0), "max_minutes": (None, None, 0.001, 2, 5000),
    "max_steps": (-1, -1, 7),
    "eval_steps": (None, 1), "learning_rate": (None, 1e-6, 0.5), "model_name_or_path": ("owner/name", "/data/mine"),
}  # fmt: skip
PINNED = ("dtype", "learning_rate", "fsdp", "packing", "gradient_checkpointing", "optim", "eval_steps")


def rows(draw):
    """Tokens of each row: one row, all alike, chats, one that is very long among short ones, some without a token."""
    count = draw.choice([2, 30, 400])
    return draw.choice([
        [draw.choice([1, 60, 3000])],
        [draw.choice([1, 60, 700])] * count,
        [1 + int(draw.lognormvariate(5, 1)) for _ in range(count)],
        [draw.randint(20, 90) for _ in range(count)] + [9000],
        [draw.choice([0, 40]) for _ in range(count)],
    ])  # fmt: skip


def made(recipe, facts, lengths, machine):
    watched = lengths[: len(lengths) // 9]
    return first_that_fits(
        recipe,
        machine,
        lambda kept_in: make_plan(recipe, facts, lengths, machine, validation_lengths=watched, kept_in=kept_in),
    )


@functools.cache
def trials():
    """[(recipe as asked, model, rows, machine, plan)], without what no machine like this can do."""
    found, draw = [], random.Random(20261127)
    while len(found) < TRIALS:
        recipe = Recipe.make({name: draw.choice(values) for name, values in CHOICES.items() if draw.random() < 0.4})
        facts, machine, lengths = draw.choice(MODELS), draw.choice(MACHINES), rows(draw)
        try:
            refuse_impossible(recipe, machine)
        except FinetuneError as refused:
            assert refused.fix
            continue
        recipe = recipe.replace(max_length=min(recipe.max_length, facts.context))
        found.append((recipe, facts, lengths, machine, made(recipe, facts, lengths, machine)))
    return found


def kept_lengths(recipe, lengths):
    return [min(length, recipe.max_length) for length in lengths if length] or [1]


def units(plan, lengths):
    """Packs, or rows, of an epoch."""
    kept = kept_lengths(plan.recipe, lengths)
    return len(pack_lengths(kept, plan.recipe.packing_length)) if plan.recipe.packing else len(kept)


def test_every_number_is_one_and_every_setting_is_filled_in():
    for *_, plan in trials():
        numbers = plan.seconds, plan.tokens_per_second, plan.memory_gb["total"], plan.flops_per_token
        assert all(math.isfinite(number) and number > 0 for number in numbers) and plan.steps >= 1
        assert [name for name, value in plan.settings.items() if value is None and name != "packing_length"] == []


def test_what_a_person_set_stays():
    for recipe, *_, plan in trials():
        for name in PINNED:
            assert getattr(recipe, name) in (None, getattr(plan.recipe, name)), name
        if not plan.recipe.packing:
            assert plan.recipe.per_device_train_batch_size == recipe.per_device_train_batch_size
            assert plan.recipe.gradient_accumulation_steps == recipe.gradient_accumulation_steps


def test_packs_hold_the_rows_that_were_asked_for_in_a_step():
    looked_at = 0
    for recipe, _, lengths, _, plan in trials():
        asked = recipe.per_device_train_batch_size * recipe.gradient_accumulation_steps
        rows = len(kept_lengths(recipe, lengths))
        if not plan.recipe.packing or recipe.packing is not None or recipe.packing_length or rows < 2 * asked:
            continue
        looked_at += 1
        held = share(plan.recipe).rows * rows / units(plan, lengths)
        assert 0.7 < held / asked < 1.4, (asked, held)
    assert looked_at > 5


def test_the_steps_are_those_that_the_trainer_takes():
    """transformers: batches of an epoch, the last one incomplete; the passes of a step, the last one incomplete too."""
    for *_, lengths, _, plan in trials():
        one = share(plan.recipe).recipe
        batches = math.ceil(units(plan, lengths) / (one.per_device_train_batch_size * plan.recipe.num_processes))
        steps = math.ceil(math.ceil(batches / one.gradient_accumulation_steps) * plan.recipe.num_train_epochs)
        assert plan.steps == (plan.recipe.max_steps if plan.recipe.max_steps > 0 else steps)


def test_a_run_s_own_recipe_is_planned_as_it_is():
    for _, facts, lengths, machine, plan in trials():
        again = make_plan(plan.recipe, facts, lengths, machine, validation_lengths=lengths[: len(lengths) // 9])
        assert again.recipe == plan.recipe and again.memory_gb == plan.memory_gb
        assert again.seconds == pytest.approx(plan.seconds)


def test_more_needs_no_less_memory_and_no_fewer_minutes():
    for _, facts, lengths, machine, plan in trials()[::4]:
        asked = plan.recipe.replace(packing=False, packing_length=None, max_steps=-1, num_processes=1, fsdp=False)
        asked = asked.replace(max_length=min(asked.max_length, 4096), per_device_train_batch_size=4)
        plain = made(asked, facts, lengths, machine)
        for more in ({"per_device_train_batch_size": 8}, {"lora_r": 256}, {"max_length": 2 * asked.max_length}):
            assert made(asked.replace(**more), facts, lengths, machine).memory_gb["total"] >= plain.memory_gb["total"]
        short, long = (made(asked.replace(max_minutes=limit), facts, lengths, machine) for limit in (1, 10))
        assert short.recipe.num_train_epochs <= long.recipe.num_train_epochs and short.seconds <= long.seconds


def test_what_does_not_fit_says_the_way_on_and_every_rung_needs_less():
    gains = 0
    for _, facts, lengths, machine, plan in trials():
        if plan.fits != "no":
            continue
        assert plan.suggestions or "another machine" in plan.reasons[-1]
        for rung in plan.ladder:
            lower = plan.recipe.replace(**rung.changes)
            refuse_impossible(lower, machine)
            if "model_name_or_path" not in rung.changes and lower.method == plan.recipe.method:
                gains += 1
                assert made(lower, facts, lengths, machine).memory_gb["total"] < plan.memory_gb["total"], rung.says
    assert gains > 20


def test_the_sentences_can_be_read():
    odd = re.compile(
        r"\bnan\b|\binf\b|None|(?<![\d.,])(0 (minute|second|epoch|step|token)|1 (minute|row|pack|step|epoch)s\b)"
    )
    for *_, plan in trials():
        page = re.sub(r"<[^>]*>", " ", html.unescape(words_plan.plan(plan)))
        said = [page, *plan.reasons, *(suggestion.says for suggestion in plan.suggestions)]
        assert [sentence for sentence in said if odd.search(sentence)] == []
        assert all(reason.endswith(".") for reason in plan.reasons) and len(set(plan.reasons)) == len(plan.reasons)
