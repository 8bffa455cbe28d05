"""What a killed process leaves is gone at the next start; what somebody works on, or has finished, stays."""

import errno
import json
import os
import shutil
import tempfile
import time

import pytest

from finetune_core import children, launch
from finetune_core.errors import FinetuneError
from finetune_core.files import remove, replacing
from finetune_core.leftovers import sweep_leftovers
from finetune_core.recipe import Recipe
from finetune_core.run import Run, list_runs


@pytest.fixture
def run(runs_dir):
    run = Run.create(runs_dir, Recipe())
    (run.path / ".rows" / "64").mkdir(parents=True)
    return run


def test_token_ids_of_a_killed_worker_are_gone_and_its_checkpoints_stay(run, runs_dir):
    (run.path / "checkpoints").mkdir()
    sweep_leftovers(runs_dir)
    assert not (run.path / ".rows").exists() and (run.path / "checkpoints").exists()


def test_token_ids_of_a_living_worker_stay(run, runs_dir):
    with run.lock():
        sweep_leftovers(runs_dir)
    assert (run.path / ".rows" / "64").exists()


def measurement(runs_dir, key, age=100.0):
    job = launch.before_training(runs_dir, "plan", key)
    with job.working() as say:
        say(0.5, "measuring")
    os.utime(job.folder, (time.time() - age,) * 2)
    return job


def killed(job):
    path = job.folder / "plan.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"outcome": ""}))


def test_a_measurement_that_was_killed_is_gone_and_a_finished_one_stays(runs_dir):
    finished, dead, young = (measurement(runs_dir, key, age) for key, age in (("a", 100), ("b", 100), ("c", 1)))
    killed(dead), killed(young)
    sweep_leftovers(runs_dir)
    assert [job.folder.exists() for job in (finished, dead, young)] == [True, False, True]


def test_a_measurement_that_failed_in_words_stays(runs_dir):
    job = launch.before_training(runs_dir, "plan", "a")
    with pytest.raises(FinetuneError), job.working():
        raise FinetuneError("It did not fit.", "Take less.", code="out-of-memory")
    os.utime(job.folder, (0, 0))
    sweep_leftovers(runs_dir)
    assert job.said().error["code"] == "out-of-memory"


def test_token_ids_of_a_run_that_is_being_started_stay(run, runs_dir):
    with run.starting(0):
        sweep_leftovers(runs_dir)
    assert (run.path / ".rows" / "64").exists()


def unmade(runs_dir):
    folder = runs_dir / ".making-abcd" / "data"
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text("{}\n")
    return folder.parent


def test_rows_of_a_start_that_was_killed_are_gone(runs_dir):
    folder = unmade(runs_dir)
    sweep_leftovers(runs_dir)
    assert not folder.exists()


def test_rows_that_another_start_is_writing_stay(runs_dir):
    there = []

    def fill(folder):
        sweep_leftovers(runs_dir)
        there.append(folder.exists())

    run = Run.create(runs_dir, Recipe(), fill=fill)
    assert there == [True] and run.status() == "new"


def test_a_measurement_that_is_being_started_anew_is_not_swept(runs_dir, monkeypatch):
    recipe, save = Recipe(), Recipe.save
    dead = measurement(runs_dir, launch.key_of(recipe, verb="plan"))
    killed(dead)

    def save_and_sweep(self, path):
        sweep_leftovers(runs_dir)
        save(self, path)

    monkeypatch.setattr(Recipe, "save", save_and_sweep)
    monkeypatch.setattr(launch, "start_job", lambda *_: sweep_leftovers(runs_dir))
    job = launch.start_before_training(runs_dir, "plan", recipe)
    assert job == dead and Recipe.load(job.folder / "recipe.yaml") == recipe


def test_a_file_among_the_measurements_is_left_alone(runs_dir):
    file = runs_dir / ".measured" / ".DS_Store"
    file.parent.mkdir(parents=True)
    file.write_text("")
    sweep_leftovers(runs_dir)
    assert file.exists()


def test_what_was_unpacked_or_fetched_days_ago_is_gone_and_what_is_young_or_elsewhere_stays(
    runs_dir, tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("FIJN_CACHE", str(tmp_path / "cache"))
    names = ["fijn-a", "cache/.pulling-b", "cache/.making-c", "fijn-young", "other", "cache/fetching", "real"]
    for name in names:
        (tmp_path / name / "rows").mkdir(parents=True)
        if name != "fijn-young":
            os.utime(tmp_path / name, (time.time() - 3 * 24 * 3600,) * 2)
    (tmp_path / "fijn-link").symlink_to(tmp_path / "real")  # whoever laid it in a folder that all may write to
    sweep_leftovers(runs_dir)
    assert [name for name in names if (tmp_path / name / "rows").exists()] == names[3:]
    assert (tmp_path / "fijn-link").exists()


def test_nothing_is_made_where_there_are_no_runs_yet(runs_dir):
    sweep_leftovers(runs_dir)
    assert not runs_dir.exists()


# --- a start that does not come off ---


def no_process(*_, **__):
    raise OSError(errno.ENOMEM, "Cannot allocate memory")


def test_a_new_run_of_which_no_process_comes_is_gone_with_its_rows(run, runs_dir, monkeypatch):
    monkeypatch.setattr(children, "spawn", no_process)
    with pytest.raises(OSError, match="memory"):
        launch.start_new(run)
    assert not run.path.exists() and list_runs(runs_dir) == []


def test_a_run_that_another_press_is_starting_stays(run, monkeypatch):
    with run.starting(0), monkeypatch.context() as patch:
        patch.setattr(launch, "start", no_process)
        with pytest.raises(OSError, match="memory"):
            launch.start_new(run)
    assert run.status() == "new" and (run.path / "recipe.yaml").is_file()


def test_who_waits_in_vain_for_another_start_is_told_what_to_do(run):
    with run.starting(0), pytest.raises(FinetuneError) as told:
        launch.start(run, wait_seconds=0.1)
    assert told.value.code == "busy" and told.value.fix.startswith("Wait a moment")


def test_a_run_that_has_learned_is_never_taken_back(run, monkeypatch):
    run.tell("start")
    monkeypatch.setattr(children, "spawn", no_process)
    with pytest.raises(OSError, match="memory"):
        launch.start_new(run)
    assert run.status() == "interrupted"


def test_the_log_of_a_worker_that_died_at_once_stays_to_be_read(run, monkeypatch):
    monkeypatch.setattr(launch, "command", lambda *_: ["false"])
    with pytest.raises(FinetuneError) as told:
        launch.start_new(run)
    assert told.value.code == "worker-died" and run.log_path.is_file()


def test_who_waited_for_a_start_that_did_not_come_off_is_told_and_makes_nothing(run, monkeypatch):
    (run.path / "recipe.yaml").unlink()
    with pytest.raises(FinetuneError) as told:
        launch.start_new(run)
    assert told.value.code == "no-run" and not run.path.exists()


# --- what removing passes over ---


@pytest.mark.parametrize(
    ("code", "is_told"),
    [(errno.ENOENT, False), (errno.EBUSY, False), (errno.EACCES, False), (errno.ENOTEMPTY, False), (errno.EIO, True),
     (errno.ENOTDIR, True)],
)  # fmt: skip
def test_only_what_is_gone_already_or_in_use_is_passed_over(tmp_path, monkeypatch, code, is_told):
    def refuse(_folder):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(shutil, "rmtree", refuse)
    if is_told:
        with pytest.raises(OSError, match=os.strerror(code)):
            remove(tmp_path)
    else:
        remove(tmp_path)


def test_a_file_that_could_not_be_written_leaves_no_part_of_it(tmp_path):
    with pytest.raises(ValueError, match="no"), replacing(tmp_path / "a.json") as beside:
        beside.write_text("half")
        raise ValueError("no")
    assert list(tmp_path.iterdir()) == []
