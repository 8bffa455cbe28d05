"""Sweeps that a table can be trusted about: what is tried, what is told, and which rows it is told from."""

import json
from types import SimpleNamespace

import pytest
from before_training import quick_recipe
from conftest import chat_rows, write_jsonl
from filelock import FileLock

from finetune_core import launch
from finetune_core.alone import WAITING
from finetune_core.cli import main
from finetune_core.errors import FinetuneError
from finetune_core.job import Said
from finetune_core.preflight import look
from finetune_core.progress import summarize
from finetune_core.recipe import Recipe
from finetune_core.run import Run, list_runs
from finetune_core.search_space import read_space, swept, usual_space
from finetune_core.sweep import Trial, _trial, ranked, sentence
from finetune_ui import beforehand, form, words_beforehand
from finetune_ui.beforehand import Drawn


@pytest.fixture
def recipe(tmp_path, tiny_model_dir):
    return quick_recipe(tmp_path, tiny_model_dir)


def test_values_with_commas_are_tried_and_the_rest_stays_as_it_is():
    fixed, space = read_space(["learning_rate=1e-4, 2e-4,1e-4", "dataset_name=a,b", "lora_r=8", "method=lora,full"])
    assert fixed == ["dataset_name=a,b", "lora_r=8"]
    assert space == {"learning_rate": [1e-4, 2e-4], "method": ["lora", "full"]}


def test_a_list_in_brackets_is_one_value():
    assert read_space(["lora_target_modules=[q_proj,v_proj]"]) == (["lora_target_modules=[q_proj,v_proj]"], {})


def test_a_value_that_the_recipe_refuses_is_told_before_anything_starts():
    with pytest.raises(FinetuneError, match="lora_r"):
        read_space(["lora_r=8,many"])


def test_what_is_learned_from_is_never_swept():
    assert not {"dataset_name", "test_size", "seed", "max_length", "evaluate_rows"} & set(swept())


def test_a_limit_in_minutes_is_one_for_all_trials():
    """What it leaves of the epochs is worked out before the first of them, and is not limited again."""
    assert read_space(["max_minutes=1,4"]) == (["max_minutes=1,4"], {})


def test_a_full_training_sweeps_no_rank():
    assert "lora_r" not in usual_space(Recipe(method="full", learning_rate=2e-5))


def test_the_lowest_loss_comes_first_and_what_did_not_end_last():
    trials = [Trial("a", {}, "pruned", 0.1), Trial("b", {}, "finished", 0.5), Trial("c", {}, "finished", 0.4),
              Trial("d", {}, "failed")]  # fmt: skip
    assert [trial.run for trial in ranked(trials)] == ["c", "b", "a", "d"]


@pytest.mark.parametrize(
    ("own", "says"),
    [({"lora_r": 8}, "where your settings reach 0.500"), ({"lora_r": 16}, "the settings that you had"),
     ({"lora_r": 4}, "validation loss of 0.400.")],
)  # fmt: skip
def test_the_best_is_told_beside_what_one_had(own, says):
    trials = [Trial("c", {"lora_r": 16}, "finished", 0.4), Trial("b", {"lora_r": 8}, "finished", 0.5)]
    assert says in sentence(trials, own)


@pytest.mark.parametrize(
    "boxes", [("1e-4, x", "", "", "3"), ("", "0, 8", "", "3"), ("", "", "", "3"), ("1e-4,2e-4", "", "", "1000")]
)
def test_a_sweep_that_cannot_be_meant_is_refused_before_anything_starts(boxes):
    with pytest.raises(FinetuneError):
        beforehand.read_sweep(Recipe(), *boxes)


def test_no_number_of_trials_is_asked_for_in_words():
    with pytest.raises(FinetuneError, match=r"^How many trials\? Write how many, from 1 to 100\.$"):
        beforehand.read_sweep(Recipe(), "1e-4, 2e-4", "", "", "")


def test_one_value_in_a_box_is_tried_alone():
    assert beforehand.read_sweep(Recipe(), "1e-4", "8, 16", "", "4") == (
        {"learning_rate": [1e-4], "lora_r": [8, 16]},
        4,
    )


@pytest.fixture(scope="module")
def swept_runs(tmp_path_factory, tiny_model_dir):
    """A sweep over two learning rates, one far too small, through the command line."""
    folder = tmp_path_factory.mktemp("sweep")
    rows = write_jsonl(folder / "rows.jsonl", chat_rows(60))
    recipe = Recipe(
        model_name_or_path=str(tiny_model_dir), dataset_name=str(rows), max_length=64, accept_warnings=True,
        num_train_epochs=2, max_new_tokens=6, evaluate_rows=6, learning_rate=1e-6,
    )  # fmt: skip
    recipe.save(folder / "recipe.yaml")
    runs_dir = folder / "runs"
    into = ["--into", str(folder / "job"), "--runs-dir", str(runs_dir)]
    code = main(["sweep", str(folder / "recipe.yaml"), "learning_rate=1e-6,3e-3", "--trials", "5", "--json", *into])
    return code, json.loads((folder / "job" / "report.json").read_text()), runs_dir


@pytest.mark.slow
def test_a_sweep_finds_the_setting_that_learns(swept_runs):
    code, found, _ = swept_runs
    assert code == 0 and [trial["values"]["learning_rate"] for trial in found["trials"]] == [3e-3, 1e-6]
    assert found["trials"][0]["validation_loss"] < found["trials"][1]["validation_loss"]
    assert "where your settings reach" in found["sentence"]


@pytest.mark.slow
def test_every_trial_is_an_ordinary_run_with_the_recipe_to_copy_and_only_the_best_saw_the_test_rows(swept_runs):
    _, found, runs_dir = swept_runs
    runs = {run.id: run for run in list_runs(runs_dir)}
    assert set(runs) == {trial["run"] for trial in found["trials"]}
    assert all(run.status() == "finished" and run.recipe.evaluate for run in runs.values())
    best, other = (runs[trial["run"]] for trial in found["trials"])
    assert best.report() is not None and other.report() is None
    assert found["proved"] == best.report()["verdict"]["sentence"]


@pytest.mark.slow
def test_the_trials_look_at_the_validation_rows_at_the_same_steps(swept_runs):
    _, found, runs_dir = swept_runs
    looks = [
        [step for step, _ in summarize(Run(runs_dir / trial["run"]).events()).eval_loss] for trial in found["trials"]
    ]
    assert looks[0] == looks[1] and len(looks[0]) >= 4


def test_the_page_starts_a_sweep_as_the_command_that_can_be_typed(recipe, runs_dir, monkeypatch):
    lines = []
    monkeypatch.setattr(launch, "start_job", lambda job, line, secrets=None: lines.append(line))
    *_, drawn, _ = beforehand.ask_settings(runs_dir, Drawn(), "1e-4", "4, 8", "", "3", *form.to_boxes(recipe))
    assert beforehand.job_of(runs_dir, "sweep", drawn.key).folder.is_dir()
    assert {"sweep", "learning_rate=1e-4,", "lora_r=4,8,", "--trials", "3"} <= set(lines[0])


def test_without_validation_rows_there_is_no_sweep(recipe, runs_dir, tmp_path, capsys):
    file = tmp_path / "recipe.yaml"
    recipe.replace(validation_size=0.0).save(file)
    assert main(["sweep", str(file), "lora_r=4,8", "--json", "--runs-dir", str(runs_dir)]) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "no-rows" and list_runs(runs_dir) == [], error


class Told:
    """What optuna is told and what it answers."""

    def __init__(self, prune_after):
        self.reports, self.prune_after = [], prune_after

    def report(self, loss, step):
        self.reports.append((step, loss))

    def should_prune(self):
        return len(self.reports) >= self.prune_after


@pytest.mark.slow
def test_a_trial_that_falls_behind_is_stopped_and_keeps_what_it_learned(recipe, runs_dir):
    from finetune_core.sweep import _try

    asked, seen = Told(prune_after=1), []
    trial = _try(
        look(recipe), recipe.replace(num_train_epochs=60, eval_steps=2, learning_rate=1e-3), {"lora_r": 16}, runs_dir,
        None, asked, lambda trial, share, waits=False: seen.append(share), lambda: False,
    )  # fmt: skip
    run = Run(runs_dir / trial.run)
    assert trial.outcome == "pruned" and run.status() == "stopped" and run.has_result()
    assert trial.validation_loss == summarize(run.events()).eval_loss[-1][1] and asked.reports and seen[-1] < 1


def test_a_setting_that_cannot_be_is_a_failed_trial_and_not_the_end(recipe, runs_dir):
    from finetune_core.sweep import _try

    tried = recipe.replace(method="qlora")
    trial = _try(look(recipe), tried, {"method": "qlora"}, runs_dir, None, Told(9), lambda *_: None, bool)
    assert trial.outcome == "failed" and "QLoRA" in trial.problem


def test_a_worker_that_has_not_written_yet_is_waited_for(recipe, runs_dir, monkeypatch):
    """On a machine with a GPU a second passes between its lock and its first line."""
    from finetune_core import preflight
    from finetune_core.sweep import _try

    seen = look(recipe)
    run = Run.create(runs_dir, recipe)
    lock = FileLock(run.path / "worker.lock")
    monkeypatch.setattr(preflight, "create_run_from", lambda *_, **__: run)
    monkeypatch.setattr(launch, "start", lambda *_, **__: lock.acquire())

    def later(_seconds):
        run.tell("done", outcome="finished", seconds=1.0)
        lock.release()

    monkeypatch.setattr("finetune_core.sweep.time", SimpleNamespace(sleep=later))
    assert _try(seen, recipe, {}, runs_dir, None, Told(9), lambda *_: None, bool).outcome == "finished"


def test_the_rows_are_read_once_for_all_trials(recipe, runs_dir, monkeypatch):
    from finetune_core import data
    from finetune_core.sweep import sweep

    read, started, prepare = [], [], data.prepare

    def start(run, *_, **__):
        started.append((run.recipe.lora_r, (run.path / "data" / "train.jsonl").read_text()))
        raise FinetuneError("Not here.", "Elsewhere.", code="away")

    monkeypatch.setattr(data, "prepare", lambda *what, **how: read.append(what) or prepare(*what, **how))
    monkeypatch.setattr(launch, "start", start)
    found = sweep(recipe, {"lora_r": [4, 8], "learning_rate": [1e-3]}, 4, runs_dir)
    assert len(read) == 1 and [rank for rank, _ in started] == [4, 8]
    assert len({rows for _, rows in started}) == 1
    assert [trial.run for trial in found.trials] == ["", ""] and list_runs(runs_dir) == []  # none of them began


@pytest.mark.parametrize(("test_size", "proved"), [(0.1, "Proved."), (0.0, "")])
def test_the_rows_that_chose_the_best_do_not_prove_it(recipe, runs_dir, monkeypatch, test_size, proved):
    """Without test rows a comparison takes the validation rows."""
    from finetune_core import sweep as room

    trial = Trial("r", {"lora_r": 4}, "finished", 0.5)
    monkeypatch.setattr(room, "_try", lambda *_: trial)
    monkeypatch.setattr(room, "_prove", lambda *_: "Proved.")
    found = room.sweep(recipe.replace(evaluate=True, test_size=test_size), {"lora_r": [4]}, 1, runs_dir)
    assert found.proved == proved


@pytest.mark.parametrize(("early_stopping", "loss"), [(False, 0.7), (True, 0.4)])
def test_a_trial_is_judged_by_the_weights_that_it_keeps(recipe, runs_dir, early_stopping, loss):
    run = Run.create(runs_dir, recipe.replace(early_stopping=early_stopping))
    for step, value in ((2, 0.5), (4, 0.4), (6, 0.7)):
        run.tell("eval", step=step, loss=value)
    assert _trial(run, {}, "finished").validation_loss == loss


def test_trials_of_several_lengths_are_compared_by_the_part_that_is_done(recipe, runs_dir, monkeypatch):
    from finetune_core.sweep import _try

    seen, asked, locks = look(recipe), Told(9), []

    def start(run, *_, **__):
        locks.append(FileLock(run.path / "worker.lock"))
        locks[0].acquire()
        run.tell("step", step=10, total_steps=40, loss=0.9)
        run.tell("eval", step=10, loss=0.8)

    monkeypatch.setattr(launch, "start", start)
    monkeypatch.setattr("finetune_core.sweep.time", SimpleNamespace(sleep=lambda _: locks[0].release()))
    _try(seen, recipe, {}, runs_dir, None, asked, lambda *_: None, bool)
    assert asked.reports == [(25, 0.8)]


def test_a_trial_is_asked_to_stop_when_its_sweep_is_broken_off(recipe, runs_dir, monkeypatch):
    from finetune_core.sweep import _try

    seen, locks = look(recipe), []

    def start(run, *_, **__):
        locks.append(FileLock(run.path / "worker.lock"))
        locks[0].acquire()

    def broken_off(_seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(launch, "start", start)
    monkeypatch.setattr("finetune_core.sweep.time", SimpleNamespace(sleep=broken_off))
    with pytest.raises(KeyboardInterrupt):
        _try(seen, recipe, {}, runs_dir, None, Told(9), lambda *_: None, bool)
    assert (list_runs(runs_dir)[0].path / "stop").exists()


def test_trials_that_were_stopped_have_not_failed():
    assert sentence([Trial("a", {}, "stopped")], {}) == "It was stopped before a trial came to its end."


@pytest.mark.parametrize(("stage", "waits"), [(WAITING, True), ("training", False)])
def test_a_trial_that_stands_in_line_says_so(recipe, runs_dir, monkeypatch, stage, waits):
    """At the terminal, and on the page."""
    from finetune_core import sweep as room

    locks, says = [], []

    def start(run, *_, **__):
        locks.append(FileLock(run.path / "worker.lock"))
        locks[0].acquire()
        run.tell("stage", name=stage)

    monkeypatch.setattr(launch, "start", start)
    monkeypatch.setattr(room, "time", SimpleNamespace(sleep=lambda _: locks[0].release()))
    tables = []
    room.sweep(recipe, {"lora_r": [4]}, 1, runs_dir, say=lambda _, word: says.append(word), on_change=tables.append)
    (last,) = [word for word in says if word.startswith("trial")][-1:]
    assert last.endswith("waiting for its turn") is waits
    shown = words_beforehand.sweep(Said(1, 0.0, 0.1, last), tables[0].as_dict(), "", 9.0)
    assert ("It waits for other work" in shown) is waits
