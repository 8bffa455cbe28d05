"""The worker, with the real trainer on a tiny model: every promise of a run, kept."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import chat_rows, write_jsonl

from finetune_core import launch
from finetune_core.errors import FinetuneError
from finetune_core.preflight import create_run
from finetune_core.progress import summarize
from finetune_core.recipe import Recipe

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def recipe(tiny_model_dir, tmp_path):
    """40 rows, 8 steps, no proof: a second of training."""
    data = write_jsonl(tmp_path / "rows.jsonl", chat_rows(40))
    return Recipe(
        model_name_or_path=str(tiny_model_dir), dataset_name=str(data), max_steps=8, evaluate=False,
        logging_steps=1, eval_steps=4, save_steps=2, learning_rate=1e-2, packing=False,
    )  # fmt: skip


@pytest.fixture
def slow(recipe):
    """Long enough to be interrupted."""
    return recipe.replace(max_steps=2000, eval_steps=500, save_steps=5)


def run_in_process(recipe, runs_dir):
    from finetune_core.train import train

    run = create_run(recipe, runs_dir)
    train(run)
    return run


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def steps(run):
    return [step for step, _ in summarize(run.events()).loss]


def worker_pid(run):
    return [event.data["pid"] for event in run.events() if event.kind == "start"][-1]


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


def token_view(row, tokenizer) -> list[tuple[int, bool]]:
    """(id, whether it is shown as trained) of each token that the page draws for a row."""
    from finetune_core.render import render
    from finetune_ui.words_tokens import tokens

    drawn = tokens(render(row, tokenizer, 512).pieces(), 0, 1)
    spans = re.findall(r'<span class="t (\w+)[^"]*" title="[^"]*id (\d+)">', drawn)
    return [(int(id), kind == "trained") for kind, id in spans]


@pytest.mark.parametrize("packing", [False, True])
def test_what_the_trainer_reads_is_what_render_made(recipe, tmp_path, packing):
    """The first batch of TRL's own loader holds the ids and labels of the rendered rows, as the page shows them."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTTrainer

    from finetune_core.render import load_tokenizer, render
    from finetune_core.trainer import encode, sft_config

    rows = chat_rows(16)
    folder = recipe.model_name_or_path
    tokenizer = load_tokenizer(Path(folder))
    resolved = recipe.replace(
        dtype="float32", packing=packing, packing_length=128 if packing else None, gradient_checkpointing=False,
        per_device_train_batch_size=1 if packing else 4,
    )  # fmt: skip
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False),
        args=sft_config(resolved, tmp_path / "out", True, False),
        train_dataset=encode(rows, tokenizer, 512),
        processing_class=AutoTokenizer.from_pretrained(folder, trust_remote_code=False),
    )
    batch = next(iter(trainer.get_train_dataloader()))
    expected = {tuple(r.input_ids): r.labels for r in (render(row, tokenizer) for row in rows)}
    shown = {ids: token_view(row, tokenizer) for ids, row in zip(expected, rows, strict=True)}
    found = 0
    for ids, labels, positions in zip(
        batch["input_ids"].tolist(), batch["labels"].tolist(),
        (batch["position_ids"] if packing else batch["attention_mask"].cumsum(1) - 1).tolist(), strict=True,
    ):  # fmt: skip
        starts = [i for i, position in enumerate(positions) if position == 0]
        for begin, end in zip(starts, [*starts[1:], len(ids)], strict=True):
            length = max(positions[begin:end]) + 1
            row = tuple(ids[begin : begin + length])
            assert row in expected
            assert labels[begin : begin + length] == expected[row]
            trained = [label != -100 for label in labels[begin : begin + length]]
            assert shown[row] == list(zip(row, trained, strict=True))
            found += 1
    assert found >= 4


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


# --- processes ---


@pytest.mark.slow
def test_a_killed_run_is_interrupted_and_goes_on(slow, runs_dir):
    run = create_run(slow, runs_dir)
    launch.start(run)
    wait_for(lambda: len(run.checkpoints()) >= 2)
    os.kill(worker_pid(run), signal.SIGKILL)
    wait_for(lambda: not run.is_alive())
    assert run.status() == "interrupted"
    saved = int(run.checkpoints()[-1].name.rpartition("-")[2])
    launch.start(run)
    wait_for(lambda: summarize(run.events()).workers == 2 and summarize(run.events()).step > saved)
    launch.stop(run)
    wait_for(lambda: run.status() == "stopped")
    progress = summarize(run.events())
    assert [step for step, _ in progress.loss] == list(range(1, progress.step + 1))  # no gap, no step twice
    assert run.has_result()


@pytest.mark.slow
def test_a_second_start_starts_nothing(slow, runs_dir):
    run = create_run(slow, runs_dir)
    launch.start(run)
    launch.start(run)
    wait_for(lambda: summarize(run.events()).step >= 1)
    launch.kill(run)
    assert [event.kind for event in run.events()].count("start") == 1
    assert run.status() == "interrupted"


@pytest.mark.slow
def test_a_second_run_waits_for_its_turn(recipe, runs_dir):
    from filelock import FileLock

    run = create_run(recipe, runs_dir)
    with FileLock(runs_dir / ".gpu.lock"):
        launch.start(run)
        wait_for(lambda: summarize(run.events()).stage == "waiting for its turn")
        assert run.status() == "running"
    wait_for(lambda: run.status() == "finished")


def test_a_waiting_run_can_be_stopped(recipe, runs_dir):
    from filelock import FileLock

    run = create_run(recipe, runs_dir)
    with FileLock(runs_dir / ".gpu.lock"):
        launch.start(run)
        wait_for(lambda: summarize(run.events()).stage == "waiting for its turn")
        launch.stop(run)
        wait_for(lambda: run.status() == "stopped")


@pytest.mark.slow
def test_discard_ends_the_worker_and_leaves_nothing(slow, runs_dir):
    run = create_run(slow, runs_dir)
    launch.start(run)
    wait_for(lambda: summarize(run.events()).step >= 1)
    pid = worker_pid(run)
    launch.discard(run)
    assert not run.path.exists()
    assert not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text()


@pytest.mark.slow
def test_the_token_is_nowhere_in_the_run(recipe, runs_dir):
    token = "hf_" + "Zq9" * 11
    run = create_run(recipe, runs_dir)
    launch.start(run, token=token)
    wait_for(lambda: run.status() == "finished")
    for path in run.path.rglob("*"):
        assert not path.is_file() or token.encode() not in path.read_bytes(), path


def test_a_failure_is_told_in_the_diary_and_the_traceback_stays_in_the_log(recipe, runs_dir):
    run = create_run(recipe, runs_dir)
    Path(recipe.dataset_name).unlink()
    launch.start(run)
    wait_for(lambda: run.status() == "failed")
    error = summarize(run.events()).error
    assert error["problem"] and error["fix"] and "Traceback" not in error["problem"]


def command(*arguments, runs_dir, **env):
    return subprocess.run(
        [sys.executable, "-m", "finetune_core", *arguments, "--runs-dir", str(runs_dir)],
        capture_output=True, text=True, cwd=ROOT, env=os.environ | env, timeout=120,
    )  # fmt: skip


@pytest.mark.slow
def test_train_on_the_command_line_speaks_json_lines(recipe, runs_dir, tmp_path):
    recipe.save(tmp_path / "recipe.yaml")
    done = command("train", str(tmp_path / "recipe.yaml"), "max_steps=3", "--json", runs_dir=runs_dir)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[0]["kind"] == "start"
    assert lines[-1]["kind"] == "done" and lines[-1]["outcome"] == "finished"
    listed = json.loads(command("runs", "--json", runs_dir=runs_dir).stdout)
    assert listed[0]["id"] == lines[-1]["run"] and listed[0]["status"] == "finished" and listed[0]["step"] == 3


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"model_name_or_path": "nobody/no-such-model"}, "hub-away"),
        ({"model_name_or_path": "./no/such/folder"}, "not-found"),
        ({"dataset_name": "./nothing.jsonl"}, None),
        ({"method": "qlora"}, "no-gpu"),
    ],
)
def test_what_cannot_work_is_refused_within_seconds_and_makes_no_run(recipe, runs_dir, tmp_path, change, code):
    recipe.replace(**change).save(tmp_path / "recipe.yaml")
    began = time.monotonic()
    refused = command("train", str(tmp_path / "recipe.yaml"), "--json", runs_dir=runs_dir)
    assert refused.returncode == 1
    assert time.monotonic() - began < 15  # the process itself takes seconds on a busy machine
    error = json.loads(refused.stdout)["error"]
    assert error["problem"] and error["fix"]
    assert code is None or error["code"] == code
    assert "Traceback" not in refused.stderr
    assert not list(runs_dir.glob("*/recipe.yaml"))


def test_a_wrong_verb_is_a_usage_error(runs_dir):
    assert command("fly", runs_dir=runs_dir).returncode == 2


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


def test_at_the_foot_of_the_ladder_the_person_is_told_what_to_change(recipe, runs_dir, monkeypatch):
    import torch
    from trl import SFTTrainer

    def no_memory(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(SFTTrainer, "compute_loss", no_memory)
    with pytest.raises(FinetuneError, match="memory") as error:
        run_in_process(recipe.replace(per_device_train_batch_size=2), runs_dir)
    assert error.value.fix and error.value.code == "out-of-memory"


def test_a_dry_run_leaves_the_trainer_as_it_was(recipe, tiny_model_dir, tmp_path):
    import torch

    from finetune_core.machine import this_machine
    from finetune_core.preflight import look
    from finetune_core.render import load_tokenizer
    from finetune_core.trainer import build_trainer, dry_run, encode

    resolved = look(recipe).plan.recipe
    rows = encode(chat_rows(40), load_tokenizer(tiny_model_dir), 128)
    trainer = build_trainer(resolved, tiny_model_dir, tmp_path / "out", (rows, None), [], this_machine())
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    random = torch.get_rng_state()
    dry_run(trainer)
    assert all(torch.equal(before[name], value) for name, value in trainer.model.state_dict().items())
    assert all(weight.grad is None for weight in trainer.model.parameters())
    assert torch.equal(random, torch.get_rng_state()) and not trainer._metrics["train"]
