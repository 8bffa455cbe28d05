"""Two pages open at once, through gradio's own way of calling a handler."""

import asyncio
import threading
import time

import gradio as gr
import pytest
from gradio.state_holder import SessionState

import app
from finetune_core import Recipe
from finetune_core.errors import FinetuneError
from finetune_ui import form, looking


@pytest.fixture
def cancelled(monkeypatch):
    """What was being looked at when it was dropped; every look lasts until the test is over."""
    found, over = [], threading.Event()

    def endless(recipe, on_progress):
        try:
            while not over.wait(0.01):
                on_progress()
        except looking.Cancelled:
            found.append(recipe.dataset_name)
            raise
        raise FinetuneError("The test is over.", "Nothing to do.")

    monkeypatch.setattr(app, "Looks", lambda **more: looking.Looks(endless, **more))
    yield found
    over.set()


def review(demo, session, recipe):
    """What the browser asks when a box of this page changed."""
    handler = next(each for each in demo.fns.values() if each.name == "review")
    state = SessionState(demo)
    held, step = handler.inputs[:2]
    state[held._id], state[step._id] = "", "check"
    values = dict(
        zip([box._id for box in handler.inputs[-len(form.to_boxes(recipe)) :]], form.to_boxes(recipe), strict=True)
    )
    sent = [values.get(each._id) for each in handler.inputs]
    asyncio.run(demo.process_api(handler, sent, state, gr.Request(session_hash=session)))


def test_a_page_does_not_drop_the_look_that_another_one_waits_for(runs_dir, cancelled):
    demo = app.build_page(runs_dir)
    review(demo, "one", Recipe(dataset_name="rows-of-one.csv"))
    review(demo, "two", Recipe(dataset_name="rows-of-two.csv"))
    review(demo, "two", Recipe(dataset_name="other-rows-of-two.csv"))
    until = time.monotonic() + 10
    while not cancelled and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(0.2)  # for another that should not follow
    assert cancelled == ["rows-of-two.csv"]
