"""One job at a time on a machine: whatever loads a model waits in line, and ends the chat's server first."""

import json
import threading
from pathlib import Path

import pytest
from conftest import chat_rows, write_jsonl
from filelock import FileLock
from tuned import lay_rows, make_tuned_run

from finetune_core import alone as alone_module
from finetune_core.alone import alone
from finetune_core.cli import main


def test_the_chat_is_ended_when_it_is_ones_turn_and_not_before(runs_dir, monkeypatch):
    ended, waited = [], threading.Event()
    monkeypatch.setattr(alone_module.launch, "stop_serving", ended.append)
    runs_dir.mkdir()
    other = FileLock(runs_dir / ".gpu.lock", thread_local=False)
    other.acquire()

    def let_go():
        waited.set()
        assert ended == []
        other.release()

    with alone(runs_dir, let_go):
        assert waited.is_set() and ended == [runs_dir]


@pytest.fixture
def turns(monkeypatch):
    """The folders whose machine was asked for; every job gets it at once."""
    asked = []
    monkeypatch.setattr(alone_module.launch, "stop_serving", asked.append)
    return asked


@pytest.fixture
def tuned(runs_dir, tiny_model_dir):
    run = make_tuned_run(runs_dir, tiny_model_dir, max_new_tokens=4)
    lay_rows(run, chat_rows(8), (), chat_rows(12)[8:])
    return run


def test_predictions_take_their_turn(tuned, runs_dir, tmp_path, turns):
    rows = write_jsonl(tmp_path / "asked.jsonl", [{"prompt": "lamp"}])
    given = ["--input", str(rows), "--output", str(tmp_path / "out.jsonl"), "--max-new-tokens", "2"]
    assert main(["predict", tuned.id, *given, "--runs-dir", str(runs_dir)]) == 0
    assert turns == [runs_dir]


def test_an_export_takes_its_turn(tuned, runs_dir, tmp_path, turns):
    given = ["--to", "adapter", "--output", str(tmp_path / "out")]
    assert main(["export", tuned.id, *given, "--runs-dir", str(runs_dir)]) == 0
    assert turns == [runs_dir]


def test_a_probe_takes_its_turn(recipe, runs_dir, tmp_path, turns, monkeypatch, capsys):
    from finetune_core import speed

    monkeypatch.setattr(speed, "probe", lambda *_: turns.append(Path("probed")) or (1, 1.0, 1.0))
    recipe.save(tmp_path / "recipe.yaml")
    assert main(["plan", str(tmp_path / "recipe.yaml"), "--probe", "--json", "--runs-dir", str(runs_dir)]) == 0
    assert turns == [runs_dir, Path("probed")] and json.loads(capsys.readouterr().out)["steps"] == 8
