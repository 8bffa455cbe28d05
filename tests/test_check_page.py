"""The panel Check: tokens and lengths, repairs tried and made, other ways to read, parts of a set on the Hub."""

from __future__ import annotations

import re
import threading
import zipfile
from dataclasses import replace
from types import SimpleNamespace

import pytest
from conftest import write_jsonl
from make_bad_inputs import chat, chats
from page_inputs import box_at, boxes_of, said
from waiting import wait_for

from finetune_core import Recipe
from finetune_core.data.changes import Change, Difference
from finetune_core.data.findings import Finding
from finetune_core.data.hubdata import HubChoices
from finetune_core.errors import FinetuneError
from finetune_core.recipe import Suggestion
from finetune_ui import (
    check,
    choose,
    form,
    looking,
    trials,
    words_check,
    words_hub,
    words_plan,
    words_repair,
    words_source,
    words_tokens,
)
from finetune_ui.hubpicks import HubPicks


@pytest.fixture
def boxes(tiny_model_dir, tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", [*chats(40), *chats(9), chat("What is <b>up</b>?", "<i>Sky</i>")])
    return form.to_boxes(Recipe(model_name_or_path=str(tiny_model_dir), dataset_name=str(path), max_length=128))


def look_at(looks, boxes):
    look = looks.ask(form.read(boxes), wait_seconds=60)
    assert look.seen is not None, look.error
    return look


def tried(looks, boxes, trial):
    def shown():
        return trials.show(looks, look_at(looks, boxes), trial, "a page")

    wait_for(lambda: (now := shown()) is None or not now.pending, 10)
    return shown()


def test_the_token_view_shows_what_is_trained_and_the_stop_token(seen):
    shown = check.token_view(seen.seen, 0)
    assert 't trained"' in shown and "stop" in shown and "learns when to stop" in shown


def test_the_arrows_of_the_token_view_end_at_the_last_row(seen):
    rows = sum(len(part) for part in seen.seen.prepared.splits().values())
    assert f"Row {rows} of {rows}" in check.token_view(seen.seen, rows - 1)


@pytest.mark.parametrize("row", [1, 17, 48])
def test_a_row_of_the_source_is_found_in_its_split(seen, row):
    index = check.row_index(seen.seen.prepared, row)
    assert check.row_at(seen.seen.prepared, index)[2].row == row


def test_the_check_is_drawn_in_every_state(seen):
    failed = FinetuneError("It is broken.", "Mend it.")
    assert "Reading the rows" in check.show(None, None, 0, check.NOTHING_SAID, ())[0]
    assert "Mend it." in check.show(None, failed, 0, check.NOTHING_SAID, ())[0]
    assert "Ready" in check.show(seen, None, 0, check.NOTHING_SAID, ())[0]


# --- repairs ---


def test_a_repair_is_shown_before_it_is_made(looks, boxes):
    look_at(looks, boxes)
    trial = check.try_out(looks, said(code="duplicates"), None, *boxes)
    shown = tried(looks, boxes, trial)
    assert "9 rows would be left out." in shown.html and "<del>" in shown.html and "and 6 more" not in shown.html
    panel = check.show(look_at(looks, boxes), None, 0, check.NOTHING_SAID, (), shown)[1]
    assert shown.html in panel and "Leave repeats out" in panel


def test_showing_a_repair_changes_no_box(runs_dir):
    import app

    page = app.build_page(runs_dir)
    attempts = [fn for fn in page.fns.values() if any(event == "attempt" for _, event in fn.targets)]
    assert attempts and all(len(fn.outputs) == 1 for fn in attempts)  # the trial, and none of the boxes


def test_a_second_click_closes_it(looks, boxes):
    look_at(looks, boxes)
    trial = check.try_out(looks, said(code="duplicates"), None, *boxes)
    assert check.try_out(looks, said(code="duplicates"), trial, *boxes) is None


def test_a_trial_of_other_rows_is_over(looks, boxes):
    look_at(looks, boxes)
    trial = check.try_out(looks, said(code="duplicates"), None, *boxes)
    other = form.to_boxes(form.read(boxes).replace(fixes=["drop-duplicates"]))
    assert trials.show(looks, look_at(looks, other), trial, "a page") is None


@pytest.mark.parametrize("code", ["gone", "small-set", ""])
def test_only_a_finding_with_a_repair_can_be_tried(looks, boxes, code):
    look_at(looks, boxes)
    assert check.try_out(looks, said(code=code), None, *boxes) is None


def test_the_text_of_rows_stays_text_in_a_trial():
    shown = words_repair.preview(Difference(1, 0, 0, ()), [Change(1, "<script>x</script>", "<b>")])
    assert "<script>" not in shown and "&lt;script&gt;" in shown and "&lt;b&gt;" in shown


def test_a_starter_model_on_its_way_is_no_error():
    waiting = words_check.failed(FinetuneError("It is not here yet.", "Wait.", "starter-not-here"))
    assert 'role="status"' in waiting and "when the starter model is here" in waiting
    assert "alert" not in waiting and "data-again" not in waiting


def test_a_check_that_the_person_cancelled_is_no_error():
    said_so = words_check.failed(FinetuneError("The check was cancelled.", "Start it again.", looking.CANCELLED))
    assert "notice info" in said_so and "Check again" in said_so


def test_applying_a_fix_changes_the_boxes_and_can_be_undone(looks, tiny_boxes, seen, monkeypatch):
    finding = Finding("repeats", "warning", "Two rows repeat.", suggestion=Suggestion("Drop them", {"lora_r": 4}))
    diagnosis = replace(seen.seen.diagnosis, findings=(finding,))
    changed = replace(seen, seen=replace(seen.seen, diagnosis=diagnosis))
    monkeypatch.setattr(looks, "ask", lambda recipe: changed)
    click = said(**{"from": "finding", "index": 0, "code": "repeats"})
    undo, *after = check.apply(looks, click, (), *tiny_boxes)
    assert form.read(after).lora_r == 4
    assert check.take_back(undo, *after)[1:] == list(tiny_boxes)


def test_a_learning_rate_that_the_plan_questions_is_taken_back_with_one_click(looks, tiny_boxes):
    boxes = list(tiny_boxes)
    boxes[box_at("learning_rate")] = "0.05"
    plan = look_at(looks, boxes).seen.plan
    assert plan.fits == "fits" and plan.ladder
    for card in (words_plan.plan(plan), words_plan.plan(plan, rented="L4")):
        (says,) = re.findall(r'data-ladder="([^"]+)"', card)
        _, *after = check.apply(looks, said(**{"from": "plan", "says": says}), (), *boxes)
        assert [place for place, value in enumerate(boxes) if after[place] != value] == [box_at("learning_rate")]
        assert after[box_at("learning_rate")] == ""


def test_what_needs_less_memory_here_is_not_offered_for_rented_hardware(seen):
    tight = replace(seen.seen.plan, fits="tight")
    assert "data-ladder" in words_plan.plan(tight) and "data-ladder" not in words_plan.plan(tight, rented="L4")


def test_what_was_chosen_since_a_fix_survives_its_undo():
    undo, *after = check.set_length(said(length=64), (), *boxes_of())
    after[box_at("num_train_epochs")] = "7"
    recipe = form.read(check.take_back(undo, *after)[1:])
    assert (recipe.max_length, recipe.num_train_epochs) == (Recipe().max_length, 7)


def test_what_was_done_to_one_data_set_is_not_taken_back_in_another(runs_dir):
    import app

    page = app.build_page(runs_dir)
    boxes = next(fn.inputs for fn in page.fns.values() if len(fn.inputs) == len(form.boxed()))
    data = boxes[box_at("dataset_name")]
    forgets = [fn for fn in page.fns.values() if (data._id, "change") in fn.targets and not fn.inputs]
    assert () in [fn.fn() for fn in forgets]


def test_a_row_is_called_left_out_only_over_the_rows_that_were_asked_about(looks, boxes):
    other = form.to_boxes(form.read(boxes).replace(fixes=["drop-duplicates"]))
    look_at(looks, other)
    index, sentence = check.find_row(looks, said(row=45), *other)
    assert "Row 45 is left out" in check.show(look_at(looks, other), None, index, sentence, ())[2]
    assert "left out" not in check.show(look_at(looks, boxes), None, index, sentence, ())[2]


def test_no_row_is_called_left_out_while_the_rows_are_read(boxes):
    reading = SimpleNamespace(ask=lambda recipe: SimpleNamespace(seen=None))
    assert check.find_row(reading, said(row=3), *boxes) == (check.gr.skip(), check.gr.skip())


def test_a_fix_that_is_no_longer_shown_changes_nothing(looks, tiny_boxes, seen):
    click = said(**{"from": "finding", "index": 7, "code": "gone"})
    assert check.apply(looks, click, (), *tiny_boxes) == [(), *tiny_boxes]


def test_the_cleaned_rows_are_one_zip_with_the_splits(looks, tiny_boxes, seen, tmp_path):
    with zipfile.ZipFile(check.write_rows(looks, *tiny_boxes, tmp_path)) as archive:
        assert archive.namelist() == ["train.jsonl", "validation.jsonl", "test.jsonl"]


# --- how it is read ---


def test_a_file_that_cannot_be_read_as_wished_leaves_every_way_back(looks, tiny_model_dir, tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", chats(20))
    boxes = boxes_of(model_name_or_path=str(tiny_model_dir), dataset_name=str(path), fixes=["encoding-utf-16"])
    look = looks.ask(form.read(boxes), wait_seconds=60)
    verdict, findings, _, rows, *_ = check.show(look, None, 0, check.NOTHING_SAID, (("Encoding: UTF-16", ()),))
    assert "rows.jsonl is not UTF-16." in verdict and "bug" not in look.error.code
    assert "data-undo" in findings and 'data-repair="encoding-utf-16"' in findings
    assert "<span>Encoding: UTF-16</span>" in findings
    assert '<select data-read="encoding">' in rows and 'value="utf-16" selected' in rows


def test_another_delimiter_is_one_choice_and_can_be_undone(tmp_path):
    start = form.to_boxes(Recipe(fixes=["drop-duplicates", "delimiter-comma"]))
    undo, *after = check.set_reading(said(wish="delimiter", text="semicolon"), (), *start)
    assert form.read(after).fixes == ["drop-duplicates", "delimiter-semicolon"]
    _, *cleared = check.set_reading(said(wish="delimiter", text=""), (), *after)
    assert form.read(cleared).fixes == ["drop-duplicates"]
    assert check.take_back(undo, *after)[1:] == start


@pytest.mark.parametrize("click", [{"wish": "delimiter", "text": "x"}, {"wish": "fixes", "text": "drop-leaks"}])
def test_no_other_repair_can_be_set_from_there(click):
    start = form.to_boxes(Recipe())
    assert check.set_reading(said(**click), (), *start) == [(), *start]


@pytest.mark.parametrize("wish", words_source.READ)
def test_every_way_to_read_is_a_repair_that_exists(wish):
    from finetune_core.data.problems import check_fixes

    for ending in words_source.READ[wish]:
        check_fixes(Recipe(fixes=[f"{wish}-{ending}"]))


def test_only_columns_that_are_there_can_be_mapped(looks, tiny_model_dir, tmp_path):
    path = tmp_path / "faq.csv"
    path.write_text("vraag,antwoord,note\n" + "".join(f"waar is {n}?,daar {n},x\n" for n in range(30)))
    boxes = boxes_of(model_name_or_path=str(tiny_model_dir), dataset_name=str(path))
    looks.ask(form.read(boxes), wait_seconds=30)
    _, *after = check.map_column(looks, said(role="prompt", column="note"), (), *boxes)
    assert form.read(after).columns["prompt"] == "note"
    _, *after = check.map_column(looks, said(role="prompt", column="antwoord"), (), *boxes)
    assert form.read(after).columns == {"prompt": "antwoord"}  # a column plays one role
    assert check.map_column(looks, said(role="prompt", column="nothing"), (), *boxes) == [(), *boxes]


def test_a_system_prompt_can_be_added_beside_the_rows():
    _, *after = check.set_line(said(field="system_prompt", text=" Be brief. "), (), *boxes_of())
    assert form.read(after).system_prompt == "Be brief."


def test_no_other_field_can_be_set_from_there():
    assert check.set_line(said(field="model_name_or_path", text="x"), (), *boxes_of())[1:] == boxes_of()


# --- lengths ---


def test_the_slider_sets_the_longest_row():
    _, *after = check.set_length(said(length=64), (), *boxes_of())
    assert form.read(after).max_length == 64


def test_lengths_beyond_the_line_are_counted_exactly():
    shown = words_tokens.lengths([10, 20, 30, 40], max_length=25)
    assert "2 rows cut (50.0%)." in shown


def test_the_slider_knows_which_rows_lose_their_answer():
    shown = words_tokens.lengths([10, 20, 30, 40], 25, [5, 5, 28, 90])
    assert "2 rows cut (50.0%). 1 row loses the whole answer." in shown
    assert 'data-starts="[[5,2],[28,1]]"' in shown.replace("&quot;", '"')


def test_the_slider_of_a_million_rows_stays_small():
    shown = words_tokens.lengths([n % 5000 for n in range(1_000_000)], 1024, [n % 700 for n in range(1_000_000)])
    assert len(shown) < 100_000


# --- the Hub ---

CHOICES = HubChoices(("small", "large"), ("train", "test"), ("main",))


def answered(picks, recipe):
    wait_for(lambda: not picks.of(recipe)[1], 10)
    return picks.of(recipe)[0]


def test_a_data_set_of_the_hub_offers_its_parts():
    parts = answered(HubPicks(lambda *_: CHOICES), Recipe(dataset_name="acme/faq"))
    shown = words_hub.pickers(parts, {"dataset_config": "large", "dataset_train_split": "train"})
    assert re.findall(r'<option value="(\w*)"( selected)?', shown) == [
        ("", ""), ("small", ""), ("large", " selected"), ("train", " selected"), ("test", "")
    ]  # fmt: skip
    assert "dataset_revision" not in shown  # there is only one


def test_a_split_that_is_not_there_says_so():
    shown = words_hub.pickers({"dataset_train_split": ("train_sft", "test_sft")}, {"dataset_train_split": "train"})
    assert ">train (not in this data set)<" in shown and ">train_sft<" in shown


def test_the_hub_is_asked_once_for_the_same_part():
    asked = []
    picks = HubPicks(lambda *key: asked.append(key) or CHOICES)
    for _ in range(3):
        answered(picks, Recipe(dataset_name="acme/faq", dataset_config="large"))
    assert asked == [("acme/faq", "large", None)]


def test_a_hub_that_is_away_is_silent():
    def away(*_):
        raise OSError("no route")

    assert words_hub.pickers(answered(HubPicks(away), Recipe(dataset_name="acme/faq")), Recipe().model_dump()) == ""


def test_a_version_that_cannot_be_asked_about_leaves_the_way_back():
    def ask(name, config, revision):
        if revision == "broken":
            raise OSError("no split of that")
        return HubChoices(("small", "large"), ("train", "test"), ("main", "broken"))

    picks, start = HubPicks(ask), Recipe(dataset_name="acme/faq")
    answered(picks, start)
    broken = start.replace(dataset_revision="broken")
    shown = words_hub.pickers(answered(picks, broken), broken.model_dump())
    assert '<option value="broken" selected>' in shown and '<option value="main">' in shown


def test_the_last_answer_is_shown_while_the_next_is_on_its_way():
    waiting = threading.Event()

    def ask(name, config, revision):
        if config:
            waiting.wait(10)
        return CHOICES

    picks, start = HubPicks(ask), Recipe(dataset_name="acme/faq")
    known = answered(picks, start)
    parts, asking = picks.of(start.replace(dataset_config="large"))
    waiting.set()
    assert asking and parts == known


def test_a_part_that_was_chosen_stays_changeable_while_the_hub_is_away():
    shown = words_hub.pickers({"dataset_config": ()}, {"dataset_config": "large"})
    assert '<option value="large" selected>large</option>' in shown and "not chosen" in shown


def test_files_and_starter_data_ask_nobody(tmp_path):
    picks = HubPicks(lambda *_: pytest.fail("asked"))
    (tmp_path / "rows.csv").write_text("a,b\n")
    for name in ("shop-messages", str(tmp_path / "rows.csv")):
        assert picks.of(Recipe(dataset_name=name)) == ({}, False)


def test_another_subset_starts_with_its_own_first_split():
    start = form.to_boxes(Recipe(dataset_name="acme/faq", dataset_train_split="train_sft"))
    after = form.read(choose.pick_part(said(field="dataset_config", text="large"), *start))
    assert (after.dataset_config, after.dataset_train_split) == ("large", "train")


def test_no_other_field_can_be_chosen_there():
    start = form.to_boxes(Recipe())
    assert choose.pick_part(said(field="model_name_or_path", text="x"), *start) == start


def test_a_repair_that_was_just_made_is_said_once_beside_those_made_before():
    made = {"drop-empty-answers": "leave out rows with an empty answer", "drop-duplicates": "leave repeats out"}
    html = words_check.findings((), ["leave out rows with an empty answer"], made)
    assert html.lower().count("leave out rows with an empty answer") == 1
    assert "<span>Leave repeats out</span>" in html
