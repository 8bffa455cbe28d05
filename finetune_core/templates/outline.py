"""What conversations of the same roles have in common: the text that a template writes around their contents. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .control import is_marked

Span = tuple[int, int]  # characters of a rendered text
Spans = tuple[Span, ...]
Border = tuple[int, int]  # a place in an outline: contents before it, characters of surrounding text before it


@dataclass(frozen=True)
class Outline:
    """The text around the contents, and where in it the assistant's turns lie."""

    around: tuple[str, ...]  # the text before, between and behind the contents; one more than there are messages
    turns: tuple[tuple[tuple[Border, Border], ...], ...]  # the spans of each assistant turn
    closed: tuple[bool, ...]  # whether each ends with an end-of-turn token
    closing: str | None = None  # what must be appended to close the last turn; None: nothing

    def text(self, contents: Sequence[str]) -> str:
        """The contents put in, as they are."""
        return self.around[0] + "".join(
            content + after for content, after in zip(contents, self.around[1:], strict=True)
        )

    def spans(self, written: Sequence[str]) -> tuple[Spans, ...]:
        """The turns of a text with these contents, as they are written in it."""
        lengths = [0]
        for content in written:
            lengths.append(lengths[-1] + len(content))
        return tuple(tuple((lengths[a[0]] + a[1], lengths[b[0]] + b[1]) for a, b in spans) for spans in self.turns)

    def place(self, text: str, contents: Sequence[str]) -> tuple[Spans, ...] | None:
        """The turns of a rendering, or None if it is another one (contents may be stripped)."""
        if not text.startswith(self.around[0]):
            return None
        position, all_written = len(self.around[0]), []
        for content, after in zip(contents, self.around[1:], strict=True):
            for written in (content, content.strip(), content.rstrip(), content.lstrip()):
                if text.startswith(written + after, position):
                    break
            else:
                return None
            position += len(written) + len(after)
            all_written.append(written)
        return self.spans(all_written) if position == len(text) else None


class Literals:
    """The strings in a template's code. All that a template can ask of a content, beside its length, its kind of
    characters and its outer spaces, is whether it is, holds, begins or ends with one of them."""

    def __init__(self, source: str):
        strings = _strings(source)
        held = {text for text, is_whole in strings if not is_whole and re.search(r"\w", text)}
        self._held = tuple(a for a in held if not any(b in a for b in held if b != a))
        self._whole = frozenset(text for text, _ in strings)
        self._marks = tuple({text for text, _ in strings if text and not re.search(r"\w", text)})

    def is_plain(self, content: str) -> bool:
        """True if no template with these strings can tell this content from a stand-in, `probes` allowing."""
        if not content or content[0].isspace() or content[-1].isspace() or content in self._whole or is_marked(content):
            return False
        return all(text not in content for text in self._held)

    def probes(self) -> list[str]:
        """Contents that a template which looks at letters, lengths or punctuation would write differently."""
        mixed = "Ab cD \"e\" 'f' \\g\n\nh\n  i\tj é 🎉 日本 {k} [l] (m) <n> & 1.5% #o *p* `q` | r; s: t, u/ v? w! x=y"
        probes = ["a", "7", "12345", "ABC", "abc", "Zq.", mixed, "Qx zj " * 700 + "vk"]
        for mark in self._marks:
            probes += [f"x{mark}y", f"x{mark}", f"{mark}y", f"x{mark}y{mark}z"]
        return [probe for probe in probes if self.is_plain(probe)]


def is_see_through(outline: Outline, literals: Literals, render: Callable[[list[str]], str | None]) -> bool:
    """True if the template writes plain contents of this outline as they are, so that they can simply be put in.

    `render` takes one content for each message; None where the template refuses.
    """
    messages = len(outline.around) - 1
    return all(
        render(contents) == outline.text(contents)
        for probe in literals.probes()
        for contents in ([probe] * messages, [probe if number % 2 else "a" for number in range(messages)])
    )


def _strings(source: str) -> list[tuple[str, bool]]:
    """The string literals of a Jinja source, and whether each is only compared as a whole: a word beside == (a role, a
    type), or a key in brackets."""
    import jinja2  # transformers brings it; not needed before a template is used

    tokens = [(kind, text) for _, kind, text in jinja2.Environment().lex(source) if kind != "whitespace"]
    strings = []
    for before, (kind, text), after in zip([("", ""), *tokens], tokens, [*tokens[1:], ("", "")], strict=False):
        if kind == "string":
            text = _unescaped(text[1:-1])
            is_compared = bool({"==", "!="} & {before[1], after[1]}) and re.fullmatch(r"\w+", text) is not None
            strings.append((text, is_compared or (before[1], after[1]) == ("[", "]")))
    return strings


def _unescaped(text: str) -> str:
    """As Jinja reads a string literal (jinja2.lexer.Lexer.wrap).

    >>> _unescaped(r"a\\n")
    'a\\n'
    """
    try:
        return text.encode("ascii", "backslashreplace").decode("unicode-escape")
    except UnicodeDecodeError:
        return text
