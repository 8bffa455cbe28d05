"""Chat: the base model and what was trained answer the same question side by side. A client of `serve`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from finetune_core import launch
from finetune_core.errors import FinetuneError
from finetune_core.run import Run

from . import look, serving, words, words_talk
from .held import QUICK, held_run, problem_card, run_to_work_on, told
from .replies import Request, replies
from .words_talk import Answer, Suggestion, Turn, Turns

if TYPE_CHECKING:
    from .frame import Page

FRAME_SECONDS = 0.1  # between two redraws while answers stream

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
        asked = event.then(partial(ask, page.runs_dir), ask_inputs, ask_outputs, **QUICK)
        streamed = asked.then(
            partial(stream, page.runs_dir), stream_inputs, [turns, chat], **QUICK | {"concurrency_limit": 8}
        )
        streamed.then(partial(rest, page.runs_dir), [page.held, turns], [box, presence], **QUICK)
        streams.append(streamed)

    # gradio looks for the event among a function's own parameters, and does not look into a partial
    def pick_chip(run_id: str, event: gr.EventData) -> tuple[Any, ...]:
        return pick(page.runs_dir, run_id, event.row)

    def take(run_id: str, event: gr.EventData) -> tuple[Any, ...]:
        return take_row(page.runs_dir, run_id, event.row)

    answered_after(box.submit(lambda: None, None, None, queue=False, **QUICK))
    answered_after(chips.pick(pick_chip, page.held, [box, system, row], **QUICK))
    # first hang up, then draw: a last frame that is under way would undo it
    box.stop(None, None, None, cancels=streams).then(stop_answers, turns, [turns, chat, box], **QUICK)
    clear.click(None, None, None, cancels=streams).then(
        partial(forget, page.runs_dir), page.held, [turns, chat, box, problem, row], **QUICK
    )
    box.focus(partial(wake, page.runs_dir), page.held, [presence, problem], trigger_mode="once", **QUICK)
    awake.tick(partial(present, page.runs_dir), page.held, presence, **QUICK)
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
    return (), _welcome(runs_dir, run_id), idle_box(""), hidden, None, system, length, *heads, tuple(names)


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


def idle_box(value: Any = None) -> Any:
    kept = {} if value is None else {"value": value}
    return gr.update(submit_btn="Ask", stop_btn=False, **kept)


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


def ask(
    runs_dir: Path, run_id: str, question: str, turns: Turns, row: Suggestion | None, left: str, right: str
) -> tuple[Any, ...]:
    """Put the question to both models: shown at once, answered by `stream`. A row is asked without what was said."""
    try:
        held_run(runs_dir, run_id)
    except FinetuneError as error:
        return (*[gr.skip()] * 3, gr.update(value=words.error_card(error), visible=True), gr.skip())
    question = question.strip()
    if not question or is_busy(turns):
        return (gr.skip(),) * 5
    turn = Turn(question, tuple(Answer(model) for model in (left, right)))
    if row is not None and row.question.strip() == question:
        turn = replace(turn, reference=row.reference, fresh=True, before=row.before)
    now = (*turns, turn)
    box = gr.update(value="", submit_btn=False, stop_btn="Stop")
    return now, words_talk.conversation(now), box, gr.update(visible=False), None


def is_busy(turns: Turns) -> bool:
    return bool(turns) and any(answer.state in words_talk.OPEN for answer in turns[-1].answers)


async def stream(
    runs_dir: Path, run_id: str, turns: Turns, system: str, temperature: float, length: float
) -> AsyncIterator[tuple[Any, ...]]:
    """What both models say to the newest question, as it comes; wakes the server when it sleeps."""
    if not is_busy(turns):
        yield gr.skip(), gr.skip()
        return
    earlier, turn = tuple(turns[:-1]), turns[-1]

    def drawn() -> tuple[Any, ...]:
        return (*earlier, turn), words_talk.conversation((*earlier, turn))

    try:
        run, token = await asyncio.to_thread(run_to_work_on, runs_dir, run_id)
        server = await asyncio.to_thread(launch.serving, runs_dir)
        if not server or server.run_id != run.id:
            turn = turn.with_all(state="loading")
            yield drawn()
            server = await asyncio.to_thread(launch.start_serving, run, token)
            turn = turn.with_all(state="waiting")
            yield drawn()
    except Exception as error:
        seen = told(error)
        turn = turn.with_all(state="failed", problem=f"{seen.problem} {seen.fix}")
        yield drawn()
        return
    requests = [
        Request(answer.model, words_talk.messages_for((*earlier, turn), index, system), temperature, int(length))
        for index, answer in enumerate(turn.answers)
    ]
    drawn_at = 0.0
    async for piece in replies(server.url, requests):
        turn = turn.with_answer(piece.index, **_said(turn.answers[piece.index], piece))
        if piece.finish and turn.answers[piece.index].state in ("done", "cut"):
            serving.keep_answered(run)
        if piece.finish or time.monotonic() - drawn_at > FRAME_SECONDS:
            drawn_at = time.monotonic()
            yield drawn()


def rest(runs_dir: Path, run_id: str, turns: Turns) -> tuple[Any, str]:
    """Ready for the next question; one that nobody answered comes back into the box."""
    failed = bool(turns) and all(answer.state == "failed" and not answer.text for answer in turns[-1].answers)
    return idle_box(turns[-1].question if failed else None), present(runs_dir, run_id)


def _said(answer: Answer, piece: Any) -> dict[str, Any]:
    """What a piece changes in an answer."""
    if not piece.finish:
        first = answer.first if answer.first is not None else piece.seconds
        return {"text": answer.text + piece.text, "state": "writing", "first": first, "seconds": piece.seconds}
    state = {"length": "cut", "error": "failed"}.get(piece.finish, "done")
    return {"state": state, "problem": piece.problem, "tokens": piece.tokens, "seconds": piece.seconds}


def stop_answers(turns: Turns) -> tuple[Any, ...]:
    """The person pressed Stop: what was said so far stays."""
    if turns:
        answers = tuple(
            replace(answer, state="stopped") if answer.state in words_talk.OPEN else answer
            for answer in turns[-1].answers
        )
        turns = (*turns[:-1], replace(turns[-1], answers=answers))
    return turns, words_talk.conversation(turns, words_talk.welcome(True)), idle_box()


def forget(runs_dir: Path, run_id: str) -> tuple[Any, ...]:
    """Clear: an empty conversation with the same models."""
    return (), _welcome(runs_dir, run_id), idle_box(""), gr.update(visible=False), None


def _welcome(runs_dir: Path, run_id: str) -> str:
    try:
        can = serving.can_talk(held_run(runs_dir, run_id))
    except FinetuneError:
        can = False
    return words_talk.conversation((), words_talk.welcome(can))


def wake(runs_dir: Path, run_id: str) -> Any:
    """The box has the focus: load the models while the person types, unless a training has the machine."""
    try:
        run, token = run_to_work_on(runs_dir, run_id)
        state = serving.state_of(run)
        if state == "asleep":
            yield words_talk.presence("loading"), gr.skip()
            launch.start_serving(run, token)
            state = "awake"
        yield words_talk.presence(state), gr.skip()
    except Exception as error:
        yield words_talk.presence("asleep"), problem_card(error)


def present(runs_dir: Path, run_id: str) -> Any:
    try:
        return words_talk.presence(serving.state_of(held_run(runs_dir, run_id)))
    except FinetuneError:
        return ""
