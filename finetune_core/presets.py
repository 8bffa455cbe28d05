"""What a training starts from: presets, recipe files, and the values that are typed behind them."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from .errors import FinetuneError
from .files import read_yaml
from .recipe import Recipe

PRESETS_DIR = Path(__file__).resolve().parent.parent / "presets"
DATA_DIR = PRESETS_DIR / "data"


class Preset(BaseModel):
    """A starting point for an intent: words for the card, and the few values that differ from the defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    title: str
    description: str
    order: int = 100
    recipe: dict[str, Any] = {}


def list_presets(folder: Path = PRESETS_DIR) -> list[Preset]:
    """All presets, in the order of their cards."""
    return sorted((load_preset(file.stem, folder) for file in folder.glob("*.yaml")), key=lambda p: (p.order, p.name))


def load_preset(name: str, folder: Path = PRESETS_DIR) -> Preset:
    """The preset of this name. Raises FinetuneError (bad-recipe) where there is none, with the nearest name."""
    path = folder / f"{name}.yaml"
    if Path(name).name != name or not path.is_file():
        known = sorted(file.stem for file in folder.glob("*.yaml"))
        near = difflib.get_close_matches(name, known, 1)
        hint = f"Did you mean {near[0]}? " if near else ""
        raise FinetuneError(
            f"There is no preset called {name!r}.", f"{hint}Presets: {', '.join(known)}.", code="bad-recipe"
        )
    return Preset(name=name, **read_yaml(path))


def recipe_from_preset(preset: str, **values: Any) -> Recipe:
    """A preset's recipe with some values replaced. Raises FinetuneError for an unknown preset or value."""
    return Recipe.make(load_preset(preset).recipe | values)


def parse_override(text: str) -> dict[str, Any]:
    """One `field=value` of the command line; a dot reaches into columns.

    >>> parse_override("lora_r=8"), parse_override("columns.completion=answer")
    ({'lora_r': 8}, {'columns': {'completion': 'answer'}})
    """
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise FinetuneError(f"{text!r} is not a field=value.", "Write for example learning_rate=2e-4.", code="usage")
    try:
        parsed = yaml.safe_load(value) if value.strip() else None
    except yaml.YAMLError:
        parsed = value
    if not isinstance(parsed, bool | int | float | str | list | None) and not value.lstrip().startswith("{"):
        parsed = value  # "Answer: yes or no" is a sentence, 2026-11-23 a text
    name, dot, inner = name.strip().partition(".")
    return {name: {inner: str(parsed)}} if dot else {name: parsed}


def resolve_recipe(source: str, overrides: list[str] = ()) -> Recipe:  # type: ignore[assignment]
    """What the command line calls RECIPE: a YAML file or a preset's name, with `field=value` overrides."""
    path = Path(source)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        if path.is_dir() or not path.is_file():
            raise FinetuneError(f"There is no file {source}.", "Check the path of the recipe.", code="bad-recipe")
        if path.suffix.lower() not in (".yaml", ".yml", ""):
            raise FinetuneError(
                f"{path.name} is no recipe: rows go beside one.",
                f"Name a preset first: follow-instructions dataset_name={source}",
                code="bad-recipe",
            )
        values = read_yaml(path)
    else:
        values = dict(load_preset(source).recipe)
    for override in overrides:
        for name, value in parse_override(override).items():
            old = values.get(name)
            values[name] = old | value if isinstance(old, dict) and isinstance(value, dict) else value
    return Recipe.make(values)
