"""A person's own check: scores what it should, and whatever an answer does stays in its child."""

import time

import pytest

from finetune_core.errors import FinetuneError
from finetune_core.proof.own_check import run_check

CHECK = """
import os, socket, time
def check(answer, reference, row):
    if answer == "equal":
        return answer == reference
    if answer == "half":
        return 0.5
    if answer == "hang":
        time.sleep(60)
    if answer == "spin":
        while True: pass
    if answer == "memory":
        return bool(bytearray(3 * 2**30))
    if answer == "die":
        os._exit(3)
    if answer == "raise":
        raise ValueError("no such table")
    if answer == "words":
        return "yes"
    if answer == "seven":
        return 7
    if answer == "env":
        return "SECRET" not in os.environ
    if answer == "row":
        return row["id"] == 4
    if answer == "network":
        try:
            socket.create_connection(("127.0.0.1", int(reference)), timeout=1).close()
        except OSError:
            return True
        return False
"""


@pytest.fixture
def check_file(tmp_path):
    file = tmp_path / "check.py"
    file.write_text(CHECK)
    return file


def checked(file, answer, reference="equal", **limits):
    found = run_check(file, [answer, "equal"], [reference, "equal"], [{"id": 4}, {}], **{"seconds": 1.0} | limits)
    assert found.scores[1] == 1.0, "the next answer is not touched"
    return found.scores[0], found.problems.get(0, "")


@pytest.mark.parametrize(
    ("answer", "score", "problem"),
    [
        ("equal", 1.0, ""),
        ("half", 0.5, ""),
        ("hang", 0.0, "longer than 1 seconds"),
        ("spin", 0.0, "longer than 1 seconds"),
        ("memory", 0.0, "MemoryError"),
        ("die", 0.0, "died"),
        ("raise", 0.0, "no such table"),
        ("words", 0.0, "neither True"),
        ("seven", 0.0, "neither True"),
        ("nothing", 0.0, "neither True"),
        ("row", 1.0, ""),
    ],
)
def test_an_answer_is_scored_or_its_failure_is_told(check_file, answer, score, problem):
    found, why = checked(check_file, answer)
    assert found == score and problem in why and bool(problem) == bool(why)


def test_the_check_sees_no_secrets(check_file, monkeypatch):
    monkeypatch.setenv("SECRET", "x")
    assert checked(check_file, "env")[0] == 1.0


def test_where_the_kernel_allows_it_there_is_no_network(check_file):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        found = run_check(check_file, ["network"], [str(server.getsockname()[1])], [{}])
    assert found.scores == [1.0 if found.network_closed else 0.0]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = 1", "no function called check"),
        ("def check(:", "SyntaxError"),
        ("import nothing_of_that_name", "ModuleNotFound"),
        ("import os; os._exit(1)", "ended without a word"),
    ],
)
def test_a_file_that_is_no_check_is_refused_in_words(tmp_path, text, says):
    file = tmp_path / "check.py"
    file.write_text(text)
    with pytest.raises(FinetuneError, match=says):
        run_check(file, ["a"], ["a"], [{}])


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(FinetuneError, match="There is no file"):
        run_check(tmp_path / "none.py", [], [], [])


def test_what_a_check_starts_does_not_outlive_it(tmp_path):
    file = tmp_path / "check.py"
    marker = tmp_path / "alive"
    later = f"import time; time.sleep(1); open({str(marker)!r}, 'w').close()"
    file.write_text(
        "import subprocess, sys\n"
        "def check(answer, reference, row):\n"
        f"    subprocess.Popen([sys.executable, '-c', {later!r}])\n"
        "    return True\n"
    )
    assert run_check(file, ["a"], ["a"], [{}]).scores == [1.0]
    time.sleep(1.5)
    assert not marker.exists()
