"""A recipe in the boxes of the page and back, and a wrong value told at its box."""

from __future__ import annotations

import pytest
from page_inputs import box_at, boxes_of

from finetune_core import Recipe
from finetune_core.presets import resolve_recipe
from finetune_ui import form, words_fields


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
    boxes[box_at("learning_rate")] = "  "
    assert form.read(boxes).learning_rate is None


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
    boxes[box_at(name)] = value
    assert part in form.problems(boxes)[name]


def test_a_rule_about_two_fields_is_told_at_the_first_of_them():
    boxes = boxes_of()
    boxes[box_at("validation_size")], boxes[box_at("test_size")] = "0.45", "0.45"
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


@pytest.mark.parametrize(("given", "right"), [("2,5", "Write 2.5."), ("many", "Write for example 2e-4 or 0.5.")])
def test_a_number_with_a_comma_is_told_with_a_point(given, right):
    problem = {"type": "float_parsing", "msg": "", "input": given}
    assert words_fields.field_problem(problem) == f"“{given}” is no number. {right}"
