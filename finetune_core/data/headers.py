"""Which row of a table names its columns, and what stands above it, such as a title or the date of an export. Pure."""

from __future__ import annotations

from typing import Any

from .tables import as_cell, is_number

Grid = list[list[str]]  # rows of cells, equally many in each

MAX_ABOVE = 10  # rows above the names; a longer list of single cells is data
LONGEST_KNOWN = 60  # characters of a cell beside a name that is known
LONGEST_NAME, MOST_WORDS = 40, 4  # of one that is not; what is longer is a sentence
NEARLY_ALL = 0.9  # of the rows below


def find_header(rows: list[list[Any]], known: frozenset[str], is_said: bool = False) -> tuple[bool, tuple[str, ...]]:
    """(whether a row names the columns, what stands above it, a line each). `rows`: the first ones, none of them blank.

    known: names that columns have, in lower case; a row with them is believed first. is_said: by a person, who sees
    the first row; what stands above known names stays above them.

    >>> find_header([["text", "label"], ["Fine.", "good"]], frozenset({"text"}))
    (True, ())
    >>> find_header([["I liked it.", "good"], ["Not for me.", "bad"], ["Yes!", "good"]], frozenset())
    (False, ())
    >>> find_header([["Questions of July", ""], ["question", "answer"], ["Where?", "Here."]], frozenset({"question"}))
    (True, ('Questions of July',))
    """
    grid = _grid(rows)
    place = _known_names(grid, known)
    if place is None and not is_said:
        place = _names_under_title(grid)
    if place is None and (is_said or (_are_names(grid) and _nameless_are_filled(grid))):
        place = 0
    return place is not None, tuple(" ".join(filter(None, cells)) for cells in grid[: place or 0])


def _grid(rows: list[list[Any]]) -> Grid:
    """The cells as texts, without the columns in which none is filled."""
    width = max(map(len, rows), default=0)
    grid = [[as_cell(cell).strip() for cell in row] + [""] * (width - len(row)) for row in rows]
    filled = [column for column in range(width) if any(row[column] for row in grid)]
    return [[row[column] for column in filled] for row in grid]


def _known_names(grid: Grid, known: frozenset[str]) -> int | None:
    """The row with most names that are known. Below the first one two are asked for, else any row with a cell "text"
    would be one; one name will do directly under single cells. What stands above has more cells or fewer: a list of
    words may well have the row question, vraag."""
    alone = _single_cells(grid)
    found = []
    for place, cells in enumerate(grid[: MAX_ABOVE + 1]):
        if any(_filled(above) == _filled(cells) for above in grid[:place]):
            continue
        count = sum(cell.casefold() in known for cell in cells)
        least = 1 if place in (0, alone) else 2
        if count >= least and max(map(len, cells)) <= LONGEST_KNOWN and (place == 0 or _are_names(grid[place:])):
            found.append((count, _filled(cells), -place))
    return -max(found)[2] if found else None


def _names_under_title(grid: Grid) -> int | None:
    """A full row of what may be names under single cells; not where single cells stand below it as well, for then they
    are rows of which a part is missing."""
    place = _single_cells(grid)
    below = grid[place + 1 :]
    if not place or not below or not all(grid[place]) or not _are_names(grid[place:]):
        return None
    return place if sum(_filled(cells) > 1 for cells in below) >= NEARLY_ALL * len(below) else None


def _single_cells(grid: Grid) -> int:
    """How many rows at the top have one filled cell, in a table of several columns."""
    count = next((place for place, cells in enumerate(grid) if _filled(cells) > 1), 0)
    return count if count <= MAX_ABOVE else 0


def _are_names(grid: Grid) -> bool:
    """Whether the first of these rows may name columns: short words, none twice, and none that comes back below."""
    if len(grid) < 2:
        return False
    names = [name for name in grid[0] if name]
    if len(set(names)) < len(names) or not all(map(_may_be_name, names)):
        return False
    return not any(name and name == row[column] for column, name in enumerate(grid[0]) for row in grid[1:])


def _may_be_name(text: str) -> bool:
    is_short = len(text) <= LONGEST_NAME and len(text.split()) <= MOST_WORDS
    return is_short and text[-1] not in ".!?" and not is_number(text)


def _nameless_are_filled(grid: Grid) -> bool:
    """Where the first row has no name, nearly every row below has a cell: the numbers that pandas writes, or a column
    that nobody named. Else the first row is one of those with a cell missing."""
    below = grid[1:]
    nameless = [column for column, name in enumerate(grid[0]) if not name]
    return all(sum(bool(row[column]) for row in below) >= NEARLY_ALL * len(below) for column in nameless)


def _filled(cells: list[str]) -> int:
    return sum(map(bool, cells))
