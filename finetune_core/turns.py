"""Which characters of a rendered conversation the assistant wrote. Never imports torch.

Found by asking the template, not by knowing it. An answer begins where the rendering with it leaves the rendering that
only asks for it (`add_generation_prompt=True`), and ends with its end-of-turn token. A stand-in for the answer keeps
equal-looking words from blurring that border. Templates that rewrite history (drop thinking from earlier turns, end the
last turn differently) get the stand-in inside the whole conversation. Conversations of the same roles share one such
analysis (`Shape`); a row uses it only if its own rendering is exactly the analysed one with its contents put in, or if
the template was shown to write such contents as they are (`is_see_through`), and then its rendering can be left out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from typing import Any

from .control import blank
from .errors import FinetuneError
from .shape import Literals, Shape, Span, Spans, is_see_through
from .template import STAND_IN, ChatTemplate, Messages, common, content_of, unclear

_SLOT = "\U000f1e58"  # another private-use character
_MOST_SHAPES = 1000  # analyses kept; rows of ever new roles are analysed one by one
_OFTEN = 20  # uses of a shape from which it pays to find out whether contents can simply be put in


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
    shape: Shape | None
    uses: int = 0
    is_see_through: bool | None = None


class TurnFinder:
    """Renders conversations with one template and finds their trained turns; remembers the shapes it has seen."""

    def __init__(self, template: ChatTemplate):
        self.template = template
        self._known: dict[tuple[Any, ...], _Known] = {}
        self._literals = Literals(template.source)
        self._is_dated = "strftime_now" in template.source
        self._has_marks = re.search(r"\{%-?\s*generation\s*-?%\}", template.source) is not None

    def conversations(self, rows: Sequence[tuple[Messages, Any]]) -> list[Conversation | FinetuneError]:
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
                row.text = row.known.shape.text(contents)
        return row

    def _finish(self, row: _Row) -> Conversation:
        text = self.template.render(row.adapted, row.tools) if row.text is None else row.text
        if True not in row.trained:
            return Conversation(text)
        turns, closed, closing, left_out = None, (), None, False
        if row.known is not None and row.known.shape is not None:
            turns = row.known.shape.place(text, row.contents)
            closed, closing = row.known.shape.closed, row.known.shape.closing
        if turns is None:
            turns, closed, closing = self._turns(row.adapted, row.tools, text)
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

    # ---- shapes ----

    def _look_up(self, row: _Row) -> _Known | None:
        """What is known of conversations with these roles; None where each row must be looked at by itself."""
        if row.tools or max(map(len, row.adapted)) > 2:
            return None
        roles = tuple(message["role"] for message in row.adapted)
        key = (date.today(), *roles) if self._is_dated else roles
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= _MOST_SHAPES:
                return None
            try:
                known = _Known(roles, self._analyse(roles))
            except FinetuneError:
                known = _Known(roles, None)
            self._known[key] = known
        return known

    def _is_see_through(self, known: _Known) -> bool:
        known.uses += 1
        if known.is_see_through is None and known.uses >= _OFTEN:
            known.is_see_through = known.shape is not None and is_see_through(
                known.shape,
                self._literals,
                lambda contents: self.template.attempt(self._messages(known.roles, contents)),
            )
        return bool(known.is_see_through)

    def _messages(self, roles: Sequence[str], contents: Sequence[str]) -> list[dict[str, Any]]:
        return [self.template.message(role, content) for role, content in zip(roles, contents, strict=True)]

    def _analyse(self, roles: Sequence[str]) -> Shape | None:
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
        turns, closed, closing = self._turns(messages, None, text)

        def border(place: int) -> tuple[int, int]:
            before = [end - start for start, end in borders if end <= place]
            return len(before), place - sum(before)

        placed = tuple(tuple((border(start), border(end)) for start, end in spans) for spans in turns)
        return Shape(tuple(around), placed, closed, closing)

    # ---- one conversation ----

    def _turns(
        self, messages: Messages, tools: Any, text: str
    ) -> tuple[tuple[Spans, ...], tuple[bool, ...], str | None]:
        """For every assistant turn its spans, and whether it ends with an end-of-turn token; and what must be appended
        to close the last one (None: nothing)."""
        plain = blank(text)
        marks = self._generation_marks(messages, tools, text) if self._has_marks else []
        turns, closed, floor = [], [], 0
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            start, replaced = self._start(messages, index, tools, text, floor)
            end, stop = self._end(messages, index, tools, plain, start, replaced)
            # the template's own marks may narrow a turn, but never lose its end-of-turn token
            inside = [(max(a, start), min(b, end)) for a, b in marks if max(a, start) < min(b, end)]
            turns.append(_merged([*inside, (end - stop, end)]) if inside else ((start, end),))
            closed.append(stop > 0)
            floor = end
        self._refuse_others_words(messages, tools, text, turns)
        is_open = messages[-1]["role"] == "assistant" and not closed[-1]
        return tuple(turns), tuple(closed), (self.template.closing(messages, tools, text) or "") if is_open else None

    def _start(self, messages: Messages, index: int, tools: Any, text: str, floor: int) -> tuple[int, str | None]:
        """Where an answer begins; and the conversation with a stand-in for it, if that had to be rendered."""
        history, header = messages[:index], self.template.header
        until = self.template.attempt([*history, self.template.message("assistant", STAND_IN)], tools)
        if until and STAND_IN in until:
            same, content = common(text, until), until.rindex(STAND_IN)
            prompt = None
            if history and not self.template.ignores_prompt:
                prompt = self.template.attempt(history, tools, prompt=True)
            if prompt is not None:
                start = common(prompt, until[:content])
                is_whole = start == len(prompt) or (bool(header) and until.endswith(header, 0, start))
                if is_whole and floor <= start <= same:
                    return (start + len(header) if header and text.startswith(header, start) else start), None
            start = self._after_header(until, floor, content, same)
            if start is not None:
                return start, None
        replaced = self._replaced(messages, index, tools)
        if replaced and STAND_IN in replaced:
            start = self._after_header(replaced, floor, replaced.index(STAND_IN), common(text, replaced))
            if start is not None:
                return start, replaced
        start = text.find(header, floor) if header else -1  # its content is not written at all
        if start < 0:
            raise unclear("the place of an answer cannot be told")
        return start + len(header), replaced

    def _after_header(self, text: str, floor: int, content: int, same: int) -> int | None:
        """The end of the header before a content (the content itself where there is none), if it lies within `same`."""
        for header in self.template.headers:
            place = text.rfind(header, floor, content)
            if place >= 0 and place + len(header) <= same:
                return place + len(header)
        return content if content <= same else None

    def _end(
        self, messages: Messages, index: int, tools: Any, text: str, start: int, replaced: str | None
    ) -> tuple[int, int]:
        """Where an answer ends, and how many characters of that are its end-of-turn token (0: it has none)."""
        if index == len(messages) - 1:
            return self._stop(text, start, len(text)) or (len(text), 0)
        until = blank(self.template.attempt(messages[: index + 1], tools) or "")
        limit = common(text, until)
        if limit >= start and (found := self._stop(text, start, limit)):
            return found
        # the template closes no turn, or only the last one
        bare = until.rstrip()
        if (last := self._stop(bare, start, len(bare))) and last[0] == len(bare):
            bare = bare[: -last[1]]
        if limit >= len(bare) > start:
            return (limit if len(until) == limit else len(bare)), 0
        replaced = replaced or self._replaced(messages, index, tools)
        if replaced and STAND_IN in replaced:
            tail = blank(replaced.rpartition(STAND_IN)[2])
            start = max(start, len(text) - len(tail)) if text.endswith(tail) else start
        if match := self.template.ends.search(text, start):
            return match.end(), len(match[0])
        raise unclear("the end of an answer cannot be told")

    def _stop(self, text: str, start: int, limit: int) -> tuple[int, int] | None:
        """The last end-of-turn token that begins at or before `limit`; the first of several with only space between."""
        found = [match for match in self.template.ends.finditer(text, start) if match.start() <= limit]
        while len(found) > 1 and not text[found[-2].end() : found[-1].start()].strip():
            found.pop()
        return (found[-1].end(), len(found[-1][0])) if found else None

    def _replaced(self, messages: Messages, index: int, tools: Any) -> str | None:
        """The whole conversation with a stand-in for one content."""
        changed = {**messages[index], "content": self.template.message("assistant", STAND_IN)["content"]}
        return self.template.attempt([*messages[:index], changed, *messages[index + 1 :]], tools)

    def _refuse_others_words(self, messages: Messages, tools: Any, text: str, turns: Sequence[Spans]) -> None:
        """Never train what somebody else said. Gemma 4 moves the words beside a tool call behind the tool's answer: one
        turn of two speakers."""
        first = next((index for index, message in enumerate(messages) if message["role"] == "assistant"), len(messages))
        for index in range(first + 1, len(messages)):
            if messages[index]["role"] == "assistant":
                continue
            replaced = self._replaced(messages, index, tools) or ""
            place = replaced.find(STAND_IN)
            if text[:place] == replaced[:place] and any(a <= place < b for spans in turns for a, b in spans):
                raise FinetuneError(
                    f"The model's chat template writes a {messages[index]['role']} message into the assistant's own words.",
                    "Leave the content of messages with tool_calls empty, or choose another model.",
                    code="template-refused",
                )

    def _generation_marks(self, messages: Messages, tools: Any, text: str) -> list[Span]:
        marked, spans = self.template.generation_marks(messages, tools)
        return spans if marked == text else []


def _merged(spans: Sequence[Span]) -> Spans:
    """Spans in order, merged where they touch.

    >>> _merged([(4, 9), (0, 4), (12, 12)])
    ((0, 9),)
    """
    merged: list[Span] = []
    for start, end in sorted(span for span in spans if span[0] < span[1]):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return tuple(merged)
