"""Looking at rows in the background: once for the same rows, and cancelled for the person who asked."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

from finetune_core import Recipe
from finetune_core.errors import FinetuneError
from finetune_ui import form, looking


def test_a_look_is_done_once_for_the_same_rows(tiny_boxes):
    calls = []

    def count(recipe, on_progress):
        calls.append(recipe)
        raise FinetuneError("no", "yes")

    looks = looking.Looks(count)
    recipe = form.read(tiny_boxes)
    looks.ask(recipe, wait_seconds=5)
    looks.ask(recipe, wait_seconds=5)
    assert len(calls) == 1


def test_other_training_settings_make_a_new_plan_without_reading_the_rows_again(looks, tiny_boxes):
    recipe = form.read(tiny_boxes)
    first = looks.ask(recipe, wait_seconds=30).seen
    second = looks.ask(recipe.replace(num_train_epochs=10), wait_seconds=0).seen
    assert second.prepared is first.prepared and second.plan.steps > first.plan.steps


def test_what_was_read_is_handed_to_a_look_that_reads_the_same():
    handed = []

    def look(recipe, on_progress, earlier=None):
        handed.append(earlier)
        return SimpleNamespace(recipe=recipe)

    looks, recipe = looking.Looks(look), Recipe(fixes=["mask-personal-data"])
    first = looks.ask(recipe, wait_seconds=5).seen
    for fixes in (["mask-personal-data", "drop-duplicates"], ["trim-labels", "mask-personal-data"]):
        looks.ask(recipe.replace(fixes=fixes), wait_seconds=5)
    looks.ask(recipe.replace(max_length=64), wait_seconds=5)
    looks.ask(recipe.replace(fixes=["numbers-to-text"]), wait_seconds=5)
    assert handed == [None, first, first, first, None]


def test_an_edited_file_is_read_again(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n')
    before = looking.what_it_reads(Recipe(dataset_name=str(path)))
    path.write_text('{"text": "abc"}\n')
    assert looking.what_it_reads(Recipe(dataset_name=str(path))) != before


def test_a_cancelled_look_ends_and_says_so():
    began = threading.Event()

    def slow(recipe, on_progress):
        while True:
            on_progress(0.5, "reading")
            began.set()
            time.sleep(0.01)

    looks, recipe = looking.Looks(slow), Recipe()
    looks.ask(recipe)
    assert began.wait(5)
    looks.cancel(recipe)
    assert looks.ask(recipe, wait_seconds=5).error.code == "cancelled"


def test_two_pages_do_not_stop_each_other():
    ended = []

    def slow(recipe, on_progress):
        for _ in range(20):
            on_progress(0.5, "reading")
            time.sleep(0.01)
        ended.append(recipe.dataset_name)
        raise FinetuneError("no", "yes")

    looks = looking.Looks(slow)
    looks.ask(Recipe(dataset_name="one"), who="a page")
    looks.ask(Recipe(dataset_name="two"), who="another page", wait_seconds=5)
    looks.ask(Recipe(dataset_name="one"), who="a page", wait_seconds=5)
    assert sorted(ended) == ["one", "two"]


def test_a_newer_draft_stops_the_look_of_the_older_one():
    ended = threading.Event()

    def slow(recipe, on_progress):
        try:
            for _ in range(500):
                on_progress(0.5, "reading")
                time.sleep(0.01)
        finally:
            if recipe.dataset_name == "older":
                ended.set()

    looks = looking.Looks(slow)
    looks.ask(Recipe(dataset_name="older"), who="a page")
    time.sleep(0.05)
    looks.ask(Recipe(dataset_name="newer"), who="a page")
    assert ended.wait(3)
