"""The Train panel of a run on rented hardware: what it says, who may do what. No job goes on here."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hub_store import ALICE, BOB
from planned import flavor
from space_people import asked_by
from test_words import EVIL, parse

from finetune_core import launch
from finetune_core.cli import main
from finetune_core.errors import FinetuneError
from finetune_core.jobs import follow
from finetune_core.jobs import price as pricing
from finetune_core.jobs.sent import Sent, sent_of
from finetune_core.locks import lock_at
from finetune_core.recipe import Recipe
from finetune_core.run import Run, list_runs
from finetune_ui import following, frame, place, watch

HEAD, PROBLEM, START, STOP, QUESTION = 0, 1, 6, 8, 10
SENT = Sent("l4x1", "1x Nvidia L4", 1800, "alice", "alice/fijn-x", "job1", dollars_per_minute=0.0133)


def make_run(runs_dir, *events, owner="", **sent):
    """events: kind and data of the job's lines, after the two stages that the follower tells."""
    run = Run.create(runs_dir, Recipe(), {"steps": 20}, owner=owner)
    Sent(**(vars(SENT) | sent)).save(run)
    run.tell("stage", name="waiting for its turn")
    for number, (kind, data) in enumerate(events):
        run.tell(kind, **data, remote=f"job1:{number}")
    return run


BEGAN = ("start", {"machine": "L4"}), ("stage", {"name": "training", "total_steps": 20})
STEP = ("step", {"step": 5, "total_steps": 20, "loss": 2.0}), ("checkpoint", {"step": 5})


def shown(run):
    parts = watch.show(run)
    return {
        "head": parts[HEAD],
        "problem": parts[PROBLEM]["value"],
        "start": parts[START]["value"] if parts[START]["visible"] else "",
        "stop": parts[STOP]["value"] if parts[STOP]["visible"] else "",
        "question": parts[QUESTION],
    }


def test_a_job_that_nobody_follows_is_offered_to_be_followed_again(runs_dir):
    page = shown(make_run(runs_dir, *BEGAN, *STEP))
    assert "Nobody follows its job here." in page["head"] and "last seen here" in page["head"]
    assert "/jobs/alice/job1" in page["head"] and "$0.40 at most" in page["head"]
    assert (page["start"], page["stop"]) == ("Follow it again", "Stop the job")
    assert "it is ended now and costs no more" in page["question"]


def test_a_new_job_s_price_stands_on_the_button_that_starts_it(runs_dir):
    lost = ("error", {"code": "job-died", "problem": "Lost.", "fix": "Resume."})
    page = shown(make_run(runs_dir, *BEGAN, *STEP, lost))
    assert page["start"] == "Resume from step 5 on L4, $0.40 at most" and "alice/fijn-x" in page["head"]
    refused = make_run(runs_dir, job_id="")
    refused.tell("error", code="no-credit", problem="No credit.", fix="Add some.")
    page = shown(refused)
    assert "It could not be sent." in page["head"] and page["start"] == "Try again on L4, $0.40 at most"


def test_a_result_that_is_still_on_the_hub_can_be_fetched(runs_dir):
    page = shown(make_run(runs_dir, *BEGAN, *STEP, ("done", {"outcome": "finished", "seconds": 9.0})))
    assert page["start"] == "Fetch its result" and "kept in alice/fijn-x" in page["head"]


@pytest.mark.parametrize(
    ("events", "sent", "says", "stands"),
    [
        (BEGAN, {}, "not followed: press “Follow it again”", "at the Hub, not followed here"),
        (
            (*BEGAN, ("done", {"outcome": "finished", "seconds": 9.0})),
            {},
            "at the Hub: press “Fetch its result”",
            "finished, its result at the Hub",
        ),
        ((), {"job_id": ""}, "perhaps not sent", "perhaps not sent"),
    ],
)
def test_the_list_of_runs_says_what_to_press_in_one_that_nobody_follows(runs_dir, capsys, events, sent, says, stands):
    make_run(runs_dir, *events, **sent)
    rail = frame.draw_rail(runs_dir, "")
    assert says in rail and stands in rail and "interrupted" not in rail.casefold()
    main(["runs", "--runs-dir", str(runs_dir)])
    listed = capsys.readouterr().out
    assert stands in listed and "interrupted" not in listed
    Run.create(runs_dir, Recipe()).tell("step", step=1, total_steps=2, loss=1.0)
    assert "interrupted" in frame.draw_rail(runs_dir, "").casefold()


@pytest.mark.parametrize("code", ["bad-token", "sign-in-ended"])
@pytest.mark.parametrize(("on_space", "how"), [(False, "hf auth login"), (True, "at the top of the page")])
def test_a_sign_in_that_ended_says_how_to_go_on_and_that_nothing_is_lost(runs_dir, request, on_space, how, code):
    left = {"code": code, "problem": "Unknown token.", "fix": "Make one."}
    run = make_run(runs_dir, *BEGAN, *STEP, left=left, owner="alice" if on_space else "")
    if on_space:
        request.getfixturevalue("on_acme")
    with asked_by(ALICE):
        page = shown(run)
    assert "sign-in at the Hub has ended" in page["problem"] and how in page["problem"]
    assert "the job goes on without this page" in page["problem"] and page["start"] == "Follow it again"


def test_texts_of_the_hub_stay_text(runs_dir):
    left = {"code": "hub-away", "problem": EVIL, "fix": EVIL}
    page = shown(make_run(runs_dir, *BEGAN, title=EVIL, repo_id=EVIL, job_id=EVIL, left=left))
    tags = parse("".join(page.values()))
    assert "script" not in tags.tags and "img" not in tags.tags
    assert not [name for name in tags.attributes if name.startswith("on")]


@pytest.mark.parametrize(
    ("events", "sent", "then"),
    [
        ((), {"job_id": ""}, "new"),
        (BEGAN, {}, "follow"),
        ([("error", {"code": "x", "problem": "x", "fix": "x"})], {}, "new"),
        ([("done", {"outcome": "finished"})], {}, "follow"),
        ([("done", {"outcome": "stopped"})], {}, "follow"),
    ],
)
def test_what_a_start_would_do_is_known_without_the_hub(runs_dir, events, sent, then):
    run = make_run(runs_dir, *events, **sent)
    assert follow.next_start(run) == then
    if then == "follow" and run.events()[-1].kind == "done":
        run.result_dir.mkdir()
        (run.result_dir / "adapter_model.safetensors").write_bytes(b"0")
        stopped = run.events()[-1].data["outcome"] == "stopped"
        assert follow.next_start(run) == ("new" if stopped else "")


def test_the_choices_of_a_rented_run_open_with_its_hardware(runs_dir):
    assert place.of_run(make_run(runs_dir)) == "jobs:l4x1" and place.of_run(None) == "here"


# --- after a restart ---


def test_after_a_restart_jobs_are_followed_and_no_new_one_is_started(runs_dir, monkeypatch):
    goes_on = make_run(runs_dir, *BEGAN)
    make_run(runs_dir, *BEGAN, ("error", {"code": "job-died", "problem": "x", "fix": "x"}))
    make_run(runs_dir, job_id="")
    Run.create(runs_dir, Recipe())
    started = []
    monkeypatch.setattr(launch, "start", started.append)
    launch.follow_jobs(runs_dir)
    assert [run.id for run in started] == [goes_on.id]


def test_following_a_job_leaves_the_chat_alone(runs_dir, monkeypatch):
    run = make_run(runs_dir, *BEGAN)
    monkeypatch.setattr(launch, "stop_serving", lambda *_: pytest.fail("ended the chat"))
    monkeypatch.setattr(launch, "command", lambda *_: ["false"])
    with pytest.raises(FinetuneError):
        launch.start(run)


# --- what a new job costs ---

LOST = ("error", {"code": "job-died", "problem": "Lost.", "fix": "Resume."})


@pytest.fixture
def price(monkeypatch):
    """Dollars a minute that the Hub asks for an L4; `price.now = …` is another day."""
    asked = SimpleNamespace(now=SENT.dollars_per_minute)
    monkeypatch.setattr(pricing, "list_flavors", lambda token: [flavor("l4x1", asked.now, 24)])
    monkeypatch.setattr(following.account, "find_token", lambda: ALICE)
    return asked


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
