"""Where a verb's answer goes: words for a person, or JSON alone on stdout; and nothing printed holds a token."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from .errors import redact


class Output:
    """Where answers go: words for a person, or one JSON object (or line) for a program."""

    def __init__(self, as_json: bool, stream: TextIO):
        self.as_json, self.stream = as_json, stream

    def json(self, value: Any) -> None:
        print(json.dumps(value, ensure_ascii=False, allow_nan=False, default=str), file=self.stream, flush=True)

    def say(self, words: str) -> None:
        if not self.as_json:
            print(redact(words), file=self.stream, flush=True)

    @contextmanager
    def progress(self) -> Iterator[Callable[..., None]]:
        """A line on stderr that is written over, for what takes longer than a second; gone when it is done."""
        began = told = time.monotonic()
        width = 0

        def show(fraction: float | None = None, says: str = "") -> None:
            nonlocal told, width
            now = time.monotonic()
            if now - began < 1 or now - told < 0.2 or fraction is None:
                return
            line = f"{fraction:4.0%} {says}"
            print(f"\r{line:{width}}", end="", file=sys.stderr, flush=True)
            told, width = now, len(line)

        try:
            yield show
        finally:
            if width:
                print(f"\r{' ' * width}\r", end="", file=sys.stderr, flush=True)

    def give(self, value: Any, words: str) -> None:
        if self.as_json:
            self.json(value)
        else:
            self.say(words)


class _Redacting:
    """A text stream without tokens, for everything that libraries print."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(redact(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def own_stdout(as_json: bool) -> Iterator[TextIO]:
    """With --json, nothing but our JSON reaches stdout: what libraries print (also from C) goes to stderr."""
    old = sys.stdout, sys.stderr
    sys.stderr = _Redacting(sys.stderr)  # type: ignore[assignment]
    if not as_json:
        try:
            yield sys.stdout
        finally:
            sys.stdout, sys.stderr = old
        return
    try:
        number = sys.stdout.fileno()
    except (OSError, ValueError):  # a stand-in without a file, in tests
        number = None
    stream: TextIO = sys.stdout
    if number is not None:
        sys.stdout.flush()
        stream = os.fdopen(os.dup(number), "w", encoding="utf-8")
        os.dup2(2, number)
    sys.stdout = sys.stderr
    try:
        yield stream
    finally:
        sys.stdout, sys.stderr = old
        if number is not None:
            stream.flush()
            os.dup2(stream.fileno(), number)
            stream.close()
