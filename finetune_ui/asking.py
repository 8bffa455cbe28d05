"""One question to both models of the chat: asked, answered piece by piece, stopped; and the server behind it woken."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from finetune_core import launch
from finetune_core.errors import FinetuneError

from . import serving, words, words_talk
from .held import held_run, problem_card, run_to_work_on, told
from .replies import Request, replies
from .words_talk import Answer, Suggestion, Turn, Turns

FRAME_SECONDS = 0.1  # between two redraws while answers stream


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


def idle_box(value: Any = None) -> Any:
    kept = {} if value is None else {"value": value}
    return gr.update(submit_btn="Ask", stop_btn=False, **kept)


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
