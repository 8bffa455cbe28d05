"""A Recipe field → a component, and the components' values → a Recipe. Nothing here names a single option twice."""

from __future__ import annotations

import json
import types
from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin

import gradio as gr
from pydantic import ValidationError

from finetune_core.errors import FinetuneError
from finetune_core.presets import Preset, list_presets, load_preset
from finetune_core.recipe import Recipe, group_of

from . import words_fields

OWN_PLACE = ("model_name_or_path", "dataset_name")  # boxes of their own on Choose
FIELDS: tuple[str, ...] = tuple(Recipe.model_fields)


@cache
def presets() -> tuple[Preset, ...]:
    """All presets, read once: they come with the program."""
    return tuple(list_presets())


def preset(name: str) -> Preset:
    """A preset by name. Raises FinetuneError if there is none."""
    return next((known for known in presets() if known.name == name), None) or load_preset(name)


def settings() -> tuple[str, ...]:
    """Fields under “All settings”: everything that leaves a choice and has no box of its own."""
    return tuple(name for name in FIELDS if name not in OWN_PLACE and has_choice(name))


def groups() -> dict[str, list[str]]:
    """Heading → its fields, in the recipe's order."""
    found: dict[str, list[str]] = {}
    for name in settings():
        found.setdefault(group_of(name), []).append(name)
    return found


@cache
def parts(name: str) -> tuple[tuple[Any, ...], bool]:
    """The types that a field takes, and whether it may be left open (None).

    >>> parts("lora_r"), parts("learning_rate")
    (((<class 'int'>,), False), ((<class 'float'>,), True))
    """
    annotation = Recipe.model_fields[name].annotation
    options = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    return tuple(option for option in options if option is not type(None)), type(None) in options


def literals(name: str) -> tuple[str, ...]:
    """The words that a field takes, where they are listed."""
    return next((get_args(kind) for kind in parts(name)[0] if get_origin(kind) is Literal), ())


def has_choice(name: str) -> bool:
    return len(literals(name)) != 1


@cache
def boxed() -> tuple[str, ...]:
    """Fields that have a box, in the order of the boxes."""
    return tuple(name for name in FIELDS if has_choice(name))


def component(name: str) -> gr.Dropdown | gr.Checkbox | gr.Textbox:
    """The box for one field: its description under the label, its name (as in TRL) beside it."""
    kinds, may_be_open = parts(name)
    about = {
        "label": words_fields.field_title(name),
        "info": words_fields.field_help(name),
        "elem_classes": ["field"],
        "elem_id": f"field-{name}",
    }
    value = to_box(name, Recipe.model_fields[name].get_default(call_default_factory=True))
    if literals(name) or (bool in kinds and may_be_open):
        return gr.Dropdown(choices(name), value=value, filterable=False, **about)
    if bool in kinds:
        return gr.Checkbox(value, **about)
    placeholder = words_fields.field_example(name) or (words_fields.LEFT_OPEN if may_be_open else "")
    return gr.Textbox(value, placeholder=placeholder, lines=1, max_lines=1, **about)


def choices(name: str, left_open: str = words_fields.LEFT_OPEN) -> list[tuple[str, str]]:
    """(title, value) of a field whose values are listed; `left_open` says what an open one comes to."""
    words = [(words_fields.choice_title(word), word) for word in literals(name)] or [("On", "true"), ("Off", "false")]
    return [(left_open, ""), *words] if parts(name)[1] else words


# --- values ---


def to_box(name: str, value: Any) -> Any:
    """A recipe's value as its box shows it.

    >>> to_box("learning_rate", 0.0002), to_box("packing", None), to_box("columns", {"prompt": "question"})
    ('2e-4', '', 'prompt: question')
    """
    kinds, may_be_open = parts(name)
    if bool in kinds:
        return (value if not may_be_open else "") if value is None else value if not may_be_open else str(value).lower()
    if value is None:
        return ""
    if isinstance(value, dict | list) and any(mark in str(item) for item in _items(value) for mark in ',:{["'):
        return json.dumps(value, ensure_ascii=False)  # a column may be called anything
    if isinstance(value, dict):
        return ", ".join(f"{key}: {item}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return number(value) if isinstance(value, float) else str(value)


def _items(value: dict[str, Any] | list[Any]) -> list[Any]:
    return [*value.keys(), *value.values()] if isinstance(value, dict) else value


def from_box(name: str, value: Any) -> Any:
    """What a box holds, as Recipe.make takes it. An emptied box is None where that is allowed, else wrong."""
    kinds, may_be_open = parts(name)
    if not isinstance(value, str):
        return value
    text = value.strip()
    if not text:
        if may_be_open:
            return None
        default = Recipe.model_fields[name].get_default(call_default_factory=True)
        return default if isinstance(default, dict | list) else ""
    if bool in kinds and may_be_open:
        return text == "true"
    if text[0] in "{[" and any(get_origin(kind) in (dict, list) for kind in kinds):
        try:
            return json.loads(text)
        except ValueError:
            return text
    if any(get_origin(kind) is dict for kind in kinds):
        pairs = [part.partition(":") for part in text.split(",") if part.strip()]
        return {key.strip(): item.strip() for key, _, item in pairs}
    if any(get_origin(kind) is list for kind in kinds) and (str not in kinds or "," in text):
        return [part.strip() for part in text.split(",") if part.strip()]
    return text


def number(value: float) -> str:
    """A float as people write it, with every digit that it has.

    >>> number(0.0002), number(2.0), number(0.05)
    ('2e-4', '2', '0.05')
    """
    if value == int(value) and abs(value) < 1e9:
        return str(int(value))
    if abs(value) >= 1e-3:
        return repr(value)
    digits, _, exponent = f"{Decimal(repr(value)):e}".partition("e")
    return f"{Decimal(digits).normalize():f}e{int(exponent)}"


def to_boxes(recipe: Recipe) -> list[Any]:
    """Values for all boxes."""
    values = recipe.model_dump()
    return [to_box(name, values[name]) for name in boxed()]


def read(boxes: Sequence[Any]) -> Recipe:
    """The recipe that the boxes say. Raises FinetuneError, all problems at once."""
    return Recipe.make(raw(boxes))


def read_or_tell(boxes: Sequence[Any]) -> Recipe:
    """The same; raises FinetuneError with the first problem, in the words of the form."""
    if wrong := problems(boxes):
        raise first_problem(wrong)
    return read(boxes)


def raw(boxes: Sequence[Any]) -> dict[str, Any]:
    return {name: from_box(name, value) for name, value in zip(boxed(), boxes, strict=True)}


def as_kept(boxes: Sequence[Any]) -> dict[str, Any]:
    """What the boxes hold, by field, for the browser to keep until the page is loaded again."""
    return dict(zip(boxed(), boxes, strict=True))


def from_kept(kept: Mapping[str, Any]) -> list[Any]:
    """Boxes from what a browser kept, perhaps for an older version: unknown fields go, missing ones have defaults."""
    default = Recipe().model_dump()
    return [kept.get(name, to_box(name, default[name])) for name in boxed()]


def problems(boxes: Sequence[Any]) -> dict[str, str]:
    """Field → what is wrong with its value and what would be right; empty when all is well.

    A rule about several fields together is told at the first that it names.
    """
    try:
        Recipe.model_validate(raw(boxes))
    except ValidationError as error:
        found: dict[str, str] = {}
        for item in error.errors():
            name = str(item["loc"][0]) if item["loc"] else _named_in(item["msg"])
            found.setdefault(name, words_fields.field_problem(item))
        return found
    return {}


def _named_in(message: str) -> str:
    return min((name for name in FIELDS if name in message), key=message.find, default=FIELDS[0])


def command_line(
    recipe: Recipe, preset: str, preset_values: Mapping[str, Any], on: str = "here", say: Sequence[str] = ()
) -> str:
    """The line that Start runs, as it can be typed. on: where, as the verb's --on takes it. say: fields that stand in
    it even with the preset's value.

    >>> command_line(Recipe(lora_r=8), "quick-look", {})
    'python -m finetune_core train quick-look lora_r=8'
    """
    import shlex

    start = Recipe.make(dict(preset_values)).model_dump()
    said = {name: value for name, value in recipe.model_dump().items() if value != start[name] or name in say}
    words = ["python", "-m", "finetune_core", "train", preset]
    words += [f"{name}={_as_yaml(value)}" for name, value in said.items()]
    words += [] if on == "here" else ["--on", on, "--yes"]
    return shlex.join(words)


def _as_yaml(value: Any) -> str:
    """A value as `field=value` takes it: one line of YAML that reads back as the same value."""
    import yaml

    if value is None:
        return ""
    if isinstance(value, float):
        return number(value)
    if isinstance(value, str):
        try:
            plain = "\n" not in value and yaml.safe_load(value) == value
        except yaml.YAMLError:
            plain = False
        return value if plain else json.dumps(value, ensure_ascii=False)
    return json.dumps(value, ensure_ascii=False)


def first_problem(found: Mapping[str, str]) -> FinetuneError:
    """Why nothing starts yet."""
    name, says = next(iter(found.items()))
    return FinetuneError(
        f"{words_fields.field_title(name)}: {says}", "Correct it under “All settings”; then Start.", code="bad-recipe"
    )
