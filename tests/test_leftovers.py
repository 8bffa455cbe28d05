"""What a killed worker leaves is gone at the next start; what somebody works on, or has finished, stays."""

import json
import os
import time

import pytest

from finetune_core import launch
from finetune_core.errors import FinetuneError
from finetune_core.leftovers import sweep_leftovers
from finetune_core.recipe import Recipe
from finetune_core.run import Run


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
