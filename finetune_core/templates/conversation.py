"""Rows → rendered conversations with their trained turns. Never imports torch.

Conversations of the same roles share one analysis (`Outline`), made with stand-ins for the contents. A row uses it only
if its own rendering is exactly the analysed one with its contents put in, or if the template was shown to write such
contents as they are (`is_see_through`); then its rendering can be left out, which is most of the time it takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from typing import Any

from ..errors import FinetuneError
from .outline import Literals, Outline, Spans, is_see_through
from .template import ChatTemplate, Messages, content_of
from .turns import TurnFinder

_SLOT = "\U000f1e58"  # a private-use character: no template and no row contains it
_MOST_OUTLINES = 1000  # analyses kept; rows of ever new roles are analysed one by one
OFTEN = 200  # uses of a outline from which it pays to find out (50-100 renderings) whether contents can be put in


@dataclass(frozen=True)
class Conversation:
    """A rendered conversation: its text (control tokens in contents still marked) and what of it is trained."""

    text: str
    turns: tuple[Spans, ...] = ()  # for each trained assistant turn its spans
    closed: bool = False  # the last trained turn ends with its end-of-turn token
    closing: str | None = None  # what to append where the template leaves the last answer open; "" for the model's eos
    left_out: bool = False  # the template does not write all of a trained answer (thinking, words beside a tool call)


@dataclass
class _Row:
    """A row on its way to its turns."""

    adapted: list[dict[str, Any]]
    tools: Any
    trained: list[bool]  # for each assistant turn
    known: _Known | None
    text: str | None = None

    @property
    def contents(self) -> list[str]:
        return [content_of(message) for message in self.adapted]

    @property
    def needs_itself(self) -> bool:
        """Rendered in a call of its own: tools are one for all in a call, and tool calls may need another try."""
        return bool(self.tools) or any("tool_calls" in message for message in self.adapted)


@dataclass
class _Known:
    """What has been found out about the conversations with the same roles."""

    roles: tuple[str, ...]
    outline: Outline | None
    uses: int = 0
    is_see_through: bool | None = None


class ConversationRenderer:
    """Renders conversations with one template and finds their trained turns; remembers the outlines it has seen."""

    def __init__(self, template: ChatTemplate):
        self.template = template
        self._known: dict[tuple[Any, ...], _Known] = {}
        self._literals = Literals(template.source)
        self._is_dated = "strftime_now" in template.source
        self._turns = TurnFinder(template)

    def render(self, rows: Sequence[tuple[Messages, Any]]) -> list[Conversation | FinetuneError]:
        """Render rows of (messages, tools); an error stands in the place of a row that the template refuses."""
        begun: list[_Row | FinetuneError] = []
        for messages, tools in rows:
            try:
                begun.append(self._begin(messages, tools))
            except FinetuneError as error:
                begun.append(error)
        todo = [row for row in begun if isinstance(row, _Row) and row.text is None and not row.needs_itself]
        with suppress(FinetuneError):  # one of them is refused: then each is rendered by itself
            for row, text in zip(todo, self.template.render_many([row.adapted for row in todo]), strict=True):
                row.text = text
        found: list[Conversation | FinetuneError] = []
        for row in begun:
            try:
                found.append(self._finish(row) if isinstance(row, _Row) else row)
            except FinetuneError as error:
                found.append(error)
        return found

    def _begin(self, messages: Messages, tools: Any) -> _Row:
        row = _Row(
            adapted=self.template.adapt(messages),
            tools=self.template.adapt_tools(tools),
            trained=[message.get("weight", 1) != 0 for message in messages if message["role"] == "assistant"],
            known=None,
        )
        row.known = self._look_up(row)
        if row.known is not None and self._is_see_through(row.known):
            contents = row.contents
            if all(map(self._literals.is_plain, contents)):
                row.text = row.known.outline.text(contents)
        return row

    def _finish(self, row: _Row) -> Conversation:
        text = self.template.render(row.adapted, row.tools) if row.text is None else row.text
        if True not in row.trained:
            return Conversation(text)
        turns, closed, closing, left_out = None, (), None, False
        if row.known is not None and row.known.outline is not None:
            turns = row.known.outline.place(text, row.contents)
            closed, closing = row.known.outline.closed, row.known.outline.closing
        if turns is None:
            turns, closed, closing = self._turns.find(row.adapted, row.tools, text)
            left_out = self._is_left_out(row, text, turns)
        last = len(row.trained) - 1 - row.trained[::-1].index(True)
        return Conversation(
            text=text,
            turns=tuple(spans for spans, is_trained in zip(turns, row.trained, strict=True) if is_trained),
            closed=closed[last],
            closing=closing if last == len(row.trained) - 1 else None,
            left_out=left_out,
        )

    def _is_left_out(self, row: _Row, text: str, turns: Sequence[Spans]) -> bool:
        answers = [content_of(message).strip() for message in row.adapted if message["role"] == "assistant"]
        ends = [0, *(spans[-1][1] for spans in turns)]  # an answer may begin in the prompt, with its <think>
        parts = [text[start:end] for start, end in pairwise(ends)]
        return any(
            is_trained and answer not in part
            for is_trained, answer, part in zip(row.trained, answers, parts, strict=True)
        )

    # ---- outlines ----

    def _look_up(self, row: _Row) -> _Known | None:
        """What is known of conversations with these roles; None where each row must be looked at by itself."""
        if row.tools or max(map(len, row.adapted)) > 2:
            return None
        roles = tuple(message["role"] for message in row.adapted)
        key = (date.today(), *roles) if self._is_dated else roles
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= _MOST_OUTLINES:
                return None
            try:
                known = _Known(roles, self._analyse(roles))
            except FinetuneError:
                known = _Known(roles, None)
            self._known[key] = known
        return known

    def _is_see_through(self, known: _Known) -> bool:
        known.uses += 1
        if known.is_see_through is None and known.uses >= OFTEN:
            known.is_see_through = known.outline is not None and is_see_through(
                known.outline,
                self._literals,
                lambda contents: self.template.attempt(self._messages(known.roles, contents)),
            )
        return bool(known.is_see_through)

    def _messages(self, roles: Sequence[str], contents: Sequence[str]) -> list[dict[str, Any]]:
        return [self.template.message(role, content) for role, content in zip(roles, contents, strict=True)]

    def _analyse(self, roles: Sequence[str]) -> Outline | None:
        contents = [f"{_SLOT}{number}{_SLOT}" for number in range(len(roles))]
        messages = self._messages(roles, contents)
        text = self.template.render(messages)
        around, borders, position = [], [], 0
        for content in contents:
            start = text.find(content, position)
            if start < 0 or text.count(content) != 1:
                return None
            around.append(text[position:start])
            position = start + len(content)
            borders.append((start, position))
        around.append(text[position:])
        turns, closed, closing = self._turns.find(messages, None, text)

        def border(place: int) -> tuple[int, int]:
            before = [end - start for start, end in borders if end <= place]
            return len(before), place - sum(before)

        placed = tuple(tuple((border(start), border(end)) for start, end in spans) for spans in turns)
        return Outline(tuple(around), placed, closed, closing)
