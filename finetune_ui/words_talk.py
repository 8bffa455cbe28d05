"""The chat in words and html: a question, and two answers side by side. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from finetune_core.amounts import count

from .words import esc, icon, join, short_model

Turns = tuple["Turn", ...]
Messages = tuple[tuple[str, str], ...]  # (role, content)
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
    fresh: bool = False  # begins anew: what was said above is not part of it
    before: Messages = ()  # of a row of several turns, what comes before its question

    def with_answer(self, index: int, **changes: Any) -> Turn:
        answers = list(self.answers)
        answers[index] = replace(answers[index], **changes)
        return replace(self, answers=tuple(answers))

    def with_all(self, **changes: Any) -> Turn:
        return replace(self, answers=tuple(replace(answer, **changes) for answer in self.answers))


@dataclass(frozen=True)
class Suggestion:
    """A row to ask about: its question, what is said before everything, and the data's answer."""

    question: str
    system: str = ""
    reference: str = ""
    before: Messages = ()


def messages_for(turns: Sequence[Turn], column: int, system: str) -> list[dict[str, str]]:
    """The conversation as one column's model saw it, up to the newest question. Failed answers are left out."""
    messages = [{"role": "system", "content": system.strip()}] if system.strip() else []
    begins = max((index for index, turn in enumerate(turns) if turn.fresh), default=0)
    for turn in turns[begins:-1]:
        answer = turn.answers[column] if column < len(turn.answers) else Answer("")
        if answer.text:
            messages += [*_dicts(turn.before), {"role": "user", "content": turn.question}]
            messages += [{"role": "assistant", "content": answer.text}]
    return [*messages, *_dicts(turns[-1].before), {"role": "user", "content": turns[-1].question}]


def _dicts(said: Messages) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in said]


def suggestion(row: Mapping[str, Any]) -> Suggestion | None:
    """What can be asked about a canonical row: its first question. None when it has none, as plain text."""
    messages = _plain(row.get("messages"))
    asked = [index for index, (role, _) in enumerate(messages) if role == "user"]
    if not asked:
        return None
    reply = messages[asked[0] + 1] if asked[0] + 1 < len(messages) else ("", "")
    reference = reply[1] if reply[0] == "assistant" else ""
    return Suggestion(messages[asked[0]][1], _system(messages[: asked[0]]), reference)


def tested_row(prompt: Any, reference: str) -> Suggestion | None:
    """A row of the proof, of which the last turn is asked. `prompt`: its text, or its messages up to there."""
    if isinstance(prompt, str):
        return Suggestion(prompt, "", reference) if prompt.strip() else None
    messages = _plain(prompt)
    if not messages or messages[-1][0] != "user":
        return None
    before = tuple(message for message in messages[:-1] if message[0] in ("user", "assistant"))
    return Suggestion(messages[-1][1], _system(messages[:-1]), reference, before)


def _plain(messages: Any) -> list[tuple[str, str]]:
    found = [message for message in messages or [] if isinstance(message, Mapping)]
    return [(str(each.get("role")), each["content"]) for each in found if isinstance(each.get("content"), str)]


def _system(messages: Sequence[tuple[str, str]]) -> str:
    return next((content for role, content in messages if role == "system"), "")


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
    shown = "".join(_turn(turn, anew=index > 0 and turn.fresh) for index, turn in enumerate(turns))
    return f'<div class="talk" role="log" aria-live="polite">{shown}</div>'


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


def _turn(turn: Turn, anew: bool = False) -> str:
    answers = "".join(_answer(answer, turn.reference) for answer in turn.answers)
    line = '<p class="anew">a new conversation</p>' if anew else ""
    before = "".join(f'<p class="said-before {esc(role)}">{esc(content)}</p>' for role, content in turn.before)
    reference = (
        f'<p class="talk-reference"><span>In your data</span> <span class="{_kind_of_text(turn.reference)}">'
        f"{esc(turn.reference)}</span></p>"
        if turn.reference
        else ""
    )
    return (
        f'<section class="turn">{line}{before}<div class="question">{esc(turn.question)}</div>'
        f'<div class="replies">{answers}</div>{reference}</section>'
    )


def _answer(answer: Answer, reference: str) -> str:
    waiting = {
        "waiting": '<span class="thinking" role="status"><i></i><i></i><i></i>'
        '<span class="visually-hidden">thinking</span></span>',
        "loading": '<span class="loading-words" role="status">Loading the model<span class="thinking">'
        "<i></i><i></i><i></i></span></span>",
    }
    text = answer.text if answer.state == "writing" else answer.text.strip()
    body = esc(text)
    if not text:
        body = waiting.get(
            answer.state, "" if answer.problem or answer.state == "writing" else "<i>nothing but blanks</i>"
        )
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
        "training": ("Other work has the machine: answers will be slow, and may not fit in memory", "warn"),
        "away": ("", "idle"),
    }[state]
    return f'<p class="presence" role="status"><span class="dot {tone}"></span>{says}</p>' if says else ""
