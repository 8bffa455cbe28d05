"""A run from the Hub: a stranger's JSON, only what has the right type is taken; and rows that are elsewhere."""

import errno
import json
import os
import signal
from types import SimpleNamespace

import pytest

from finetune_core import leftovers
from finetune_core.cli import main
from finetune_core.errors import FinetuneError
from finetune_core.recipe import Recipe
from finetune_core.run import Run, list_runs
from finetune_core.takeaway import account
from finetune_core.takeaway import pull as pulling
from finetune_core.takeaway.kept import about
from finetune_core.takeaway.pull import pull
from finetune_core.takeaway.told import taken

EVIL = "<img src=x onerror=alert(1)>"


def test_nothing_of_an_own_report_is_lost_but_its_rows(proof_report):
    assert taken({"report": proof_report})["report"] == proof_report | {"rows": []}


def test_what_push_writes_is_what_pull_takes(runs_dir, proof_report):
    run = Run.create(runs_dir, Recipe())
    run.tell("start", machine="CPU", versions={"torch": "2"})
    run.tell("done", outcome="finished", seconds=2.0, steps=8, best_step=None, train_seconds=1.5)
    run.write_report(proof_report)
    told, left = taken(about(run)), about(run)
    assert told["report"] == left["report"] and told["start"] == left["start"] and told["done"] == left["done"]


def change(report, *path, to):
    report = json.loads(json.dumps(report))
    part = report
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = to
    return report


@pytest.mark.parametrize(
    "path",
    [("n",), ("rivals", 0, "score"), ("forgetting", "areas", "facts", "before"), ("verdict", "difference"), ("made",)],
)
@pytest.mark.parametrize("wrong", [EVIL, {"a": 1}, "NaN"])
def test_a_report_with_something_else_where_a_number_belongs_is_not_taken(proof_report, path, wrong):
    assert "report" not in taken({"report": change(proof_report, *path, to=wrong)})


@pytest.fixture
def there(monkeypatch, tmp_path):
    """A repository on the Hub that holds a run; `there.about`: what it says of it."""
    there = SimpleNamespace(about={}, asked=[])
    monkeypatch.setenv("FIJN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(account, "find_token", lambda: None)
    files = ["recipe.yaml", "fijn.json", "adapter_model.safetensors", "adapter_config.json"]

    def ask_hub(path, token):
        there.asked.append(path)
        return {"sha": "c0ffee", "siblings": [{"rfilename": name} for name in files]}

    def snapshot_download(repo_id, *, local_dir, **_):
        local_dir.mkdir()
        Recipe().save(local_dir / "recipe.yaml")
        (local_dir / "fijn.json").write_text(json.dumps(there.about))
        (local_dir / "adapter_config.json").write_text("{}")
        (local_dir / "adapter_model.safetensors").write_bytes(b"weights")

    monkeypatch.setattr(account, "ask_hub", ask_hub)
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return there


@pytest.fixture
def pulled(runs_dir, there):
    """`pulled(about)`: the run that pull makes of what its repository says."""

    def pulled(about):
        there.about = about
        return pull("ada/it", runs_dir)

    return pulled


def test_a_pulled_run_is_whole_and_its_download_is_gone(pulled, runs_dir, tmp_path, proof_report):
    run = pulled({"report": proof_report, "data": {"rows": {"train": 9}}})
    assert list_runs(runs_dir) == [run] and run.status() == "finished"
    assert {str(file.relative_to(run.path)) for file in run.path.rglob("*") if file.is_file()} == {
        "recipe.yaml", "events.jsonl", "report.json", "data/card.json", "adapter/adapter_model.safetensors",
        "adapter/adapter_config.json",
    }  # fmt: skip
    assert list((tmp_path / "cache").glob(".pulling-*")) == []


def test_no_run_is_seen_before_all_of_it_is_here(pulled, runs_dir, monkeypatch):
    seen, append = [], pulling.append_event

    def look_and_append(*words, **data):
        seen.append(list_runs(runs_dir))
        append(*words, **data)

    monkeypatch.setattr(pulling, "append_event", look_and_append)
    run = pulled({})
    assert seen == [[], []] and list_runs(runs_dir) == [run]


def test_a_pull_that_was_killed_leaves_no_run_and_a_second_one_works(pulled, runs_dir, tmp_path, monkeypatch):
    child = os.fork()
    if not child:
        pulling.append_event = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
        pulled({})
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    left = list((tmp_path / "cache").glob(".pulling-*"))
    assert list_runs(runs_dir) == [] and len(left) == 1
    monkeypatch.setattr(leftovers, "YOUNG_SECONDS", -1.0)
    assert main(["pull", "ada/it", "--runs-dir", str(runs_dir)]) == 0
    assert [run.status() for run in list_runs(runs_dir)] == ["finished"]
    assert not left[0].exists() and [each.name for each in runs_dir.glob(".making-*")] == []


def test_a_download_that_goes_on_is_not_swept(pulled, runs_dir, monkeypatch):
    monkeypatch.setattr(leftovers, "YOUNG_SECONDS", -1.0)
    append = pulling.append_event

    def sweep_and_append(*words, **data):
        leftovers.sweep_leftovers(runs_dir.parent / "other")
        append(*words, **data)

    monkeypatch.setattr(pulling, "append_event", sweep_and_append)
    assert pulled({}).has_result()


def test_a_full_disk_names_the_folder_that_is_full(there, runs_dir, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.snapshot_download", full)
    with pytest.raises(FinetuneError, match="is full") as told:
        pull("ada/it", runs_dir)
    assert str(tmp_path / "cache") in told.value.problem and "FIJN_CACHE" in told.value.fix
    assert list_runs(runs_dir) == [] and list((tmp_path / "cache").iterdir()) == []


def test_a_revision_is_asked_for_by_its_whole_name(there, runs_dir):
    pull("ada/it", runs_dir, revision="refs/pr/1")
    assert there.asked == ["/api/models/ada/it/revision/refs%2Fpr%2F1"]


def test_a_stranger_does_not_write_into_the_diary(pulled):
    run = pulled({"start": {"machine": "CPU", "pid": 1}, "done": {"outcome": "finished", "error": EVIL, "steps": 4}})
    start, done = run.events()
    assert start.data == {"machine": "CPU", "pulled_from": "ada/it"}
    assert done.data == {"outcome": "finished", "seconds": 0.0, "steps": 4}


def test_what_is_no_object_is_a_run_without_a_proof(pulled):
    run = pulled([EVIL])
    assert run.status() == "finished" and run.has_result() and run.report() is None


def test_training_a_run_whose_rows_are_elsewhere_is_refused_and_leaves_it_finished(pulled):
    from finetune_core.train import train

    run = pulled({"data": {"rows": {"train": 9}}})
    with pytest.raises(FinetuneError, match="not on this machine") as refused:
        train(run)
    assert "dataset_name=FILE" in refused.value.fix and run.status() == "finished"
