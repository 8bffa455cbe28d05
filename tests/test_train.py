"""The worker, with the real trainer on a tiny model: every promise of a run, kept."""

import errno
import shutil
from pathlib import Path

import pytest
from conftest import CHATML, chat_rows, save_tiny_model, write_jsonl
from trained_here import run_in_process, steps

from finetune_core.errors import FinetuneError
from finetune_core.preflight import create_run
from finetune_core.progress import summarize
from finetune_core.recipe import Recipe
from finetune_core.run import Run


def tensors(folder):
    from safetensors.torch import load_file

    return {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}


def test_a_training_changes_every_adapter_tensor_and_no_base_tensor(recipe, runs_dir, tiny_model_dir):
    before = tensors(tiny_model_dir)
    run = run_in_process(recipe, runs_dir)
    assert run.status() == "finished"
    adapter = tensors(run.result_dir)
    assert len(adapter) == 2 * 7 * 2  # layers x linear layers x (A, B)
    assert all(value.abs().max() > 0 for value in adapter.values())  # B begins at zero
    after = tensors(tiny_model_dir)
    assert all((before[name] == after[name]).all() for name in before)


def test_a_run_folder_is_complete(recipe, runs_dir):
    run = run_in_process(recipe, runs_dir)
    files = {str(path.relative_to(run.path)) for path in run.path.rglob("*")}
    assert {
        "recipe.yaml", "plan.json", "data/train.jsonl", "data/validation.jsonl", "data/test.jsonl", "data/card.json",
        "events.jsonl", "adapter/adapter_config.json", "adapter/adapter_model.safetensors", "adapter/tokenizer.json",
    } <= files  # fmt: skip
    assert not [file for file in files if file.startswith("adapter") and file.endswith((".bin", ".pt"))]
    template = (run.result_dir / "chat_template.jinja").read_text()
    assert "<|im_start|>" in template
    assert run.recipe.packing is False and run.recipe.dtype is not None  # every value written out


def test_what_was_checked_is_learned_without_reading_it_again(recipe, runs_dir):
    from finetune_core.train import train

    run = create_run(recipe, runs_dir)
    Path(recipe.dataset_name).unlink()
    assert train(run) == "finished" and not (run.path / ".rows").exists()


def test_test_rows_are_never_trained_on(recipe, runs_dir):
    run = run_in_process(recipe, runs_dir)
    rows = {
        name: set((run.path / "data" / f"{name}.jsonl").read_text().splitlines())
        for name in ("train", "validation", "test")
    }
    assert len(rows["test"]) == 4 and len(rows["validation"]) == 4 and len(rows["train"]) == 32
    assert not rows["train"] & rows["test"] and not rows["train"] & rows["validation"]


def test_the_diary_tells_phases_curves_and_samples(recipe, runs_dir):
    progress = summarize(run_in_process(recipe, runs_dir).events())
    assert [step for step, _ in progress.loss] == list(range(1, 9))
    assert progress.loss[-1][1] < progress.loss[0][1]
    assert [step for step, _ in progress.eval_loss] == [4, 8]
    assert [step for step, *_ in progress.samples] == [0, 4, 8]
    assert progress.outcome == "finished" and progress.tokens_per_second and progress.memory_gb
    assert {"fetching", "preparing data", "loading the model", "training", "saving"} <= set(progress.stage_seconds)


def test_full_fine_tuning_gives_four_answers_back(tiny_model_dir, tmp_path, runs_dir):
    """Wrong masks, templates, stop tokens or column maps cannot pass this."""
    pairs = [("een", "kat op de mat"), ("two", "the cat sat"), ("drie?", "ja, het mat"), ("four 4", "Paris. de")]
    data = write_jsonl(tmp_path / "four.jsonl", [{"prompt": q, "completion": a} for q, a in pairs])
    recipe = Recipe(
        model_name_or_path=str(tiny_model_dir), dataset_name=str(data), method="full", max_steps=150,
        learning_rate=5e-3, validation_size=0, test_size=0, evaluate=False, accept_warnings=True, warmup_steps=5,
        save_steps=1000, packing=False, lr_scheduler_type="cosine",
    )  # fmt: skip
    run = run_in_process(recipe, runs_dir)
    from finetune_core.model import load_for_chat
    from finetune_core.render import render_prompt

    chatter = load_for_chat(run)
    prompts = [render_prompt([{"role": "user", "content": q}], chatter.tokenizer) for q, _ in pairs]
    answers = chatter.generate("tuned", prompts, max_new_tokens=40)
    assert [answer.text for answer in answers] == [a for _, a in pairs]
    assert {answer.finish_reason for answer in answers} == {"stop"}


def test_a_base_model_gets_a_template_that_is_saved_with_the_result(recipe, tiny_base_dir, runs_dir):
    run = run_in_process(recipe.replace(model_name_or_path=str(tiny_base_dir)), runs_dir)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(run.result_dir, trust_remote_code=False)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hello"}], tokenize=False, add_generation_prompt=True
    )
    assert "hello" in text


def test_early_stopping_keeps_the_best_checkpoint(recipe, runs_dir):
    run = run_in_process(
        recipe.replace(early_stopping=True, early_stopping_patience=1, learning_rate=1.0, max_steps=40, eval_steps=2,
                       save_steps=2, lr_scheduler_type="constant"),
        runs_dir,
    )  # fmt: skip
    progress = summarize(run.events())
    best = min(progress.eval_loss, key=lambda point: point[1])[0]
    assert progress.step < 40
    assert progress.best_step == best
    kept = tensors(run.path / "checkpoints" / f"checkpoint-{best}")
    result = tensors(run.result_dir)
    assert all((result[name] == kept[name]).all() for name in kept)


def test_a_loss_that_is_no_number_ends_with_advice(recipe, runs_dir, tiny_model_dir, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    broken = shutil.copytree(tiny_model_dir, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][:] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FinetuneError) as refused:
        run_in_process(recipe.replace(model_name_or_path=str(broken)), runs_dir)
    assert refused.value.code == "loss-not-finite"


def test_a_run_from_a_larger_machine_is_refused_in_words(recipe, runs_dir, monkeypatch):
    from finetune_core import preflight
    from finetune_core.machine import Machine
    from finetune_core.train import train

    run = Run.create(runs_dir, recipe.replace(num_processes=3))
    monkeypatch.setattr(preflight, "this_machine", lambda: Machine(2, 16, 12))
    with pytest.raises(FinetuneError) as refused:
        train(run)
    assert refused.value.code == "too-many-processes" and run.events()[-1].data["fix"] == refused.value.fix


@pytest.mark.parametrize("processes", [1, 2])
def test_a_gpu_that_torch_cannot_use_is_told_before_anything_is_learned(recipe, runs_dir, monkeypatch, processes):
    from finetune_core import model
    from finetune_core.train import train

    def refuse(machine):
        raise FinetuneError("torch cannot use the GPU.", "Install another torch.", code="gpu-unusable")

    run = create_run(recipe.replace(num_processes=processes), runs_dir)
    monkeypatch.setattr(model, "require_same_gpu", refuse)
    with pytest.raises(FinetuneError) as refused:
        train(run)
    assert refused.value.code == "gpu-unusable"


def test_validation_rows_that_train_nothing_are_told_and_left_out(recipe, runs_dir):
    """Their answers begin beyond max_length."""
    run = create_run(recipe, runs_dir)
    from finetune_core.train import train

    long = {"messages": [{"role": "user", "content": "kettle " * 2000}, {"role": "assistant", "content": "defect"}]}
    write_jsonl(run.path / "data" / "validation.jsonl", [long])
    assert train(run) == "finished"
    assert [event.data["code"] for event in run.events() if event.kind == "warning"] == ["no-validation"]
    assert not summarize(run.events()).eval_loss


def test_the_sample_is_of_a_row_that_leaves_room_for_an_answer(recipe, tiny_tokenizer):
    from finetune_core.watching import sample_messages

    short = chat_rows(1)[0]["messages"]
    long = [{"role": "user", "content": "kettle " * 2000}, {"role": "assistant", "content": "defect"}]
    assert sample_messages(recipe, [{"messages": long}, {"messages": short}], tiny_tokenizer) == short[:1]
    assert sample_messages(recipe, [{"messages": long}], tiny_tokenizer) == []


def test_a_row_whose_beginning_the_template_refuses_is_no_sample(recipe, tmp_path):
    """Qwen 3.5 wants a user's words somewhere, and this row has them behind its first answer."""
    from finetune_core.render import load_tokenizer, render
    from finetune_core.watching import sample_messages

    nobody_asks = "{% if not messages | selectattr('role', 'equalto', 'user') | list %}"
    refusing = nobody_asks + "{{ raise_exception('nobody asks') }}{% endif %}" + CHATML
    tokenizer = load_tokenizer(save_tiny_model(tmp_path / "model", refusing))
    [short] = chat_rows(1)
    greeting = [{"role": "system", "content": "Be kind."}, {"role": "assistant", "content": "Hello!"}]
    greeted = {"messages": [*greeting, *short["messages"]]}
    assert render(greeted, tokenizer).trained
    assert sample_messages(recipe, [greeted, short], tokenizer) == short["messages"][:1]
    assert sample_messages(recipe, [greeted], tokenizer) == []


def test_a_training_that_goes_on_keeps_the_stop_that_was_asked_for(recipe, runs_dir):
    from finetune_core.cli import main

    run = create_run(recipe, runs_dir)
    with run.lock():
        (run.path / "stop").touch()
        assert main(["train", run.id, "--runs-dir", str(runs_dir)]) == 1
    assert (run.path / "stop").exists()


def test_the_stop_of_an_earlier_worker_stops_no_other(recipe, runs_dir):
    from finetune_core.train import train

    run = create_run(recipe, runs_dir)
    (run.path / "stop").touch()
    assert train(run) == "finished"


@pytest.mark.parametrize("length", [{"max_steps": 6}, {"max_steps": -1, "num_train_epochs": 1.5}])
def test_a_worker_that_died_behind_its_last_step_takes_no_further_one(recipe, runs_dir, length):
    from finetune_core.train import train

    run = run_in_process(recipe.replace(lr_scheduler_type="constant", **length), runs_dir)
    learned, taken = tensors(run.result_dir), steps(run)
    shutil.rmtree(run.result_dir)
    assert train(run) == "finished"
    assert steps(run) == taken and run.last_event().data["steps"] == taken[-1]
    again = tensors(run.result_dir)
    assert all((learned[name] == again[name]).all() for name in learned)


def test_a_disk_that_is_full_in_a_training_says_how_its_run_goes_on(recipe, runs_dir, monkeypatch):
    from finetune_core import train as worker

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(worker, "_train", full)
    run = create_run(recipe, runs_dir)
    with pytest.raises(FinetuneError) as failed:
        worker.train(run)
    assert failed.value.code == "disk-full" and "press Resume" in failed.value.fix and run.id in failed.value.fix
    assert run.events()[-1].data["fix"] == failed.value.fix


def test_a_comparison_that_fails_costs_a_warning_and_not_the_training(recipe, runs_dir, monkeypatch):
    import torch

    def no_memory(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("finetune_core.evaluate.evaluate", no_memory)
    run = run_in_process(recipe.replace(evaluate=True, max_steps=2), runs_dir)
    [warning] = [event.data for event in run.events() if event.kind == "warning"]
    assert run.status() == "finished" and run.has_result()
    assert "ran out of memory" in warning["says"] and f"evaluate {run.id}" in warning["says"]
