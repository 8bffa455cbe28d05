"""Weights that several processes share (FSDP): when the plan does so, and that the run is that of one process."""

import dataclasses
import io
import pickle
import shutil
import sys
from pathlib import Path

import pytest
from test_processes import apart, machine
from tuned import QUESTIONS, float32, prompts

from finetune_core import preflight
from finetune_core.errors import FinetuneError
from finetune_core.facts import ModelFacts
from finetune_core.ladder import gentle_rungs, step_down, walked_down
from finetune_core.precision import FUSED
from finetune_core.preflight import look
from finetune_core.progress import summarize
from finetune_core.recipe import Recipe
from finetune_core.run import Run
from finetune_core.shares_read import CONTENTS, weights_only
from finetune_core.sharing import share

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def big_facts(monkeypatch):
    """The model is of eight billion parameters, for the plan."""
    facts = ModelFacts(8_030_261_248, 4096, 32, 128_256, 14336, 32, 8, 128, False, 8192, model_type="llama")
    monkeypatch.setattr(preflight, "_facts", lambda *_: facts)


@pytest.mark.parametrize(("method", "gb"), [("lora", 16), ("full", 60)])
def test_weights_are_shared_where_a_copy_does_not_fit_and_only_there(recipe, method, gb, big_facts):
    asked = recipe.replace(method=method, num_processes=4)
    roomy, tight = (look(asked, machine=machine(4, gb=gb)).plan for gb in (2000, gb))
    assert (roomy.recipe.fsdp, tight.recipe.fsdp, tight.fits) == (False, True, "fits")
    assert tight.memory_gb["weights"] < roomy.memory_gb["weights"] / 3.9 and tight.memory_gb["gathered"] > 0
    moved = tight.memory_gb["optimizer"] / roomy.memory_gb["optimizer"]
    assert moved == pytest.approx(0.25 if method == "full" else 1, rel=0.01)  # an adapter lies whole in each
    assert any("1/4" in reason and "would not fit" in reason for reason in tight.reasons)
    assert not any("FSDP" in reason for reason in roomy.reasons)


def test_weights_are_shared_before_anything_is_kept_in_fewer_bits(recipe, big_facts):
    able = dataclasses.replace(machine(4, gb=60), bitsandbytes=True)
    made = look(recipe.replace(method="full", num_processes=4), machine=able).plan
    assert (made.recipe.fsdp, made.recipe.dtype, made.recipe.optim) == (True, "float32", FUSED)
    foot = made.recipe.replace(per_device_train_batch_size=1, packing=False, gradient_checkpointing=True)
    assert gentle_rungs(foot, 60, able) == []  # nor are they when memory runs out: those cannot be shared


def test_a_person_decides_whether_weights_are_shared(recipe, big_facts):
    asked = recipe.replace(num_processes=4)
    assert look(asked.replace(fsdp=True), machine=machine(4, gb=2000)).plan.recipe.fsdp is True
    refused = look(asked.replace(fsdp=False), machine=machine(4, gb=14)).plan
    assert refused.recipe.fsdp is False and refused.fits == "no"
    assert [rung.changes for rung in refused.suggestions].count({"fsdp": True}) == 1
    assert not any("num_processes" in rung.changes for rung in refused.suggestions)


SHARED_FIRST = ["The weights shared among 2 processes (FSDP)", "Half the packed length, twice the accumulation"]


@pytest.mark.parametrize(
    ("values", "learned", "first"),
    [
        ({}, False, SHARED_FIRST),
        ({}, True, SHARED_FIRST),  # an adapter's checkpoint is the same either way
        ({"method": "full"}, False, SHARED_FIRST),
        ({"method": "full"}, True, SHARED_FIRST[1:]),  # one process cannot deal out the moments that it saved
        ({"method": "qlora"}, False, SHARED_FIRST[1:]),
        ({"use_dora": True}, False, SHARED_FIRST[1:]),
        ({"num_processes": 1}, False, SHARED_FIRST[1:]),
    ],
)
def test_when_memory_runs_out_copies_become_shares_before_packs_are_shortened_or_bits_are_saved(values, learned, first):
    able = dataclasses.replace(machine(2), bitsandbytes=True)
    asked = Recipe(num_processes=2, packing=True, packing_length=1024, per_device_train_batch_size=1,
                   gradient_accumulation_steps=4).replace(**values)  # fmt: skip
    assert [rung.says for rung in gentle_rungs(asked, 60, able, learned)][: len(first)] == first
    lower, _ = step_down(asked, 60, able, learned)
    assert share(lower).rows * lower.packing_length == share(asked).rows * asked.packing_length
    if lower.fsdp:
        assert not any("4 bits" in rung.says for rung in gentle_rungs(lower, 60, able, learned))


def test_a_model_that_cannot_be_shared_goes_on_to_the_next_rung(recipe, runs_dir, monkeypatch):
    from finetune_core import train

    asked = []

    def learn_together(run, recipe, folder, on_event):
        asked.append((recipe.fsdp, recipe.gradient_checkpointing))
        if len(asked) == 1:
            raise FinetuneError("The accelerator ran out of memory.", "Halve.", code="out-of-memory")
        if recipe.fsdp:
            raise FinetuneError("This model's layers cannot be shared.", "Set fsdp to false.", code="no-fsdp")
        return "finished", {}

    monkeypatch.setattr(train, "learn_together", learn_together)
    run = preflight.create_run(recipe.replace(num_processes=2, per_device_train_batch_size=2), runs_dir)
    assert train.train(run) == "finished"
    assert asked == [(False, False), (True, False), (False, True)]
    assert walked_down(run.recipe, run.events()).fsdp is False
    says = [event.data["says"] for event in run.events() if event.kind == "warning"]
    assert "FSDP" in says[0] and "cannot be shared. Now with: Gradient checkpointing" in says[1]


@pytest.mark.parametrize(("gb", "says"), [(14, True), (16, False)])
def test_the_plan_says_where_one_gpu_cannot_answer_with_what_several_train(recipe, gb, says, big_facts):
    plan = look(recipe.replace(num_processes=4, fsdp=True), machine=machine(4, gb=gb)).plan
    assert any("chat" in reason for reason in plan.reasons) is says


def test_what_one_gpu_does_not_hold_is_proposed_to_all_of_them(recipe, big_facts):
    plan = look(recipe, machine=machine(4, gb=14)).plan
    assert plan.fits == "no" and plan.recipe.fsdp is False
    assert look(recipe.replace(**plan.suggestions[0].changes), machine=machine(4, gb=14)).plan.fits != "no"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"num_processes": 1}, "num_processes is 1"),
        ({"method": "qlora", "num_processes": 2}, "QLoRA"),
        ({"use_dora": True, "num_processes": 2}, "DoRA"),
        ({"method": "full", "optim": "adamw_8bit", "num_processes": 2}, "8 bits"),
    ],
    ids=str,
)
def test_weights_that_cannot_be_shared_are_refused(recipe, values, words):
    with pytest.raises(FinetuneError) as refused:
        look(recipe.replace(fsdp=True, **values), machine=machine(2))
    assert refused.value.code == "no-fsdp" and words in refused.value.problem


def test_a_model_whose_layers_transformers_cannot_share_is_refused(tiny_model_dir):
    from finetune_core.model import load_base
    from finetune_core.together import require_shares

    with pytest.raises(FinetuneError, match="type llama") as refused:  # it was not loaded in shares
        require_shares(load_base(tiny_model_dir, dtype="float32", device="cpu"))
    assert refused.value.code == "no-fsdp"


class Program:
    """What a pickle can be: a call of its own choice when it is read."""

    def __reduce__(self):
        return print, ("this ran",)


@pytest.fixture
def moments(tmp_path):
    """(the folder that torch writes moments to, how it reads them again)."""
    import torch
    import torch.distributed.checkpoint as dcp

    state = {"moments": torch.ones(3), "betas": (0.9, 0.999)}
    folder = tmp_path / "checkpoint-10" / "optimizer"
    dcp.save(state, checkpoint_id=folder, no_dist=True)
    return folder, lambda: dcp.load(state, checkpoint_id=folder, no_dist=True)


def test_a_checkpoint_that_holds_a_program_is_not_read(moments, capfd):
    folder, _ = moments
    with weights_only(folder):
        pass
    (folder / CONTENTS).write_bytes(pickle.dumps(Program()))
    with pytest.raises(FinetuneError) as refused, weights_only(folder):
        pytest.fail("read")
    assert refused.value.code == "unsafe-checkpoint" and "checkpoint-10" in refused.value.problem
    assert "this ran" not in capfd.readouterr().out


def test_nor_are_moments_that_hold_one(moments, monkeypatch, capfd):
    import torch

    folder, load = moments
    with weights_only(folder):
        load()
    kept = torch.load
    program = io.BytesIO()
    torch.save(Program(), program)

    def altered(file, *args, **options):
        return kept(io.BytesIO(program.getvalue()), *args, **options)

    monkeypatch.setattr(torch, "load", altered)
    with pytest.raises(FinetuneError) as refused, weights_only(folder):
        load()
    assert refused.value.code == "unsafe-checkpoint"
    assert "this ran" not in capfd.readouterr().out


# --- with real processes ---


SHARED = {"adapter": {}, "all weights": {"method": "full", "early_stopping": True, "early_stopping_patience": 9}}


@pytest.mark.slow
@pytest.mark.parametrize("values", SHARED.values(), ids=SHARED)
def test_shared_weights_learn_the_loss_curve_of_one_process_and_leave_the_same_run(trained, values):
    (one, _, _), (two, _, _) = trained(1, packing=False, **values), trained(2, packing=False, fsdp=True, **values)
    ours, theirs = summarize(two.events()), summarize(one.events())
    assert apart(ours.loss, theirs.loss) < 1e-3 and ours.loss[-1][1] < ours.loss[0][1] - 0.3
    assert apart(ours.eval_loss, theirs.eval_loss) < 1e-3
    assert any("1/2" in event.data.get("says", "") for event in two.events() if event.kind == "stage")
    answers = [[event.data["answer"] for event in run.events() if event.kind == "sample"] for run in (one, two)]
    assert answers[0] == answers[1] and len(answers[0]) > 1
    assert files_of(one.result_dir) == files_of(two.result_dir)
    assert said_by(one) == said_by(two)
    assert [path.name for path in two.checkpoints()] == ["checkpoint-10", "checkpoint-20"]


def files_of(folder):
    """Names, and shapes of the tensors: what there is to load."""
    from safetensors import safe_open

    with safe_open(next(folder.glob("*.safetensors")), "pt") as tensors:
        shapes = {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
    return sorted(path.name for path in folder.iterdir()), shapes


def said_by(run):
    """What the result answers when it is loaded as the chat loads it."""
    chatter = float32(run)
    return [answer.text for answer in chatter.generate("tuned", prompts(chatter, QUESTIONS[:1]), max_new_tokens=16)]


@pytest.mark.slow
@pytest.mark.parametrize("values", SHARED.values(), ids=SHARED)
def test_shared_weights_go_on_from_a_checkpoint_as_one_process_does(trained, values, tmp_path):
    (one, _, _), (two, _, _) = trained(1, packing=False, **values), trained(2, packing=False, fsdp=True, **values)
    theirs, ours = gone_on(one, tmp_path / "one"), gone_on(two, tmp_path / "two")
    assert [step for step, _ in ours] == list(range(11, 21)) and apart(ours, theirs) < 1e-3


def gone_on(run, folder):
    """The losses of a copy of this run that lost everything after step 10 and went on."""
    from finetune_core.train import train

    again = Run(shutil.copytree(run.path, folder / run.id))
    shutil.rmtree(again.path / "checkpoints" / "checkpoint-20")
    shutil.rmtree(again.result_dir)
    before = len(again.events())
    assert train(again) == "finished" and files_of(again.result_dir) == files_of(run.result_dir)
    return [(event.data["step"], event.data["loss"]) for event in again.events()[before:] if event.kind == "step"]


SMALL_MEMORY = """
import runpy, sys, torch
from torch.distributed.fsdp import FSDPModule
from trl import SFTTrainer

kept = SFTTrainer.compute_loss

def compute_loss(self, model, *args, **kwargs):
    whole = not any(isinstance(module, FSDPModule) for module in model.modules())
    if whole and self.state.global_step >= 12:
        raise torch.OutOfMemoryError("CUDA out of memory.")
    return kept(self, model, *args, **kwargs)

SFTTrainer.compute_loss = compute_loss
sys.argv = sys.argv[2:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


@pytest.fixture
def small_memory(monkeypatch, tmp_path):
    """Processes run out of memory at step 12, unless they share the weights."""
    program, python = tmp_path / "small_memory.py", tmp_path / "python"
    program.write_text(SMALL_MEMORY)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{program}" "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.mark.slow
def test_copies_that_run_out_of_memory_go_on_from_their_checkpoint_as_shares(trained, small_memory):
    values = {"packing": False, "per_device_train_batch_size": 2}
    (two, _, _), (one, _, _) = trained(2, **values), trained(1, **values)
    [down] = [event.data for event in two.events() if event.kind == "warning"]
    assert down["changes"] == {"fsdp": True} and "did not fit" in down["says"]
    ours, theirs = (
        {event.data["step"]: event.data["loss"] for event in run.events() if event.kind == "step"} for run in (two, one)
    )
    assert apart(ours.items(), theirs.items()) < 1e-3 and len(ours) == 20
    steps = [event.data["step"] for event in two.events() if event.kind == "step"]
    assert steps == [*range(1, 13), *range(11, 21)]
    assert files_of(one.result_dir) == files_of(two.result_dir)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "most", "stops"), [("lora", 60, True), ("full", 12, False)])
def test_shared_weights_with_packs_checkpointing_and_early_stopping_leave_the_best_checkpoint(
    trained, method, most, stops
):
    values = {"packing": True, "packing_length": 64, "gradient_accumulation_steps": 4, "gradient_checkpointing": True,
              "early_stopping": True, "early_stopping_patience": 1, "eval_steps": 4, "save_steps": 4, "max_steps": most,
              "learning_rate": 2e-2, "lr_scheduler_type": "constant", "method": method}  # fmt: skip
    (one, _, _), (two, _, _) = trained(1, **values), trained(2, fsdp=True, **values)
    ours, theirs = summarize(two.events()), summarize(one.events())
    assert apart(ours.loss, theirs.loss) < 1e-3 and apart(ours.eval_loss, theirs.eval_loss) < 1e-3
    ends = [next(event.data for event in run.events() if event.kind == "done") for run in (two, one)]
    assert ends[0]["steps"] == ends[1]["steps"] and (ends[0]["steps"] < most) is stops
    assert ends[0]["best_step"] == ends[1]["best_step"] is not None
    assert files_of(one.result_dir) == files_of(two.result_dir) and said_by(one) == said_by(two)
