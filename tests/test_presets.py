"""Presets: every card on the page is a recipe that loads, reads well, and survives the form."""

from __future__ import annotations

import pytest

from finetune_core.presets import PRESETS_DIR, list_presets, recipe_from_preset
from finetune_core.recipe import Recipe
from finetune_ui import form

PRESETS = [preset.name for preset in list_presets()]
INTENTS = {"quick-look", "speak-like-this", "follow-instructions", "classify-or-extract", "small-gpu", "long-texts"}


def test_there_is_a_preset_for_every_intent():
    assert set(PRESETS) >= INTENTS


def test_the_quick_look_comes_first():
    assert PRESETS[0] == "quick-look"


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_valid_recipe(name):
    assert recipe_from_preset(name).objective == "sft"


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_says_only_what_differs_from_the_defaults(name):
    preset = next(preset for preset in list_presets() if preset.name == name)
    assert set(preset.recipe) == set(recipe_from_preset(name).changed())


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_fits_on_a_card(name):
    preset = next(preset for preset in list_presets() if preset.name == name)
    assert len(preset.title) <= 24
    assert 30 <= len(preset.description) <= 140
    assert len((PRESETS_DIR / f"{name}.yaml").read_text(encoding="utf-8").splitlines()) <= 20


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_comes_back_from_the_boxes_as_it_was(name):
    recipe = recipe_from_preset(name)
    assert form.read(form.to_boxes(recipe)) == recipe


def test_only_the_preset_for_gpus_needs_another_model_than_the_starter():
    others = {name for name in PRESETS if recipe_from_preset(name).model_name_or_path != Recipe().model_name_or_path}
    assert others == {"small-gpu"}
