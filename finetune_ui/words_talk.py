"""The chat in words and html: a question, and two answers side by side. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .words import count, esc, icon, join, short_model

Turns = tuple["Turn", ...]
OPEN = ("waiting", "loading", "writing")  # states of an answer that is still to come


@dataclass(frozen=True)
class Answer:
    model: str  # tuned, base or checkpoint-N
    text: str = ""
    state: str = "waiting"  # waiting, loading, writing, done, cut, stopped, failed
    problem: str = ""
    tokens: int | None = None
    seconds: float = 0.0
    first: float | None = None  # seconds until the first word


@dataclass(frozen=True)
class Turn:
    question: str
    answers: tuple[Answer, ...] = field(default=())
    reference: str = ""  # what the data answers, when the question is one of its rows

    def with_answer(self, index: int, **changes: Any) -> Turn:
        answers = list(self.answers)
        answers[index] = replace(answers[index], **changes)
        return replace(self, answers=tuple(answers))

    def with_all(self, **changes: Any) -> Turn:
        return replace(self, answers=tuple(replace(answer, **changes) for answer in self.answers))


@dataclass(frozen=True)
class Suggestion:
    """A row to ask about: its last question, what is said before everything, and the data's answer."""

    question: str
    system: str = ""
    reference: str = ""


def messages_for(turns: Sequence[Turn], column: int, system: str) -> list[dict[str, str]]:
    """The conversation as one column's model saw it, up to the newest question. Failed answers are left out."""
    messages = [{"role": "system", "content": system.strip()}] if system.strip() else []
    for turn in turns[:-1]:
        answer = turn.answers[column] if column < len(turn.answers) else Answer("")
        if answer.text:
            messages += [
                {"role": "user", "content": turn.question},
                {"role": "assistant", "content": answer.text},
            ]
    return [*messages, {"role": "user", "content": turns[-1].question}]


def suggestion(row: Mapping[str, Any]) -> Suggestion | None:
    """What can be asked about a canonical row; None when it has no question, as plain text has none."""
    messages = [message for message in row.get("messages") or [] if isinstance(message.get("content"), str)]
    asked = [index for index, message in enumerate(messages) if message.get("role") == "user"]
    if not asked:
        return None
    first = asked[0]
    system = next((m["content"] for m in messages[:first] if m.get("role") == "system"), "")
    reply = messages[first + 1] if first + 1 < len(messages) else {}
    reference = reply.get("content", "") if reply.get("role") == "assistant" else ""
    return Suggestion(messages[first]["content"], system, reference)


def model_title(model: str) -> str:
    """A model of a run by the name that a person knows it by.

    >>> model_title("checkpoint-48"), model_title("tuned")
    ('Tuned, step 48', 'Tuned')
    """
    if model.startswith("checkpoint-"):
        return f"Tuned, step {count(int(model.rpartition('-')[2]))}"
    return {"tuned": "Tuned", "base": "Base"}.get(model, model)


def model_choices(names: Sequence[str], base: str) -> list[tuple[str, str]]:
    return [(f"Base · {short_model(base)}" if name == "base" else model_title(name), name) for name in names]


def kind(model: str) -> str:
    return "base" if model == "base" else "tuned"


# --- html ---


def conversation(turns: Sequence[Turn], empty: str = "") -> str:
    """All turns, or a welcome."""
    if not turns:
        return f'<div class="talk empty-talk">{empty}</div>'
    return f'<div class="talk" role="log" aria-live="polite">{"".join(_turn(turn) for turn in turns)}</div>'


def welcome(can_talk: bool) -> str:
    if not can_talk:
        return (
            '<p class="lead">There is nothing to talk to yet.</p>'
            '<p class="sub">The chat opens when training has saved what it learned.</p>'
        )
    return (
        '<p class="lead">Ask both the same thing.</p>'
        '<p class="sub">The base model answers on the left, what you trained on the right. '
        "The rows below were kept out of training, so they show what it really learned.</p>"
    )


def _turn(turn: Turn) -> str:
    answers = "".join(_answer(answer, turn.reference) for answer in turn.answers)
    reference = (
        f'<p class="talk-reference"><span>In your data</span> <span class="{_kind_of_text(turn.reference)}">'
        f"{esc(turn.reference)}</span></p>"
        if turn.reference
        else ""
    )
    return (
        f'<section class="turn"><div class="question">{esc(turn.question)}</div>'
        f'<div class="replies">{answers}</div>{reference}</section>'
    )


def _answer(answer: Answer, reference: str) -> str:
    waiting = {
        "waiting": '<span class="thinking" role="status"><i></i><i></i><i></i>'
        '<span class="visually-hidden">thinking</span></span>',
        "loading": '<span class="loading-words" role="status">Loading the model<span class="thinking">'
        "<i></i><i></i><i></i></span></span>",
    }
    body = esc(answer.text)
    if not answer.text:
        body = waiting.get(answer.state, "" if answer.problem else "<i>an empty answer</i>")
    problem = f'<p class="reply-problem">{icon("warn")} {esc(answer.problem)}</p>' if answer.problem else ""
    caret = '<span class="caret"></span>' if answer.state == "writing" else ""
    same = reference and answer.state == "done" and same_answer(answer.text, reference)
    mark = '<span class="mark right">✓ as in your data</span>' if same else ""
    return (
        f'<div class="reply {kind(answer.model)} {answer.state}"><h4><span class="who">{esc(model_title(answer.model))}'
        f'</span>{mark}</h4><div class="reply-text {_kind_of_text(answer.text)}">{body}{caret}</div>{problem}'
        f'<p class="reply-foot num">{esc(_foot(answer))}&nbsp;</p></div>'
    )


def _foot(answer: Answer) -> str:
    if answer.state not in ("done", "cut", "stopped"):
        return ""
    end = {"cut": "cut at the length limit", "stopped": "stopped by you"}.get(answer.state, "")
    tokens = f"{count(answer.tokens)} tokens" if answer.tokens else ""
    return join([f"{answer.seconds:.1f} s", tokens, end])


def _kind_of_text(text: str) -> str:
    return "mono" if text.lstrip()[:1] in ("{", "[", "<") else "prose-text"


def same_answer(answer: str, reference: str) -> bool:
    """Equal as text, or as JSON whatever the order of its keys.

    >>> same_answer('{"a":1, "b":2}', '{"b": 2, "a": 1}')
    True
    """
    if answer.strip() == reference.strip():
        return True
    try:
        return json.loads(answer) == json.loads(reference)
    except ValueError:
        return False


def chips(suggestions: Sequence[Suggestion]) -> str:
    """Rows kept out of training, to ask with one click."""
    if not suggestions:
        return ""
    buttons = "".join(
        f'<button type="button" class="ask-chip" data-row="{index}">{esc(shortened(each.question))}</button>'
        for index, each in enumerate(suggestions)
    )
    return f'<div class="ask-chips" role="group" aria-label="Rows to ask about">{buttons}</div>'


def shortened(text: str, limit: int = 72) -> str:
    """The first line, cut between words.

    >>> shortened("a bb ccc", 6)
    'a bb…'
    """
    line = " ".join(text.split())
    if len(line) <= limit:
        return line
    return line[: limit - 1].rsplit(" ", 1)[0] + "…"


def presence(state: str) -> str:
    """Whether the models are in memory: awake, loading, asleep; and who else wants the machine."""
    says, tone = {
        "awake": ("Both models are loaded", "good"),
        "loading": ("Loading the models…", "live"),
        "asleep": ("The models load with your first question", "idle"),
        "training": ("A training has the machine: answers will be slow, and may not fit in memory", "warn"),
        "away": ("", "idle"),
    }[state]
    return f'<p class="presence" role="status"><span class="dot {tone}"></span>{says}</p>' if says else ""
