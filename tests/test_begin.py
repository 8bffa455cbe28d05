"""The bar and Start: one click is one run, and nothing half-made stays."""

from __future__ import annotations

import errno
from dataclasses import replace
from types import SimpleNamespace

from filelock import FileLock
from page_inputs import box_at, boxes_of

from finetune_core.errors import FinetuneError
from finetune_ui import begin


def test_start_makes_one_run_for_a_double_click(looks, tiny_boxes, seen, runs_dir, monkeypatch):
    started = []
    monkeypatch.setattr(begin.launch, "start", lambda run, _token, options: started.append(run))
    draft = begin.new_draft()
    first = begin.press(looks, runs_dir, "check", draft, *tiny_boxes)
    second = begin.press(looks, runs_dir, "check", draft, *tiny_boxes)
    assert first[0] == second[0] and first[1] == "train"
    assert len(list(runs_dir.glob("*/recipe.yaml"))) == 1


def test_another_recipe_of_the_same_draft_is_another_run(looks, tiny_boxes, seen, runs_dir, monkeypatch):
    monkeypatch.setattr(begin.launch, "start", lambda *_, **__: None)
    changed = list(tiny_boxes)
    changed[box_at("lora_r")] = "4"
    runs = {begin.press(looks, runs_dir, "check", "draft", *boxes)[0] for boxes in (tiny_boxes, changed)}
    assert len(runs) == 2


def test_nothing_starts_on_a_wrong_value(looks, tiny_boxes, runs_dir):
    wrong = list(tiny_boxes)
    wrong[box_at("lora_r")] = "0"
    *_, problem = begin.press(looks, runs_dir, "check", "draft", *wrong)
    assert "Adapter rank" in problem and not runs_dir.exists()


def test_nothing_half_made_stays_when_the_data_cannot_be_read(looks, tiny_model_dir, runs_dir):
    boxes = boxes_of(model_name_or_path=str(tiny_model_dir), dataset_name="/nowhere/rows.jsonl")
    *_, problem = begin.press(looks, runs_dir, "check", "draft", *boxes)
    assert "notice bad" in problem and not list(runs_dir.glob("*/recipe.yaml"))


def test_a_disk_that_is_full_before_there_is_a_run_speaks_of_none_to_resume(
    looks, tiny_boxes, seen, runs_dir, monkeypatch
):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("finetune_core.run.write_json", full)
    *_, problem = begin.press(looks, runs_dir, "check", "draft", *tiny_boxes)
    assert "The disk is full" in problem and "try again" in problem and "Resume" not in problem


def test_warnings_are_shown_before_they_are_passed_over(looks, tiny_boxes, seen, runs_dir, monkeypatch):
    warned = replace(seen, seen=replace(seen.seen, diagnosis=replace(seen.seen.diagnosis, verdict="warnings")))
    monkeypatch.setattr(looks, "ask", lambda recipe, **how: warned)
    assert begin.press(looks, runs_dir, "choose", "draft", *tiny_boxes)[1] == "check"
    assert not runs_dir.exists()


def test_the_bar_says_that_a_training_would_wait_whatever_has_the_machine(seen, runs_dir):
    runs_dir.mkdir()
    with FileLock(runs_dir / ".gpu.lock"):
        assert "waits for" in begin.show(runs_dir, "check", seen, (), None)[0]
    assert "waits for" not in begin.show(runs_dir, "check", seen, (), None)[0]


def test_the_bar_waits_for_the_starter_model(runs_dir):
    look_ = SimpleNamespace(error=FinetuneError("not here", "wait", "starter-not-here"), seen=None, pending=False)
    says, _, start = begin.show(runs_dir, "choose", look_, (), None)
    assert "starter model" in says and start["interactive"] is False
