"""The Train panel of a run on rented hardware: what it says, who may do what. No job goes on here."""

from __future__ import annotations

import pytest
from hub_store import ALICE, BOB
from space_people import asked_by
from test_words import EVIL, parse

from finetune_core import launch
from finetune_core.errors import FinetuneError
from finetune_core.jobs import follow
from finetune_core.jobs.sent import Sent, sent_of
from finetune_core.recipe import Recipe
from finetune_core.run import Run
from finetune_ui import place, watch

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
