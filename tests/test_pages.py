"""The page as a whole: private handlers, nothing from other hosts, and drawn again only when something changed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest
from page_inputs import boxes_of, make_run, said

from finetune_core import Recipe
from finetune_ui import beforehand, check, form, look, measuring, words_choose, words_plan
from finetune_ui.pages import Draft, Screen

ROOT = Path(__file__).resolve().parent.parent


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


def test_drawing_choose_leaves_the_words_about_a_bad_file_alone(page):
    trouble = next(block for block in page.blocks.values() if "trouble" in (getattr(block, "elem_classes", None) or []))
    fillers = [fn for fn in page.fns.values() if trouble in fn.outputs]
    # a file, pasted rows, another data set; and, with every box, another draft
    assert [len(fn.outputs) <= 2 for fn in fillers].count(True) == 3 and len(fillers) == 6


def screen(runs_dir):
    return Screen(runs_dir, {})


def test_nothing_is_drawn_while_nothing_changed(runs_dir):
    run = make_run(runs_dir)
    first = screen(runs_dir).draw(run.id, "train", ())
    again = screen(runs_dir).draw(run.id, "train", first[2])
    assert all(update == gr.skip() for update in again)


def test_a_redraw_sends_only_what_looks_different(runs_dir):
    run = make_run(runs_dir)
    first = screen(runs_dir).draw(run.id, "train", ())
    run.tell("error", problem="It broke.", fix="Mend it.", code="broken")
    _, _, _, rail, *others = screen(runs_dir).draw(run.id, "train", first[2])
    assert "failed" in rail and all(update == gr.skip() for update in others)


def test_no_event_leaves_the_browser_asking_for_frames(page):
    marked = {getattr(part, "elem_id", None) for event in page.fns.values() for part in event.show_progress_on or [0]}
    assert marked == {"top"}


def test_what_moves_the_page_goes_through_the_queue(page):
    """Gradio's browser part tells of a state that changed only after queued events: Check would stay unread."""
    watched = {
        target for fn in page.fns.values() for target, event in fn.targets
        if event == "change" and isinstance(page.blocks.get(target), gr.State)
    }  # fmt: skip
    assert watched
    unqueued = [fn.targets for fn in page.fns.values() if fn.queue is False and watched & {o._id for o in fn.outputs}]
    assert unqueued == []


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


def review(page, step, boxes, on="here"):
    """Component → what a review of these boxes answers for it, once their rows are read."""
    handler = next(fn for fn in page.fns.values() if getattr(fn.fn, "__func__", None) is Draft.review)
    given = ("", step, "", "quick-look", (), 0, ("", ""), (), None, measuring.Drawn(), beforehand.Drawn(), on)
    assert len(handler.inputs) == len(given) + len(boxes)
    draft = handler.fn.__self__
    draft.looks.ask(form.read(boxes), wait_seconds=60)
    return draft, dict(zip(handler.outputs, handler.fn(gr.Request(), *given, *boxes), strict=True))


def test_a_review_fills_each_part_with_its_own(page, tiny_boxes):
    draft, answer = review(page, "check", tiny_boxes)
    verdict, _, tokens, rows, lengths, plan, _ = (answer[part] for part in draft.checked.outputs)
    for part, words in (
        (verdict, "to learn from"), (tokens, "token"), (rows, "What the rows are"), (lengths, "histogram"),
        (plan, "What it will cost"), (answer[draft.placing.outputs[0]], "Where it runs"),
    ):  # fmt: skip
        assert words in part
    assert answer[draft.placing.agreed] == () and isinstance(answer[draft.checked.measured.drawn], measuring.Drawn)
    assert answer[draft.begun.start]["value"] in (words_plan.START, words_plan.START_ANYWAY)
    (kept,) = (said for part, said in answer.items() if isinstance(part, gr.BrowserState))
    assert kept["on"] == "here" and kept["boxes"] == form.as_kept(tiny_boxes)


def test_a_place_that_is_picked_leaves_the_clock_of_a_measurement_to_its_next_tick(page, tiny_boxes):
    for on, is_left in (("here", False), ("jobs:l4x1", True)):
        draft, answer = review(page, "check", tiny_boxes, on)
        assert (answer[draft.checked.measured.outputs[1]] == gr.skip()) is is_left


def test_rows_that_were_read_are_told_where_this_machine_cannot_train(page, tiny_boxes):
    boxes = form.to_boxes(form.read(tiny_boxes).replace(method="qlora"))
    draft, answer = review(page, "choose", boxes)
    cards, _, data, *_ = (answer[part] for part in draft.chosen.outputs)
    assert "NVIDIA GPU" in answer[draft.begun.outputs[0]] and "Where it runs" in answer[draft.begun.outputs[0]]
    assert words_choose.UNKNOWN_DATA[0] not in data and words_plan.COST_UNKNOWN not in cards


def test_only_reachable_steps_open(runs_dir):
    run = make_run(runs_dir)
    assert screen(runs_dir).go(said(to="share"), run.id, "train") == "train"
    assert screen(runs_dir).go(said(to="check"), run.id, "train") == "check"


def draft(runs_dir):
    return Draft(runs_dir, None, None, SimpleNamespace(boxes=boxes_of()), None, None, None, None, None)


def test_opening_choose_of_a_run_fills_in_its_choices(runs_dir):
    run = make_run(runs_dir, lora_r=4)
    answer = draft(runs_dir).fill(run.id, "choose", "")
    assert answer[0] == run.id and form.read(answer[8:]).lora_r == 4


LONGER = {"kind": "unfinished", "changes": {"num_train_epochs": 3.0, "max_minutes": None}}


def advised(runs_dir, curves):
    run = make_run(runs_dir, lora_r=4, num_train_epochs=1.7)
    run.write_report({"curves": curves})
    return run, draft(runs_dir).advised(run.id)


def test_what_the_curves_advise_is_one_click_in_the_boxes_of_check_and_can_be_undone(runs_dir):
    run, answer = advised(runs_dir, LONGER)
    step, filled, _, undo, *_ = answer
    recipe = form.read(answer[9:])
    assert (step, filled, recipe.lora_r, recipe.num_train_epochs) == ("check", run.id, 4, 3.0)
    assert len(answer) == 1 + len(draft(runs_dir).fill(run.id, "check", ""))
    assert undo[0][0].startswith("3 epochs")
    _, *back = check.take_back(undo, *answer[9:])
    assert form.read(back) == run.recipe


@pytest.mark.parametrize("curves", [
    None, {"changes": None}, {"changes": {}}, {"changes": {"dataset_name": "someone/else"}},
    {"changes": {"num_train_epochs": "<b>"}},
])  # fmt: skip
def test_a_report_that_advises_nothing_that_can_be_meant_changes_nothing(runs_dir, curves):
    _, answer = advised(runs_dir, curves)
    assert all(value == gr.skip() for value in answer)


def test_nobody_elses_run_is_set_up_again(runs_dir):
    assert all(value == gr.skip() for value in draft(runs_dir).advised("../elsewhere"))


def test_a_new_draft_begins_without_the_trouble_of_the_last(runs_dir):
    assert draft(runs_dir).fresh()[4:8] == [(), 0, "", ""]


def test_opening_choose_again_keeps_what_was_typed(runs_dir):
    run = make_run(runs_dir)
    assert all(value == gr.skip() for value in draft(runs_dir).fill(run.id, "choose", run.id))


def test_no_rule_sets_all_borders_by_a_colour_of_ours_and_one_of_them_apart():
    """Gradio rewrites each rule through the browser's CSSOM, where the two cancel each other: no border is drawn."""
    rules = re.findall(r"[^{}]+\{[^{}]*\}", re.sub(r"/\*.*?\*/", "", look.css(), flags=re.DOTALL))
    both = [rule for rule in rules if re.search(r"\bborder:[^;]*var\(", rule)
            and re.search(r"\bborder-(top|right|bottom|left)(-\w+)?:", rule)]  # fmt: skip
    assert both == []


def test_the_numbers_of_the_check_stand_on_one_line_where_a_label_under_them_is_long():
    rule = re.search(r"\.verdict-facts div \{([^}]*)\}", look.css())[1]
    assert "column-reverse" in rule and "justify-content: flex-end" in rule  # which is the top of a reversed column
