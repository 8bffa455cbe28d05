"""The page's handlers against a Hub here that really runs the job: start, lose, find again, stop."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hub_store import ALICE
from test_jobs import LONG, ROOT, home, hub, only_run, rows, step_of, steps  # noqa: F401 (some are fixtures)
from test_launch import wait_for

from finetune_core import launch

PAGE = """
import json, sys
from pathlib import Path
act, runs_dir, given = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
if act == "start":
    from finetune_core import Recipe
    from finetune_ui import begin, form, place
    from finetune_ui.looking import Looks
    from finetune_ui.renting import Renting

    looks, renting, boxes = Looks(), Renting(), form.to_boxes(Recipe(**given))
    placed = place.settle(looks.ask(form.read(boxes), wait_seconds=60), "jobs:cpu-basic", renting, 30)
    label = begin.show(runs_dir, "check", placed.look, (), None, placed)[2]["value"]
    for press in range(2):
        run, *_, problem = begin.press(looks, runs_dir, "check", "d", *boxes, on=placed.on, agreed=placed.agreed,
                                       renting=renting)
    print(json.dumps([run, problem, label]))
if act == "restart":
    from finetune_core import launch

    launch.follow_jobs(runs_dir)
if act == "stop":
    from finetune_ui import watch

    print(json.dumps(watch.stop_run(runs_dir, given)[0]["value"]))
"""


@pytest.mark.slow
def test_the_page_starts_a_job_loses_it_finds_it_again_and_stops_it(hub, home, rows, runs_dir):  # noqa: F811
    environment = hub.environment(home, ALICE) | {"FIJN_CACHE": str(home), "OMP_NUM_THREADS": "1"}

    def page(act, given=None):
        line = [sys.executable, "-c", PAGE, act, str(runs_dir), json.dumps(given)]
        told = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
        assert told.returncode == 0, told.stderr[-3000:]
        return json.loads(told.stdout.splitlines()[-1]) if told.stdout else None

    jobs = len(hub.jobs)
    given = {"model_name_or_path": "alice/tiny", "dataset_name": str(rows), "evaluate": False, "logging_steps": 1,
             "packing": False, "eval_steps": 5000} | LONG  # fmt: skip
    held, problem, label = page("start", given)
    assert problem == "" and label == "Start on CPU Basic for under 1 cent"
    run = only_run(runs_dir)
    assert run.id == held and run.status() == "running"
    wait_for(lambda: step_of(run) >= 5)
    assert len(hub.jobs) == jobs + 1 and hub.newest().said["flavor"] == "cpu-basic"
    launch.kill(run)
    assert run.status() == "interrupted" and hub.newest().stage == "RUNNING"
    page("restart")
    seen = step_of(run)
    wait_for(lambda: step_of(run) > seen)
    launch.kill(run)
    assert "Stopping" in page("stop", run.id)  # of a job that nobody follows
    wait_for(lambda: run.status() == "stopped" and run.has_result())
    assert len(hub.jobs) == jobs + 1 and steps(run) == list(range(1, step_of(run) + 1))

    for path in run.path.rglob("*"):
        assert not path.is_file() or ALICE.encode() not in path.read_bytes(), path
