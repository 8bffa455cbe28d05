"""What a page opens: the run and the step of its address, and no folder outside the runs."""

from __future__ import annotations

import time

import pytest
from page_inputs import make_run

from finetune_core.recipe import Recipe
from finetune_core.run import Run
from finetune_ui import frame, words_frame


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


@pytest.fixture
def broken(runs_dir):
    """The newest run, with a recipe that this version cannot read."""
    run = make_run(runs_dir, "bbbb")
    (run.path / "recipe.yaml").write_text("a_field_of_tomorrow: 1\n")
    return run


def test_a_run_that_cannot_be_read_stays_in_the_rail_and_says_where_it_lies(runs_dir, broken):
    good = make_run(runs_dir, "aaaa")
    drawn = frame.draw_rail(runs_dir, good.id)
    assert f'data-run="{good.id}"' in drawn and f'data-run="{broken.id}"' not in drawn
    assert "cannot be read" in drawn and "a_field_of_tomorrow" in drawn and str(broken.path) in drawn


def test_a_run_that_cannot_be_read_is_never_opened(runs_dir, broken):
    assert frame.find(runs_dir, broken.id) is None
    assert frame.arrive(runs_dir, broken.id, None) == ("", "choose")


def test_the_rail_reads_a_report_once_for_each_version(runs_dir, monkeypatch):
    run, read = make_run(runs_dir), []
    monkeypatch.setattr(frame.Run, "report", lambda run: read.append(run.id))
    frame.draw_rail(runs_dir, "")
    frame.draw_rail(runs_dir, "")
    run.tell("stage", name="training")
    frame.draw_rail(runs_dir, "")
    assert read == [run.id] * 2


@pytest.mark.parametrize("name", ["../secret", "/etc", "..", ".", "", ".uploads", "a/b"])
def test_an_address_cannot_lead_out_of_the_runs_folder(name, runs_dir):
    make_run(runs_dir)
    assert frame.find(runs_dir, name) is None


def test_a_folder_with_an_odd_name_is_no_markup(tmp_path):
    run = Run(tmp_path / 'x" onfocus="alert(1)')
    run.path.mkdir()
    Recipe().save(run.path / "recipe.yaml")
    assert 'onfocus="' not in frame.draw_path(run, "choose")


@pytest.mark.parametrize(
    ("stage", "says"),
    [("waiting for its turn", "waiting"), ("loading the model", "training"), ("evaluating", "comparing")],
)
def test_the_rail_tells_waiting_from_training(stage, says):
    assert words_frame.rail_under(Recipe(), "running", 0.0, stage=stage).startswith(f"{says} · ")
