"""The plan measured from the page: a moment of training as a job, what it says, and the way down if it is too large."""

import json
import re
from dataclasses import replace

import gradio as gr
import pytest
from conftest import chat_rows, write_jsonl

from finetune_core import launch, measured, preflight, verbs_plan
from finetune_core.cli import main, parser
from finetune_core.machine import Gpu, Machine, this_machine
from finetune_core.recipe import Recipe
from finetune_ui import begin, check, form, measuring, words_choose, words_measure, words_plan
from finetune_ui.looking import Looks
from finetune_ui.measuring import Drawn


@pytest.fixture
def recipe(tmp_path, tiny_model_dir):
    rows = write_jsonl(tmp_path / "rows.jsonl", chat_rows(60))
    return Recipe(
        model_name_or_path=str(tiny_model_dir), dataset_name=str(rows), packing=False, gradient_checkpointing=True
    )


@pytest.fixture
def looks(runs_dir):
    return Looks(runs_dir=runs_dir)


@pytest.fixture
def measure(recipe, runs_dir, monkeypatch):
    """Run in this process the command that the button starts: (exit code, what `show` then says of the recipe)."""
    lines = []
    monkeypatch.setattr(launch, "start_job", lambda job, line, secrets=None: lines.append(line))
    monkeypatch.setattr(verbs_plan, "PROBE_SECONDS", 0.3)

    def go(recipe=recipe):
        measuring.start(runs_dir, *form.to_boxes(recipe))
        return main(lines.pop()[3:])

    return go


def look_at(looks, recipe):
    look = looks.ask(recipe, wait_seconds=60)
    assert look.seen is not None, look.error
    return look


def shown(runs_dir, looks, recipe, drawn=Drawn()):
    look = look_at(looks, recipe)
    part, drawn, clock = measuring.show(runs_dir, look, drawn)
    return measuring.plan_card(look, part), drawn, clock


def test_the_plan_says_what_was_measured_without_reading_the_rows_again(recipe, runs_dir, looks, measure):
    before, *_ = shown(runs_dir, looks, recipe)
    assert words_measure.START in before and "± 50 %" in before and "estimated" in before
    read = look_at(looks, recipe).seen.prepared
    assert measure() == 0
    after, _, clock = shown(runs_dir, looks, recipe)
    assert "measured on this machine" in after and "± 25 %" in after and "± 15 %" in after
    assert re.search(r"Measured: [\d,]+ tokens a second, [\d.]+ [GM]B at most\.", after)
    assert not clock.active and look_at(looks, recipe).seen.prepared is read


def test_other_settings_have_a_measurement_of_their_own(recipe, runs_dir, looks, measure):
    assert measure() == 0
    assert words_measure.START in shown(runs_dir, looks, recipe.replace(lora_r=4))[0]


def test_memory_that_runs_out_is_told_with_the_next_rung_which_can_be_applied(
    recipe, runs_dir, looks, measure, monkeypatch, capsys
):
    import torch

    from finetune_core import speed

    def no_memory(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(speed, "build_trainer", no_memory)
    assert measure() == 1
    assert "per_device_train_batch_size=4 gradient_accumulation_steps=2" in capsys.readouterr().err
    card, *_ = shown(runs_dir, looks, recipe)
    assert (
        "Does not fit" in card
        and "memory ran out while it was measured" in card
        and 'data-ladder="Half the batch' in card
    )
    assert look_at(looks, recipe).seen.plan.ladder[0].changes["per_device_train_batch_size"] == 4
    assert measured.speed_here(this_machine(), "float32", look_at(looks, recipe).seen.facts.parameters) is None


@pytest.fixture
def ran_out(measure, monkeypatch):
    """`recipe` was measured, and memory ran out."""
    import torch

    from finetune_core import speed

    def no_memory(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with monkeypatch.context() as patched:
        patched.setattr(speed, "build_trainer", no_memory)
        assert measure() == 1


def test_the_start_bar_says_it_too_and_the_rung_is_one_click(recipe, runs_dir, looks, ran_out):
    def bar(recipe):
        return begin.show(runs_dir, "check", look_at(looks, recipe), (), None)

    says, _, start = bar(recipe)
    assert "Does not fit on this machine" in says and words_plan.RAN_OUT in says
    seen = look_at(looks, recipe).seen
    assert words_choose.model_facts(seen.plan, seen.facts)[0] == "Too large · as measured"
    assert start["value"] == words_plan.START_ANYWAY
    click = gr.EventData(None, {"from": "plan", "says": re.search('data-ladder="([^"]+)"', says)[1]})
    _, *boxes = check.apply(looks, click, (), *form.to_boxes(recipe))
    assert form.read(boxes).per_device_train_batch_size == 4
    assert "Ready to train" in bar(form.read(boxes))[0]


def test_so_does_train(recipe, runs_dir, tmp_path, ran_out, capsys):
    file = tmp_path / "recipe.yaml"
    recipe.replace(evaluate=False, max_steps=1).save(file)
    assert main(["train", str(file), "--runs-dir", str(runs_dir)]) == 0
    said = capsys.readouterr().out
    assert "warning: It does not fit on this machine. Memory ran out when it was measured. Or: Half the batch" in said


def test_memory_that_ran_out_counts_for_what_needs_as_much_until_there_is_more_or_it_was_seen_to_fit(
    recipe, runs_dir, looks, ran_out, tiny_model_dir
):
    seen = look_at(looks, recipe).seen
    machine = this_machine()

    def runs_out(recipe, more_free=0.0):
        roomier = replace(machine, available_gb=machine.available_gb + more_free)
        return preflight.plan_for(recipe, seen.facts, seen.diagnosis, roomier).ran_out

    assert runs_out(recipe) and runs_out(recipe.replace(per_device_train_batch_size=32))
    told = preflight.plan_for(recipe, seen.facts, seen.diagnosis, machine)
    assert "Memory ran out when it was measured." in words_plan.plan(told)
    assert not runs_out(recipe.replace(per_device_train_batch_size=4))
    assert not runs_out(recipe, more_free=machine.available_gb)
    assert not runs_out(recipe.replace(method="full"))
    measured.remember(seen.plan.as_dict(), seen.plan.recipe, tiny_model_dir, machine, 10, 1.0, 1.0)
    assert not runs_out(recipe)


def test_a_measurement_that_is_stopped_keeps_nothing(recipe, runs_dir, looks, measure, monkeypatch):
    from finetune_core import speed

    kept = speed.build_trainer

    def stopping(*args):
        measuring.stop(runs_dir, shown(runs_dir, looks, recipe)[1])
        return kept(*args)

    monkeypatch.setattr(speed, "build_trainer", stopping)
    assert measure() == 3
    card, _, clock = shown(runs_dir, looks, recipe)
    assert words_measure.START in card and not clock.active and measured.version() == (0, 0)


def test_a_page_that_is_loaded_again_goes_on_watching_until_it_is_over(recipe, runs_dir, looks):
    job = launch.before_training(runs_dir, "plan", launch.key_of(recipe, verb="plan"))
    boxes = form.to_boxes(recipe)
    with job.working() as say:
        say(0.4, "measuring")
        card, drawn, clock = shown(runs_dir, looks, recipe)
        assert "Measuring." in card and "40%" in card and "data-halt" in card and clock.active
        assert measuring.tick(runs_dir, looks, "check", "here", drawn, *boxes) == (gr.skip(),) * 4
        say(0.8, "measuring")
        card, drawn, *rest = measuring.tick(runs_dir, looks, "check", "here", drawn, *boxes)
        assert "80%" in card and rest == [gr.skip()] * 2
    *_, clock, over = measuring.tick(runs_dir, looks, "check", "here", drawn, *boxes)
    assert not clock.active and isinstance(over, str)  # which draws the page anew
    assert measuring.tick(runs_dir, looks, "train", "here", drawn, *boxes)[2].active is False


def test_a_tick_draws_no_plan_of_this_machine_over_rented_hardware_and_has_the_page_drawn_anew(recipe, runs_dir, looks):
    job = launch.before_training(runs_dir, "plan", launch.key_of(recipe, verb="plan"))
    boxes = form.to_boxes(recipe)
    with job.working() as say:
        _, drawn, _ = shown(runs_dir, looks, recipe)
        say(0.8, "measuring")
        ticks = [measuring.tick(runs_dir, looks, "check", "jobs:l4x1", drawn, *boxes) for _ in range(2)]
    for card, kept, clock, _ in ticks:
        assert card == kept == gr.skip() and not clock.active
    assert ticks[0][3] != ticks[1][3]  # a change each time, which draws the page


def test_what_does_not_begin_says_why(recipe, runs_dir, looks, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(launch, "start_job", full)
    drawn = measuring.start(runs_dir, *form.to_boxes(recipe))
    assert "The disk is full." in shown(runs_dir, looks, recipe, drawn)[0]


def test_a_plan_for_several_gpus_is_measured_on_one_and_counts_all_as_they_were_before(
    recipe, runs_dir, tmp_path, monkeypatch, capsys
):
    from finetune_core import model, preflight, speed

    free = [20.0, 20.0]

    def machine():
        gpus = tuple(Gpu("L4", 24, each, 8.9, f"GPU-{place}") for place, each in enumerate(free))
        return Machine(8, 64, 60, gpus, kind="cuda")

    def probe(*_):
        free[0] = 1.0  # what was trained with is not given back before the process ends
        return 100, 1.0, 19.0

    monkeypatch.setattr(preflight, "this_machine", machine)
    monkeypatch.setattr(verbs_plan, "this_machine", machine)
    monkeypatch.setattr(verbs_plan, "take_gpus", free.pop)
    monkeypatch.setattr(model, "require_same_gpu", lambda machine: None)
    monkeypatch.setattr(speed, "probe", probe)
    file = tmp_path / "recipe.yaml"
    recipe.replace(num_processes=2, gradient_checkpointing=None).save(file)
    assert main(["plan", str(file), "--probe", "--json", "--runs-dir", str(runs_dir)]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["available_gb"] == 20 and said["fits"] == "fits" and free == [1.0]


def test_rows_that_teach_nothing_are_not_measured(recipe, runs_dir, tmp_path, capsys):
    asked = [{"messages": [{"role": "user", "content": f"Where is parcel {number}?"}]} for number in range(20)]
    file = tmp_path / "recipe.yaml"
    recipe.replace(dataset_name=str(write_jsonl(tmp_path / "asked.jsonl", asked))).save(file)
    assert main(["plan", str(file), "--probe", "--json", "--runs-dir", str(runs_dir)]) == 1
    said = json.loads(capsys.readouterr().out)["error"]
    assert said["code"] == "data-blocked" and said["fix"]


def test_the_command_gives_the_measured_plan(recipe, runs_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(verbs_plan, "PROBE_SECONDS", 0.3)
    file = tmp_path / "recipe.yaml"
    recipe.save(file)
    assert main(["plan", str(file), "--probe", "--json", "--runs-dir", str(runs_dir)]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["rate_is_measured"] and said["time_error"] == 0.25
    assert parser().parse_args(["plan", "x", "--into", "folder"]).into.name == "folder"
