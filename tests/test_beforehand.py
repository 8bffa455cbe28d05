"""Before training: prompts on the untuned model, from the page and as a verb."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest
from before_training import quick_recipe
from waiting import wait_for

from finetune_core import launch
from finetune_core.cli import main
from finetune_core.errors import FinetuneError
from finetune_core.files import write_json
from finetune_core.run import list_runs
from finetune_ui import beforehand, form, words_beforehand
from finetune_ui.beforehand import Drawn
from finetune_ui.frame import Page


@pytest.fixture
def recipe(tmp_path, tiny_model_dir):
    return quick_recipe(tmp_path, tiny_model_dir)


def until_over(job, seconds=150):
    wait_for(lambda: job.said() and job.said().outcome, seconds)


def test_trying_prompts_from_the_page_ends_with_what_is_left_to_win(recipe, runs_dir):
    card, *_, drawn, clock = beforehand.ask_prompts(runs_dir, Drawn(), *form.to_boxes(recipe))
    assert "Starting." in card and clock.active
    job = beforehand.job_of(runs_dir, "should-i", drawn.key)
    until_over(job)
    shown, *_ = beforehand.tick(runs_dir, "check", drawn)
    assert "start with at least 50" in shown and "What each prompt reached" in shown
    assert "Tuned" not in shown and list_runs(runs_dir) == []


def test_wrong_boxes_start_nothing(recipe, runs_dir):
    boxes = form.to_boxes(recipe)
    names = [name for name in form.FIELDS if form.has_choice(name)]
    boxes[names.index("lora_r")] = "many"
    card, *_ = beforehand.ask_prompts(runs_dir, Drawn(), *boxes)
    assert "notice bad" in card
    assert not (runs_dir / ".should-i").exists()


@pytest.mark.parametrize("name", ["../../x", "", "0123456789abcde", "0123456789abcdeF", "/etc/passwd-1234"])
def test_only_names_made_here_become_folders(runs_dir, name):
    with pytest.raises(FinetuneError):
        beforehand.job_of(runs_dir, "sweep", name)


@pytest.mark.parametrize(("step", "key"), [("check", ""), ("check", "0123456789abcdef"), ("train", "0123456789abcdef")])
def test_the_clock_rests_when_nothing_goes_on(runs_dir, step, key):
    assert beforehand.tick(runs_dir, step, Drawn(key))[-1].active is False


def test_the_clock_goes_on_while_a_job_does(recipe, runs_dir):
    with ask(runs_dir, "should-i", recipe).working():
        assert beforehand.tick(runs_dir, "check", Drawn(launch.key_of(recipe)))[-1] == gr.skip()


def test_every_answer_fills_all_that_is_shown(recipe, runs_dir):
    with gr.Blocks():
        page = Page(runs_dir, gr.State(""), gr.State(""))
        built = beforehand.build(page, [])
    assert len(built.outputs) == beforehand.OUTPUTS == len(beforehand.show(runs_dir, recipe, None, Drawn()))


def ask(runs_dir, verb, recipe):
    job = launch.before_training(runs_dir, verb, launch.key_of(recipe))
    job.folder.mkdir(parents=True)
    recipe.save(job.folder / "recipe.yaml")
    return job


def test_a_page_that_is_loaded_again_goes_on_watching(recipe, runs_dir):
    with ask(runs_dir, "should-i", recipe).working() as say:
        say(0.4, "Base with 4 examples")
        card, start, stop, *_, drawn, clock = beforehand.show(runs_dir, recipe, None, Drawn())
        assert "Trying prompts." in card and "40%" in card and "Now: Base with 4 examples." in card
        assert not start["visible"] and stop["visible"] and clock.active
        again = beforehand.show(runs_dir, recipe, None, drawn)
        assert all(part == gr.skip() for part in again[:-1])
        assert beforehand.stop(runs_dir, "should-i", drawn)["value"] == words_beforehand.STOPPING


def test_what_was_tried_for_other_rows_is_not_shown_for_these(recipe, runs_dir):
    report = {"verdict": {"sentence": "Nine points to gain."}, "n": 6}
    write_json(ask(runs_dir, "should-i", recipe).folder / "report.json", report)
    card, *_, drawn, _ = beforehand.show(runs_dir, recipe, None, Drawn())
    assert "Nine points to gain." in card
    assert f"{Path(recipe.model_name_or_path).name}, rows" in card  # which model and which rows those were
    other, *_ = beforehand.show(runs_dir, recipe.replace(dataset_name="acme/faq"), None, drawn)
    assert words_beforehand.PROMPTS_TEXT in other and "Nine points" not in other


@pytest.mark.parametrize("change", [{"learning_rate": 1e-3}, {"lora_r": 64}, {"dtype": "float32"}, {"packing": True}])
def test_how_it_would_learn_changes_nothing_about_what_was_tried(recipe, change):
    assert launch.key_of(recipe.replace(**change)) == launch.key_of(recipe)


@pytest.mark.parametrize("change", [{"dataset_name": "a/b"}, {"fixes": ["drop-duplicates"]}, {"evaluate_rows": 9}])
def test_other_rows_and_another_proof_are_another_trial(recipe, change):
    assert launch.key_of(recipe.replace(**change)) != launch.key_of(recipe)


def test_the_boxes_of_a_sweep_follow_the_settings_and_leave_what_was_typed(recipe, runs_dir):
    def look(**values):
        plan = SimpleNamespace(recipe=recipe.replace(learning_rate=1e-3, **values))
        return SimpleNamespace(seen=SimpleNamespace(plan=plan))

    first = beforehand.show(runs_dir, recipe, look(), Drawn())
    assert first[7:11] == ["3e-4, 0.001, 0.003", "8, 16, 32", "1, 2, 4", "6"]
    same = beforehand.show(runs_dir, recipe, look(), first[-2])
    assert all(part == gr.skip() for part in same[7:11])
    assert beforehand.show(runs_dir, recipe, look(lora_r=64), first[-2])[8] == "32, 64, 128"


def test_a_sweep_says_which_trial_goes_on_in_the_words_of_the_page(recipe, runs_dir):
    job = ask(runs_dir, "sweep", recipe)
    write_json(job.folder / "report.json", {"asked": 9, "trials": []})  # of an earlier sweep
    os.utime(job.folder / "report.json", (1.0, 1.0))
    with job.working() as say:
        say(0.1, "trial 1 of 6: lora_r 8")
        *_, table, _, _, fold, _, _, _, _, drawn, _ = beforehand.show(runs_dir, recipe, None, Drawn())
        assert "Trial 1 of 6: Adapter rank 8." in table and fold["label"].endswith("going on")
        trials = [{"run": "r", "values": {"learning_rate": 0.003}, "outcome": "running", "validation_loss": None}]
        write_json(job.folder / "report.json", {"asked": 6, "trials": trials})
        assert "Trial 1 of 6: Learning rate 0.003." in beforehand.tick(runs_dir, "check", drawn)[3]


def test_the_verb_says_it_as_json(recipe, runs_dir, tmp_path, capsys):
    file = tmp_path / "recipe.yaml"
    recipe.save(file)
    assert main(["should-i", str(file), "evaluate_rows=4", "--json", "--runs-dir", str(runs_dir)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["n"] == 4 and report["complete"] and {r["model"] for r in report["rivals"]} == {"base"}
