"""Check: what was found in the rows, what the model will read, what it will cost."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from finetune_core.errors import FinetuneError
from finetune_core.recipe import ROLES, Suggestion

from . import form, measuring, scripts, trials, words_check, words_source, words_tokens
from .downloads import download
from .held import QUICK
from .look import html
from .looking import what_it_reads
from .seen_rows import roles_of, row_at, row_index, shape_words, wanted_roles
from .words import short_data

if TYPE_CHECKING:
    from finetune_core.preflight import Preflight

    from .frame import Page
    from .looking import Look, Looks

Said = tuple[str, str]  # a sentence, and the key of the rows that it is about
NOTHING_SAID: Said = ("", "")


@dataclass(frozen=True)
class Checked:
    panel: gr.Column
    row: gr.State  # which row the token view shows, from 0
    said: gr.State  # what to say above it, and of which rows that is true
    undo: gr.State  # ((what was applied, the boxes that it changed: place → value before), ...), newest last
    trial: gr.State  # the repair that is shown before it is made
    measured: measuring.Measuring
    outputs: tuple[Any, ...]  # what show() fills
    fills: tuple[Any, ...]  # events of ours that changed boxes: look again after them
    turns: tuple[Any, ...]  # events of ours after which show() is enough
    again: tuple[Any, ...]  # events that ask for a new look


def build(page: Page, looks: Looks, boxes: Sequence[Any], on: gr.State) -> Checked:
    """on: where it would run, as place.py has it."""
    row, said, undo, trial = gr.State(0), gr.State(NOTHING_SAID), gr.State(()), gr.State(None)
    with gr.Column(visible=False, elem_classes=["panel", "check"]) as panel:
        verdict = html(words_check.looking(), js_on_load=scripts.VERDICT)
        findings = html("", js_on_load=scripts.FINDINGS)
        tokens = html("", js_on_load=scripts.TOKENS)
        rows = html("", js_on_load=scripts.ROWS)
        with gr.Row(elem_classes="boxes", equal_height=True):
            lengths = html("", js_on_load=scripts.LENGTHS)
            plan = html("", js_on_load=scripts.PLAN)
        problem = html(visible=False)
        save = download(
            words_source.DOWNLOAD,
            partial(write_rows, looks),
            list(boxes),
            problem,
            name="rows",
            visible=False,
            size="md",
            elem_classes="save-rows",
        )

    # gradio hands over what was clicked only to a function that names it itself, which a partial does not
    def on_map(event: gr.EventData, *values: Any) -> list[Any]:
        return map_column(looks, event, *values)

    def on_row(event: gr.EventData, *values: Any) -> tuple[Any, Any]:
        return find_row(looks, event, *values)

    def on_try(event: gr.EventData, now: Any, *values: Any) -> Any:
        return try_out(looks, event, now, *values)

    fills = (
        on_apply(findings, looks, undo, boxes),
        on_apply(plan, looks, undo, boxes),
        findings.undo(take_back, [undo, *boxes], [undo, *boxes], **QUICK),
        findings.unrepair(unrepair, [undo, *boxes], [undo, *boxes], **QUICK),
        rows.map(on_map, [undo, *boxes], [undo, *boxes], **QUICK),
        rows.reading(set_reading, [undo, *boxes], [undo, *boxes], **QUICK),
        rows.line(set_line, [undo, *boxes], [undo, *boxes], **QUICK),
        lengths.cut(set_length, [undo, *boxes], [undo, *boxes], **QUICK),
    )
    measured = measuring.build(page, looks, plan, boxes, on)
    turns = (
        *measured.turns,
        tokens.turn(turn, None, [row, said], **QUICK),
        findings.row(on_row, list(boxes), [row, said], **QUICK),
        findings.attempt(on_try, [trial, *boxes], trial, **QUICK),
    )
    # what was repaired in one data set is not to be taken back in another
    boxes[form.boxed().index("dataset_name")].change(lambda: (), None, undo, queue=False, **QUICK)
    again = (
        verdict.cancel(partial(cancel, looks), list(boxes), None, **QUICK),
        verdict.again(partial(look_again, looks), list(boxes), None, **QUICK),
    )
    outputs = (verdict, findings, tokens, rows, lengths, plan, save)
    return Checked(panel, row, said, undo, trial, measured, outputs, fills, turns, again)


def on_apply(part: gr.HTML, looks: Looks, undo: gr.State, boxes: Sequence[Any]) -> Any:
    """The event of a click on what this part offers to change."""

    def applied(event: gr.EventData, *values: Any) -> list[Any]:
        return apply(looks, event, *values)

    return part.apply(applied, [undo, *boxes], [undo, *boxes], **QUICK)


# --- handlers: what a click changes ---


def apply(looks: Looks, event: gr.EventData, undo: Sequence[Any], *boxes: Any) -> list[Any]:
    """One click on a finding's fix, or on a step of the memory ladder."""
    seen = looks.ask(form.read(boxes)).seen
    suggestion = _suggestion(seen, event._data) if seen else None
    if suggestion is None:
        return [undo, *boxes]
    added = [fix for fix in suggestion.changes.get("fixes", ()) if fix not in form.read(boxes).fixes]
    return changed(undo, boxes, suggestion.changes, _repair_words(added[-1]) if added else suggestion.says)


def take_back(undo: Sequence[Any], *boxes: Any) -> list[Any]:
    """What the last fix changed, as it was before; what else was chosen since stays."""
    if not undo:
        return [undo, *boxes]
    before = undo[-1][1]
    return [tuple(undo[:-1]), *(before.get(place, value) for place, value in enumerate(boxes))]


def try_out(looks: Looks, event: gr.EventData, now: trials.Trial | None, *boxes: Any) -> trials.Trial | None:
    """Show what a fix would change, or show it no more."""
    return None if form.problems(boxes) else trials.begin(looks, looks.ask(form.read(boxes)), event._data, now)


def unrepair(event: gr.EventData, undo: Sequence[Any], *boxes: Any) -> list[Any]:
    """Take one repair of the rows out again."""
    fixes = [fix for fix in form.read(boxes).fixes if fix != event.fix]
    return changed(undo, boxes, {"fixes": fixes}, words_check.unrepaired(_repair_words(str(event.fix))))


def map_column(looks: Looks, event: gr.EventData, undo: Sequence[Any], *boxes: Any) -> list[Any]:
    """Another column for a role; only a column that is there."""
    recipe = form.read(boxes)
    seen = looks.ask(recipe).seen
    if seen is None or event.role not in ROLES or event.column not in ("", *seen.prepared.columns):
        return [undo, *boxes]
    others = {role: column for role, column in roles_of(seen.prepared).items() if column != event.column}
    columns = {role: column for role, column in {**others, event.role: event.column}.items() if column}
    return changed(undo, boxes, {"columns": columns}, words_source.mapped(str(event.role), str(event.column)))


def set_length(event: gr.EventData, undo: Sequence[Any], *boxes: Any) -> list[Any]:
    length = int(event.length)
    return changed(undo, boxes, {"max_length": length}, words_tokens.length_set(length))


def set_line(event: gr.EventData, undo: Sequence[Any], *boxes: Any) -> list[Any]:
    """A system prompt or a template line for all rows."""
    if event.field not in words_source.LINES:
        return [undo, *boxes]
    text = str(event.text).strip()
    return changed(undo, boxes, {event.field: text or None}, words_source.line_set(event.field, text))


def set_reading(event: gr.EventData, undo: Sequence[Any], *boxes: Any) -> list[Any]:
    """Another delimiter, encoding or header than the one that was detected."""
    known = words_source.READ.get(str(event.wish))
    if known is None or event.text not in ("", *known) or form.problems(boxes):
        return [undo, *boxes]
    others = [fix for fix in form.read(boxes).fixes if not fix.startswith(f"{event.wish}-")]
    fixes = [*others, f"{event.wish}-{event.text}"] if event.text else others
    return changed(undo, boxes, {"fixes": fixes}, words_source.read_as(str(event.wish), str(event.text)))


def write_rows(looks: Looks, *given: Any) -> Path:
    """The rows as they would be trained on, in their splits, as one zip file."""
    from finetune_core.data import write_splits

    *boxes, folder = given
    look = looks.ask(form.read(boxes), wait_seconds=60)
    if look.seen is None:
        raise look.error or FinetuneError("The rows are still being read.", "Try again in a moment.", "busy")
    zipped = folder / f"{short_data(look.recipe.dataset_name)}-cleaned.zip"
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in write_splits(look.seen.prepared, folder):
            archive.write(path, path.name)
            path.unlink()
    return zipped


def turn(event: gr.EventData) -> tuple[int, Said]:
    """The row before or after."""
    return max(0, int(event.row)), NOTHING_SAID


def find_row(looks: Looks, event: gr.EventData, *boxes: Any) -> tuple[Any, Any]:
    """The token view's index of a row of the source, or why it has none; nothing while the rows are being read."""
    recipe = form.read(boxes)
    seen, wanted = looks.ask(recipe).seen, int(event.row)
    if seen is None:
        return gr.skip(), gr.skip()
    index = row_index(seen.prepared, wanted, str(event._data.get("file") or ""))
    if index is None:
        return 0, (words_check.row_left_out(wanted), what_it_reads(recipe))
    return index, NOTHING_SAID


def cancel(looks: Looks, *boxes: Any) -> None:
    if not form.problems(boxes):
        looks.cancel(form.read(boxes))


def look_again(looks: Looks, *boxes: Any) -> None:
    if not form.problems(boxes):
        looks.again(form.read(boxes))


def _suggestion(seen: Preflight, said: Mapping[str, Any]) -> Suggestion | None:
    """The suggestion that was clicked, if it is still the one that the page showed."""
    if said.get("from") == "plan":
        offered = (*seen.plan.ladder, *seen.plan.advice)
        return next((each for each in offered if each.says == said.get("says")), None)
    index = int(said.get("index", -1))
    if not 0 <= index < len(seen.diagnosis.findings) or seen.diagnosis.findings[index].code != said.get("code"):
        return None
    return seen.diagnosis.findings[index].suggestion


def changed(undo: Sequence[Any], boxes: Sequence[Any], changes: Mapping[str, Any], says: str) -> list[Any]:
    """[undo, *boxes] with fields replaced and validated; unchanged if the result would be wrong. says: what was done,
    beside its Undo."""
    try:
        recipe = form.read(boxes).replace(**changes)
    except FinetuneError:
        return [undo, *boxes]
    after = form.to_boxes(recipe)
    before = {place: value for place, (value, now) in enumerate(zip(boxes, after, strict=True)) if value != now}
    return [(*undo, (says, before)), *after]


# --- drawing ---


def show(
    look: Look | None,
    problem: FinetuneError | None,
    row: int,
    said: Said,
    undo: Sequence[Any],
    trial: trials.Shown | None = None,
    measured: str = "",
    rented: str | None = "",
) -> tuple[Any, ...]:
    """Everything in `outputs`: while it is read, when it failed, and when it is known.

    measured: html of what was measured. rented: name of the hardware that it would run on, if that is not this
    machine; None where there is no plan yet.
    """
    if problem or (look and look.error):
        fixes = look.recipe.fixes if look else ()
        done = words_check.applied([says for says, _ in undo], {fix: _repair_words(fix) for fix in fixes})
        reading = words_source.reading_card(fixes)
        return words_check.failed(problem or look.error), done, "", reading, "", "", gr.update(visible=False)
    if look is None or look.seen is None:
        return (words_check.looking(look.says, look.fraction) if look else words_check.looking(), *[gr.skip()] * 6)
    seen = look.seen
    prepared, diagnosis = seen.prepared, seen.diagnosis
    longest = seen.plan.recipe.max_length
    has_rows = bool(diagnosis.train_rows)
    repairs = {fix: _repair_words(fix) for fix in look.recipe.fixes}
    return (
        words_check.verdict(diagnosis, seen.plan if rented is not None else None),
        words_check.findings(diagnosis.findings, [says for says, _ in undo], repairs, trials.can_be_tried, trial),
        token_view(seen, row, said[0] if said[0] and said[1] == what_it_reads(look.recipe) else ""),
        words_source.rows_card(
            prepared.source,
            shape_words(prepared),
            diagnosis.readiness,
            prepared.columns,
            roles_of(prepared),
            wanted_roles(prepared),
            look.recipe,
        ),
        look.once(
            ("lengths", longest),
            lambda: words_tokens.lengths(diagnosis.token_lengths, longest, diagnosis.answer_starts),
        ),
        measuring.plan_card(look, measured, rented) if has_rows and rented is not None else "",
        gr.update(visible=has_rows),
    )


def token_view(seen: Preflight, index: int, said: str = "") -> str:
    """One row, rendered by the function that the trainer uses."""
    from finetune_core.render import render

    found = row_at(seen.prepared, index) or row_at(seen.prepared, 0)
    if found is None:
        return ""
    split, row, place = found
    rows = sum(len(part) for part in seen.prepared.splits().values())
    try:
        pieces = render(row, seen.tokenizer, seen.plan.recipe.max_length).pieces()
    except FinetuneError as error:
        pieces, said = [], f"{error.problem} {error.fix}"
    return words_tokens.tokens(pieces, min(index, rows - 1), rows, place.row, split, said, place.file)


def _repair_words(fix: str) -> str:
    from finetune_core.data import FIXES

    return FIXES.get(fix) or words_source.way_to_read(fix) or fix.replace("-", " ")
