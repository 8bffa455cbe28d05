"""What is read for a visitor of a Space: no path of its machine, and what the Hub would give them."""

from __future__ import annotations

import pytest
from hub_store import ALICE, BOB, CAROL
from space_people import SECRET, asked_by, make_run, request
from waiting import wait_for

from finetune_core import access
from finetune_core.errors import FinetuneError
from finetune_core.recipe import STARTER_MODEL, Recipe
from finetune_ui import names, reading, visitor
from finetune_ui.hubpicks import HubPicks
from finetune_ui.looking import Looks

REFUSED = [
    {"dataset_name": "/etc/passwd"},
    {"dataset_name": "app.py"},
    {"dataset_name": "finetune_core/data"},
    {"dataset_name": "./presets/../tests"},
    {"dataset_name": "file:///etc/passwd"},
    {"dataset_name": "rows.csv"},
    {"model_name_or_path": "/data/runs/a-run/adapter"},
    {"model_name_or_path": "finetune_core/data"},
    {"model_name_or_path": "~/model"},
    {"dataset_name": "acme/faq", "dataset_config": "../../alice___private/default"},
    {"dataset_name": "acme/faq", "dataset_revision": "../x"},
    {"model_name_or_path": "acme/it", "model_revision": "../../models--alice--private/snapshots/1"},
]


@pytest.mark.parametrize("values", REFUSED, ids=str)
def test_a_path_in_a_box_is_refused_before_anything_is_opened(values, on_acme, runs_dir, monkeypatch):
    monkeypatch.setattr(access, "_ask", lambda *_: None)  # the Hub would say yes to everything
    opened = []
    looks = Looks(lambda recipe, **_: opened.append(recipe), runs_dir=runs_dir)
    with asked_by(ALICE):
        look = looks.ask(Recipe(**values), wait_seconds=10)
    assert look.error.code in ("not-yours", "bad-choice") and opened == []


def test_the_same_paths_are_fine_off_a_space(runs_dir):
    for values in REFUSED:
        reading.require_readable(visitor.of(None), Recipe(**values), runs_dir)


def test_the_starters_need_no_hub(on_acme, runs_dir, monkeypatch):
    monkeypatch.setattr(access, "_ask", lambda *_: pytest.fail("asked"))
    reading.require_readable(visitor.of(request()), Recipe(), runs_dir)
    assert Recipe().model_name_or_path == STARTER_MODEL


def test_what_one_visitor_may_read_is_asked_anew_for_another(on_acme, runs_dir, monkeypatch):
    """Both would find the files in the shared cache."""

    def ask(_kind, name, token):
        if (name, token) != ("alice/private", ALICE):
            raise FinetuneError("The Hub knows no such thing.", "", "not-found")

    access.forget()
    monkeypatch.setattr(access, "_ask", ask)
    read = []
    looks = Looks(lambda recipe, token=None, **_: read.append(token), runs_dir=runs_dir)
    recipe = Recipe(dataset_name="alice/private")
    found = {}
    for who, token in (("alice", ALICE), ("bob", BOB), ("nobody", None), ("carol", CAROL)):
        with asked_by(token):
            look = looks.ask(recipe, wait_seconds=10)
            found[who] = look.error.code if look.error else "read"
    access.forget()
    assert found == {"alice": "read", "bob": "not-found", "nobody": "not-found", "carol": "not-found"}
    assert read == [ALICE]


def test_what_a_data_set_has_to_choose_from_is_each_visitors_own(on_acme, runs_dir, monkeypatch):
    def ask(_kind, _name, token):
        if token != ALICE:
            raise FinetuneError("The Hub knows no such thing.", "", "not-found")

    class Choices:
        configs, splits, revisions = (SECRET,), ("train",), ("main",)

    access.forget()
    monkeypatch.setattr(access, "_ask", ask)
    picks, recipe = HubPicks(lambda *_: Choices, runs_dir=runs_dir), Recipe(dataset_name="alice/private")

    def answered(token):
        with asked_by(token):
            wait_for(lambda: not picks.of(recipe)[1], 5)
            return picks.of(recipe)[0]

    assert answered(ALICE)["dataset_config"] == (SECRET,)
    assert not any(answered(BOB).values()) and not any(answered(None).values())
    access.forget()


def test_the_boxes_offer_no_others_models_and_say_nothing_about_files(on_acme, runs_dir, monkeypatch):
    make_run(runs_dir, "alice")
    monkeypatch.setattr(names, "cached_models", lambda: [SECRET])
    with asked_by(BOB):
        offered = names.first_choices(runs_dir, {"boxes": {"dataset_name": "/etc/passwd"}})
    assert SECRET not in repr(offered) and "passwd" not in repr(offered)
    with asked_by(ALICE):
        assert SECRET in repr(names.first_choices(runs_dir))
