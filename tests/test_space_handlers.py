"""Every handler of the page, called as one visitor of a Space with the run of another. A new one is called as well."""

from __future__ import annotations

import asyncio
import copy
import inspect
import re
import shutil
from pathlib import Path

import gradio as gr
import gradio.oauth
import pytest
from gradio.helpers import special_args
from hub_store import ALICE, BOB, CAROL
from space_people import PEOPLE, SECRET, SPACE, asked_by, make_run, request

import app
from finetune_core import access, children, launch
from finetune_core.errors import FinetuneError
from finetune_core.space import Identity
from finetune_ui import words_beforehand
from finetune_ui.looking import Looks
from finetune_ui.pages import Screen
from finetune_ui.words import STEPS
from finetune_ui.words_talk import Answer, Turn

NO_RUN = "2026-01-01-0000-no-such-run-" + "0" * 32
CLICKED = {
    "row": 0, "to": "train", "preset": "quick-look", "text": "a,b\n1,2", "field": "template",
    "index": 0, "code": "x", "fix": "x", "role": "prompt", "column": "", "wish": "delimiter", "length": 64, "from": "",
    "key": "a", "input_value": "a", "on": "jobs:l4x1", "processes": 2, "place": 0,
}  # fmt: skip
TYPED = {"Name": "alice/it", words_beforehand.RATES[0]: "1e-4", words_beforehand.TRIALS[0]: "2"}  # by a box's label


class Page:
    """The page on a Space, and one run in its folder, which is put back after every call."""

    def __init__(self, home: Path):
        self.runs_dir, self.kept = home / "runs", home / "kept"
        self.demo = app.build_page(self.runs_dir)
        draw = next(fn for fn in self.handlers() if getattr(fn.fn, "__func__", None) is Screen.draw)
        self.held, self.step = draw.inputs[:2]
        self.turns = next(fn for fn in self.handlers() if name(fn) == "stream").inputs[1]

    def handlers(self):
        return [fn for fn in self.demo.fns.values() if fn.fn is not None]

    def give(self, owner: str):
        run = make_run(self.runs_dir, owner)
        shutil.copytree(self.runs_dir, self.kept)
        return run

    def put_back(self):
        shutil.rmtree(self.runs_dir)
        shutil.copytree(self.kept, self.runs_dir)

    def call(self, handler, token: str | None, run_id: str) -> list[str]:
        """What a handler answers on each step that its page could be on, as text without what differs by chance."""
        return [self._once(handler, token, run_id, step) for step in (STEPS if self.step in handler.inputs else ("",))]

    def _once(self, handler, token: str | None, run_id: str, step: str) -> str:
        known = {self.held: run_id, self.step: step}
        if name(handler) == "stream":
            known[self.turns] = (Turn("A question?", (Answer("base"), Answer("tuned"))),)
        values = [known[each] if each in known else self._value(each, run_id) for each in handler.inputs]
        clicked = gr.EventData(None, CLICKED | {"run": run_id})
        with asked_by(token):
            try:
                values, *_ = special_args(handler.fn, values, request(token), clicked)
                answer = _finish(handler.fn(*values))
            except Exception as error:
                answer = f"{type(error).__name__}: {error}"
        return re.sub(r"[0-9a-f]{16,}|0x[0-9a-f]+", "#", repr(answer).replace(run_id, "RUN"))

    def _value(self, component, run_id: str):
        if isinstance(component, gr.Dropdown) and component.multiselect:
            return [run_id]
        empty = "" if isinstance(component, gr.Textbox) else None
        value = copy.deepcopy(getattr(component, "value", None))
        return TYPED.get(getattr(component, "label", None) or "", empty if value is None else value)


def _finish(answer):
    """Of a generator everything that it gives."""
    if inspect.isasyncgen(answer):

        async def gather():
            return [each async for each in answer]

        return asyncio.run(gather())
    return list(answer) if inspect.isgenerator(answer) else answer


def name(handler) -> str:
    function = handler.fn
    return getattr(getattr(function, "func", function), "__qualname__", repr(function))


def files(folder: Path) -> dict[str, bytes]:
    """What stands in the runs; a lock that was looked at may stay as an empty file."""
    found = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    return {path: content for path, content in found.items() if not path.endswith(".lock")}


@pytest.fixture
def spawned(monkeypatch):
    """Verbs whose process would have been started."""
    verbs = []

    def spawn(line, *_, **__):
        verbs.append(line[3])
        raise FinetuneError("Started.", "", "started")

    for room in (launch, children):
        monkeypatch.setattr(room, "spawn", spawn)
    return verbs


@pytest.fixture
def page(monkeypatch, tmp_path, spawned):
    for key, value in SPACE.items():
        monkeypatch.setenv(key, value)
        monkeypatch.setattr(gradio.oauth, key, value, raising=False)  # it has read them already
    monkeypatch.setattr(access, "who_has", lambda token: PEOPLE.get(token, Identity()))

    def look(*_, **__):
        raise FinetuneError("Not looked at here.", "", "no-look")

    monkeypatch.setattr(app, "Looks", lambda **more: Looks(look, **more))
    page = Page(tmp_path)
    for draft in (ALICE, CAROL, BOB, None):  # so that no later answer depends on when a look ends
        for handler in page.handlers():
            if "review" in name(handler):
                page.call(handler, draft, "")
    return page


@pytest.mark.parametrize("token", [CAROL, BOB, None], ids=["who may use the machine", "signed in", "nobody"])
def test_no_handler_tells_or_does_anything_about_anothers_run(page, spawned, token):
    run = page.give("alice")
    before = files(page.runs_dir)
    for handler in page.handlers():
        spawned.clear()
        without = page.call(handler, token, NO_RUN)
        elsewhere = list(spawned)
        spawned.clear()
        answer = page.call(handler, token, run.id)
        assert answer == without, f"{name(handler)} answers otherwise about a run of somebody else"
        assert SECRET not in "".join(answer), name(handler)
        assert spawned == elsewhere, f"{name(handler)} starts something"
        now = files(page.runs_dir)
        assert {path: now.get(path) for path in before} == before, f"{name(handler)} changed a run of somebody else"
        shutil.rmtree(page.runs_dir / ".should-i", ignore_errors=True)
        shutil.rmtree(page.runs_dir / ".sweeps", ignore_errors=True)
        shutil.rmtree(page.runs_dir / ".measured", ignore_errors=True)


def test_the_owner_gets_an_answer_from_all_that_take_a_run(page):
    """So that the test above would see a door that is open."""
    run = page.give("alice")
    open_doors = set()
    for handler in page.handlers():
        without = page.call(handler, ALICE, NO_RUN)
        answer = page.call(handler, ALICE, run.id)
        told = "".join(answer).replace("no attribute 'path'", "")  # of a file just uploaded, which is no run's
        assert "has no attribute" not in told, f"CLICKED lacks what {name(handler)} is told of a click"
        if answer != without:
            open_doors.add(name(handler))
        page.put_back()
    assert open_doors >= {
        "Screen.draw", "Screen.pick", "Screen.go", "Draft.fill", "start_run", "stop_run", "discard_run", "read_log",
        "ask_to_stop", "line", "draw_rows", "compare", "begin", "wake", "stream", "present", "forget",
        "start_server", "stop_server", "server_now", "tick", "press_export", "press_push", "press_rows",
        "build.<locals>.on_rung",
    }  # fmt: skip
    fills = [handler for handler in page.handlers() if name(handler).endswith("download.<locals>.fill")]
    gave = [any(run.id in each or "RUN" in each for each in page.call(handler, ALICE, run.id)) for handler in fills]
    assert sum(gave) >= 4


@pytest.mark.parametrize(("token", "owner"), [(BOB, "bob"), (None, "")], ids=["signed in", "nobody"])
def test_no_handler_spends_the_machine_for_others_not_even_on_their_own_run(page, spawned, token, owner):
    run = page.give(owner)
    for handler in page.handlers():
        page.call(handler, token, run.id)
        assert spawned == [], name(handler)
        page.put_back()


def test_a_member_may_start_everything(page, spawned):
    run = page.give("alice")
    for handler in page.handlers():
        page.call(handler, ALICE, run.id)
        page.put_back()
    assert set(spawned) == {
        "train", "evaluate", "serve", "export", "push", "push-data", "should-i", "sweep", "plan"
    }  # fmt: skip
