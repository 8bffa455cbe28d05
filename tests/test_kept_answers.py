"""What the base model said before is not asked again, unless anything is different that could change it."""

import dataclasses
import json
import os
import shutil

import pytest
from conftest import chat_rows
from tuned import float32, lay_rows, make_tuned_run

from finetune_core.evaluate import Asked, evaluate
from finetune_core.proof import kept_answers as module
from finetune_core.proof.kept_answers import FILE, describe_base


@pytest.fixture
def model_dir(tiny_model_dir, tmp_path):
    """A base model that a test may change."""
    return shutil.copytree(tiny_model_dir, tmp_path / "model")


@pytest.fixture
def make_run(runs_dir, model_dir):
    def make_run(**values):
        run = make_tuned_run(runs_dir, model_dir, **{"max_new_tokens": 8} | values)
        lay_rows(run, chat_rows(20), (), chat_rows(28)[20:])
        return run

    return make_run


def compared(run, chatter=None, **asked):
    """A quick comparison: (the report, the models that were asked, by rows)."""
    chatter = chatter or float32(run)
    generate, calls = chatter.generate, {}

    def counted(name, prompts, **more):
        calls[name] = calls.get(name, 0) + len(prompts)
        return generate(name, prompts, **more)

    chatter.generate = counted
    report = evaluate(run, chatter, asked=Asked(**{"quick": True} | asked))
    return report, calls


def without_times(report):
    told = {name: report[name] for name in ("n", "rows", "verdict", "loss", "metric")}
    rivals = [{k: v for k, v in r.items() if k not in ("seconds", "answers_kept")} for r in report["rivals"]]
    return told | {"rivals": rivals}


def test_a_second_comparison_asks_only_the_tuned_model_and_says_the_same(make_run, monkeypatch):
    from finetune_core.proof import likelihood

    run = make_run()
    first, calls = compared(run)
    assert calls == {"base": 8, "tuned": 8} and first["rivals"][0]["answers_kept"] == 0
    monkeypatch.setattr(likelihood, "likelihoods", lambda *_, **__: pytest.fail("the base was read again"))
    second, calls = compared(run)
    assert calls == {"base": 0, "tuned": 8} and second["rivals"][0]["answers_kept"] == 8
    assert without_times(second) == without_times(first)


def test_losses_that_were_measured_apart_are_kept_too(make_run, monkeypatch):
    """With a large vocabulary the references are not read along with the questions."""
    from finetune_core.answers import generate

    monkeypatch.setattr(generate, "MOST_LOGITS", 10)
    run, read = make_run(), []
    first, _ = compared(run)
    from finetune_core.proof import likelihood

    work = likelihood.likelihoods
    monkeypatch.setattr(
        likelihood, "likelihoods", lambda model, asked, **how: read.append(1) or work(model, asked, **how)
    )
    second, _ = compared(run)
    assert second["loss"] == first["loss"] and len(read) == 1  # the tuned model's


def test_another_run_on_the_same_rows_finds_them_until_the_first_is_deleted(make_run):
    first, second = make_run(), make_run()
    compared(first)
    assert compared(second)[1]["base"] == 0
    first.delete()
    assert compared(make_run())[1]["base"] == 8


def test_on_a_space_a_run_finds_its_own_answers_and_no_other_visitors(make_run, monkeypatch):
    first, second = make_run(), make_run()
    compared(first)
    monkeypatch.setenv("SPACE_ID", "ann/fijn")
    assert compared(second)[1]["base"] == 8 and compared(second)[1]["base"] == 0


def test_the_rest_of_a_larger_comparison_is_asked(make_run):
    run = make_run()
    compared(run, rows=5)
    assert compared(run)[1]["base"] == 3


def test_the_general_questions_are_asked_of_a_base_model_once(make_run, monkeypatch):
    from finetune_core.proof import probe

    some = [item for item in probe.load_probe()[::12]]
    monkeypatch.setattr("finetune_core.proof.forgetting.load_probe", lambda: some)
    first, calls = compared(make_run(), forgetting=True)
    written = calls["base"] - 8
    second, again = compared(make_run(), forgetting=True)
    assert written > 0 and again == {"base": 0, "tuned": calls["tuned"]}
    assert {**second["forgetting"], "seconds": 0} == {**first["forgetting"], "seconds": 0}


def test_who_wants_it_asks_again(make_run):
    run = make_run()
    compared(run)
    assert compared(run, again=True)[1]["base"] == 8


def test_a_longer_answer_is_another_answer(make_run):
    compared(make_run())
    assert compared(make_run(max_new_tokens=7))[1]["base"] == 8


def test_another_system_prompt_is_another_question(make_run):
    run = make_run()
    compared(run)
    rows = [{"messages": [{"role": "system", "content": "Kort."}, *row["messages"]]} for row in chat_rows(28)[20:]]
    lay_rows(run, chat_rows(20), (), rows)
    assert compared(run)[1]["base"] == 8


def other_weights(model_dir, monkeypatch):
    from safetensors.torch import load_file, save_file

    file = model_dir / "model.safetensors"
    weights = load_file(file)
    weights["model.norm.weight"] += 0.5
    save_file(weights, file, metadata={"format": "pt"})  # as many bytes


def touched_weights(model_dir, monkeypatch):
    os.utime(model_dir / "model.safetensors", (1, 1))


def other_config(model_dir, monkeypatch):
    config = json.loads((model_dir / "config.json").read_text())
    (model_dir / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-5}))


def other_library(model_dir, monkeypatch):
    monkeypatch.setattr(module, "version", lambda name: "0.0")


def other_machine(model_dir, monkeypatch):
    from finetune_core.machine import Machine

    machine = Machine(cores=1, memory_gb=1, available_gb=1, gpus=(), kind="cpu")
    monkeypatch.setattr(module, "this_machine", lambda: machine)


@pytest.mark.parametrize("change", [other_weights, touched_weights, other_config, other_library, other_machine])
def test_anything_that_could_change_an_answer_asks_again(make_run, model_dir, monkeypatch, change):
    run = make_run()
    compared(run)
    change(model_dir, monkeypatch)
    assert compared(run)[1]["base"] == 8


def test_a_gpu_with_other_free_memory_is_the_same_gpu(make_run, monkeypatch):
    from planned import A100

    run = make_run()
    for free, asked in ((70.0, 8), (31.0, 0)):
        gpu = dataclasses.replace(A100.gpus[0], free_gb=free)
        machine = dataclasses.replace(A100, gpus=(gpu,), available_gb=free)
        monkeypatch.setattr(module, "this_machine", lambda machine=machine: machine)
        assert compared(run)[1]["base"] == asked


def test_the_number_format_is_part_of_what_an_answer_follows_from(make_run):
    import torch

    chatter = float32(make_run())
    before = describe_base(chatter)
    with chatter.borrow("base") as model:
        model.to(torch.bfloat16)
    assert describe_base(chatter)["dtype"] != before["dtype"]


def test_a_line_that_was_cut_off_costs_its_answer_and_no_other(make_run):
    run = make_run()
    compared(run)
    file = run.path / FILE
    file.write_text(file.read_text()[:-9])
    compared(run)
    assert all(len(json.loads(line)) == 4 for line in file.read_text().splitlines()[-1:])
    assert compared(run)[1]["base"] == 0


def test_a_file_does_not_grow_without_end(make_run, monkeypatch):
    run = make_run()
    compared(run, rows=4)
    before = (run.path / FILE).read_text()
    monkeypatch.setattr(module, "MOST_BYTES", 10)
    compared(run)
    assert before.split()[0] not in (run.path / FILE).read_text()


def test_no_text_of_the_rows_lies_in_the_file(make_run):
    run = make_run()
    compared(run)
    assert "order" not in (text := (run.path / FILE).read_text()) and "defect" not in text


def test_trying_prompts_before_training_answers_for_the_comparison_behind_it(make_run, runs_dir, monkeypatch):
    from finetune_core import evaluate as evaluating
    from finetune_core import model
    from finetune_core.data import Prepared

    run = make_run()
    rows = chat_rows(28)
    prepared = type("Rows", (Prepared,), {"__init__": lambda self: None})()
    for name, part in (("train", rows[:20]), ("validation", []), ("test", rows[20:])):
        object.__setattr__(prepared, name, part)
    monkeypatch.setattr("finetune_core.data.prepare", lambda *_, **__: prepared)
    monkeypatch.setattr(model, "chat_dtype", lambda trained: "float32")
    folder = runs_dir / ".should-i" / "0123"
    folder.mkdir(parents=True)
    evaluating.should_i(run.recipe, folder=folder)
    report, calls = compared(run)
    assert calls["base"] == 0 and report["rivals"][0]["answers_kept"] == 8
