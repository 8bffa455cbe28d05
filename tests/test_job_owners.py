"""Who may follow, stop and give up a rented run, and how many at once. No job goes on here."""

from __future__ import annotations

import threading
import time

import pytest
from hub_store import ALICE, BOB
from rented import BEGAN, LOST, STEP, make_run
from space_people import asked_by

from finetune_core import launch
from finetune_core.errors import FinetuneError
from finetune_core.jobs import follow
from finetune_core.jobs.sent import Sent, sent_of
from finetune_core.recipe import Recipe
from finetune_core.run import Run, list_runs
from finetune_ui import following, watch

# --- how many are followed ---


def test_a_space_takes_up_so_many_jobs_of_a_visitor_and_no_more(on_acme, runs_dir, monkeypatch, price):
    for _ in range(following.MOST_FOLLOWED):
        make_run(runs_dir, *BEGAN, owner="bob")
    going = {run.id for run in list_runs(runs_dir)}
    monkeypatch.setattr(Run, "is_alive", lambda run: run.id in going)
    monkeypatch.setattr(launch, "start", lambda *_: pytest.fail("started"))
    monkeypatch.setattr(launch, "stop", lambda *_: None)
    for events in (BEGAN, (*BEGAN, *STEP, LOST)):  # to follow, and to resume
        run = make_run(runs_dir, *events, owner="bob")
        with asked_by(BOB):
            assert "follows 4 of your jobs" in watch.start_run(runs_dir, run.id)[1]["value"]
    left = make_run(runs_dir, *BEGAN, owner="bob")
    with asked_by(BOB):
        assert "follows 4 of your jobs" in watch.stop_run(runs_dir, left.id)[1]["value"]


def pressed_at_once(runs_dir, run_and_token):
    """What two pages say that are pressed at once, before either has started."""
    said = {}

    def press(place, run, token):
        with asked_by(token):
            said[place] = watch.start_run(runs_dir, run.id)[1].get("value", "")

    threads = [threading.Thread(target=press, args=(place, *each)) for place, each in enumerate(run_and_token)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    return [said[place] for place in range(len(threads))]


def test_of_two_starts_at_once_only_one_gets_the_last_room(on_acme, runs_dir, monkeypatch):
    going = {make_run(runs_dir, *BEGAN, owner="bob").id for _ in range(following.MOST_FOLLOWED - 1)}
    monkeypatch.setattr(Run, "is_alive", lambda run: run.id in going)
    monkeypatch.setattr(launch, "start", lambda run, token: time.sleep(0.2) or going.add(run.id))
    two = [(make_run(runs_dir, *BEGAN, owner="bob"), BOB) for _ in range(2)]
    said = pressed_at_once(runs_dir, two)
    assert len(going) == following.MOST_FOLLOWED and sum("follows 4 of your jobs" in each for each in said) == 1


@pytest.mark.parametrize("on_space", [True, False])
def test_a_slow_start_keeps_nobody_else_waiting(runs_dir, monkeypatch, request, on_space):
    if on_space:
        request.getfixturevalue("on_acme")
    together = threading.Barrier(2, timeout=5)  # passed only by two starts that go on at once
    monkeypatch.setattr(launch, "start", lambda run, token: together.wait())
    owners = (("alice", ALICE), ("bob", BOB)) if on_space else (("", None), ("", None))
    runs = [(make_run(runs_dir, *BEGAN, owner=owner), token) for owner, token in owners]
    assert pressed_at_once(runs_dir, runs) == ["", ""]


# --- whose job it is ---


def test_another_account_neither_follows_nor_stops_nor_gives_up_a_job(runs_dir, monkeypatch):
    run = make_run(runs_dir, *BEGAN)
    monkeypatch.setattr(follow.account, "sign_in", lambda token: type("Bob", (), {"name": "bob"}))
    for act in (follow.follow, follow.stop, follow.cancel, launch.discard):
        with pytest.raises(FinetuneError) as refused:
            act(run, token=BOB)
        assert refused.value.code == "other-account"
    assert run.path.exists() and run.status() == "interrupted"
    assert sent_of(run).left["code"] == "other-account"


@pytest.mark.parametrize("token", [ALICE, "hf_oauth_alice"])
def test_a_sign_in_that_ends_leaves_the_job_to_be_followed_and_starts_no_new_one(runs_dir, monkeypatch, token):
    def refused(token):
        error = RuntimeError("401")
        error.response = type("Answer", (), {"status_code": 401})
        raise follow.account.told(error, token)

    monkeypatch.setattr(follow.account, "sign_in", refused)
    run = make_run(runs_dir, *BEGAN)
    with pytest.raises(FinetuneError):
        follow.follow(run, token=token)
    assert run.status() == "interrupted" and follow.next_start(run) == "follow"
    assert sent_of(run).left["code"] in ("bad-token", "sign-in-ended")


@pytest.mark.parametrize(("token", "owner", "may"), [(BOB, "bob", True), (BOB, "alice", False), (None, "", False)])
def test_on_a_space_a_job_is_followed_by_whose_it_is(on_acme, runs_dir, monkeypatch, token, owner, may):
    run = make_run(runs_dir, *BEGAN, owner=owner)
    started = []
    monkeypatch.setattr(launch, "start", lambda run, token, **how: started.append(token))
    with asked_by(token):
        watch.start_run(runs_dir, run.id)
    assert started == ([BOB] if may else [])


def test_a_stop_of_a_job_that_nobody_follows_brings_its_result_home(on_acme, runs_dir, monkeypatch):
    run = make_run(runs_dir, *BEGAN, owner="bob")
    done = []
    monkeypatch.setattr(launch, "stop", lambda run, token: done.append(("stop", token)))
    monkeypatch.setattr(launch, "start", lambda run, token: done.append(("follow", token)))
    with asked_by(BOB):
        button, _ = watch.stop_run(runs_dir, run.id)
    assert done == [("stop", BOB), ("follow", BOB)] and "job" in button["value"]


def test_a_run_that_was_never_sent_is_deleted_without_the_hub(runs_dir):
    run = Run.create(runs_dir, Recipe())
    Sent("l4x1", "L4", 60, "alice", "alice/x").save(run)
    launch.discard(run)
    assert not run.path.exists()
