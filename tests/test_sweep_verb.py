"""The sweep at a terminal: what is told while it goes on, Ctrl-C, and how it ends."""

import json
import os
import signal
import sys
from dataclasses import replace

import pytest
from before_training import quick_recipe

from finetune_core.cli import main
from finetune_core.job import Job
from finetune_core.sweep import Sweep, Trial, sentence


@pytest.fixture
def recipe(tmp_path, tiny_model_dir):
    return quick_recipe(tmp_path, tiny_model_dir)


@pytest.fixture
def failed_sweep(recipe, runs_dir, tmp_path, monkeypatch, capsys):
    """A sweep whose only trial fails, over the folder of an earlier one: (exit code, what it said, the table it began
    with)."""
    folder, began = tmp_path / "job", []
    folder.mkdir()
    (folder / "report.json").write_text('{"trials": [{"run": "earlier"}]}')

    def work(*_, on_change, **__):
        began.append((folder / "report.json").exists())
        trials = [Trial("a", {"lora_r": 8}, "failed", problem="It did not fit. Choose a smaller model.")]
        on_change(found := Sweep({"lora_r": [8]}, 1, trials, sentence(trials, {})))
        return found

    monkeypatch.setattr("finetune_core.sweep.sweep", work)
    file = tmp_path / "recipe.yaml"
    recipe.save(file)
    code = main(["sweep", str(file), "lora_r=8,", "--json", "--into", str(folder), "--runs-dir", str(runs_dir)])
    return code, json.loads(capsys.readouterr().out), began


def test_a_sweep_in_which_nothing_finished_has_failed_and_says_why(failed_sweep):
    code, found, _ = failed_sweep
    assert code == 1
    assert found["sentence"] == "No trial came to its end. It did not fit. Choose a smaller model."


def test_each_trial_is_told_at_the_terminal_as_soon_as_it_ends(recipe, runs_dir, tmp_path, monkeypatch, capsys):
    first, second = (
        Trial(run, {"lora_r": r}, "finished", loss, 9, 30.0) for run, r, loss in (("a", 8, 0.5), ("b", 4, 0.4))
    )

    def work(*_, say, on_change, **__):
        say(0.0, "trial 1 of 2: lora_r 8")
        on_change(Sweep({}, 2, [replace(first, outcome="running")]))
        on_change(Sweep({}, 2, [first]))
        say(0.5, "trial 2 of 2: lora_r 4")
        on_change(found := Sweep({}, 2, [second, first], "Best of 2.", "Better by 3 to 9 points."))
        return found

    monkeypatch.setattr("finetune_core.sweep.sweep", work)
    file = tmp_path / "recipe.yaml"
    recipe.save(file)
    assert main(["sweep", str(file), "lora_r=8,4", "--into", str(tmp_path / "job"), "--runs-dir", str(runs_dir)]) == 0
    said = capsys.readouterr()
    lines = ["   0.500  finished  lora_r=8  30 s  a", "   0.400  finished  lora_r=4  30 s  b"]
    assert said.err.splitlines() == ["trial 1 of 2: lora_r 8", lines[0], "trial 2 of 2: lora_r 4", lines[1]]
    proved = "The best one on the test rows: Better by 3 to 9 points."
    assert said.out.splitlines() == ["Best of 2.", lines[1], lines[0], proved]


@pytest.fixture
def verb(recipe, runs_dir, tmp_path, monkeypatch):
    """The verb with its work replaced: verb(work) -> (exit code, its job's last word)."""
    recipe.save(tmp_path / "recipe.yaml")
    line = ["sweep", str(tmp_path / "recipe.yaml"), "lora_r=8,4"]
    line += ["--into", str(tmp_path / "job"), "--runs-dir", str(runs_dir)]

    def run(work):
        monkeypatch.setattr("finetune_core.sweep.sweep", work)
        return main(line), Job(tmp_path / "job", "sweep").said()

    return run


def test_how_far_the_trials_are_is_written_over_at_a_terminal(verb, monkeypatch, capsys):
    trial = Trial("a", {"lora_r": 8}, "finished", 0.5, 9, 30.0)

    def work(*_, say, on_change, **__):
        say(0.25, "trial 1 of 1: lora_r 8")
        on_change(found := Sweep({}, 1, [trial], "Best of 1."))
        return found

    monkeypatch.setattr(type(sys.stderr), "isatty", lambda _: True)
    verb(work)
    said = capsys.readouterr().err
    assert said.index("trial 1 of 1") < said.index(" 25%") < said.index("\r\x1b[K   0.500  finished")


def test_ctrl_c_ends_a_sweep_as_stop_does(verb):
    """What was learned is kept, and the trial that goes on in a session of its own is told."""

    def work(*_, should_stop, **__):
        os.kill(os.getpid(), signal.SIGINT)
        assert should_stop()
        return Sweep({}, 2, [Trial("a", {"lora_r": 8}, "stopped")])

    code, said = verb(work)
    assert (code, said.outcome) == (3, "stopped")


def test_the_table_of_an_earlier_sweep_is_gone_when_the_next_begins(failed_sweep):
    assert failed_sweep[2] == [False]
