"""A run that ran out of memory on rented hardware: the next rung, at a price that is told first. No job goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hub_store import ALICE, BOB
from planned import flavor
from space_people import asked_by

from finetune_core import launch, verbs_jobs
from finetune_core.cli import main
from finetune_core.jobs import order as ordering
from finetune_core.jobs import price, rung
from finetune_core.jobs.sent import Sent, sent_of
from finetune_core.run import Run, list_runs
from finetune_ui import following, watch

PROBLEM, GENTLER, START, CHANGE = 1, 3, 6, 7
KILLED = {"code": "killed-for-memory", "problem": "It was killed, most likely for its memory.", "fix": "Run it again."}
FULL = {"code": "out-of-memory", "problem": "It does not fit in memory.", "fix": "Start again."}


@pytest.fixture
def hub(monkeypatch):
    """As if Alice were signed in and the Hub rented out an L4; `hub.price = …` is another day."""
    hub = SimpleNamespace(price=0.0133)
    me = SimpleNamespace(name="alice", ends_at=None)
    monkeypatch.setattr(rung, "require_can_travel", lambda recipe: None)  # the tiny model lies here
    for module in (rung, price):
        monkeypatch.setattr(module, "list_flavors", lambda token: [flavor("l4x1", hub.price, 24)])
    monkeypatch.setattr(following, "tenant", lambda token: SimpleNamespace(name="bob" if token == BOB else "alice"))
    monkeypatch.setattr(ordering, "tenant", lambda token: me)
    monkeypatch.setattr(following.account, "find_token", lambda: ALICE)
    return hub


@pytest.fixture
def started(monkeypatch):
    runs = []
    monkeypatch.setattr(launch, "start", lambda run, token=None: runs.append((run, token)))
    return runs


@pytest.fixture
def run(recipe, runs_dir):
    return ran_out(recipe, runs_dir)


def ran_out(recipe, runs_dir, owner="", flavor="l4x1", said=FULL, **values):
    run = Run.create(runs_dir, recipe.replace(max_length=512, **values), owner=owner)
    Sent(flavor, "1x Nvidia L4", 1800, owner or "alice", "alice/fijn-x", "job1", dollars_per_minute=0.0133).save(run)
    run.tell("start", machine="L4", remote="job1:1")
    run.tell("error", **said, remote="job1:2")
    return run


def test_of_a_job_that_was_killed_the_rung_is_offered_beside_a_resume(recipe, runs_dir):
    run = ran_out(recipe, runs_dir, "", "cpu-basic", KILLED, per_device_train_batch_size=4)
    shown = watch.show(run)
    assert shown[GENTLER]["value"] == "Run again with smaller batches on L4, price first"
    assert shown[START]["value"].startswith("Try again on L4, $0.40") and shown[START]["variant"] == "secondary"
    assert (
        "most likely" in shown[PROBLEM]["value"] and "Run again with gradient checkpointing" in shown[PROBLEM]["value"]
    )


def test_a_killed_job_s_rungs_go_on_from_where_its_worker_had_come_to(recipe, runs_dir):
    killed = {"owner": "", "flavor": "cpu-basic", "said": KILLED, "per_device_train_batch_size": 4, "packing": False}
    run = ran_out(recipe.replace(gradient_accumulation_steps=1, gradient_checkpointing=False), runs_dir, **killed)
    halved = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    run.tell("warning", code="stepped-down", says="…", changes=halved)
    run.tell("error", **KILLED)
    first, second, third, *_ = rung.rungs_of(run)
    assert first.changes == {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}
    assert second.changes == halved | {"gradient_checkpointing": True}
    assert third.changes == halved | {"max_length": 256}


def test_beside_a_gpu_only_what_spares_the_machine_s_own_memory_is_offered(recipe, runs_dir):
    small = {"model_name_or_path": "Qwen/Qwen3-1.7B", "per_device_train_batch_size": 4}
    run = ran_out(recipe, runs_dir, "", "l4x1", KILLED, **small)
    assert [next(iter(each.changes)) for each in rung.rungs_of(run)] == ["model_name_or_path"]


def test_what_is_offered_is_the_rung_and_not_the_same_again(run):
    shown = watch.show(run)
    assert shown[GENTLER]["visible"] and not shown[START]["visible"] and shown[CHANGE]["visible"]
    assert shown[GENTLER]["value"] == "Run again with rows of 256 tokens on L4, price first"
    lost = {"code": "job-died", "problem": "Lost.", "fix": "Resume."}
    run.tell("error", **lost)
    shown = watch.show(run)
    assert shown[START]["value"].startswith("Try again on L4, $0.40") and not shown[GENTLER]["visible"]


def test_the_first_press_tells_the_price_and_the_second_starts_a_new_run(run, runs_dir, hub, started):
    label, card, held, agreed = watch.start_gentler(runs_dir, run.id)
    assert list_runs(runs_dir) == [run] and "value" not in held
    assert label["value"] == "Run again with rows of 256 tokens on L4, $0.40 at most" and label["interactive"]
    assert "$0.40 at most. Nothing was started." in card["value"] and "Press again to agree" in card["value"]
    *_, held, agreed = watch.start_gentler(runs_dir, run.id, 0, agreed)
    new = Run(runs_dir / held)
    assert new.recipe.max_length == 256 and agreed == watch.NOT_ASKED
    sent = sent_of(new)
    assert (sent.flavor, sent.namespace, sent.job_id, sent.dollars_per_minute) == ("l4x1", "alice", "", 0.0133)
    assert started == [(new, None)] and (new.path / "data" / "train.jsonl").is_file()
    assert run.recipe.max_length == 512


def test_a_price_is_agreed_to_for_one_rung_of_one_run_and_no_more_than_was_told(recipe, run, runs_dir, hub, started):
    *_, agreed = watch.start_gentler(runs_dir, run.id)
    other = ran_out(recipe, runs_dir)
    watch.start_gentler(runs_dir, other.id, 0, agreed)
    watch.start_gentler(runs_dir, run.id, 0, replace(agreed, rung="max_length=128"))
    hub.price = 0.02
    _, card, _, dearer = watch.start_gentler(runs_dir, run.id, 0, agreed)
    assert started == [] and "$0.60 at most" in card["value"] and dearer.dollars_at_most == pytest.approx(0.6)
    watch.start_run(runs_dir, run.id, dearer)  # a new job with the same settings is something else
    assert started == []
    hub.price = 0.0134  # the same in cents
    watch.start_gentler(runs_dir, run.id, 0, agreed)
    assert len(started) == 1


def test_an_ordered_run_is_none_of_this_machine_however_soon_it_is_seen(run, runs_dir, hub, started, monkeypatch):
    kept, seen = Sent.save, []
    monkeypatch.setattr(Sent, "save", lambda sent, of: (seen.append(list_runs(runs_dir)), kept(sent, of)))
    *_, agreed = watch.start_gentler(runs_dir, run.id)
    *_, held, _ = watch.start_gentler(runs_dir, run.id, 0, agreed)
    assert seen == [[run]]
    assert sent_of(Run(runs_dir / held)).repo_id == f"alice/fijn-{held.rpartition('-')[2]}"


def test_a_rung_of_a_rented_run_is_never_started_on_this_machine(run, runs_dir, hub, started, monkeypatch):
    monkeypatch.setattr(watch.preflight, "create_run", lambda *_, **__: pytest.fail("made here"))
    *_, agreed = watch.start_gentler(runs_dir, run.id)
    watch.start_gentler(runs_dir, run.id, 0, agreed)
    assert [bool(sent_of(new)) for new, _ in started] == [True]


def test_what_does_not_fit_there_either_is_said_and_nothing_is_made(run, runs_dir, hub, started, monkeypatch):
    monkeypatch.setattr(rung, "list_flavors", lambda token: [flavor("l4x1", 0.0133, 0.01)])
    label, card, _, agreed = watch.start_gentler(runs_dir, run.id)
    assert "does not fit on l4x1" in card["value"] and label["interactive"] and agreed == watch.NOT_ASKED
    assert started == [] and list_runs(runs_dir) == [run]


def test_on_a_space_a_rung_is_rented_by_whose_run_it_is(recipe, runs_dir, on_acme, hub, started, monkeypatch):
    read = []
    monkeypatch.setattr(following, "require_readable", lambda asker, recipe, runs_dir: read.append(asker.name))
    run = ran_out(recipe, runs_dir, owner="bob")
    with asked_by(ALICE):
        assert "shows no run" in watch.start_gentler(runs_dir, run.id)[1]["value"]
    with asked_by(BOB):
        *_, agreed = watch.start_gentler(runs_dir, run.id)
        *_, held, _ = watch.start_gentler(runs_dir, run.id, 0, agreed)
    ((new, token),) = started
    assert new.id == held and token == BOB and sent_of(new).namespace == "bob" and read == ["bob", "bob"]


# --- the command line ---


@pytest.fixture
def train(runs_dir, hub, monkeypatch, capsys):
    """`train(word, …)`: (exit code, what was said as JSON, runs that were followed)."""
    followed = []
    monkeypatch.setattr(verbs_jobs, "train", lambda run, options, out: followed.append(run) or 0)
    monkeypatch.setattr(verbs_jobs, "_token", lambda: ALICE)

    def go(*words):
        code = main(["train", *words, "--json", "--runs-dir", str(runs_dir)])
        said = capsys.readouterr().out.splitlines()
        return code, json.loads(said[-1]) if said else None, followed

    return go


def test_resuming_says_the_rung_and_its_price_and_yes_starts_it(run, runs_dir, train):
    code, said, followed = train(run.id)
    problem, fix = said["error"]["problem"], said["error"]["fix"]
    assert (code, said["error"]["code"], followed) == (1, "not-agreed", []) and list_runs(runs_dir) == [run]
    assert "ran out of memory there" in problem and "(max_length=256)" in problem and "$0.40 at most" in problem
    assert "--yes" in fix and f"{run.path / 'recipe.yaml'} FIELD=VALUE --on jobs:l4x1" in fix
    code, _, ((new),) = train(run.id, "--yes")
    assert code == 0 and new.id != run.id and new.recipe.max_length == 256 and sent_of(new).flavor == "l4x1"


def test_a_killed_run_is_lowered_when_it_is_resumed_or_goes_on_as_it_was_when_that_is_asked(recipe, runs_dir, train):
    run = ran_out(recipe, runs_dir, "", "l4x1", KILLED, method="full")
    assert train(run.id, "--on", "jobs")[2] == [run]
    code, said, followed = train(run.id)
    assert (code, said["error"]["code"], len(followed)) == (1, "not-agreed", 1)
    assert said["error"]["problem"].startswith(f"{KILLED['problem']} As a new run: An adapter")
    assert f"{run.id} --on jobs" in said["error"]["fix"]
    *_, new = train(run.id, "--yes")[2]
    assert new.recipe.method == "lora"


def test_a_rung_is_rented_once_however_often_it_is_asked_for(run, runs_dir, train, started):
    train(run.id, "--yes")
    _, _, (new, again) = train(run.id, "--yes")
    assert again == new and len(list_runs(runs_dir)) == 2
    *_, held, _ = watch.start_gentler(runs_dir, run.id)
    assert held == new.id and started == []
    new.delete()
    assert train(run.id)[1]["error"]["code"] == "not-agreed"


def test_a_run_at_the_foot_of_the_ladder_is_resumed_as_it_was(recipe, runs_dir, train):
    run = ran_out(recipe, runs_dir)
    small = Run.create(runs_dir, recipe.replace(max_length=128))
    sent_of(run).save(small)
    small.tell("error", **FULL)
    assert rung.rungs_of(small) == [] and train(small.id)[2] == [small]
