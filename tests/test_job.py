"""Work beside training: its last word is on disk, whoever asks and however it ends."""

import os
import subprocess
import sys

import pytest
from waiting import wait_for

from finetune_core import launch
from finetune_core.errors import FinetuneError
from finetune_core.job import Job


@pytest.fixture
def job(tmp_path):
    return Job(tmp_path / "folder", "evaluate")


def test_a_job_that_never_was_has_said_nothing(job):
    assert job.said() is None and not job.is_alive()


def test_its_last_word_can_be_read_while_it_goes_on(job):
    with job.working() as say:
        say(0.25, "Base model")
        said = job.said()
        assert job.is_alive() and (said.fraction, said.says, said.outcome) == (0.25, "Base model", "")
        assert said.pid == os.getpid()
    assert job.said().outcome == "finished" and not job.is_alive()


def test_the_time_left_does_not_count_the_time_in_line(job, monkeypatch):
    from finetune_core import job as job_module

    now = [1000.0]
    monkeypatch.setattr(job_module.time, "time", lambda: now[0])
    with job.working() as say:
        say(None, "waiting for its turn")
        now[0] += 3600
        say(0.0, "loading the model")
        now[0] += 50
        say(0.5, "Base model")
        assert job.said().seconds_left(now[0]) == 50


def test_two_of_the_same_do_not_go_on_at_once(job):
    with job.working(), pytest.raises(FinetuneError, match="already going on"), job.working():
        pass


def test_an_error_is_its_last_word(job):
    with pytest.raises(FinetuneError), job.working():
        raise FinetuneError("No rows.", "Add some.", code="no-rows")
    assert job.said().outcome == "failed" and job.said().error["fix"] == "Add some."


def test_a_stop_is_asked_for_with_a_file_and_forgotten_afterwards(job):
    with pytest.raises(FinetuneError, match="not going on"):
        job.ask_to_stop()
    with job.working():
        assert not job.is_asked_to_stop()
        job.ask_to_stop()
        assert job.is_asked_to_stop()
    assert job.said().outcome == "stopped" and not job.is_asked_to_stop()


def test_an_end_that_comes_while_it_is_asked_is_no_interruption(job, monkeypatch):
    with job.working():
        file = job.folder / "evaluate.json"
        going = file.read_text()
    ended = file.read_text()
    file.write_text(going)
    monkeypatch.setattr(Job, "is_alive", lambda _: file.write_text(ended) == 0)
    assert job.said().outcome == "finished"


KEEP = """
import sys, time
from pathlib import Path
from finetune_core.job import Job
with Job(Path(sys.argv[1]), "evaluate").working() as say:
    say(0.5, "half")
    time.sleep(60)
"""


def test_a_killed_job_has_failed_and_its_child_is_gone(job):
    launch.start_job(job, [sys.executable, "-c", KEEP, str(job.folder)])
    wait_for(lambda: job.said().says == "half", 10)
    launch.start_job(job, [sys.executable, "-c", "raise SystemExit('a second one was started')"])
    launch.end_job(job)
    assert not job.is_alive() and job.said().outcome in ("failed", "stopped")


def test_a_verb_that_refuses_at_once_says_why(job, runs_dir):
    line = [sys.executable, "-m", "finetune_core", "evaluate", "no-such-run", "--runs-dir", str(runs_dir)]
    with pytest.raises(FinetuneError, match="There is no run 'no-such-run'"):
        launch.start_job(job, line)


def test_a_secret_is_in_the_childs_environment_and_nowhere_else(job):
    secret = "sk-very-secret-key-0123456789"
    code = "import os, sys; open(sys.argv[1], 'w').write(str(len(os.environ['OPENAI_API_KEY'])))"
    seen = job.folder / "seen"
    with pytest.raises(FinetuneError):  # it keeps no job, so it ends before it began
        launch.start_job(job, [sys.executable, "-c", code, str(seen)], {"OPENAI_API_KEY": secret})
    assert seen.read_text() == str(len(secret))
    assert all(secret not in file.read_text() for file in job.folder.iterdir() if file.suffix)


def test_the_light_files_of_the_proof_leave_torch_out():
    code = "import sys, finetune_core.verbs_proof; print('torch' in sys.modules, 'optuna' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["False", "False"]
