"""A rented run that is started once more: at which price, and what job.json says of it. No job goes on here."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hub_store import ALICE, BOB
from rented import BEGAN, LOST, SENT, STEP, make_run
from space_people import asked_by

from finetune_core import launch
from finetune_core.cli import main
from finetune_core.errors import FinetuneError
from finetune_core.jobs import follow
from finetune_core.jobs import price as pricing
from finetune_core.jobs.sent import sent_of
from finetune_core.locks import lock_at
from finetune_ui import following, watch


def test_a_job_that_has_become_dearer_is_asked_about_and_started_by_the_next_press(runs_dir, monkeypatch, price):
    started = []
    monkeypatch.setattr(launch, "start", lambda run, token: started.append(sent_of(run).dollars_per_minute))
    run, other = (make_run(runs_dir, *BEGAN, *STEP, LOST) for _ in range(2))
    price.now = 0.02
    button, problem, agreed = watch.start_run(runs_dir, run.id)
    assert started == [] and sent_of(run).dollars_per_minute == SENT.dollars_per_minute
    assert "$1.20 an hour now" in problem["value"] and "$0.60 at most, and $0.40 was agreed to" in problem["value"]
    assert button["value"] == "Resume from step 5 on L4, $0.60 at most" and button["interactive"]
    watch.start_run(runs_dir, other.id, agreed)  # which is agreed to for that run alone
    price.now = 0.03
    assert "$1.80" in watch.start_run(runs_dir, run.id, agreed)[1]["value"] and started == []
    price.now = 0.02
    watch.start_run(runs_dir, run.id, agreed)
    assert started == [0.02]


def test_a_job_at_the_price_agreed_to_in_cents_or_less_is_started_without_a_question(runs_dir, monkeypatch, price):
    started = []
    monkeypatch.setattr(launch, "start", lambda run, token: started.append(run.id))
    for price.now in (SENT.dollars_per_minute, 1.01 * SENT.dollars_per_minute, 0.01):
        run = make_run(runs_dir, *BEGAN, *STEP, LOST)
        watch.start_run(runs_dir, run.id)
        assert started.pop() == run.id and sent_of(run).dollars_per_minute == price.now


def test_a_price_that_is_agreed_to_leaves_the_job_that_another_page_started_meanwhile(runs_dir, monkeypatch, price):
    run = make_run(runs_dir, *BEGAN, *STEP, LOST)
    asked = following.price_now

    def slow(sent, token):
        replace(sent, job_id="job2", since=7).save(run)  # the other page's
        return asked(sent, token)

    monkeypatch.setattr(following, "price_now", slow)
    monkeypatch.setattr(launch, "start", lambda *_: None)
    price.now = 0.012
    watch.start_run(runs_dir, run.id)
    assert sent_of(run) == replace(SENT, job_id="job2", since=7, dollars_per_minute=0.012)
    with run.lock():  # who follows writes job.json, and nobody else
        price.now = 0.01
        watch.start_run(runs_dir, run.id)
    assert sent_of(run).dollars_per_minute == 0.012


def test_a_price_waits_for_a_start_that_is_going_on(runs_dir):
    run = make_run(runs_dir, *BEGAN, *STEP, LOST)
    with lock_at(run.path / ".start.lock"):
        other = threading.Thread(target=pricing.agree, args=(run, 0.01))
        other.start()
        time.sleep(0.2)
        replace(SENT, job_id="job2").save(run)
    other.join()
    assert (sent_of(run).job_id, sent_of(run).dollars_per_minute) == ("job2", 0.01)


def test_hardware_that_is_rented_out_no_more_starts_nothing_and_says_what_to_do(runs_dir, monkeypatch, price):
    run = make_run(runs_dir, *BEGAN, *STEP, LOST, flavor="h9000")
    button, problem, _ = watch.start_run(runs_dir, run.id)
    assert "rents out no 1x Nvidia L4 (h9000) any more" in problem["value"] and "other hardware" in problem["value"]
    assert button["value"] == "Resume from step 5 on L4, $0.40 at most"


def test_a_drawn_page_has_agreed_to_nothing(runs_dir):
    assert watch.show(make_run(runs_dir, *BEGAN, *STEP, LOST))[-1] == watch.NOT_ASKED


def test_who_follows_refuses_a_dearer_job_and_leaves_the_run_as_it_was(runs_dir, monkeypatch, price):
    monkeypatch.setattr(follow.account, "sign_in", lambda token: SimpleNamespace(name="alice"))
    monkeypatch.setattr(follow.hub_jobs, "stage", lambda *_: ("ERROR", ""))
    sent = []
    monkeypatch.setattr(follow, "send", lambda run, order, token: sent.append(order) or pytest.fail("sent"))
    run = make_run(runs_dir, *BEGAN, *STEP, LOST, left={"code": "bad-token", "problem": "Ended.", "fix": "Sign in."})
    lines, before = run.events(), sent_of(run)
    price.now = 0.02
    with pytest.raises(FinetuneError) as refused:
        follow.follow(run, token=ALICE)
    assert refused.value.code == "price-changed" and "--yes" in refused.value.fix
    assert "$1.20 an hour now" in refused.value.problem and "$0.60 at most, and $0.40 was" in refused.value.problem
    assert run.events() == lines and sent_of(run) == before and sent == []
    with pytest.raises(pytest.fail.Exception):
        follow.follow(run, token=ALICE, agreed=True)
    assert [order.dollars_per_minute for order in sent] == [0.02]


def test_who_is_killed_while_a_job_is_sent_has_agreed_to_its_price_and_takes_it_up(runs_dir, monkeypatch, price):
    monkeypatch.setattr(follow.account, "sign_in", lambda token: SimpleNamespace(name="alice"))
    monkeypatch.setattr(follow.hub_jobs, "stage", lambda *_: ("ERROR", ""))
    sent = []

    def send(run, order, token):
        sent.append(sent_of(run))
        raise KeyboardInterrupt  # the job has begun, and its id has not come back

    monkeypatch.setattr(follow, "send", send)
    run = make_run(runs_dir, *BEGAN, *STEP, LOST)
    price.now = 0.02
    for agreed in (True, False):
        with pytest.raises(KeyboardInterrupt):
            follow.follow(run, token=ALICE, agreed=agreed)
    assert [(order.job_id, order.dollars_per_minute) for order in sent] == [("", 0.02)] * 2
    assert follow.next_start(run) == "new"  # not the job before it, which is over


def test_the_command_line_s_yes_is_what_agrees(runs_dir, monkeypatch):
    run, agreed = make_run(runs_dir, *BEGAN), []
    monkeypatch.setattr(follow, "follow", lambda run, on_event, agreed: told.append(agreed) or "stopped")
    told = agreed
    for words in ((), ("--yes",)):
        assert main(["train", run.id, *words, "--runs-dir", str(runs_dir)]) == 3
    assert agreed == [False, True]


def test_a_sign_in_that_ends_before_a_new_job_may_starts_none(on_acme, runs_dir, monkeypatch, price):
    run = make_run(runs_dir, *BEGAN, *STEP, LOST, owner="bob", namespace="bob")
    monkeypatch.setattr(launch, "start", lambda *_: pytest.fail("started"))
    with asked_by(BOB, seconds=600):
        assert "Your sign-in ends in 10 min" in watch.start_run(runs_dir, run.id)[1]["value"]
