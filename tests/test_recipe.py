"""A recipe is every choice once; wrong choices are said all at once, in words."""

import pytest
import yaml

from finetune_core.errors import FinetuneError
from finetune_core.presets import list_presets, parse_override, resolve_recipe
from finetune_core.recipe import Recipe, group_of


def test_a_saved_recipe_loads_back_equal(tmp_path):
    recipe = Recipe(
        learning_rate=3e-4, columns={"completion": "antwoord"}, system_prompt="Wees kort: 'ja' of \"nee\"\n"
    )
    recipe.save(tmp_path / "recipe.yaml")
    assert Recipe.load(tmp_path / "recipe.yaml") == recipe


def test_every_value_stands_under_its_explanation():
    text = Recipe().as_yaml()
    for name, field in Recipe.model_fields.items():
        lines = text.splitlines()
        at = next(i for i, line in enumerate(lines) if line.startswith(f"{name}:"))
        assert lines[at - 1] == f"# {field.description}"


def test_every_option_has_a_group_and_a_sentence():
    for name, field in Recipe.model_fields.items():
        assert group_of(name)
        assert field.description and field.description.endswith((".", "?", "}", "(sft)."))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"learning_rate": 5}, "learning_rate"),
        ({"lora_r": 0}, "lora_r"),
        ({"lora_rank": 8}, "did you mean lora_r"),
        ({"epochs": 3}, "did you mean num_train_epochs"),
        ({"batch_size": 4}, "did you mean per_device_train_batch_size"),  # and not test_size
        ({"method": "magic"}, "method"),
        ({"columns": {"answer": "x"}}, "roles are"),
        ({"validation_size": 0.5, "test_size": 0.5}, "fifth of the rows"),
        ({"model_name_or_path": "  "}, "model_name_or_path"),
        ({"num_train_epochs": "many"}, "num_train_epochs"),
        ({"max_steps": 0}, "max_steps: in no step nothing is learned"),
    ],
)
def test_a_wrong_value_is_refused_by_name(values, words):
    with pytest.raises(FinetuneError) as refused:
        Recipe.make(values)
    assert words in refused.value.problem
    assert refused.value.code == "bad-recipe"


def test_rows_in_the_place_of_a_recipe_are_told_to_go_beside_one(tmp_path):
    rows = tmp_path / "toets.csv"
    rows.write_text("Vraag;Antwoord\nHoe?;Zo.\n")
    with pytest.raises(FinetuneError) as refused:
        resolve_recipe(str(rows))
    assert refused.value.fix == f"Name a preset first: follow-instructions dataset_name={rows}"


def test_all_wrong_values_are_said_at_once():
    with pytest.raises(FinetuneError) as refused:
        Recipe.make({"learning_rate": 5, "lora_r": 0, "nonsense": 1})
    assert all(name in refused.value.problem for name in ("learning_rate", "lora_r", "nonsense"))


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("learning_rate=2e-4", {"learning_rate": "2e-4"}),
        ("packing=false", {"packing": False}),
        ("columns.completion=answer", {"columns": {"completion": "answer"}}),
        ("system_prompt=Answer: yes or no", {"system_prompt": "Answer: yes or no"}),
        ("model_revision=", {"model_revision": None}),
    ],
)
def test_an_override_is_read_as_a_person_means_it(text, values):
    assert parse_override(text) == values


def test_a_file_with_overrides_is_a_recipe(tmp_path):
    (tmp_path / "mine.yaml").write_text("lora_r: 8\ncolumns: {prompt: vraag}\n")
    recipe = resolve_recipe(str(tmp_path / "mine.yaml"), ["columns.completion=antwoord", "seed=7"])
    assert (recipe.lora_r, recipe.seed) == (8, 7)
    assert recipe.columns == {"prompt": "vraag", "completion": "antwoord"}


@pytest.mark.parametrize("text", ["lora_r: [1", "- a\n- b\n", "\xff\xfe"])
def test_an_unreadable_recipe_names_the_file(tmp_path, text):
    (tmp_path / "mine.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(FinetuneError, match=r"mine\.yaml"):
        Recipe.load(tmp_path / "mine.yaml")


def test_a_misspelt_preset_gets_a_hint():
    with pytest.raises(FinetuneError) as refused:
        resolve_recipe("quick-lok")
    assert "quick-look" in refused.value.fix


def test_every_preset_is_short_and_loads():
    presets = list_presets()
    assert len(presets) >= 6
    for preset in presets:
        Recipe.make(preset.recipe)
        assert preset.title and preset.description


def test_changed_gives_what_a_command_line_must_say():
    assert Recipe(lora_r=8, seed=42).changed() == {"lora_r": 8}
    assert yaml.safe_load(Recipe(lora_r=8).as_yaml())["lora_r"] == 8
