"""Where a draft runs: refused or planned for that place, at the price of now, on the account of who is asking."""

from __future__ import annotations

import re
import time
from dataclasses import replace

import pytest
from hub_store import ALICE, BOB
from page_inputs import box_at, boxes_of, said
from planned import flavor
from space_people import asked_by
from test_words import EVIL, parse

from finetune_core import hub, launch, measured, preflight, space
from finetune_core.amounts import money
from finetune_core.errors import FinetuneError
from finetune_core.jobs.sent import Sent, sent_of
from finetune_core.machine import Gpu, Machine, this_machine
from finetune_core.run import Run
from finetune_ui import begin, check, form, place, renting, visitor, words_place
from finetune_ui.looking import Looks
from finetune_ui.renting import Renting, Rents

OFFERED = (flavor("1x Nvidia L4", 0.0133, 24), flavor("dear", 0.05, 80), flavor("two", 0.03, 24, gpus=2))


@pytest.fixture
def rented(monkeypatch):
    """As if somebody were signed in and the Hub rented these out, also for a model that lies here."""
    monkeypatch.setattr(place, "require_can_travel", lambda recipe: None)
    monkeypatch.setattr(renting.account, "find_token", lambda: ALICE)
    return Renting(lambda token: Rents("alice" if token == ALICE else "bob", OFFERED))


@pytest.fixture
def started(monkeypatch):
    runs = []
    monkeypatch.setattr(launch, "start", lambda run, token=None: runs.append((run, token)))
    return runs


def settle(seen, rented, on=place.JOBS):
    return place.settle(seen, on, rented, wait_seconds=10)


# --- what it would be there ---


def test_rented_hardware_gives_the_plan_and_the_cheapest_of_one_gpu_is_chosen(seen, rented):
    placed = settle(seen, rented)
    assert placed.made.flavor is OFFERED[0] and placed.where == "jobs:1x Nvidia L4"
    assert placed.look.seen.plan.available_gb == 24 and seen.seen.plan.available_gb != 24
    assert settle(seen, rented, "jobs:dear").made.flavor is OFFERED[1]


def test_hardware_with_several_gpus_is_priced_with_a_process_for_each(seen, rented):
    offers = dict((each.name, made) for each, made in settle(seen, rented).offers)
    assert offers["two"].plan.recipe.num_processes == 2 and offers["dear"].plan.recipe.num_processes == 1


def test_the_rows_are_read_once_wherever_they_go(tiny_boxes, rented, monkeypatch):
    read = []
    looks = Looks(lambda recipe, **how: read.append(how) or preflight.look(recipe, **how))
    recipe = form.read(tiny_boxes).replace(method="qlora")
    look = looks.ask(recipe, wait_seconds=30)
    here = place.settle(look, place.HERE, rented)
    assert here.look.error.code == "no-gpu" and here.look.seen is None and "Where it runs" in here.look.error.fix
    assert settle(looks.ask(recipe), rented).made.plan.fits == "fits"
    assert len(read) == 1


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            FinetuneError("The Hub cannot be reached.", "Check the connection.", "hub-away"),
            "The Hub cannot be reached.",
        ),
        (FinetuneError("This token may not start jobs.", "Make one.", "no-jobs-scope"), "may not start jobs"),
    ],
)
def test_a_hub_that_does_not_answer_is_told_in_a_sentence(seen, rented, runs_dir, error, says):
    def ask(token):
        raise error

    placed = place.settle(seen, "jobs:dear", Renting(ask), wait_seconds=10)
    card, _ = place.show(seen, placed, seen.recipe, "", is_open=True)
    assert says in card and re.search(r'data-on="jobs:dear" data-processes="1">Ask again<', card)
    bar, _, start = begin.show(runs_dir, "check", placed.look, (), None, placed)
    assert says in bar and start["interactive"] is False


def test_nobody_signed_in_is_told_so_and_a_model_of_this_machine_does_not_travel(seen, monkeypatch):
    monkeypatch.setattr(renting.account, "find_token", lambda: None)
    never = Renting(lambda token: pytest.fail("asked"))
    assert place.settle(seen, place.JOBS, never).problem.code == "no-token"
    monkeypatch.setattr(renting.account, "find_token", lambda: ALICE)
    placed = place.settle(seen, place.JOBS, Renting(lambda token: Rents("alice", OFFERED)), 10)
    assert placed.problem.code == "model-not-on-hub"


def test_a_hub_that_rents_out_nothing_is_not_asked_for_ever(seen, rented):
    placed = settle(seen, Renting(lambda token: Rents("alice", ())))
    assert not placed.pending and placed.problem.code == "does-not-fit"
    assert "Ask again" in place.show(seen, placed, seen.recipe, "", is_open=True)[0]


def test_what_fits_on_nothing_is_told_with_ways_on_that_the_page_has(seen, rented):
    placed = place.settle(seen, place.JOBS, Renting(lambda token: Rents("alice", (flavor("tiny", 0.01, 0.01),))), 10)
    assert placed.problem.code == "does-not-fit" and "python -m" not in placed.problem.fix


def test_no_plan_is_shown_while_it_is_not_known_what_would_be_rented(seen, rented, monkeypatch):
    monkeypatch.setattr(renting.account, "find_token", lambda: None)
    placed = settle(seen, rented)
    verdict, *_, plan, _ = check.show(placed.look, None, 0, ("", ""), (), rented=words_place.planned_for(placed))
    assert plan == "" and "of memory" not in verdict and "to learn from" in verdict
    verdict, *_, plan, _ = check.show(seen, None, 0, ("", ""), (), rented="")
    assert "What it will cost" in plan and "of memory" in verdict


def test_while_the_hub_is_asked_the_page_says_so(seen, rented, runs_dir):
    slow = Renting(lambda token: time.sleep(1) or Rents("alice", OFFERED))
    placed = place.settle(seen, place.JOBS, slow)
    assert placed.pending
    bar, _, start = begin.show(runs_dir, "check", placed.look, (), None, placed)
    assert "Asking the Hub" in bar and start["interactive"] is False


def test_gpus_that_would_idle_are_said_with_the_click_that_uses_them(seen, rented):
    idle = settle(seen, rented, "jobs:two")
    line = form.command_line(seen.recipe, "quick-look", seen.recipe.model_dump(), idle.where, idle.must_say)
    card, _ = place.show(seen, idle, seen.recipe, line, is_open=True)
    assert "1 of its 2 GPUs would do nothing" in card and "num_processes=1" in line
    assert re.search(r'data-on="jobs:two" data-processes="2">Use all 2<', card)
    two = seen.recipe.replace(num_processes=2)
    used = settle(replace(seen, recipe=two, seen=replace(seen.seen, recipe=two)), rented, "jobs:two")
    assert used.made.idle_gpus == 0 and used.must_say == ()
    assert "would do nothing" not in place.show(seen, used, two, "", is_open=True)[0]


# --- what is said before the click ---


def test_price_time_out_and_what_travels_are_said_before_the_click(seen, rented, runs_dir):
    placed = settle(seen, rented)
    card, agreed = place.show(seen, placed, seen.recipe, "python -m finetune_core train x --on jobs:l4", is_open=True)
    for words in ("L4", "of training", "in all, about $", "$0.80 an hour", "private repository of alice",
                  "Your 48 rows", "ended after 30 minutes",
                  f"{money(placed.made.dollars_at_most)} at most", 'data-copy="python -m'):  # fmt: skip
        assert words in card, words
    assert agreed == placed.agreed
    _, _, start = begin.show(runs_dir, "check", placed.look, (), None, placed)
    assert start["value"] == f"Start on L4 for about {money(placed.made.dollars)}" and start["interactive"]


def test_the_list_and_the_terms_name_the_same_price(seen, rented, monkeypatch):
    monkeypatch.setattr("finetune_core.jobs.hardware.SAMPLE", 10)  # rows that a list is told from
    for on in (place.JOBS, "jobs:two"):  # with one process of its two GPUs
        placed = settle(seen, rented, on)
        assert dict((each.name, made) for each, made in placed.offers)[placed.made.flavor.name] is placed.made


def test_the_line_to_copy_is_the_one_that_is_run(seen, rented):
    line = form.command_line(seen.recipe, "quick-look", seen.recipe.model_dump(), settle(seen, rented).where)
    assert line == "python -m finetune_core train quick-look --on 'jobs:1x Nvidia L4' --yes"


def test_what_the_hub_calls_its_hardware_stays_text(seen, rented):
    evil = replace(OFFERED[0], name=EVIL, title=EVIL)
    placed = place.settle(seen, place.JOBS, Renting(lambda token: Rents(EVIL, (evil,))), 10)
    tags = parse(place.show(seen, placed, seen.recipe, EVIL, is_open=True)[0])
    assert "script" not in tags.tags and "img" not in tags.tags


def test_several_gpus_of_this_machine_are_a_place_of_their_own(seen, rented, monkeypatch):
    here = Machine(8, 64, 60, (Gpu("L4", 24, 22, 8.9),) * 2, kind="cuda")
    monkeypatch.setattr(place, "this_machine", lambda: here)
    monkeypatch.setattr(preflight, "this_machine", lambda: here)
    card, _ = place.show(seen, place.settle(seen, place.HERE, rented), seen.recipe, "", is_open=True)
    assert "2 GPUs of this machine" in card and "One GPU of this machine" in card
    assert place.pick(said(on="here", processes=2), place.JOBS, *boxes_of())[1 + box_at("num_processes")] == "2"


def test_what_was_measured_meanwhile_is_said_of_this_machine(seen, rented, tiny_model_dir):
    here = place.settle(seen, place.HERE, rented)
    before, _ = place.show(seen, here, seen.recipe, "", is_open=True)
    plan = seen.seen.plan
    measured.remember(plan.as_dict(), plan.recipe, tiny_model_dir, this_machine(), 10, 3600.0, 1.0)
    again, _ = place.show(seen, here, seen.recipe, "", is_open=True)
    assert " days " in again and " days " not in before


def test_several_processes_of_a_cpu_are_what_its_tile_says_and_keeps(seen, rented, monkeypatch):
    monkeypatch.setattr(place, "this_machine", lambda: Machine(8, 64, 60))
    monkeypatch.setattr(preflight, "this_machine", lambda: Machine(8, 64, 60))
    asked = []
    monkeypatch.setattr(place, "plan_again", lambda seen, recipe: asked.append(recipe) or seen.plan)
    three = seen.recipe.replace(num_processes=3)
    card, _ = place.show(seen, place.settle(seen, place.HERE, rented), three, "", is_open=True)
    assert 'data-on="here" data-processes="3"' in card and [each.num_processes for each in asked] == [3]


@pytest.mark.parametrize(
    ("asked", "now"), [("jobs:l4x4", "jobs:l4x4"), ("jobs", "jobs"), ("mars", "here"), ("jobs:a b", "here")]
)
def test_only_a_place_that_there_is_can_be_picked(asked, now):
    assert place.pick(said(on=asked, processes=4), place.HERE, *boxes_of())[0] == now


# --- start ---


def press(looks, runs_dir, boxes, rented, agreed, on=place.JOBS):
    return begin.press(looks, runs_dir, "check", "d", *boxes, on=on, agreed=agreed, renting=rented)


def test_start_makes_one_run_with_its_rows_for_a_double_click(looks, tiny_boxes, seen, rented, runs_dir, started):
    agreed = settle(seen, rented).agreed
    first, second = (press(looks, runs_dir, tiny_boxes, rented, agreed) for _ in range(2))
    assert first[0] == second[0] and first[1] == "train"
    run = Run(runs_dir / first[0])
    sent = sent_of(run)
    assert (sent.flavor, sent.namespace, sent.job_id) == ("1x Nvidia L4", "alice", "")
    assert sent.dollars_at_most == pytest.approx(30 * 0.0133) and (run.path / "data" / "card.json").is_file()
    assert [token for _, token in started] == [None, None]  # this machine's own sign-in


def test_nothing_starts_at_a_price_that_the_page_did_not_show(looks, tiny_boxes, seen, rented, runs_dir, started):
    for agreed in ((), ("1x Nvidia L4", 0.01), ("dear", settle(seen, rented).agreed[1])):
        *_, problem = press(looks, runs_dir, tiny_boxes, rented, agreed)
        assert "not the one that this page showed" in problem
    assert started == [] and not runs_dir.exists()


@pytest.mark.parametrize("dollars", [0.0133 * 1.01, 0.0125])
def test_a_price_that_is_the_same_in_cents_or_lower_is_the_one_that_was_shown(
    looks, tiny_boxes, seen, rented, runs_dir, started, dollars
):
    agreed = settle(seen, rented).agreed
    now = Renting(lambda token: Rents("alice", (replace(OFFERED[0], dollars_per_minute=dollars),)))
    held, *_ = press(looks, runs_dir, tiny_boxes, now, agreed)
    assert sent_of(Run(runs_dir / held)).dollars_per_minute == dollars


# --- on a Space ---


@pytest.fixture
def here(looks, tiny_boxes, monkeypatch):
    """Rows and model that visitors may read."""
    monkeypatch.setattr("finetune_ui.looking.require_readable", lambda *_: None)


def test_who_is_signed_in_rents_on_their_own_account_where_the_machine_is_not_theirs(
    on_acme, here, looks, tiny_boxes, rented, runs_dir, started
):
    with asked_by(BOB):
        seen = looks.ask(form.read(tiny_boxes), wait_seconds=30)
        placed = settle(seen, rented)
        assert placed.rents.name == "bob" and not visitor.now().may_use_machine
        card, agreed = place.show(seen, placed, seen.recipe, "", is_open=True)
        assert "for its owner, acme" in card
        assert begin.show(runs_dir, "check", placed.look, (), None, placed)[2]["value"].startswith("Start on L4")
        held, *_ = press(looks, runs_dir, tiny_boxes, rented, agreed)
    ((run, token),) = started
    assert run.id == held and token == BOB and space.owner_of(run.path) == "bob"


def test_nobody_rents_without_a_sign_in_whatever_this_machine_has(
    on_acme, here, looks, tiny_boxes, rented, runs_dir, started
):
    with asked_by(None):
        seen = looks.ask(form.read(tiny_boxes), wait_seconds=30)
        assert settle(seen, rented).problem.code == "no-token"
        *_, problem = press(looks, runs_dir, tiny_boxes, rented, ())
        assert "Sign in at the top" in problem
    assert started == [] and not runs_dir.exists()


def test_a_sign_in_that_ends_before_the_job_may_starts_none(on_acme, here, looks, tiny_boxes, rented):
    with asked_by(BOB, seconds=600):
        placed = settle(looks.ask(form.read(tiny_boxes), wait_seconds=30), rented)
        assert placed.problem.code == "sign-in-ends" and placed.offers


def test_a_space_follows_so_many_jobs_of_a_visitor_and_no_more(
    on_acme, here, looks, tiny_boxes, rented, runs_dir, started, monkeypatch
):
    with asked_by(BOB):
        placed = settle(looks.ask(form.read(tiny_boxes), wait_seconds=30), rented)
        for tail in "abcd":
            run = Run.create(runs_dir, placed.look.recipe, tail=tail * 8, owner="bob")
            Sent("l4x1", "L4", 60, "bob", "bob/x").save(run)
        monkeypatch.setattr(Run, "is_alive", lambda run: True)
        *_, problem = press(looks, runs_dir, tiny_boxes, rented, placed.agreed)
    assert "follows 4 of your jobs" in problem and started == []


# --- prices ---


def test_prices_are_asked_once_for_a_token_and_anew_after_a_failure(monkeypatch):
    monkeypatch.setattr(renting.account, "find_token", lambda: ALICE)
    asked = []

    def ask(token):
        asked.append(token)
        if len(asked) == 1:
            raise FinetuneError("Away.", "Wait.", "hub-away")
        return Rents("alice", OFFERED)

    rents = Renting(ask)
    assert rents.of(visitor.now(), 10).error.code == "hub-away"
    assert rents.of(visitor.now(), 10).error and len(asked) == 1  # not again at once
    monkeypatch.setattr(renting, "AGAIN", 0.0)
    assert rents.of(visitor.now(), 10).flavors == OFFERED
    assert rents.of(visitor.now(), 10).flavors == OFFERED and len(asked) == 2
    assert hub.endpoint() and ALICE not in repr(vars(rents))
