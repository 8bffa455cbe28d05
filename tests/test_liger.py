"""Liger's kernels: one that is too old costs a line in the diary, and what it replaces is put back."""

import sys

import pytest
from transformers.models.llama import modeling_llama

from finetune_core.errors import FinetuneError
from finetune_core.liger import liger_kept_apart, use_liger_kernels
from finetune_core.machine import Machine
from finetune_core.model import load_base
from finetune_core.recipe import Recipe
from finetune_core.run import Run

# as liger-kernel 0.8.5 does it (monkey_patch.py): the model's own layers, and names in transformers' module
WORKS = """
from transformers.models.llama import modeling_llama

class LigerRMSNorm(modeling_llama.LlamaRMSNorm):
    def forward(self, x):
        raise RuntimeError("Triton kernel on a CPU")

def rotary(*values, **more):
    seen.append(1)
    return kept(*values, **more)

seen, kept = [], modeling_llama.apply_rotary_pos_emb

def _apply_liger_kernel_to_instance(model, **_):
    modeling_llama.apply_rotary_pos_emb = rotary
    modeling_llama.LlamaRMSNorm = LigerRMSNorm
    modeling_llama.LlamaMLP.forward = lambda self, x: x
"""
OLD = {
    "has no such function": "",
    "knows other names in transformers": """
def _apply_liger_kernel_to_instance(model, **_):
    from transformers.models.llama import modeling_llama

    modeling_llama.LlamaRMSNorm = None
    modeling_llama.LlamaFlashAttention2
""",
    "fails in the first pass": """
def broken(x):
    raise TypeError("unexpected keyword argument")

def _apply_liger_kernel_to_instance(model, **_):
    model.model.norm.forward = broken
""",
}
NAMES = ("apply_rotary_pos_emb", "LlamaRMSNorm", "LlamaMLP")


@pytest.fixture
def liger(tmp_path, monkeypatch):
    """`liger(code)`: a package liger_kernel whose part for transformers holds this code."""
    from transformers.integrations import liger

    def install(code):
        folder = tmp_path / "packages" / "liger_kernel" / "transformers"
        folder.mkdir(parents=True)
        (folder.parent / "__init__.py").touch()
        (folder / "__init__.py").write_text(code)
        monkeypatch.syspath_prepend(str(tmp_path / "packages"))
        monkeypatch.setattr(liger, "is_liger_kernel_available", lambda: True)

    yield install
    for name in [name for name in sys.modules if name.startswith("liger_kernel")]:
        del sys.modules[name]


def places():
    return [getattr(modeling_llama, name) for name in NAMES] + [modeling_llama.LlamaMLP.forward]


def test_other_models_of_the_process_do_not_meet_what_one_was_trained_with(liger, tiny_model_dir):
    liger(WORKS)
    before = places()
    with liger_kept_apart():
        use_liger_kernels(load_base(tiny_model_dir, dtype="float32", device="cpu"))
        assert sum(now is not was for now, was in zip(places(), before, strict=True)) == 3
    assert places() == before


def test_a_rival_that_is_measured_after_fijn_meets_transformers_own_classes(liger, tiny_model_dir, tmp_path):
    from benchmarks import gpu

    liger(WORKS.replace('raise RuntimeError("Triton kernel on a CPU")', "return super().forward(x)"))
    before = places()
    recipe = Recipe(model_name_or_path=str(tiny_model_dir), dataset_name="rows", use_liger_kernel=True)
    machine = Machine(cores=2, memory_gb=16, available_gb=12)
    measured = gpu.fijn(recipe, tiny_model_dir, gpu.make_rows(16, 500), machine, 0.01, tmp_path / "out")
    assert measured["steps"] and places() == before


@pytest.fixture
def train(recipe, runs_dir, monkeypatch):
    """Train in this process with Liger asked for, which this machine has not: (run, warnings)."""
    from finetune_core import train

    monkeypatch.setattr(train, "refuse_impossible", lambda recipe: None)

    def go(**values):
        run = Run.create(runs_dir, recipe.replace(use_liger_kernel=True, **values))
        assert train.train(run) == "finished"
        return run, [event.data for event in run.events() if event.kind == "warning"]

    return go


@pytest.mark.parametrize("code", OLD.values(), ids=OLD)
def test_a_liger_that_is_too_old_is_left_out_with_a_line_in_the_diary(liger, train, code):
    liger(code)
    before = places()
    run, [told] = train()
    assert "liger-kernel does not work" in told["says"] and "without it" in told["says"]
    assert told["changes"] == {"use_liger_kernel": False} and run.has_result()
    assert places() == before


def test_what_others_raise_is_not_said_to_be_ligers():
    with pytest.raises(ZeroDivisionError), liger_kept_apart():
        raise ZeroDivisionError
    with pytest.raises(FinetuneError) as told, liger_kept_apart():
        raise FinetuneError("No room.", "Take less.", code="disk-full")
    assert told.value.code == "disk-full"


def test_a_measurement_says_what_to_do_about_an_old_one(liger, recipe, tmp_path):
    from dataclasses import replace

    from finetune_core.preflight import look
    from finetune_core.speed import probe

    liger("")
    seen = look(recipe)
    with pytest.raises(FinetuneError, match="use_liger_kernel") as told:
        probe(replace(seen, plan=replace(seen.plan, recipe=seen.plan.recipe.replace(use_liger_kernel=True))), 0.1)
    assert told.value.code == "liger-unusable"
