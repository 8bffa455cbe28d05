"""Control tokens written in a message: marked before a chat template renders it, so that they stay the text they are.

The marks are those of transformers.utils.chat_template_utils (`mark_control_tokens`). Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

OPEN, CLOSE = "\U000f0000", "\U000f0001"
MARKED = re.compile(f"{OPEN}([^{OPEN}{CLOSE}]*){CLOSE}|[{OPEN}{CLOSE}]")  # a template may tear a pair apart


class TokenFinder:
    """Find any of many token strings in a text; cheap where none of their first characters occurs."""

    def __init__(self, tokens: Iterable[str]):
        self.tokens = frozenset(token for token in tokens if token)
        self._lengths = sorted({len(token) for token in self.tokens}, reverse=True)
        first = "".join(re.escape(char) for char in sorted({token[0] for token in self.tokens}))
        self._first = re.compile(f"[{first}]" if first else "(?!)")

    def find(self, text: str) -> Iterator[tuple[int, int]]:
        """The places of these tokens in a text, left to right; of several at one place the longest.

        >>> list(TokenFinder(["<s>", "</s>"]).find("a</s><s>"))
        [(1, 5), (5, 8)]
        """
        position = 0
        while match := self._first.search(text, position):
            position = match.start() + 1
            for length in self._lengths:
                token = text[match.start() : match.start() + length]
                if token in self.tokens:
                    position = match.start() + len(token)
                    yield match.start(), position
                    break

    def mark(self, text: str) -> str:
        """The text with every token in it between marks. Marks that it brings along are removed first."""
        if OPEN in text or CLOSE in text:
            text = text.replace(OPEN, "").replace(CLOSE, "")
        if self._first.search(text) is None:
            return text
        parts, position = [], 0
        for start, end in self.find(text):
            parts += text[position:start], OPEN, text[start:end], CLOSE
            position = end
        return "".join([*parts, text[position:]])

    def mark_all(self, value: Any) -> Any:
        """Every text inside a JSON value marked (keys are left alone)."""
        if isinstance(value, str):
            return self.mark(value)
        if isinstance(value, Mapping):
            return {key: self.mark_all(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.mark_all(item) for item in value]
        return value


def is_marked(text: str) -> bool:
    """Whether something in the text is marked as a control token."""
    return OPEN in text or CLOSE in text


def blank(text: str) -> str:
    """The text, as long as it was, with everything marked made unreadable: what is marked ends no turn."""
    return MARKED.sub(lambda match: "\0" * len(match[0]), text) if is_marked(text) else text


def marked_tokens(text: str) -> tuple[str, ...]:
    """Which tokens are marked in a text, each once."""
    return tuple(dict.fromkeys(match[1] for match in MARKED.finditer(text) if match[1])) if is_marked(text) else ()


def without_marks(text: str, places: Sequence[int]) -> list[int]:
    """Places in a marked text → the same places once the marks are taken out.

    >>> without_marks(f"a{OPEN}<s>{CLOSE}b", [0, 1, 6, 7])
    [0, 1, 4, 5]
    """
    marks = [place for place, char in enumerate(text) if char in (OPEN, CLOSE)] if is_marked(text) else []
    return [place - sum(mark < place for mark in marks) for place in places]
