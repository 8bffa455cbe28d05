"""Where memory runs out: the ladder is walked down and the training goes on, and its foot is told."""

import pytest
from conftest import write_jsonl
from trained_here import run_in_process, steps

from finetune_core.errors import FinetuneError
from finetune_core.preflight import create_run


def test_a_batch_that_does_not_fit_is_halved_and_the_training_goes_on(recipe, runs_dir, monkeypatch):
    import torch
    from trl import SFTTrainer

    kept, seen = SFTTrainer.compute_loss, []

    def small_memory(self, model, inputs, *args, **kwargs):
        seen.append(len(inputs["input_ids"]))
        if len(inputs["input_ids"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return kept(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(SFTTrainer, "compute_loss", small_memory)
    run = run_in_process(recipe.replace(per_device_train_batch_size=8, max_steps=2), runs_dir)
    told = [event.data for event in run.events() if event.kind == "warning"]
    assert [each["changes"]["per_device_train_batch_size"] for each in told] == [4, 2]
    assert [each["changes"]["gradient_accumulation_steps"] for each in told] == [2, 4]
    assert run.status() == "finished" and steps(run) == [1, 2] and max(seen[2:]) == 2


def test_memory_that_runs_out_in_the_middle_goes_on_from_the_checkpoint(recipe, runs_dir, monkeypatch):
    import torch
    from trl import SFTTrainer

    kept, seen = SFTTrainer.compute_loss, []

    def shrinking(self, model, inputs, *args, **kwargs):
        seen.append(self.state.global_step)
        if self.state.global_step == 5 and len(inputs["input_ids"]) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return kept(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(SFTTrainer, "compute_loss", shrinking)
    run = run_in_process(recipe.replace(per_device_train_batch_size=8), runs_dir)
    assert run.status() == "finished"
    assert steps(run) == [1, 2, 3, 4, 5, 6, 7, 8] and seen.count(0) == 1  # on from checkpoint-4, not from the start


def test_a_run_that_was_stepped_down_is_resumed_as_it_was_left(recipe, runs_dir, monkeypatch):
    from trl import SFTTrainer

    from finetune_core.train import train

    kept, seen = SFTTrainer.compute_loss, []

    def watched(self, model, inputs, *args, **kwargs):
        seen.append((len(inputs["input_ids"]), self.args.gradient_accumulation_steps))
        return kept(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(SFTTrainer, "compute_loss", watched)
    run = create_run(recipe.replace(per_device_train_batch_size=8, max_steps=2), runs_dir)
    for rows in (4, 2):
        changes = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": 8 // rows}
        run.tell("warning", code="stepped-down", says="Half the batch", changes=changes)
    assert train(run) == "finished"
    assert max(seen) == (2, 4)


@pytest.mark.parametrize(("words", "fix"), [(1, "Choose a machine with more memory."), (300, "max_length=256")])
def test_at_the_foot_of_the_ladder_the_person_is_told_what_to_change(
    recipe, runs_dir, tmp_path, monkeypatch, words, fix
):
    """Shorter rows only where there are long ones."""
    import torch
    from trl import SFTTrainer

    def no_memory(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(SFTTrainer, "compute_loss", no_memory)
    with pytest.raises(FinetuneError, match="memory") as error:
        rows = [{"prompt": f"order {number} " + "kettle " * words, "completion": "defect"} for number in range(20)]
        file = write_jsonl(tmp_path / "long.jsonl", rows)
        run_in_process(recipe.replace(dataset_name=str(file), per_device_train_batch_size=2), runs_dir)
    assert error.value.code == "out-of-memory" and fix in error.value.fix


def test_at_the_foot_of_the_ladder_the_gpus_that_it_did_not_take_are_counted(recipe, runs_dir, monkeypatch):
    from dataclasses import replace

    import torch
    from trl import SFTTrainer

    from finetune_core import train
    from finetune_core.machine import Gpu, this_machine

    seen = [Gpu("T4", 15, 14, 7.5, f"GPU-{number}") for number in range(2)]
    monkeypatch.setattr(train, "this_machine", lambda: replace(this_machine(), gpus=tuple(seen)))
    monkeypatch.setattr(train, "take_gpus", lambda count: seen.pop())
    monkeypatch.setattr(
        SFTTrainer,
        "compute_loss",
        lambda *_, **__: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory.")),
    )
    with pytest.raises(FinetuneError) as error:
        run_in_process(recipe.replace(per_device_train_batch_size=1, gradient_checkpointing=True), runs_dir)
    assert "num_processes=2 fsdp=true" in error.value.fix


def test_what_was_stepped_down_to_teaches_nothing_about_the_plan(recipe, runs_dir, monkeypatch):
    import torch
    from trl import SFTTrainer

    from finetune_core import learn, measured

    kept, told = SFTTrainer.compute_loss, []

    def small_memory(self, model, inputs, *args, **kwargs):
        if len(inputs["input_ids"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return kept(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(learn, "MEASURED_TOKENS", 0)
    monkeypatch.setattr(learn, "MEASURED_SECONDS", 0.0)
    monkeypatch.setattr(measured, "remember", lambda *spent: told.append(spent))
    run_in_process(recipe.replace(per_device_train_batch_size=2, max_steps=2), runs_dir)
    assert len(told) == 1
    monkeypatch.setattr(SFTTrainer, "compute_loss", small_memory)
    run_in_process(recipe.replace(per_device_train_batch_size=4, max_steps=2), runs_dir)
    assert len(told) == 1


@pytest.mark.parametrize(("is_used", "then"), [(True, ["empty", "reset"]), (False, ["empty"])])
def test_the_peak_of_what_did_not_fit_is_forgotten_where_this_process_used_a_gpu(monkeypatch, is_used, then):
    import torch

    from finetune_core.learn import release_memory

    called = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: is_used)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: called.append("empty"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: called.append("reset"))
    release_memory()
    assert called == then
