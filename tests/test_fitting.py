"""Which preset fits the rows: said where the starter preset meets others, and taken without what was set by hand."""

from types import SimpleNamespace

import pytest
from conftest import write_jsonl

from finetune_core.cli import main
from finetune_core.fitting import better_preset
from finetune_core.preflight import look
from finetune_core.presets import recipe_from_preset
from finetune_ui import choose, form

LABELS = [{"prompt": f"Message {i} of the day", "completion": ["return", "praise", "delay"][i % 3]} for i in range(60)]
FIELDS = [{"prompt": f"Order {i}", "completion": f'{{"number": {i}}}'} for i in range(60)]
ANSWERS = [{"prompt": f"What is {i} plus one?", "completion": f"It is {i + 1}, as you can count."} for i in range(60)]
LONG = [{"prompt": f"Sum up {i}: " + "word of many " * 1500, "completion": f"Many words, {i}."} for i in range(12)]
TEXTS = [{"text": f"Once upon a time number {i} went for a walk in the woods."} for i in range(60)]
CHATS = [
    {"messages": [{"role": role, "content": f"{role} says {turn} of {i}"}
                  for turn in "ab" for role in ("user", "assistant")]} for i in range(60)
]  # fmt: skip


def seen_of(tmp_path, tiny_model_dir, rows=LABELS, preset="quick-look", **values):
    file = write_jsonl(tmp_path / "rows.jsonl", rows)
    asked = {"model_name_or_path": str(tiny_model_dir), "dataset_name": str(file)} | values
    return look(recipe_from_preset(preset, **asked))


@pytest.mark.parametrize(
    ("rows", "preset"),
    [(LABELS, "classify-or-extract"), (FIELDS, "classify-or-extract"), (ANSWERS, "follow-instructions"),
     (LONG, "long-texts"), (TEXTS, "speak-like-this"), (CHATS, "speak-like-this")],
)  # fmt: skip
def test_the_rows_say_which_preset_fits(tmp_path, tiny_model_dir, rows, preset):
    assert better_preset(seen_of(tmp_path, tiny_model_dir, rows)).preset.name == preset


def test_the_starter_preset_is_left_alone_with_what_it_is_made_for():
    starter = recipe_from_preset("quick-look", lora_r=4)
    assert better_preset(SimpleNamespace(recipe=starter)) is None


def test_another_model_is_told_about_too(tmp_path, tiny_model_dir):
    seen = look(recipe_from_preset("quick-look", model_name_or_path=str(tiny_model_dir)))
    assert better_preset(seen).preset.name == "classify-or-extract"


@pytest.mark.parametrize("values", [{"learning_rate": 1e-4}, {"num_train_epochs": 5}])
def test_whoever_chose_how_to_learn_is_left_alone(tmp_path, tiny_model_dir, values):
    assert better_preset(seen_of(tmp_path, tiny_model_dir, **values)) is None


def test_what_was_set_by_hand_stays(tmp_path, tiny_model_dir):
    seen = seen_of(tmp_path, tiny_model_dir, lora_r=4, max_new_tokens=9)
    recipe = seen.recipe.replace(**better_preset(seen).changes)
    assert (recipe.lora_r, recipe.max_new_tokens, recipe.num_train_epochs, recipe.learning_rate) == (4, 9, 4, None)


def test_one_click_takes_the_preset_and_leaves_what_was_set_by_hand(tmp_path, tiny_model_dir):
    recipe = seen_of(tmp_path, tiny_model_dir, lora_r=4).recipe
    event = SimpleNamespace(preset="classify-or-extract")
    preset, *boxes = choose.take_fitting(event, "quick-look", *form.to_boxes(recipe))
    now = form.read(boxes)
    assert (preset, now.lora_r, now.num_train_epochs, now.early_stopping) == ("classify-or-extract", 4, 4, True)
    assert now.dataset_name == recipe.dataset_name and now.learning_rate is None


@pytest.mark.parametrize(("preset", "says"), [("quick-look", True), ("classify-or-extract", False)])
def test_choose_offers_it_under_the_starter_preset_only(tmp_path, tiny_model_dir, preset, says):
    from finetune_ui.looking import Look

    seen = seen_of(tmp_path, tiny_model_dir, preset=preset)
    shown = choose.show(form.to_boxes(seen.recipe), preset, (), Look(seen.recipe, seen=seen), {})
    assert any("data-fit=" in str(part) for part in shown) is says


@pytest.mark.parametrize("verb", ["check", "plan"])
def test_the_command_line_says_it(tmp_path, tiny_model_dir, capsys, verb):
    file = write_jsonl(tmp_path / "rows.jsonl", LABELS)
    main([verb, "quick-look", f"dataset_name={file}", f"model_name_or_path={tiny_model_dir}"])
    said = capsys.readouterr().out
    assert "The preset classify-or-extract fits them better than quick-look" in said


@pytest.mark.parametrize("verb", ["check", "plan"])
def test_the_starter_preset_is_named_only_to_who_named_it(tmp_path, tiny_model_dir, capsys, verb):
    file = tmp_path / "mine.yaml"
    seen_of(tmp_path, tiny_model_dir).recipe.save(file)
    main([verb, str(file)])
    said = capsys.readouterr().out
    assert "The preset classify-or-extract is made for such rows." in said and "quick-look" not in said


def test_long_rows_are_told_as_what_one_in_twenty_has_and_not_as_the_longest(tmp_path, tiny_model_dir):
    rows = [
        {"prompt": f"{i} " + "word of many " * (2000 + i if i < 4 else 20), "completion": f"Words, {i}."}
        for i in range(40)
    ]
    seen = seen_of(tmp_path, tiny_model_dir, rows)
    lengths = seen.diagnosis.lengths
    assert lengths["p95"] < lengths["max"]
    assert better_preset(seen).why == f"One row in twenty has {lengths['p95']:,} tokens or more."
