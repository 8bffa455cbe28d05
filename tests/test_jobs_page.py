"""The page's handlers against a Hub here that really runs the job: start, lose, find again, stop."""

# ruff: noqa: F401, F811 (some of what is imported are fixtures)

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hub_store import ALICE
from test_jobs import (
    LONG,
    RENT,
    ROOT,
    calm,
    do,
    home,
    hub,
    only_run,
    recipe_words,
    rows,
    start,
    step_of,
    steps,
)
from waiting import wait_for

from finetune_core import launch
from finetune_core.run import Run

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
if act == "rung":
    from finetune_ui import watch

    label, *_, agreed = watch.start_gentler(runs_dir, given)
    jobs = len(list(runs_dir.glob("*/recipe.yaml")))
    *_, held, _ = watch.start_gentler(runs_dir, given, 0, agreed)
    print(json.dumps([label["value"], jobs, held]))
"""
SHORT_OF_MEMORY = """
import importlib.util, sys

class Short:
    def find_spec(self, name, path=None, target=None):
        if name != "finetune_core.trainer":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def loaded(module):
            load(module)
            build = module.build_trainer

            def build_trainer(recipe, *more):
                if recipe.max_length > 256:
                    raise MemoryError
                return build(recipe, *more)

            module.build_trainer = build_trainer

        spec.loader.exec_module = loaded
        return spec

sys.meta_path.insert(0, Short())
"""


@pytest.fixture
def page(hub, home, runs_dir):
    """`page(act, given)`: what PAGE says to it in a process of its own."""
    environment = hub.environment(home, ALICE) | {"FIJN_CACHE": str(home), "OMP_NUM_THREADS": "1"}

    def page(act, given=None):
        line = [sys.executable, "-c", PAGE, act, str(runs_dir), json.dumps(given)]
        told = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
        assert told.returncode == 0, told.stderr[-3000:]
        return json.loads(told.stdout.splitlines()[-1]) if told.stdout else None

    return page


@pytest.mark.slow
def test_where_a_job_runs_out_of_memory_the_next_rung_is_offered_and_starts_when_its_price_is_agreed_to(
    hub,
    do,
    page,
    recipe_words,
    runs_dir,
    tmp_path,
):
    (tmp_path / "sitecustomize.py").write_text(SHORT_OF_MEMORY)
    hub.beside = tmp_path
    code, said = do("train", *recipe_words(max_length=512), *RENT)
    run, jobs = only_run(runs_dir), len(hub.jobs)
    assert (code, said["code"]) == (1, "out-of-memory"), hub.newest().log.read_text()[-3000:]
    code, said = do("train", run.id)
    assert (code, said["error"]["code"]) == (1, "not-agreed") and "(max_length=256)" in said["error"]["problem"]
    assert len(hub.jobs) == jobs

    label, runs, held = page("rung", run.id)
    assert label == "Run again with rows of 256 tokens on CPU Basic, under 1 cent at most" and runs == 1
    new = Run(runs_dir / held)
    wait_for(lambda: new.status() == "finished")
    assert len(hub.jobs) == jobs + 1 and hub.newest().said["flavor"] == "cpu-basic"
    assert new.recipe.max_length == 256 and new.has_result() and not run.has_result()


@pytest.mark.slow
def test_the_page_starts_a_job_loses_it_finds_it_again_and_stops_it(hub, page, rows, runs_dir):
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
