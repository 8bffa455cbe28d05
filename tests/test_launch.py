"""Workers in processes of their own: killed, stopped, waiting, discarded; the diary tells, and the token is nowhere."""

import os
import signal
from pathlib import Path

import pytest
from waiting import wait_for

from finetune_core import launch
from finetune_core.preflight import create_run
from finetune_core.progress import summarize


@pytest.fixture
def slow(recipe):
    """Long enough to be interrupted."""
    return recipe.replace(max_steps=2000, eval_steps=500, save_steps=5)


def worker_pid(run):
    return [event.data["pid"] for event in run.events() if event.kind == "start"][-1]


@pytest.mark.slow
def test_a_killed_run_is_interrupted_and_goes_on(slow, runs_dir):
    run = create_run(slow, runs_dir)
    launch.start(run)
    wait_for(lambda: len(run.checkpoints()) >= 2)
    os.kill(worker_pid(run), signal.SIGKILL)
    wait_for(lambda: not run.is_alive())
    assert run.status() == "interrupted"
    saved = int(run.checkpoints()[-1].name.rpartition("-")[2])
    launch.start(run)
    wait_for(lambda: summarize(run.events()).workers == 2 and summarize(run.events()).step > saved)
    launch.stop(run)
    wait_for(lambda: run.status() == "stopped")
    progress = summarize(run.events())
    assert [step for step, _ in progress.loss] == list(range(1, progress.step + 1))  # no gap, no step twice
    assert run.has_result()


@pytest.mark.slow
def test_a_second_start_starts_nothing(slow, runs_dir):
    run = create_run(slow, runs_dir)
    launch.start(run)
    launch.start(run)
    wait_for(lambda: summarize(run.events()).step >= 1)
    launch.kill(run)
    assert [event.kind for event in run.events()].count("start") == 1
    assert run.status() == "interrupted"


@pytest.mark.slow
def test_a_second_run_waits_for_its_turn(recipe, runs_dir):
    from filelock import FileLock

    run = create_run(recipe, runs_dir)
    with FileLock(runs_dir / ".gpu.lock"):
        launch.start(run)
        wait_for(lambda: summarize(run.events()).stage == "waiting for its turn")
        assert run.status() == "running"
    wait_for(lambda: run.status() == "finished")


def test_a_waiting_run_can_be_stopped(recipe, runs_dir):
    from filelock import FileLock

    run = create_run(recipe, runs_dir)
    with FileLock(runs_dir / ".gpu.lock"):
        launch.start(run)
        wait_for(lambda: summarize(run.events()).stage == "waiting for its turn")
        launch.stop(run)
        wait_for(lambda: run.status() == "stopped")


@pytest.mark.slow
def test_discard_ends_the_worker_and_leaves_nothing(slow, runs_dir):
    run = create_run(slow, runs_dir)
    launch.start(run)
    wait_for(lambda: summarize(run.events()).step >= 1)
    pid = worker_pid(run)
    launch.discard(run)
    assert not run.path.exists()
    assert not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text()


def test_discard_ends_an_export_that_goes_on(recipe, runs_dir):
    import sys

    from finetune_core.run import Run

    run = Run.create(runs_dir, recipe)
    code = "import sys, time; from pathlib import Path; from finetune_core.job import Job\n"
    code += "with Job(Path(sys.argv[1]), 'take-merged').working(): time.sleep(60)"
    job = launch.taking(run, "merged")
    launch.start_job(job, [sys.executable, "-c", code, str(run.path)])
    pid = job.said().pid
    launch.discard(run)
    assert not run.path.exists()
    assert not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text()


def test_a_worker_that_ends_at_once_is_told_with_what_to_do(recipe, runs_dir, monkeypatch):
    import sys

    from finetune_core.errors import FinetuneError
    from finetune_core.run import Run

    run = Run.create(runs_dir, recipe)
    monkeypatch.setattr(launch, "command", lambda *_: [sys.executable, "-c", "raise SystemExit('no such module')"])
    with pytest.raises(FinetuneError) as told:
        launch.start(run)
    assert "no such module" in told.value.problem
    assert told.value.fix.startswith("Start it again") and str(run.log_path) in told.value.fix


@pytest.mark.slow
def test_the_token_is_nowhere_in_the_run(recipe, runs_dir):
    token = "hf_" + "Zq9" * 11
    run = create_run(recipe, runs_dir)
    launch.start(run, token=token)
    wait_for(lambda: run.status() == "finished")
    for path in run.path.rglob("*"):
        assert not path.is_file() or token.encode() not in path.read_bytes(), path


def test_a_failure_is_told_in_the_diary_and_the_traceback_stays_in_the_log(recipe, runs_dir):
    run = create_run(recipe, runs_dir)
    (run.path / "data" / "train.jsonl").write_text("no rows\n")
    launch.start(run)
    wait_for(lambda: run.status() == "failed")
    error = summarize(run.events()).error
    assert error["problem"] and error["fix"] and "Traceback" not in error["problem"]


@pytest.mark.slow
def test_after_a_training_from_the_page_its_models_answer_without_being_loaded_again(recipe, runs_dir):
    run = create_run(recipe.replace(max_steps=2, evaluate=True, evaluate_rows=2, max_new_tokens=4), runs_dir)
    launch.start(run, options=launch.THEN_CHAT)
    try:
        wait_for(lambda: launch.serving(runs_dir))
        server = launch.start_serving(run)
        assert (server.run_id, server.pid, run.status()) == (run.id, worker_pid(run), "finished")
        assert {"base", "tuned"} <= set(server.models)
        launch.start(create_run(recipe.replace(max_steps=1), runs_dir))
        assert launch.serving(runs_dir) is None  # its memory is needed now
    finally:
        launch.stop_serving(runs_dir)
