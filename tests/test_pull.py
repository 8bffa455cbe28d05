"""A run from the Hub: a stranger's JSON, only what has the right type is taken; and rows that are elsewhere."""

import json

import pytest

from finetune_core.errors import FinetuneError
from finetune_core.recipe import Recipe
from finetune_core.run import Run
from finetune_core.takeaway.kept import about
from finetune_core.takeaway.pull import _fill
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
def pulled(runs_dir, tmp_path):
    """`pulled(about)`: a run as pull leaves it for what its repository says."""

    def pulled(about):
        run = Run.create(runs_dir, Recipe())
        (tmp_path / "adapter_model.safetensors").write_bytes(b"weights")
        _fill(run, tmp_path, about, "ada/it")
        return run

    return pulled


def test_a_stranger_does_not_write_into_the_diary(pulled):
    run = pulled({"start": {"machine": "CPU", "pid": 1}, "done": {"outcome": "finished", "error": EVIL, "steps": 4}})
    start, done = run.events()
    assert start.data == {"machine": "CPU", "pulled_from": "ada/it"}
    assert done.data == {"outcome": "finished", "seconds": 0.0, "steps": 4, "run": run.id}


def test_what_is_no_object_is_a_run_without_a_proof(pulled):
    run = pulled([EVIL])
    assert run.status() == "finished" and run.has_result() and run.report() is None


def test_training_a_run_whose_rows_are_elsewhere_is_refused_and_leaves_it_finished(pulled):
    from finetune_core.train import train

    run = pulled({"data": {"rows": {"train": 9}}})
    with pytest.raises(FinetuneError, match="not on this machine") as refused:
        train(run)
    assert "dataset_name=FILE" in refused.value.fix and run.status() == "finished"
