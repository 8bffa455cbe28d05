"""Choose: an intent, a model, the rows; everything else is filled in and waits under “All settings”."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.utils import get_upload_folder

from finetune_core.errors import FinetuneError, explain
from finetune_core.fitting import STARTER_PRESET, better_preset, moved
from finetune_core.recipe import STARTER_DATA, STARTER_MODEL, Recipe
from finetune_core.space import this_space

from . import form, names, scripts, uploads, words, words_choose, words_fields, words_hub
from .held import QUICK
from .look import html

if TYPE_CHECKING:
    from .frame import Page
    from .looking import Look

FIRST_PRESET = STARTER_PRESET


@dataclass(frozen=True)
class Chosen:
    panel: gr.Column
    boxes: tuple[Any, ...]  # one for each recipe field that leaves a choice, in the recipe's order
    preset: gr.State  # name of the preset that was picked last
    wrong: gr.State  # fields that are marked as wrong now
    presets: gr.HTML
    model: gr.Dropdown
    data: gr.Dropdown
    trouble: gr.HTML  # what went wrong with a file that was dropped or pasted
    outputs: tuple[Any, ...]  # what show() fills
    edits: tuple[Any, ...]  # events after which the choice must be looked at again
    fills: tuple[Any, ...]  # events of our own that changed boxes


def build(page: Page) -> Chosen:
    first = Recipe.make(form.preset(FIRST_PRESET).recipe)
    preset, wrong = gr.State(FIRST_PRESET), gr.State(())
    on_space = this_space() is not None  # whose paths are no visitor's
    with gr.Column(elem_classes=["panel", "choose"]) as panel:
        html(words_choose.heading())
        about = html("")
        cards = html(words_choose.preset_cards(form.presets(), FIRST_PRESET, {}), js_on_load=scripts.PRESETS)
        fit = html("", js_on_load=scripts.FIT)  # beside the cards that it is about, not under the bar with Start
        with gr.Row(elem_classes="boxes", equal_height=True):
            with gr.Column(elem_classes=["card", "box-card"], min_width=280):
                model_help = words_choose.MODEL_HELP_ON_SPACE if on_space else words_choose.MODEL_HELP
                model = _name_box(words_choose.MODEL_TITLE, model_help, STARTER_MODEL)
                model_note = html(words_choose.model_note())
            with gr.Column(elem_classes=["card", "box-card", "data-card"], min_width=280):
                data = _name_box(words_choose.DATA_TITLE, words_choose.DATA_HELP, STARTER_DATA)
                data_note = html(words_choose.data_note())
                picks = html("", js_on_load=scripts.PICKS)
                drop_note = "" if on_space else words_choose.ROWS_STAY
                drop = html(words_choose.drop_zone(drop_note), js_on_load=scripts.DROP)
        trouble = html("", elem_classes="trouble")
        boxes: dict[str, Any] = {"model_name_or_path": model, "dataset_name": data}
        with gr.Accordion(words_choose.SETTINGS_TITLE, open=False, elem_classes="settings") as settings:
            html(words_choose.settings_search(), js_on_load=scripts.SEARCH)
            for title, fields in form.groups().items():
                with gr.Column(elem_classes="settings-part"):
                    html(words_choose.settings_group(title))
                    with gr.Column(elem_classes="fields"):
                        boxes |= {name: form.component(name) for name in fields}
        with gr.Accordion(words_choose.COMMAND_TITLE, open=False, elem_classes="settings"):
            command = html("", js_on_load=scripts.COPY)

    ordered = tuple(boxes[name] for name in form.FIELDS if name in boxes)
    for box, value in zip(ordered, form.to_boxes(first), strict=True):
        box.value = value

    picked = cards.pick(pick_preset, [preset, *ordered], [preset, *ordered], **QUICK)
    fitted = fit.fit(take_fitting, [preset, *ordered], [preset, *ordered], **QUICK)
    dropped = drop.dropped(_taking(page.runs_dir, keep_drop), None, [data, trouble], **QUICK)
    pasted = drop.pasted(_taking(page.runs_dir, keep_paste), None, [data, trouble], **QUICK)
    part = picks.part(pick_part, list(ordered), list(ordered), **QUICK)
    data.change(
        lambda: "", None, trouble, queue=False, **QUICK
    )  # what went wrong with a file stays until another is chosen
    for box, kind, search in ((model, "model", names.search_models), (data, "dataset", names.search_data)):
        box.key_up(_typing(page.runs_dir, search), None, box, trigger_mode="multiple", **QUICK)
        box.select(partial(names.only_names, page.runs_dir, kind), box, box, queue=False, **QUICK)

    settable = tuple(boxes[name] for name in form.settings())
    return Chosen(
        panel=panel,
        boxes=ordered,
        preset=preset,
        wrong=wrong,
        presets=cards,
        model=model,
        data=data,
        trouble=trouble,
        outputs=(cards, model_note, data_note, picks, fit, about, settings, command, wrong, *settable),
        # gradio's Textbox.input misses Backspace and pasted text; change misses nothing
        edits=tuple(box.change for box in ordered),
        fills=(picked, fitted, dropped, pasted, part),
    )


def _name_box(label: str, info: str, value: str) -> gr.Dropdown:
    return gr.Dropdown([value], value=value, label=label, info=info, allow_custom_value=True, filterable=True)


def _taking(runs_dir: Path, take: Any) -> Any:
    def handler(event: gr.EventData) -> tuple[Any, Any]:
        return take(runs_dir, event)

    return handler


def _typing(runs_dir: Path, search: Any) -> Any:
    def handler(event: gr.KeyUpData) -> Any:
        return search(runs_dir, event.input_value or "")

    return handler


# --- handlers ---


def pick_preset(event: gr.EventData, before: str, *boxes: Any) -> list[Any]:
    """The preset's settings. Model and rows that the person chose themselves stay."""
    picked = form.preset(str(event.preset))
    old, new = _start(before), Recipe.make(picked.recipe)
    now = form.raw(boxes)
    kept = {
        name: now[name]
        for name in form.OWN_PLACE
        if now[name] not in (getattr(old, name), "") and now[name] != getattr(Recipe(), name)
    }
    return [picked.name, *form.to_boxes(new.replace(**kept))]


def take_fitting(event: gr.EventData, before: str, *boxes: Any) -> list[Any]:
    """The preset that fits the rows. What the person has set otherwise than the preset before it stays."""
    picked = form.preset(str(event.preset))
    if form.problems(boxes):
        return [before, *boxes]
    recipe = form.read(boxes)
    changes = moved(recipe, _start(before), Recipe.make(picked.recipe))
    return [picked.name, *form.to_boxes(recipe.replace(**changes))]


def pick_part(event: gr.EventData, *boxes: Any) -> list[Any]:
    """Another subset, split or version of a data set on the Hub. A split belongs to its subset, so that starts anew."""
    field, chosen = str(event.field), str(event.text).strip()
    if field not in words_hub.TITLES or form.problems(boxes):
        return list(boxes)
    changes = {field: chosen or Recipe.model_fields[field].default}
    if field == "dataset_config":
        changes["dataset_train_split"] = Recipe.model_fields["dataset_train_split"].default
    return form.to_boxes(form.read(boxes).replace(**changes))


def fresh() -> list[Any]:
    """“New”: the first preset, as on a first visit."""
    return [FIRST_PRESET, *form.to_boxes(_start(FIRST_PRESET))]


def reopen(recipe: Recipe) -> list[Any]:
    """The boxes of a run that is already made; its recipe is its own and no preset's."""
    return ["", *form.to_boxes(recipe)]


def _start(preset: str) -> Recipe:
    return Recipe.make(form.preset(preset or FIRST_PRESET).recipe)


def keep_drop(runs_dir: Path, event: gr.EventData) -> tuple[Any, Any]:
    """Keep an uploaded file and choose it."""
    try:
        return _choose_file(uploads.keep_file(runs_dir, str(event.path), Path(get_upload_folder())))
    except (FinetuneError, OSError) as error:
        return gr.skip(), words.error_card(explain(error))


def keep_paste(runs_dir: Path, event: gr.EventData) -> tuple[Any, Any]:
    """Keep pasted rows and choose them."""
    try:
        return _choose_file(uploads.keep_text(runs_dir, str(event.text)))
    except (FinetuneError, OSError) as error:
        return gr.skip(), words.error_card(explain(error))


def _choose_file(path: Path) -> tuple[Any, Any]:
    return gr.update(choices=[(path.name, str(path)), *names.data_choices()], value=str(path)), ""


# --- drawing ---


def show(
    boxes: Sequence[Any],
    preset: str,
    wrong: Sequence[str],
    look: Look | None,
    costs: Mapping[str, str],
    made: str = "",
    parts: Mapping[str, Sequence[str]] | None = None,
    line: str = "",
    read: Look | None = None,
) -> tuple[Any, ...]:
    """Everything in `outputs` for what the boxes say now.

    `made`: title of the run whose recipe this is. `parts`: what a data set on the Hub has to choose from.
    `line`: what Start runs. `read`: the look before anything was refused or planned for the place where it would run.
    """
    problems = form.problems(boxes)
    seen = look.seen if look else None
    marks = tuple(_mark(name, problems, wrong, seen) for name in form.settings())
    recipe = None
    if problems:
        start, changed, command = None, 0, words_choose.command("", words_choose.NO_COMMAND)
    else:
        start, recipe = _start(preset), form.read(boxes)
        changed = sum(getattr(recipe, name) != getattr(start, name) for name in form.settings())
        command = words_choose.command(line)
    return (
        words_choose.preset_cards(form.presets(), preset, costs),
        words_choose.model_note(*_model_words(look)),
        words_choose.data_note(*_data_words(read or look)),
        words_hub.pickers(parts, recipe.model_dump()) if parts and recipe else "",
        _fit(read or look, preset),
        words_choose.reopened(made) if made else "",
        gr.update(label=words_choose.settings_title(changed)),
        command,
        tuple(problems),
        *marks,
    )


def command_line(recipe: Recipe, preset: str, on: str, say: Sequence[str] = ()) -> str:
    """The line that Start runs. say: as in form.py."""
    return form.command_line(recipe, preset or FIRST_PRESET, _start(preset).model_dump(), on, say)


def _mark(name: str, problems: Mapping[str, str], wrong: Sequence[str], seen: Any) -> Any:
    """A field's help, or what is wrong with its value; and what was chosen for an empty one."""
    changes: dict[str, Any] = {}
    if name in problems:
        changes |= {"info": words_fields.field_wrong(problems[name]), "elem_classes": ["field", "wrong"]}
    elif name in wrong:
        changes |= {"info": words_fields.field_help(name), "elem_classes": ["field"]}
    if seen is not None and form.parts(name)[1] and name in seen.plan.settings:
        chosen = words_fields.left_open(form.to_box(name, seen.plan.settings[name]))
        kinds = form.parts(name)[0]
        if form.literals(name) or bool in kinds:
            changes["choices"] = form.choices(name, chosen)
        else:
            changes["placeholder"] = chosen
    return gr.update(**changes) if changes else gr.skip()


def _model_words(look: Look | None) -> tuple[str, str, str]:
    if look is None or look.pending:
        return "", "", ""
    if look.seen is None:
        return words_choose.unknown_model(look.error)
    return words_choose.model_facts(look.seen.plan, look.seen.facts)


def _fit(look: Look | None, preset: str) -> str:
    """The preset that fits these rows, where the starter one is chosen for them."""
    if look is None or look.seen is None or preset != STARTER_PRESET:
        return ""
    better = look.once(("fitting", look.recipe.model_dump_json()), partial(better_preset, look.seen))
    return words_choose.fitting(better.preset, better.why) if better else ""


def _data_words(look: Look | None) -> tuple[str, str, str]:
    if look is None or look.pending:
        return "", "", ""
    if look.seen is None:
        return words_choose.UNKNOWN_DATA
    return words_choose.data_facts(look.seen.diagnosis)
