"""The panel Choose: presets, rows that are pasted or named, and what a field shows that was left open."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest
from page_inputs import boxes_of, make_run, said

from finetune_core import hub
from finetune_core.machine import Machine
from finetune_core.recipe import STARTER_DATA, STARTER_MODEL
from finetune_ui import choose, form, frame, names, scripts, words_choose


def test_the_first_choice_is_the_starter():
    recipe = form.read(choose.fresh()[1:])
    assert (recipe.model_name_or_path, recipe.dataset_name) == (STARTER_MODEL, STARTER_DATA)


def test_a_field_left_open_shows_what_was_chosen():
    seen = SimpleNamespace(plan=SimpleNamespace(settings={"learning_rate": 0.0002, "packing": True}))
    assert choose._mark("learning_rate", {}, (), seen)["placeholder"] == "chosen for you: 2e-4"
    assert choose._mark("packing", {}, (), seen)["choices"][0] == ("chosen for you: on", "")


def test_a_field_is_unmarked_when_it_is_right_again():
    assert choose._mark("lora_r", {}, ("lora_r",), None)["elem_classes"] == ["field"]


def test_a_preset_keeps_the_rows_that_the_person_chose():
    boxes = boxes_of(dataset_name="acme/tickets")
    name, *values = choose.pick_preset(said(preset="long-texts"), "quick-look", *boxes)
    recipe = form.read(values)
    assert (name, recipe.dataset_name, recipe.max_length) == ("long-texts", "acme/tickets", 8192)


def test_a_preset_with_a_model_of_its_own_replaces_the_starter():
    _, *values = choose.pick_preset(said(preset="small-gpu"), "quick-look", *choose.fresh()[1:])
    assert form.read(values).model_name_or_path != STARTER_MODEL


def test_leaving_such_a_preset_brings_the_starter_back():
    _, *values = choose.pick_preset(said(preset="small-gpu"), "quick-look", *choose.fresh()[1:])
    _, *values = choose.pick_preset(said(preset="quick-look"), "small-gpu", *values)
    assert form.read(values).model_name_or_path == STARTER_MODEL


def test_hub_search_changes_nothing_when_the_hub_is_away(runs_dir):
    assert names.search_models(runs_dir, "qwen") == gr.skip()


@pytest.mark.parametrize(
    "path",
    ["/home/me/klanten", "~/klanten", "./klanten", ".\\klanten", "klanten.csv", "klanten.js", "C:\\klanten",
     "c:/klanten", "zaken/2026/klanten", "\\\\server\\zaken", "tests/klanten"],
)  # fmt: skip
def test_a_path_that_is_typed_is_never_sent_to_the_hub(path, runs_dir, monkeypatch):
    monkeypatch.setattr(hub, "search", lambda *_, **__: pytest.fail("it was sent"))
    for search in (names.search_models, names.search_data):
        assert search(runs_dir, path) == gr.skip()


def test_a_name_is_looked_up_while_it_is_typed_and_what_was_used_before_comes_first(runs_dir, monkeypatch):
    make_run(runs_dir, model_name_or_path="acme/Qwen2.5-0.5-ours", dataset_name="acme/faq")
    found = [hub.HubItem("Qwen/Qwen2.5-0.5B", 3_400_000, True, False, 494_000_000, None, "apache-2.0")]
    monkeypatch.setattr(hub, "search", lambda *_, **__: found)
    monkeypatch.setattr(names, "_machine", lambda _: Machine(cores=2, memory_gb=24, available_gb=20))
    (first, used), (second, _) = names.search_models(runs_dir, "Qwen2.5-0.5")["choices"]
    assert (first, used) == ("acme/Qwen2.5-0.5-ours · used before", "acme/Qwen2.5-0.5-ours")
    assert second == "Qwen/Qwen2.5-0.5B · 494 million · fits here · apache-2.0 · gated · 3.4 M downloads"


def test_a_model_that_is_far_too_large_is_marked(runs_dir, monkeypatch):
    monkeypatch.setattr(hub, "search", lambda *_, **__: [hub.HubItem("acme/huge", parameters=10**12)])
    assert "too large here" in names.search_models(runs_dir, "huge")["choices"][0][0]


def test_a_name_that_was_chosen_stands_in_its_box_without_its_facts(runs_dir):
    found = names.only_names(runs_dir, "dataset", "acme/faq")
    assert found["value"] == "acme/faq" and found["choices"][0] == ("acme/faq", "acme/faq")
    for chosen in ("/home/me/rows.csv", None):
        assert names.only_names(runs_dir, "dataset", chosen) == gr.skip()


def test_what_was_used_before_is_still_offered_when_something_was_chosen(runs_dir):
    make_run(runs_dir, dataset_name="acme/rows", model_name_or_path="acme/small")
    assert ("acme/rows", "acme/rows") in names.only_names(runs_dir, "dataset", "shop-messages")["choices"]
    models = names.only_names(runs_dir, "model", "acme/large")["choices"]
    assert {value for _, value in models} >= {STARTER_MODEL, "acme/small", "acme/large"}


def test_pasted_rows_become_the_data(runs_dir):
    update, problem = choose.keep_paste(runs_dir, said(text="question,answer\nHow?,So.\nWhen?,Now.\n"))
    assert Path(update["value"]).read_text().startswith("question,answer") and problem == ""


def test_a_draft_that_is_loaded_again_shows_the_name_of_its_file(runs_dir, tiny_data):
    _, data = names.first_choices(runs_dir, {"boxes": {"dataset_name": str(tiny_data)}})
    assert ("tickets.jsonl", str(tiny_data)) in data["choices"]


def test_pasting_nothing_says_what_to_do(runs_dir):
    _, problem = choose.keep_paste(runs_dir, said(text="  \n"))
    assert "Paste some" in problem


def test_every_kind_of_file_that_is_read_can_be_chosen():
    from finetune_core.data.filenames import PACKED, SUFFIXES

    assert set(words_choose.DATA_FILES) == {*SUFFIXES, *PACKED}


def test_who_drops_a_file_is_told_where_it_stays_except_on_a_space(runs_dir, monkeypatch):
    page = frame.Page(runs_dir, None, None)
    with gr.Blocks() as here:
        choose.build(page)
    monkeypatch.setattr(choose, "this_space", lambda: "acme/fijn")
    with gr.Blocks() as space:
        choose.build(page)
    said = [any(words_choose.ROWS_STAY in str(block.value or "") for block in blocks.blocks.values()
                if isinstance(block, gr.HTML)) for blocks in (here, space)]  # fmt: skip
    assert said == [True, False]


def test_which_preset_fits_the_rows_is_said_between_the_cards_and_the_boxes(runs_dir):
    """Below the boxes it lay hidden behind the bar with Start on a screen of usual height."""
    with gr.Blocks() as blocks:
        chosen = choose.build(frame.Page(runs_dir, None, None))
    fit = next(block for block in blocks.blocks.values() if getattr(block, "js_on_load", None) == scripts.FIT)
    assert chosen.presets._id < fit._id < chosen.model._id
