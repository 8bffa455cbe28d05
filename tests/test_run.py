"""A run is a folder; its status is computed from what is there."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from finetune_core.errors import FinetuneError
from finetune_core.events import append_event, last_event, read_events
from finetune_core.recipe import Recipe
from finetune_core.run import Run, list_runs


@pytest.fixture
def run(runs_dir):
    return Run.create(runs_dir, Recipe())


def hold_lock(run):
    """Another process that holds the worker's lock, as a real worker does."""
    code = (
        "import sys,time; from filelock import FileLock; l=FileLock(sys.argv[1]); l.acquire();"
        "print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(run.path / "worker.lock")], stdout=subprocess.PIPE)
    assert process.stdout.readline().strip() == b"held"
    return process


def test_a_new_run_has_its_recipe_written_out(run):
    assert run.status() == "new"
    assert run.recipe == Recipe()
    assert "smollm2-135m-instruct-shop-messages" in run.id


def test_rows_of_a_run_that_was_never_made_do_not_stay_behind(runs_dir):
    left = runs_dir / ".making-abcd" / "data"
    left.mkdir(parents=True)
    (left / "train.jsonl").write_text("{}\n")
    run = Run.create(runs_dir, Recipe())
    assert not left.parent.exists() and run.status() == "new"


@pytest.mark.parametrize(
    ("last", "status"),
    [
        (("step", {"step": 1, "total_steps": 9}), "interrupted"),
        (("error", {"code": "x", "problem": "p", "fix": "f"}), "failed"),
        (("done", {"outcome": "finished"}), "finished"),
        (("done", {"outcome": "stopped"}), "stopped"),
    ],
)
def test_status_follows_the_last_event(run, last, status):
    run.tell("start")
    run.tell(last[0], **last[1])
    assert run.status() == status


def test_a_killed_worker_leaves_an_interrupted_run(run):
    run.tell("start")
    process = hold_lock(run)
    assert run.status() == "running"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert run.status() == "interrupted"


def test_many_askers_do_not_take_each_other_for_a_worker(run):
    run.tell("start")
    (run.path / "worker.lock").touch()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: run.status(), range(64)))
    assert set(answers) == {"interrupted"}


def test_a_double_click_makes_one_run(runs_dir):
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: Run.create(runs_dir, Recipe(), tail="abcd1234").id, range(4)))
    assert len(set(made)) == 1
    assert len(list_runs(runs_dir)) == 1


def test_runs_are_listed_newest_first(runs_dir):
    first = Run.create(runs_dir, Recipe())
    time.sleep(0.02)
    second = Run.create(runs_dir, Recipe())
    assert [run.id for run in list_runs(runs_dir)] == [second.id, first.id]


def test_a_half_made_folder_is_no_run(runs_dir):
    (runs_dir / "2026-half").mkdir(parents=True)
    (runs_dir / ".making-x").mkdir()
    assert list_runs(runs_dir) == []


@pytest.mark.parametrize("name", ["../secrets", "..", ".", "", "/etc", "nope", "a/b", "%2e%2e", "\x00"])
def test_an_id_from_outside_finds_only_runs(runs_dir, run, name):
    with pytest.raises((FinetuneError, ValueError)):
        Run.find(runs_dir, name)


def test_a_run_is_found_by_its_tail(runs_dir, run):
    assert Run.find(runs_dir, run.id.rpartition("-")[2]).path == run.path


def test_a_running_run_is_not_deleted(run):
    process = hold_lock(run)
    with pytest.raises(FinetuneError, match="still going on"):
        run.delete()
    process.kill()
    process.wait()
    run.delete()
    assert not run.path.exists()


def test_a_deleted_run_is_not_made_again_by_who_asks_how_it_stands(run, monkeypatch):
    with run.lock():
        pass
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: path.name == "worker.lock" or exists(path))  # a moment ago
    shutil.rmtree(run.path)
    assert run.status() == "new" and not run.is_alive() and not exists(run.path)


def test_a_folder_that_cannot_be_written_says_so(tmp_path):
    if os.geteuid() == 0:
        (tmp_path / "file").write_text("")
        with pytest.raises((FinetuneError, OSError)):
            Run.create(tmp_path / "file" / "runs", Recipe())
    else:
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(FinetuneError, match="cannot be written"):
            Run.create(tmp_path / "locked", Recipe())


def test_a_cut_line_spoils_only_itself(tmp_path):
    path = tmp_path / "events.jsonl"
    append_event(path, "start")
    with path.open("a") as file:
        file.write('{"kind": "step", "st')
    assert [event.kind for event in read_events(path)] == ["start"]
    append_event(path, "stage", name="training")
    assert [event.kind for event in read_events(path)] == ["start", "stage"]


@pytest.mark.parametrize("written", [0, 1, 3, 500])
@pytest.mark.parametrize("end", ["", '{"kind": "done", "ti', "no JSON\n", '{"kind": "stage"}\n\n', "x" * 40_000 + "\n"])
def test_the_last_event_is_that_of_the_whole_diary_whatever_was_cut(tmp_path, written, end):
    path = tmp_path / "events.jsonl"
    for step in range(written):
        append_event(path, "sample", step=step, answer="é" * (5000 if step == written - 1 else 20))
    with path.open("a", encoding="utf-8") as file:
        file.write(end)
    assert last_event(path) == (read_events(path) or [None])[-1]


def test_how_a_run_stands_is_known_without_its_whole_diary(run, monkeypatch):
    for step in range(200):
        run.tell("step", step=step, total_steps=200, loss=1.0)
    run.tell("done", outcome="finished")
    parsed, loads = [], json.loads
    monkeypatch.setattr(json, "loads", lambda text: parsed.append(text) or loads(text))
    assert run.status() == "finished" and len(parsed) == 1


def test_a_diary_holds_no_token_and_no_nan(tmp_path):
    path = tmp_path / "events.jsonl"
    append_event(path, "warning", says="token hf_" + "a" * 30, loss=float("nan"), nested=[float("inf")])
    text = path.read_text()
    assert "hf_aaa" not in text and "NaN" not in text and "Infinity" not in text
