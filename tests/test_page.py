"""The page: its handlers called as functions. One fact a test; nothing is trained and no browser is opened."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest

from finetune_core import Recipe, Run
from finetune_core.data.findings import Finding
from finetune_core.data.source import Source, SourceFile
from finetune_core.errors import FinetuneError
from finetune_core.recipe import STARTER_DATA, STARTER_MODEL, Suggestion, resolve_recipe
from finetune_ui import (
    begin,
    check,
    choose,
    form,
    frame,
    look,
    looking,
    names,
    uploads,
    words,
    words_check,
    words_frame,
    words_plan,
    words_source,
    words_tokens,
)
from finetune_ui.pages import Draft, Screen

EVIL = """<script>alert(1)</script><img src=x onerror="alert('1')">"""
ROOT = Path(__file__).resolve().parent.parent


def said(**data):
    """What gradio hands to a handler when something on the page was clicked."""
    return gr.EventData(None, data)


def boxes_of(**values):
    return form.to_boxes(Recipe(**values))


@pytest.fixture(scope="module")
def tiny_data(tmp_path_factory):
    things = ["kettle", "lamp", "chair", "phone", "coat", "clock"] * 8
    rows = "".join(
        json.dumps(
            {
                "messages": [
                    {"role": "user", "content": f"order {number}: my {thing} is broken"},
                    {"role": "assistant", "content": f"defect {thing}"},
                ]
            }
        )
        + "\n"
        for number, thing in enumerate(things)
    )
    path = tmp_path_factory.mktemp("data") / "tickets.jsonl"
    path.write_text(rows, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def looks():
    return looking.Looks()


@pytest.fixture
def tiny_boxes(tiny_model_dir, tiny_data):
    return boxes_of(model_name_or_path=str(tiny_model_dir), dataset_name=str(tiny_data), max_length=128)


# --- the process ---


def test_the_page_never_imports_torch_not_even_to_check_rows(tiny_model_dir, tiny_data):
    code = f"""
import sys
from pathlib import Path
import app
app.build_page(Path("runs"))
from finetune_core import Recipe
from finetune_ui import check, looking
recipe = Recipe(model_name_or_path={str(tiny_model_dir)!r}, dataset_name={str(tiny_data)!r})
seen = looking.Looks().ask(recipe, wait_seconds=60).seen
assert "trained" in check.token_view(seen, 0)
heavy = {{"torch", "trl", "peft", "accelerate"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=120)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    import app

    return app.build_page(tmp_path_factory.mktemp("page-runs"))


def test_no_handler_of_the_page_is_a_public_endpoint(page):
    assert {fn.api_visibility for fn in page.fns.values()} == {"private"}


def test_the_page_fetches_nothing_from_other_hosts():
    everything = look.css() + look.HEAD + look.theme()._get_theme_css()
    assert "http" not in everything.replace("http://www.w3.org/2000/svg", "")


def test_every_field_of_the_recipe_that_leaves_a_choice_has_a_box(page):
    ids = {block.elem_id for block in page.blocks.values()}
    assert {f"field-{name}" for name in form.settings()} <= ids
    assert set(form.settings()) | set(form.OWN_PLACE) == {name for name in Recipe.model_fields if form.has_choice(name)}


def test_the_first_choice_is_the_starter():
    recipe = form.read(choose.fresh()[1:])
    assert (recipe.model_name_or_path, recipe.dataset_name) == (STARTER_MODEL, STARTER_DATA)


# --- boxes ---


@pytest.mark.parametrize(
    "values",
    [
        {"learning_rate": 3e-4},
        {"learning_rate": 0.00012345},
        {"packing": False},
        {"packing": True},
        {"columns": {"prompt": "question", "completion": "answer"}},
        {"columns": {"prompt": "name, first", "completion": "so: this"}},
        {"fixes": ["drop-duplicates", "drop-leaks"]},
        {"lora_target_modules": ["q_proj", "v_proj"]},
        {"lora_target_modules": "all-linear"},
        {"warmup_steps": 0.05},
        {"num_train_epochs": 2.5},
        {"system_prompt": "Be kind, be brief: always."},
        {"early_stopping": True},
        {"dtype": "float32"},
        {"max_steps": -1},
    ],
)
def test_a_recipe_comes_back_from_its_boxes(values):
    assert form.read(boxes_of(**values)) == Recipe(**values)


def test_an_emptied_box_means_chosen_for_you():
    boxes = boxes_of(learning_rate=1e-3)
    boxes[_at("learning_rate")] = "  "
    assert form.read(boxes).learning_rate is None


def _at(name):
    return [field for field in form.FIELDS if form.has_choice(field)].index(name)


@pytest.mark.parametrize(
    ("name", "value", "part"),
    [
        ("lora_r", "0", "Write 1 or more"),
        ("lora_r", "many", "no whole number"),
        ("lora_r", "", "may not be empty"),
        ("learning_rate", "fast", "no number"),
        ("learning_rate", "2", "Write 1 or less"),
        ("lora_dropout", "1", "less than 1"),
        ("model_name_or_path", "", "may not be empty"),
        ("columns", "anwser: reply", "no role"),
        ("method", "magic", "not one of"),
        ("validation_size", "0.9", "Write 0.5 or less"),
    ],
)
def test_a_wrong_value_is_told_at_its_field_with_what_would_be_right(name, value, part):
    boxes = boxes_of()
    boxes[_at(name)] = value
    assert part in form.problems(boxes)[name]


def test_a_rule_about_two_fields_is_told_at_the_first_of_them():
    boxes = boxes_of()
    boxes[_at("validation_size")], boxes[_at("test_size")] = "0.45", "0.45"
    assert list(form.problems(boxes)) == ["validation_size"]


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"lora_r": 8},
        {"learning_rate": 2e-5, "packing": False},
        {"columns": {"prompt": "the question", "completion": "answer"}},
        {"system_prompt": "yes", "template": "Say: {x}; then 'stop'"},
        {"fixes": ["drop-leaks"]},
        {"model_name_or_path": "/a folder/with spaces"},
        {"max_rows": None, "sample_prompt": "42"},
    ],
)
def test_the_command_shown_is_the_recipe_that_start_runs(values):
    import shlex

    recipe = Recipe(**{"max_length": 512, "max_new_tokens": 64} | values)
    line = form.command_line(recipe, "quick-look", form.preset("quick-look").recipe)
    words = shlex.split(line)
    assert words[:5] == ["python", "-m", "finetune_core", "train", "quick-look"]
    assert resolve_recipe(words[4], words[5:]) == recipe


def test_a_field_left_open_shows_what_was_chosen():
    seen = SimpleNamespace(plan=SimpleNamespace(settings={"learning_rate": 0.0002, "packing": True}))
    assert choose._mark("learning_rate", {}, (), seen)["placeholder"] == "chosen for you: 2e-4"
    assert choose._mark("packing", {}, (), seen)["choices"][0] == ("chosen for you: on", "")


def test_a_field_is_unmarked_when_it_is_right_again():
    assert choose._mark("lora_r", {}, ("lora_r",), None)["elem_classes"] == ["field"]


# --- choosing ---


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


def test_hub_search_changes_nothing_when_the_hub_is_away():
    assert names.search_models(SimpleNamespace(input_value="qwen")) == gr.skip()


def test_an_upload_is_kept_in_the_runs_folder_under_its_own_name(tmp_path, runs_dir):
    source = tmp_path / "up" / "My tickets.csv"
    source.parent.mkdir()
    source.write_text("question,answer\na,b\n")
    kept = uploads.keep_file(runs_dir, str(source), tmp_path / "up")
    source.unlink()
    assert kept.name == "My tickets.csv" and kept.read_text() == "question,answer\na,b\n"
    assert kept.is_relative_to(runs_dir)


def test_the_same_upload_twice_is_kept_once(tmp_path, runs_dir):
    source = tmp_path / "rows.csv"
    source.write_text("a,b\n1,2\n")
    assert uploads.keep_file(runs_dir, str(source), tmp_path) == uploads.keep_file(runs_dir, str(source), tmp_path)


@pytest.mark.parametrize("path", ["/etc/passwd", "../secret.txt", "nowhere.csv"])
def test_only_files_that_were_uploaded_are_taken(path, tmp_path, runs_dir):
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "up").mkdir()
    with pytest.raises(FinetuneError):
        uploads.keep_file(runs_dir, str(tmp_path / "up" / path), tmp_path / "up")


def test_pasted_rows_become_the_data(runs_dir):
    update, problem = choose.keep_paste(runs_dir, said(text="question,answer\nHow?,So.\nWhen?,Now.\n"))
    assert Path(update["value"]).read_text().startswith("question,answer") and problem == ""


def test_drawing_choose_leaves_the_words_about_a_bad_file_alone(page):
    trouble = next(block for block in page.blocks.values() if "trouble" in (getattr(block, "elem_classes", None) or []))
    fillers = [fn for fn in page.fns.values() if trouble in fn.outputs]
    assert len(fillers) == 3 and all(len(fn.outputs) <= 2 for fn in fillers)  # a file, pasted rows, another data set


def test_a_draft_that_is_loaded_again_shows_the_name_of_its_file(runs_dir, tiny_data):
    _, data = names.first_choices(runs_dir, {"boxes": {"dataset_name": str(tiny_data)}})
    assert ("tickets.jsonl", str(tiny_data)) in data["choices"]


def test_pasting_nothing_says_what_to_do(runs_dir):
    _, problem = choose.keep_paste(runs_dir, said(text="  \n"))
    assert "Paste some" in problem


# --- looking ---


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


# --- the check ---


@pytest.fixture
def seen(looks, tiny_boxes):
    return looks.ask(form.read(tiny_boxes), wait_seconds=30)


def test_the_token_view_shows_what_is_trained_and_the_stop_token(seen):
    shown = check.token_view(seen.seen, 0)
    assert 't trained"' in shown and "stop" in shown and "learns when to stop" in shown


def test_the_arrows_of_the_token_view_end_at_the_last_row(seen):
    rows = sum(len(part) for part in seen.seen.prepared.splits().values())
    assert f"Row {rows} of {rows}" in check.token_view(seen.seen, rows - 1)


@pytest.mark.parametrize("row", [1, 17, 48])
def test_a_row_of_the_source_is_found_in_its_split(seen, row):
    index = check.row_index(seen.seen.prepared, row)
    assert check.row_at(seen.seen.prepared, index)[2] == row


def test_the_check_is_drawn_in_every_state(seen):
    failed = FinetuneError("It is broken.", "Mend it.")
    assert "Reading the rows" in check.show(None, None, 0, "", ())[0]
    assert "Mend it." in check.show(None, failed, 0, "", ())[0]
    assert "Ready" in check.show(seen, None, 0, "", ())[0]


def test_applying_a_fix_changes_the_boxes_and_can_be_undone(looks, tiny_boxes, seen, monkeypatch):
    finding = Finding("repeats", "warning", "Two rows repeat.", suggestion=Suggestion("Drop them", {"lora_r": 4}))
    diagnosis = replace(seen.seen.diagnosis, findings=(finding,))
    changed = replace(seen, seen=replace(seen.seen, diagnosis=diagnosis))
    monkeypatch.setattr(looks, "ask", lambda recipe: changed)
    click = said(**{"from": "finding", "index": 0, "code": "repeats"})
    undo, *after = check.apply(looks, click, (), *tiny_boxes)
    assert form.read(after).lora_r == 4
    assert check.take_back(undo, *after)[1:] == list(tiny_boxes)


def test_a_fix_that_is_no_longer_shown_changes_nothing(looks, tiny_boxes, seen):
    click = said(**{"from": "finding", "index": 7, "code": "gone"})
    assert check.apply(looks, click, (), *tiny_boxes) == [(), *tiny_boxes]


def test_only_columns_that_are_there_can_be_mapped(looks, tiny_model_dir, tmp_path):
    path = tmp_path / "faq.csv"
    path.write_text("vraag,antwoord,note\n" + "".join(f"waar is {n}?,daar {n},x\n" for n in range(30)))
    boxes = boxes_of(model_name_or_path=str(tiny_model_dir), dataset_name=str(path))
    looks.ask(form.read(boxes), wait_seconds=30)
    _, *after = check.map_column(looks, said(role="prompt", column="note"), (), *boxes)
    assert form.read(after).columns["prompt"] == "note"
    assert check.map_column(looks, said(role="prompt", column="nothing"), (), *boxes) == [(), *boxes]


def test_a_system_prompt_can_be_added_beside_the_rows():
    _, *after = check.set_line(said(field="system_prompt", text=" Be brief. "), (), *boxes_of())
    assert form.read(after).system_prompt == "Be brief."


def test_no_other_field_can_be_set_from_there():
    assert check.set_line(said(field="model_name_or_path", text="x"), (), *boxes_of())[1:] == boxes_of()


def test_the_cleaned_rows_are_one_zip_with_the_splits(looks, tiny_boxes, seen, tmp_path):
    with zipfile.ZipFile(check.write_rows(looks, *tiny_boxes, tmp_path)) as archive:
        assert archive.namelist() == ["train.jsonl", "validation.jsonl", "test.jsonl"]


def test_the_slider_sets_the_longest_row():
    _, *after = check.set_length(said(length=64), (), *boxes_of())
    assert form.read(after).max_length == 64


def test_lengths_beyond_the_line_are_counted_exactly():
    shown = words_tokens.lengths([10, 20, 30, 40], max_length=25)
    assert "2 rows cut (50.0%)." in shown


# --- the bar and Start ---


def test_start_makes_one_run_for_a_double_click(looks, tiny_boxes, seen, runs_dir, monkeypatch):
    started = []
    monkeypatch.setattr(begin.launch, "start", started.append)
    draft = begin.new_draft()
    first = begin.press(looks, runs_dir, "check", draft, *tiny_boxes)
    second = begin.press(looks, runs_dir, "check", draft, *tiny_boxes)
    assert first[0] == second[0] and first[1] == "train"
    assert len(list(runs_dir.glob("*/recipe.yaml"))) == 1


def test_another_recipe_of_the_same_draft_is_another_run(looks, tiny_boxes, seen, runs_dir, monkeypatch):
    monkeypatch.setattr(begin.launch, "start", lambda run: None)
    changed = list(tiny_boxes)
    changed[_at("lora_r")] = "4"
    runs = {begin.press(looks, runs_dir, "check", "draft", *boxes)[0] for boxes in (tiny_boxes, changed)}
    assert len(runs) == 2


def test_nothing_starts_on_a_wrong_value(looks, tiny_boxes, runs_dir):
    wrong = list(tiny_boxes)
    wrong[_at("lora_r")] = "0"
    *_, problem = begin.press(looks, runs_dir, "check", "draft", *wrong)
    assert "Adapter rank" in problem and not runs_dir.exists()


def test_nothing_half_made_stays_when_the_data_cannot_be_read(looks, tiny_model_dir, runs_dir):
    boxes = boxes_of(model_name_or_path=str(tiny_model_dir), dataset_name="/nowhere/rows.jsonl")
    *_, problem = begin.press(looks, runs_dir, "check", "draft", *boxes)
    assert "notice bad" in problem and not list(runs_dir.glob("*/recipe.yaml"))


def test_warnings_are_shown_before_they_are_passed_over(looks, tiny_boxes, seen, runs_dir, monkeypatch):
    warned = replace(seen, seen=replace(seen.seen, diagnosis=replace(seen.seen.diagnosis, verdict="warnings")))
    monkeypatch.setattr(looks, "ask", lambda recipe, **how: warned)
    assert begin.press(looks, runs_dir, "choose", "draft", *tiny_boxes)[1] == "check"
    assert not runs_dir.exists()


def test_the_bar_waits_for_the_starter_model(runs_dir):
    look_ = SimpleNamespace(error=FinetuneError("not here", "wait", "starter-not-here"), seen=None, pending=False)
    says, _, start = begin.show(runs_dir, "choose", look_, (), None)
    assert "starter model" in says and start["interactive"] is False


# --- what is held ---


def make_run(runs_dir, tail="abcd", **values):
    return Run.create(runs_dir, Recipe(**values), {"steps": 4, "seconds": 60.0}, tail)


def test_a_fresh_page_without_runs_opens_choose(runs_dir):
    assert frame.arrive(runs_dir, None, None) == ("", "choose")


def test_a_fresh_page_opens_the_newest_run(runs_dir):
    make_run(runs_dir, "aaaa")
    time.sleep(0.02)
    newest = make_run(runs_dir, "bbbb")
    assert frame.arrive(runs_dir, None, None) == (newest.id, "train")


def test_a_page_opens_the_run_of_its_address(runs_dir):
    run = make_run(runs_dir, "aaaa")
    make_run(runs_dir, "bbbb")
    assert frame.arrive(runs_dir, run.id, "check") == (run.id, "check")


def test_a_step_that_has_nothing_to_show_is_not_opened(runs_dir):
    run = make_run(runs_dir)
    assert frame.arrive(runs_dir, run.id, "prove") == (run.id, "train")


def test_a_draft_stays_a_draft_when_the_page_is_loaded_again(runs_dir):
    make_run(runs_dir)
    assert frame.arrive(runs_dir, None, "check", new=True) == ("", "check")


@pytest.mark.parametrize("name", ["../secret", "/etc", "..", ".", "", ".uploads", "a/b"])
def test_an_address_cannot_lead_out_of_the_runs_folder(name, runs_dir):
    make_run(runs_dir)
    assert frame.find(runs_dir, name) is None


def screen(runs_dir):
    return Screen(runs_dir, {})


def test_nothing_is_drawn_while_nothing_changed(runs_dir):
    run = make_run(runs_dir)
    first = screen(runs_dir).draw(run.id, "train", ())
    again = screen(runs_dir).draw(run.id, "train", first[2])
    assert all(update == gr.skip() for update in again)


def test_a_run_started_in_a_terminal_appears(runs_dir):
    seen = screen(runs_dir).draw("", "choose", ())[2]
    run = make_run(runs_dir)
    assert run.id in screen(runs_dir).draw("", "choose", seen)[3]


def test_a_deleted_run_leaves_the_page_on_choose(runs_dir):
    run = make_run(runs_dir)
    seen = screen(runs_dir).draw(run.id, "train", ())[2]
    run.delete()
    assert screen(runs_dir).draw(run.id, "train", seen)[:2] == ["", "choose"]


def test_drawing_never_takes_back_a_click_that_came_meanwhile(runs_dir):
    run = make_run(runs_dir)
    assert screen(runs_dir).draw(run.id, "train", ())[:2] == [gr.skip(), gr.skip()]


def test_only_reachable_steps_open(runs_dir):
    run = make_run(runs_dir)
    assert screen(runs_dir).go(said(to="share"), run.id, "train") == "train"
    assert screen(runs_dir).go(said(to="check"), run.id, "train") == "check"


def draft(runs_dir):
    return Draft(runs_dir, None, None, SimpleNamespace(boxes=boxes_of()), None, None)


def test_opening_choose_of_a_run_fills_in_its_choices(runs_dir):
    run = make_run(runs_dir, lora_r=4)
    answer = draft(runs_dir).fill(run.id, "choose", "")
    assert answer[0] == run.id and form.read(answer[5:]).lora_r == 4


def test_opening_choose_again_keeps_what_was_typed(runs_dir):
    run = make_run(runs_dir)
    assert all(value == gr.skip() for value in draft(runs_dir).fill(run.id, "choose", run.id))


# --- words ---


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.attributes = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attributes]


def parse(text):
    tags = Tags()
    tags.feed(text)
    return tags


def evil_pieces():
    piece = SimpleNamespace(text=EVIL, id=1, kind="trained", is_special=False, is_stop=False)
    finding = Finding(EVIL, "error", EVIL, (1,), 1, EVIL, Suggestion(EVIL, {}), examples=(EVIL,))
    run = words_frame.RailRun(EVIL, EVIL, EVIL, "running", verdict=EVIL)
    error = FinetuneError(EVIL, EVIL)
    source = Source(
        EVIL, "file", (SourceFile(EVIL, "csv", encoding=EVIL, delimiter=EVIL, sheet=EVIL),), 9, licence=EVIL
    )
    return {
        "tokens": words_tokens.tokens([piece], 0, 1, 1, "train", EVIL),
        "findings": words_check.findings([finding], [EVIL], {EVIL: EVIL}),
        "rows": words_source.rows_card(
            source, EVIL, {EVIL: ("ready", EVIL)}, [EVIL], {"prompt": EVIL}, ["prompt"], Recipe(system_prompt=EVIL)
        ),
        "rail": words_frame.rail([run], EVIL),
        "folds": words_frame.folds({"choose": EVIL}),
        "header": words_frame.header(EVIL, True),
        "error": words.error_card(error),
        "failed": words_check.failed(error),
        "bar": words_plan.bar(EVIL, EVIL),
        "fetching": words_plan.bar_fetching({"says": EVIL, "fraction": 0.5}),
        "looking": words_check.looking(EVIL),
    }


@pytest.mark.parametrize("name", evil_pieces())
def test_text_of_data_and_people_stays_text(name):
    tags = parse(evil_pieces()[name])
    assert "script" not in tags.tags and "img" not in tags.tags
    assert not [attribute for attribute in tags.attributes if attribute.startswith("on")]


def test_states_are_told_by_shape_and_word_not_by_color_alone():
    for status in words.STATUS_TONES:
        run = words_frame.RailRun("id", "data", "model", status)
        assert words.status_word(status) in words_frame.rail([run], "")


def test_a_finished_step_says_what_was_decided():
    assert words_frame.chosen_line(Recipe()) == "SmolLM2-135M-Instruct · shop-messages · LoRA"
