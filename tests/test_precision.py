"""Number formats of weights and moments: the most exact that fit, and what bitsandbytes is needed for."""

import dataclasses

import pytest
from planned import A100, LAPTOP, LARGE, SMALL, T4, WITH_BITS

from finetune_core.ladder import step_down
from finetune_core.machine import Gpu
from finetune_core.memory import memory_parts
from finetune_core.plan import make_plan
from finetune_core.precision import FUSED, IN_8_BITS, PAGED, first_that_fits
from finetune_core.recipe import Recipe

PLAIN = {"packing": False, "use_liger_kernel": False}


def fitting(facts, machine, **changes):
    recipe = Recipe(method="full", **changes)
    return first_that_fits(
        recipe, machine, lambda kept_in: make_plan(recipe, facts, [60] * 240, machine, kept_in=kept_in)
    )


@pytest.mark.parametrize(
    ("free_gb", "kept_in"),
    [
        (200, ("float32", FUSED)),
        (120, ("float32", IN_8_BITS)),
        (79, ("bfloat16", IN_8_BITS)),
        (48, ("bfloat16", PAGED)),
        (24, ("bfloat16", PAGED)),
    ],
)
def test_all_weights_move_in_the_most_exact_formats_that_fit(free_gb, kept_in):
    gpu = Gpu("A100", free_gb, free_gb, 8.0)
    made = fitting(LARGE, dataclasses.replace(WITH_BITS, gpus=(gpu,)))
    assert (made.recipe.dtype, made.recipe.optim) == kept_in
    assert (made.fits == "fits") is (free_gb > 24)
    assert any("8 bits" in reason for reason in made.reasons) is (free_gb < 200)


@pytest.mark.parametrize(
    "machine", [A100, dataclasses.replace(LAPTOP, bitsandbytes=True)], ids=["no package", "no GPU"]
)
def test_moments_keep_their_32_bits_where_nothing_else_is_possible(machine):
    assert fitting(LARGE, machine).recipe.optim == FUSED


def test_a_person_s_formats_are_kept_although_others_would_fit():
    for pinned in ({"optim": FUSED, "dtype": "float32"}, {"optim": PAGED, "dtype": "float32"}, {"dtype": "bfloat16"}):
        made = fitting(LARGE, WITH_BITS, **pinned)
        assert {name: made.settings[name] for name in pinned} == pinned


def test_a_gpu_without_bfloat16_keeps_float32_weights():
    assert fitting(LARGE, dataclasses.replace(T4, bitsandbytes=True)).recipe.dtype == "float32"


def test_moments_in_8_bits_are_counted_as_transformers_keeps_them():
    def held(optim, machine=WITH_BITS, method="full"):
        values = {
            "dtype": "bfloat16",
            "optim": optim,
            "autocast_adapter_dtype": True,
            "gradient_checkpointing": True,
        } | PLAIN
        return memory_parts(Recipe(method=method), values, LARGE, 1024, machine)

    embedding = LARGE.vocab_size * LARGE.hidden_size  # whose moments stay in 32 bits
    expected = 2 * (LARGE.parameters - embedding) + 8 * embedding
    assert held(IN_8_BITS)["optimizer"] * 1024**3 == pytest.approx(expected, rel=0.001)
    assert held(IN_8_BITS)["gradients"] * 1024**3 == pytest.approx(2 * LARGE.parameters, rel=0.001)
    assert "optimizer" not in held(PAGED)
    little = dataclasses.replace(WITH_BITS, available_gb=5)  # of its own memory
    assert held(PAGED, little)["optimizer"] == pytest.approx(expected / 1024**3 - 5, abs=0.01)
    assert held(IN_8_BITS, method="lora")["optimizer"] == pytest.approx(
        held(FUSED, method="lora")["optimizer"] / 4, abs=0.01
    )


def test_an_adapter_in_the_format_of_its_base_takes_half():
    def held(asked):
        made = make_plan(Recipe(autocast_adapter_dtype=asked, lora_r=256), LARGE, [60] * 240, A100)
        return [made.memory_gb[name] for name in ("adapter", "gradients", "optimizer")]

    assert held(False) == pytest.approx([each / 2 for each in held(None)], abs=0.01)


def test_the_ladder_of_all_weights_goes_through_fewer_bits_until_something_was_learned():
    recipe = fitting(SMALL, WITH_BITS, packing=False, per_device_train_batch_size=1, gradient_checkpointing=True).recipe
    assert step_down(recipe, 60, WITH_BITS, learned=True) is None  # its checkpoint has moments of its own
    formats, lower = [], step_down(recipe, 60, WITH_BITS)
    while lower is not None:
        formats.append((lower[0].dtype, lower[0].optim))
        lower = step_down(lower[0], 60, WITH_BITS)
    assert formats == [("float32", IN_8_BITS), ("bfloat16", IN_8_BITS), ("bfloat16", PAGED)]
