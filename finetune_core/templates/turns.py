"""Which characters of a rendered conversation the assistant wrote. Never imports torch.

Found by asking the template, not by knowing it. An answer begins where the rendering with it leaves the rendering that
only asks for it (`add_generation_prompt=True`), and ends with its end-of-turn token. A stand-in for the answer keeps
equal-looking words from blurring that border. Templates that rewrite history (drop thinking from earlier turns, end the
last turn differently) get the stand-in inside the whole conversation.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ..errors import FinetuneError
from .control import blank
from .outline import Span, Spans
from .template import STAND_IN, ChatTemplate, Messages, common_length, unclear


class TurnFinder:
    """Finds the turns of conversations that one template rendered."""

    def __init__(self, template: ChatTemplate):
        self.template = template
        self._has_marks = re.search(r"\{%-?\s*generation\s*-?%\}", template.source) is not None

    def find(self, messages: Messages, tools: Any, text: str) -> tuple[tuple[Spans, ...], tuple[bool, ...], str | None]:
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
            same, content = common_length(text, until), until.rindex(STAND_IN)
            prompt = None
            if history and not self.template.ignores_prompt:
                prompt = self.template.attempt(history, tools, prompt=True)
            if prompt is not None:
                start = common_length(prompt, until[:content])
                is_after_header = header != "" and until.endswith(header, 0, start)
                if (is_after_header or start == len(prompt)) and floor <= start <= same:
                    # DiffusionGemma's prompt has no header behind a tool's answer, but its written answer has
                    skipped = len(header) if not is_after_header and text.startswith(header, start) else 0
                    return start + skipped, None
            start = self._after_header(until, floor, content, same)
            if start is not None:
                return start, None
        replaced = self._replaced(messages, index, tools)
        if replaced and STAND_IN in replaced:
            start = self._after_header(replaced, floor, replaced.index(STAND_IN), common_length(text, replaced))
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
        limit = common_length(text, until)
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
                    f"The model's chat template writes a {messages[index]['role']} message into the assistant's words.",
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
