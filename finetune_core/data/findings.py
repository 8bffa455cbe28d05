"""What is found in rows: a code, a level, the rows it concerns, in plain words, with what would fix it."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..amounts import many
from ..recipe import Recipe, Suggestion

KEPT_ROWS = 20  # row numbers kept of one finding; the count is always of all


@dataclass(frozen=True)
class Finding:
    """One thing to know about the rows. Row and line numbers start at 1."""

    code: str
    level: str  # error: it blocks; warning: it can be passed; note: it only informs
    says: str
    rows: tuple[int, ...] = ()  # the first KEPT_ROWS, counted in their file
    count: int = 0
    fix: str = ""
    suggestion: Suggestion | None = None
    lines: tuple[int, ...] = ()  # the same rows as lines of the file, where line and row differ
    examples: tuple[str, ...] = ()  # a few short excerpts; text of the data, to be escaped by whoever shows it
    files: tuple[str, ...] = ()  # of the same rows, where there are several files

    def as_dict(self) -> dict[str, Any]:
        return {
            "code": self.code,
            "level": self.level,
            "says": self.says,
            "rows": list(self.rows),
            "lines": list(self.lines),
            "files": list(self.files),
            "count": self.count,
            "fix": self.fix,
            "changes": self.suggestion.changes if self.suggestion else None,
        }


@dataclass(frozen=True)
class Place:
    """Where a row came from."""

    row: int  # 1-based, in its file
    line: int  # 1-based; for a workbook its row, for a binary file the same as row
    file: str = ""  # only where there are several


def _in_source(place: Place) -> tuple[str, int]:
    return place.file, place.row


@dataclass
class Seen:
    """How often one code was met while rows stream by, and its first places in the source; constant memory."""

    count: int = 0
    places: list[Place] = field(default_factory=list)
    details: dict[str, int] = field(default_factory=dict)  # what was wrong → how often; at most 50 kinds
    examples: list[str] = field(default_factory=list)

    def add(self, place: Place, detail: str = "", example: str = "") -> None:
        self.count += 1
        if len(self.places) < KEPT_ROWS or _in_source(place) < _in_source(self.places[-1]):
            bisect.insort(self.places, place, key=_in_source)  # rows come split by split
            del self.places[KEPT_ROWS:]
        if detail and (detail in self.details or len(self.details) < 50):
            self.details[detail] = self.details.get(detail, 0) + 1
        if example and len(self.examples) < 3:
            self.examples.append(shorten(example))

    @property
    def rows(self) -> tuple[int, ...]:
        return tuple(place.row for place in self.places)

    @property
    def lines(self) -> tuple[int, ...]:
        lines = tuple(place.line for place in self.places)
        return lines if lines != self.rows else ()

    @property
    def files(self) -> tuple[str, ...]:
        files = tuple(place.file for place in self.places)
        return files if any(files) else ()

    def words(self, shown: int = 5) -> str:
        """The places in words.

        >>> Seen(3, [Place(1, 1), Place(5, 5), Place(9, 9)]).words()
        'rows 1, 5, 9'
        """
        return place_words(self.places[:shown], self.count)


class Tally(dict[str, Seen]):
    """Seen by code, in the order of first meeting."""

    def add(self, code: str, place: Place, detail: str = "", example: str = "") -> None:
        if code not in self:
            self[code] = Seen()
        self[code].add(place, detail, example)


def place_words(places: Sequence[Place], count: int) -> str:
    """`rows 1, 5, 9 and 12 more`; with several files, each by its name; lines too where they differ."""
    by_file: dict[str, list[Place]] = {}
    for place in places:
        by_file.setdefault(place.file, []).append(place)
    parts = []
    for file, some in by_file.items():
        numbers = ", ".join(str(place.row) for place in some)
        part = f"{'row' if len(some) == 1 else 'rows'} {numbers}"
        if any(place.line != place.row for place in some):
            lines = ", ".join(str(place.line) for place in some)
            part += f" ({'line' if len(some) == 1 else 'lines'} {lines})"
        parts.append(f"{file} {part}" if file else part)
    more = count - len(places)
    return "; ".join(parts) + (f" and {more:,} more" if more > 0 else "")


def count_rows(count: int) -> str:
    """
    >>> count_rows(1), count_rows(1500)
    ('1 row', '1,500 rows')
    """
    return many(count, "row")


def shorten(text: str, limit: int = 160) -> str:
    """One line, short enough to show."""
    text = " ".join(text[: limit * 4].split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def listing(words: Iterable[str], limit: int = 12) -> str:
    """
    >>> listing(["a", "b", "c"])
    'a, b, c'
    """
    items = list(words)
    return ", ".join(items[:limit]) + (f" and {len(items) - limit} more" if len(items) > limit else "")


def with_fix(recipe: Recipe, fix: str, says: str) -> Suggestion:
    """The one click that adds a repair to the recipe."""
    return Suggestion(says, {"fixes": [*(known for known in recipe.fixes if known != fix), fix]})


def verdict(findings: Iterable[Finding], accept_warnings: bool = False) -> str:
    """`blocked`, `warnings` or `ready`."""
    levels = {finding.level for finding in findings}
    if "error" in levels:
        return "blocked"
    return "warnings" if "warning" in levels and not accept_warnings else "ready"


def seen_at(places: Any, numbers: Iterable[int]) -> Seen:
    """Seen at the places of these rows."""
    seen = Seen()
    for number in numbers:
        seen.add(places[int(number)] if seen.count < KEPT_ROWS else Place(0, 0))
    return seen
