"""The Train panel of a run on rented hardware: what it says. No job goes on here."""

from __future__ import annotations

import pytest
from hub_store import ALICE
from rented import BEGAN, STEP, make_run, shown
from space_people import asked_by
from test_words import EVIL, parse

from finetune_core import launch
from finetune_core.cli import main
from finetune_core.errors import FinetuneError
from finetune_core.jobs import follow
from finetune_core.recipe import Recipe
from finetune_core.run import Run
from finetune_ui import frame, place


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
