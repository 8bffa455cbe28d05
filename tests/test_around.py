"""A training that is killed on a rented machine: who runs around it says why, as far as that is known."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from finetune_core.errors import KILLED
from finetune_core.jobs import around
from finetune_core.jobs.around import memory_kills, what_killed_it
from finetune_core.jobs.follow import killed_for_memory
from finetune_core.jobs.inside import event_in

ROOT = Path(__file__).resolve().parent.parent


def test_only_the_kernel_s_count_makes_it_certain():
    known, guessed, other = what_killed_it(0, 1), what_killed_it(None, None), what_killed_it(1, 1)
    assert known.code == guessed.code == KILLED and other.code == "job-died"
    assert "its kernel says" in known.problem and "likely" not in known.problem
    assert "most likely" in guessed.problem and "137" in guessed.problem
    assert "Resume" in other.fix and all("`train RUN`" in each.fix for each in (known, guessed))


def test_the_count_is_read_from_either_kind_of_container(tmp_path):
    new, old, none = tmp_path / "memory.events", tmp_path / "memory.oom_control", tmp_path / "no"
    new.write_text("low 0\nhigh 3\nmax 12\noom 2\noom_kill 4\noom_group_kill 0\n")
    old.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 5\n")
    assert [memory_kills([path]) for path in (new, old, none)] == [4, 5, None]
    old.write_text("oom_kill_disable 0\nunder_oom 0\n")
    assert memory_kills([old]) is None and memory_kills([none, new]) == 4


@pytest.fixture
def job(tmp_path):
    """`job(lines of Python)`: a process of around.py with these for a training; its log in `.log`."""
    begun = []

    def job(child):
        code = (
            "import sys; from finetune_core.jobs import around; around.GRACE = 0.2\n"
            f"around.memory_kills = iter([0, 1]).__next__; sys.exit(around.main([sys.executable, '-c', {child!r}]))"
        )
        log = tmp_path / f"log-{len(begun)}"
        with log.open("wb") as out:
            begun.append(subprocess.Popen([sys.executable, "-c", code], stdout=out, cwd=ROOT, start_new_session=True))
        begun[-1].log = log
        return begun[-1]

    yield job
    for process in begun:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def said_of(process):
    return [found[1] for line in process.log.read_text().splitlines() if (found := event_in(line))]


def test_a_killed_training_is_told_in_a_line_of_its_own(job):
    ended = job("import os, signal; print('50% |###', end='', flush=True); os.kill(os.getpid(), signal.SIGKILL)")
    assert ended.wait(timeout=60) == 137
    ((error),) = said_of(ended)
    assert (error["kind"], error["code"]) == ("error", KILLED) and "its kernel says" in error["problem"]


@pytest.mark.parametrize("code", [0, 1])
def test_a_training_that_ends_by_itself_needs_no_word(job, code):
    ended = job(f"raise SystemExit({code})")
    assert ended.wait(timeout=60) == code and said_of(ended) == []


def until_it_runs(process):
    for _ in range(600):
        if "up" in process.log.read_text():
            return
        time.sleep(0.1)


def test_a_container_that_is_ended_is_no_lack_of_memory(job):
    asked = job(
        "import os, signal, time; signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))\n"
        "print('up', flush=True); time.sleep(60)"
    )
    until_it_runs(asked)
    asked.terminate()
    assert asked.wait(timeout=60) == 137 and said_of(asked) == []
    whole = job("import time; print('up', flush=True); time.sleep(60)")
    until_it_runs(whole)
    os.killpg(whole.pid, signal.SIGKILL)
    assert whole.wait(timeout=60) == -signal.SIGKILL and said_of(whole) == []


@pytest.mark.parametrize(
    ("says", "had_time_left", "word"),
    [
        ("OOMKilled", False, "The Hub says: OOMKilled."),
        ("Job failed with exit code: 137. Reason: OOMKilled", True, "had no memory left"),
        ("Job failed with exit code: 137", True, "most likely"),
        ("Job failed with exit code: 137", False, None),
        ("Job timeout", True, None),
        ("exit code 1; 1137 bloomed", True, None),
        ("", True, None),
    ],
)
def test_the_hub_s_words_for_an_end_are_taken_for_what_they_tell(says, had_time_left, word):
    told = killed_for_memory(says, lambda: had_time_left)
    assert (told.code, word in told.problem) == (KILLED, True) if word else told is None


def test_the_job_s_command_goes_around_the_training():
    from finetune_core.jobs.sent import BOOT

    assert f'"{around.__name__}"' in BOOT
