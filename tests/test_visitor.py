"""Who is asking on a Space, and whose a run is."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import gradio as gr
import pytest
from hub_store import ALICE, BOB, CAROL
from space_people import HOST, asked_by, make_run, request

from finetune_core import access, children, launch, space
from finetune_core.errors import FinetuneError
from finetune_core.preflight import create_run_from
from finetune_core.progress import summarize
from finetune_core.recipe import Recipe
from finetune_core.run import Run
from finetune_core.space import Space
from finetune_ui import (
    beforehand,
    begin,
    form,
    frame,
    on_space,
    signed_in,
    taking,
    visitor,
    watch,
    words_space,
    words_take,
)

ACME = Space("acme/fijn", (HOST,), True)


# --- who is asking ---


def test_off_a_space_everything_is_the_one_persons():
    asker = visitor.of(request(BOB))
    assert asker.may_use_machine and asker.owns(Path("anything")) and asker.token is None and asker.name == ""


def test_who_signed_in_is_who_the_hub_says_has_the_token(on_acme):
    asker = visitor.of(request(ALICE))
    assert (asker.name, asker.token, asker.may_use_machine) == ("alice", ALICE, True)
    assert 3500 < asker.seconds_left() <= 3600


@pytest.mark.parametrize(
    "asked",
    [None, request(), request("hf_unknown0123456789"), request(ALICE, seconds=-1), request(ALICE, seconds=-time.time()),
     request(ALICE, origin="https://evil.example"), gr.Request()],
    ids=["outside an event", "no cookie", "unknown token", "expired", "a token of no sign-in", "another page", "bare"],
)  # fmt: skip
def test_everybody_else_is_nobody(on_acme, asked, tmp_path):
    asker = visitor.of(asked)
    assert (asker.name, asker.token, asker.may_use_machine, asker.owns(tmp_path)) == ("", None, False, False)


def test_a_cookie_is_no_proof_where_nobody_can_sign_in(on_acme, monkeypatch):
    monkeypatch.delenv("OAUTH_CLIENT_SECRET")  # without it gradio signs cookies with a key that everybody knows
    assert visitor.of(request(ALICE)).name == ""


def test_a_hub_that_does_not_answer_makes_nobody_of_a_visitor_and_is_told(on_acme, monkeypatch):
    def away(_token):
        raise FinetuneError("The Hub cannot be reached.", "Try again.", "hub-away")

    monkeypatch.setattr(access, "who_has", away)
    asker = visitor.of(request(ALICE))
    assert not asker.may_use_machine and "cannot be reached" in words_space.strip(ACME, problem=asker.problem)
    with asked_by(ALICE), pytest.raises(FinetuneError, match="cannot be reached"):
        visitor.require_machine()


def test_a_token_does_not_stand_in_what_is_printed_of_a_visitor(on_acme):
    assert ALICE not in repr(visitor.of(request(ALICE)))


# --- a sign-in that ends ---


@pytest.mark.parametrize(
    ("token", "seconds", "says"),
    [
        (ALICE, 86400, "yours to use"),
        (ALICE, 1500, "ends in 25 minutes"),
        (ALICE, -1, "has ended"),
        ("hf_revoked0123456789", 3600, "has ended"),
        (None, 3600, "sign in if that is you"),
    ],
    ids=["lasts", "ends soon", "ended", "revoked", "never signed in"],
)
def test_the_line_says_when_a_sign_in_ends_and_that_it_has(on_acme, token, seconds, says):
    with asked_by(token, seconds=seconds):
        line = on_space.now(True)
    assert says in line
    assert ("sign-in" in line) is (says.startswith(("ends", "has")))


def test_who_was_signed_in_is_asked_to_sign_in_again_and_is_not_told_of_a_run_that_is_gone(on_acme, runs_dir):
    run = make_run(runs_dir, "alice")
    with asked_by(ALICE, seconds=-1):
        for press in (
            lambda: taking.press_push(runs_dir, run.id, "alice/x", "adapter", True, "")[0],
            lambda: taking.press_rows(runs_dir, run.id, "alice/x", True, "")[0],
            lambda: watch.start_run(runs_dir, run.id)[1],
        ):
            shown = press()["value"]
            assert "Your sign-in has ended." in shown and "Sign in again" in shown
    with asked_by(None):
        assert "shows no run" in taking.press_push(runs_dir, run.id, "alice/x", "adapter", True, "")[0]["value"]


@pytest.mark.parametrize(("left", "says"), [(86400, False), (900, True)])
def test_a_training_that_goes_on_says_that_the_sign_in_ends_first(on_acme, runs_dir, monkeypatch, left, says):
    run = make_run(runs_dir, "alice")
    monkeypatch.setattr(watch, "summarize", lambda _events: replace(summarize(()), seconds_left=7200.0))
    with asked_by(ALICE, seconds=left):
        assert ("before this training does" in watch.show(run)[0]) is says


@pytest.mark.parametrize(("seconds", "says"), [(86400, ""), (1500, "that ends in 20 minutes")])
def test_the_cards_that_push_say_when_the_sign_in_ends(on_acme, seconds, says):
    with asked_by(ALICE, seconds=seconds):
        me = signed_in.known_account()
    assert says in words_take.account(me.name, me.is_away, me.ends_in, me.problem) and me.name == "alice"
    assert (me.ends_in is None) is (not says)


def test_a_token_of_this_machine_that_is_refused_is_said_before_a_push(monkeypatch):
    monkeypatch.setattr(signed_in.hub, "reachable", lambda _seconds: True)
    refused = FinetuneError("The Hub does not know this token.", "Make one.", "bad-token")
    monkeypatch.setattr(signed_in.account, "signed_in_here", Mock(side_effect=refused))
    monkeypatch.setattr(signed_in, "_known", None)
    signed_in._ask()
    me = signed_in._known
    assert me.name == "" and "does not know this token" in words_take.account("", False, None, me.problem)


# --- runs ---


def test_a_run_on_a_space_cannot_be_guessed_and_knows_only_its_owners_name(runs_dir):
    run = Run.create(runs_dir, Recipe(), owner="alice")
    assert re.search(r"-[0-9a-f]{32}$", run.id)
    assert (run.path / "owner").read_text() == "alice\n" and "owner" not in {f.name for f in Run.create(
        runs_dir, Recipe()).path.iterdir()}  # fmt: skip


def test_a_run_that_nobody_owns_is_not_shown_on_a_space(on_acme, runs_dir):
    run = Run.create(runs_dir, Recipe())
    with asked_by(ALICE):
        assert frame.find(runs_dir, run.id) is None and visitor.own_runs(runs_dir) == []


@pytest.mark.parametrize(("token", "sees"), [(ALICE, True), (CAROL, False), (BOB, False), (None, False)])
def test_the_rail_holds_ones_own_runs(on_acme, runs_dir, token, sees):
    run = make_run(runs_dir, "alice")
    with asked_by(token):
        assert (run.id in frame.draw_rail(runs_dir, "")) is sees
        assert frame.arrive(runs_dir, run.id, "train")[0] == (run.id if sees else "")


class Seen:
    """A look that is done, for a press."""

    seen, error, pending, recipe = None, None, False, Recipe()

    def ask(self, *_, **__):
        return self


@pytest.fixture
def pressed(on_acme, runs_dir, monkeypatch):
    """What Start does for a visitor: (answer, what was started)."""
    started = []
    monkeypatch.setattr(begin.launch, "start", lambda run, token=None, options=(): started.append((run, token)))
    monkeypatch.setattr(begin.preflight, "create_run_from", lambda _seen, *more: Run.create(
        more[0], Recipe(), None, *more[1:]))  # fmt: skip
    looks = Seen()
    looks.seen = object()

    def press(token, draft="d"):
        with asked_by(token):
            return begin.press(looks, runs_dir, "check", draft, *form.to_boxes(Recipe())), started

    return press


def test_start_makes_a_run_of_its_own_for_each_member(pressed):
    (first, *_), _ = pressed(ALICE)
    (again, *_), _ = pressed(ALICE)
    (other, *_), started = pressed(CAROL)
    assert first == again != other
    assert [(space.owner_of(run.path), token) for run, token in started] == [
        ("alice", ALICE), ("alice", ALICE), ("carol", CAROL)]  # fmt: skip
    assert re.search(r"-[0-9a-f]{32}$", first)


@pytest.mark.parametrize("token", [BOB, None])
def test_start_gives_the_others_the_ways_to_do_it_themselves(pressed, token):
    answer, started = pressed(token)
    assert started == []
    for said in ("for its owner, acme", "duplicate=true", "git clone https://huggingface.co/spaces/acme/fijn",
                 "python app.py"):  # fmt: skip
        assert said in answer[3]


@pytest.mark.parametrize("token", [BOB, None])
def test_no_look_at_prompts_or_settings_is_started_for_others(on_acme, runs_dir, monkeypatch, token):
    monkeypatch.setattr(children, "spawn", lambda *_, **__: pytest.fail("started"))
    boxes = form.to_boxes(Recipe())
    with asked_by(token):
        drawn = beforehand.Drawn()
        assert "for its owner" in beforehand.ask_prompts(runs_dir, drawn, *boxes)[0]
        assert "for its owner" in beforehand.ask_settings(runs_dir, drawn, "1e-4", "", "", "2", *boxes)[3]


def test_a_look_at_prompts_is_its_owners(on_acme, runs_dir):
    job = launch.before_training(runs_dir, "should-i", launch.key_of(Recipe(), "alice"))
    assert launch.key_of(Recipe(), "carol") != job.folder.name
    job.folder.mkdir(parents=True)
    (job.folder / "owner").write_text("alice\n")
    with asked_by(CAROL), pytest.raises(FinetuneError, match="nothing going on"):
        beforehand.job_of(runs_dir, "should-i", job.folder.name)
    with asked_by(ALICE):
        assert beforehand.job_of(runs_dir, "should-i", job.folder.name) == job


def test_the_owner_of_a_run_travels_from_what_was_looked_at(runs_dir, monkeypatch):
    made = []
    monkeypatch.setattr(Run, "create", lambda *values: made.append(values))

    class Looked:
        class diagnosis:
            verdict, findings = "ready", ()

        class plan:
            recipe = Recipe()

            @staticmethod
            def as_dict():
                return {}

    create_run_from(Looked, runs_dir, "tail", "alice")
    assert made[0][3:5] == ("tail", "alice")
