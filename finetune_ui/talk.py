"""Chat: the base model and what was trained answer the same question side by side. A client of `serve`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from finetune_core.errors import FinetuneError
from finetune_core.run import Run

from . import asking, look, serving, words_talk
from .held import QUICK, held_run
from .words_talk import Suggestion, Turns

if TYPE_CHECKING:
    from .frame import Page

CHIP_JS = """
element.addEventListener('click', (event) => {
  const chip = event.target.closest('[data-row]');
  if (chip) trigger('pick', { row: Number(chip.dataset.row) });
});
"""
SCROLL_JS = """
let pinned = true;
const area = () => element.querySelector('.talk');
element.addEventListener('scroll', () => {
  const talk = area(); if (talk) pinned = talk.scrollTop + talk.clientHeight > talk.scrollHeight - 60;
}, true);
watch('value', () => { const talk = area(); if (talk && pinned) talk.scrollTop = talk.scrollHeight; });
"""


@dataclass(frozen=True)
class Talk:
    panel: gr.Column
    outputs: tuple[Any, ...]
    take_row: Callable[..., tuple[Any, ...]]  # a row of the proof, for the box: (run id, event with `row`) -> taken
    taken: tuple[Any, ...]


def build(page: Page) -> Talk:
    with gr.Column(visible=False, elem_classes=["panel", "talk-panel"]) as panel:
        with gr.Row(elem_classes="talk-heads") as heads:
            choose = partial(gr.Dropdown, show_label=False, filterable=False, min_width=120)
            left = choose([("Base", "base"), ("Tuned", "tuned")], value="base", label="Left")
            right = choose([("Base", "base"), ("Tuned", "tuned")], value="tuned", label="Right")
        chat = look.html(words_talk.conversation((), words_talk.welcome(True)), js_on_load=SCROLL_JS)
        problem = look.html(visible=False, js_on_load=None)
        chips = look.html(js_on_load=CHIP_JS)
        with gr.Column(elem_classes="composer", visible=False) as composer:
            box = gr.Textbox(
                placeholder="Ask both models…",
                show_label=False,
                label="Your question (Enter sends, Shift+Enter makes a new line)",
                lines=1,
                max_lines=6,
                submit_btn="Ask",
                elem_classes="ask-box",
            )
            with gr.Row(elem_classes="composer-foot"):
                presence = look.html(js_on_load=None)
                clear = gr.Button("Clear", size="sm", elem_classes="quiet-button")
        with gr.Accordion("Settings", open=False, elem_classes="talk-settings", visible=False) as settings:
            system = gr.Textbox(
                label="System prompt",
                info="Said before the conversation. It is the one that your rows have; the tuned model expects it.",
                lines=1,
                max_lines=6,
            )
            with gr.Row():
                temperature = gr.Slider(
                    0,
                    1.5,
                    value=0,
                    step=0.1,
                    label="Temperature",
                    info="0 always takes the likeliest word; higher is more varied.",
                )
                length = gr.Slider(
                    16, 1024, value=256, step=16, label="Longest answer", info="In tokens, of about ¾ word each."
                )
    turns = gr.State(())
    row = gr.State(None)  # the Suggestion whose question is in the box
    offered = gr.State(())  # the models among which left and right were last set
    awake = gr.Timer(4, active=False)

    # streaming fills as few components as it can: each one costs the browser time on every frame
    ask_inputs = [page.held, box, turns, row, left, right]
    ask_outputs = [turns, chat, box, problem, row]
    stream_inputs = [page.held, turns, system, temperature, length]
    streams = []

    def answered_after(event: Any) -> None:
        asked = event.then(partial(asking.ask, page.runs_dir), ask_inputs, ask_outputs, **QUICK)
        streamed = asked.then(
            partial(asking.stream, page.runs_dir), stream_inputs, [turns, chat], **QUICK | {"concurrency_limit": 8}
        )
        streamed.then(partial(asking.rest, page.runs_dir), [page.held, turns], [box, presence], **QUICK)
        streams.append(streamed)

    # gradio looks for the event among a function's own parameters, and does not look into a partial
    def pick_chip(run_id: str, event: gr.EventData) -> tuple[Any, ...]:
        return pick(page.runs_dir, run_id, event.row)

    def take(run_id: str, event: gr.EventData) -> tuple[Any, ...]:
        return take_row(page.runs_dir, run_id, event.row)

    answered_after(box.submit(lambda: None, None, None, queue=False, **QUICK))
    answered_after(chips.pick(pick_chip, page.held, [box, system, row], **QUICK))
    # first hang up, then draw: a last frame that is under way would undo it
    box.stop(None, None, None, cancels=streams).then(asking.stop_answers, turns, [turns, chat, box], **QUICK)
    clear.click(None, None, None, cancels=streams).then(
        partial(forget, page.runs_dir), page.held, [turns, chat, box, problem, row], **QUICK
    )
    box.focus(partial(asking.wake, page.runs_dir), page.held, [presence, problem], trigger_mode="once", **QUICK)
    awake.tick(partial(asking.present, page.runs_dir), page.held, presence, **QUICK)
    page.held.change(None, None, None, cancels=streams).then(
        partial(begin, page.runs_dir),
        page.held,
        [turns, chat, box, problem, row, system, length, left, right, offered],
        **QUICK,
    )
    # not given left and right: gradio refuses a choice that `show` has just taken away, in words of its own
    page.step.change(
        partial(opened, page.runs_dir),
        [page.held, page.step, turns, offered],
        [left, right, offered, chat],
        **QUICK,
    )
    outputs = (heads, composer, settings, chips, left, right, presence, awake)
    return Talk(panel=panel, outputs=outputs, take_row=take, taken=(box, system, row))


def show(run: Run) -> tuple[Any, ...]:
    """What can be asked, and of whom. The conversation itself lives in the page."""
    can = serving.can_talk(run)
    found = serving.suggestions(run) if can else ()
    choices = words_talk.model_choices(serving.models(run), run.recipe.model_name_or_path)
    return (
        *[gr.update(visible=can)] * 3,
        gr.update(value=words_talk.chips(found), visible=bool(found)),
        gr.update(choices=choices),
        gr.update(choices=choices),
        words_talk.presence(serving.state_of(run)),
        gr.Timer(active=can),
    )


# --- handlers ---


def begin(runs_dir: Path, run_id: str) -> tuple[Any, ...]:
    """A fresh conversation when the page shows another run, with the system prompt that its rows had."""
    system, length, names, base = "", 256, ["base", "tuned"], ""
    try:
        run = held_run(runs_dir, run_id)
        system, length = serving.a_question(run).system, min(1024, max(16, run.recipe.max_new_tokens))
        names, base = serving.models(run), run.recipe.model_name_or_path
    except FinetuneError:
        pass  # the page shows no run: an empty chat
    hidden = gr.update(visible=False)
    heads = _heads(names, base)
    return (), _welcome(runs_dir, run_id), asking.idle_box(""), hidden, None, system, length, *heads, tuple(names)


def _heads(names: list[str], base: str) -> tuple[Any, Any]:
    """Base on the left, on the right the best that there is of what was tuned."""
    choices = words_talk.model_choices(names, base)
    return gr.update(choices=choices, value="base"), gr.update(choices=choices, value=names[min(1, len(names) - 1)])


def opened(runs_dir: Path, run_id: str, step: str, turns: Turns, offered: tuple[str, ...]) -> tuple[Any, ...]:
    """Chat was opened: a page that watched the training knew only the base model, if any, when it came.

    Left, right, the models offered, and the welcome where nothing was asked yet."""
    try:
        if step != "chat":
            return (gr.skip(),) * 4
        run = held_run(runs_dir, run_id)
    except FinetuneError:
        return (gr.skip(),) * 4
    names = tuple(serving.models(run))
    welcome = gr.skip() if turns else _welcome(runs_dir, run_id)
    if names == tuple(offered):
        return gr.skip(), gr.skip(), gr.skip(), welcome
    return *_heads(list(names), run.recipe.model_name_or_path), names, welcome


def pick(runs_dir: Path, run_id: str, place: Any) -> tuple[Any, ...]:
    """A chip was clicked: its row goes into the box, read anew from the run."""
    try:
        return _boxed(serving.suggestions(held_run(runs_dir, run_id))[int(place)])
    except (FinetuneError, IndexError, TypeError, ValueError):
        return _boxed(None)


def take_row(runs_dir: Path, run_id: str, place: Any) -> tuple[Any, ...]:
    """A row of the proof goes into the box: (question, system prompt, the row)."""
    try:
        row = (held_run(runs_dir, run_id).report() or {})["rows"][int(place)]
    except (FinetuneError, KeyError, IndexError, TypeError, ValueError):
        return _boxed(None)
    return _boxed(words_talk.tested_row(row.get("prompt"), str(row.get("reference", ""))))


def _boxed(row: Suggestion | None) -> tuple[Any, ...]:
    if row is None:
        return gr.skip(), gr.skip(), None
    return row.question, row.system, row


def forget(runs_dir: Path, run_id: str) -> tuple[Any, ...]:
    """Clear: an empty conversation with the same models."""
    return (), _welcome(runs_dir, run_id), asking.idle_box(""), gr.update(visible=False), None


def _welcome(runs_dir: Path, run_id: str) -> str:
    try:
        can = serving.can_talk(held_run(runs_dir, run_id))
    except FinetuneError:
        can = False
    return words_talk.conversation((), words_talk.welcome(can))
