"""Rows measured in tokens, once: afterwards every question about max_length is arithmetic."""

from __future__ import annotations

from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import FinetuneError
from ..recipe import Recipe
from ..render import IGNORED, render_each, render_many
from .problems import TOKEN_FIXES
from .rows import Rows

if TYPE_CHECKING:
    from ..render import ChatTokenizer
    from .prepared import Prepared

TOLD = 200  # rows between two words about progress
# A row of this many characters for each token of max_length is too long whatever it says. Only its beginning is
# rendered and its length is estimated from that: megabytes in one cell, or thousands of turns, take no time.
LONG, EXCERPT = 16, 12
NEVER = 2**31 - 1  # where the answer of a row begins that trains nothing


@dataclass
class Measures:
    """What was measured of each row, in the order train, validation, test. Uncut; `max_length` is applied by
    arithmetic."""

    numbers: np.ndarray  # in Rows.numbers
    lengths: np.ndarray  # tokens
    answer_starts: np.ndarray  # index of the first trained token
    answer_ends: np.ndarray  # index behind the last trained token
    trained: np.ndarray  # trained tokens
    trained_kept: np.ndarray  # trained tokens within `max_length`
    stops: np.ndarray  # booleans: the end of the (last) answer is trained
    max_length: int
    refused: dict[int, FinetuneError] = field(default_factory=dict)  # by number
    special: dict[int, tuple[str, ...]] = field(default_factory=dict)  # control tokens written in the row, by number
    left_out: set[int] = field(default_factory=set)  # numbers of rows of whose answer the template writes only a part
    estimated: set[int] = field(default_factory=set)  # numbers of rows so long that only their beginning was rendered
    beginning: tuple[int, ...] | None = None  # token ids with which all rows begin that train something; None: no rows

    def of(self, numbers: np.ndarray) -> Measures | None:
        """The measures of the rows with these numbers, in their order; None if one of them was not measured."""
        order = np.argsort(self.numbers)
        places = np.minimum(np.searchsorted(self.numbers, numbers, sorter=order), len(order) - 1)
        at = order[places] if len(order) else places[:0]
        return self.take(at) if len(at) == len(numbers) and (self.numbers[at] == numbers).all() else None

    def take(self, kept: np.ndarray) -> Measures:
        """Only these rows (booleans, or places)."""
        numbers = set(self.numbers[kept].tolist())
        return Measures(
            *(getattr(self, name)[kept] for name in COLUMNS),
            self.max_length,
            {number: error for number, error in self.refused.items() if number in numbers},
            {number: tokens for number, tokens in self.special.items() if number in numbers},
            self.left_out & numbers,
            self.estimated & numbers,
            self.beginning,
        )


COLUMNS = ("numbers", "lengths", "answer_starts", "answer_ends", "trained", "trained_kept", "stops")


def measure(
    splits: dict[str, Rows],
    tokenizer: ChatTokenizer,
    max_length: int,
    on_progress: Callable[[float], None] | None = None,
    look: Callable[[int, dict[str, Any]], None] | None = None,
) -> Measures:
    """Render every row as the trainer does. `look` is shown each row with its number on the way."""
    total = sum(len(rows) for rows in splits.values())
    columns = {name: array("q") for name in COLUMNS}
    measures = Measures(*(np.empty(0),) * len(COLUMNS), max_length)
    refused: dict[int, FinetuneError] = {}  # by the index of the row
    waiting: deque[tuple[int, dict[str, Any], float]] = deque()  # rows that the renderer has taken and not given back

    def excerpts() -> Iterator[dict[str, Any]]:
        for rows in splits.values():
            for number, row in zip(rows.numbers.tolist(), rows, strict=True):
                short, scale = excerpt(row, max_length)
                waiting.append((number, row, scale))
                yield short

    for index, rendered in enumerate(render_each(excerpts(), tokenizer, refused=refused)):
        number, row, scale = waiting.popleft()
        if look:
            look(number, row)
        error = refused.pop(index, None)
        if error is not None:
            measures.refused[number] = error
        elif scale > 1 and len(rendered.labels) <= max_length:  # it was not that long
            rendered, scale = render_many([row], tokenizer)[0], 1.0
        if scale > 1:
            measures.estimated.add(number)
        trained = np.flatnonzero(np.array(rendered.labels, dtype=np.int64) != IGNORED)
        has_any = len(trained) > 0
        if has_any:
            measures.beginning = alike(measures.beginning, rendered.input_ids[: max(0, int(trained[0]) - 1)])
        length = int(len(rendered.labels) * scale)
        columns["numbers"].append(number)
        columns["lengths"].append(length)
        columns["answer_starts"].append(int(trained[0]) if has_any else NEVER)
        columns["answer_ends"].append(length if scale > 1 else int(trained[-1]) + 1 if has_any else 0)
        columns["trained"].append(int(len(trained) * scale))
        columns["trained_kept"].append(int(np.searchsorted(trained, max_length)))
        columns["stops"].append(int(rendered.stop_trained))
        if rendered.left_out:
            measures.left_out.add(number)
        if rendered.special_in_content:
            measures.special[number] = rendered.special_in_content
        if on_progress and index % TOLD == 0:
            on_progress(index / max(1, total))
    for name, column in columns.items():
        setattr(measures, name, np.frombuffer(column, dtype=np.int64))
    measures.stops = measures.stops.astype(bool)
    return measures


def at_length(measures: Measures, max_length: int) -> tuple[Measures, np.ndarray]:
    """(the same rows at another max_length; booleans: of which of them that is certain without rendering them)."""
    if max_length == measures.max_length:
        return measures, np.ones(len(measures.numbers), dtype=bool)
    whole = measures.lengths <= max_length
    in_one_piece = measures.answer_ends - measures.answer_starts == measures.trained
    within = np.clip(max_length - measures.answer_starts, 0, measures.trained)
    is_certain = whole | in_one_piece | (measures.answer_starts >= max_length)
    is_certain &= ~np.isin(measures.numbers, list(measures.estimated))
    return replace(measures, trained_kept=np.where(whole, measures.trained, within), max_length=max_length), is_certain


def joined(one: Measures, other: Measures) -> Measures:
    """The measures of the rows of both; they have the same max_length."""
    return Measures(
        *(np.concatenate([getattr(one, name), getattr(other, name)]) for name in COLUMNS),
        one.max_length,
        one.refused | other.refused,
        one.special | other.special,
        one.left_out | other.left_out,
        one.estimated | other.estimated,
        one.beginning if other.beginning is None else alike(one.beginning, other.beginning),
    )


def alike(known: tuple[int, ...] | None, ids: Sequence[int]) -> tuple[int, ...]:
    """The beginning that both have; nothing is known yet: these ids.

    >>> alike((1, 2, 3), [1, 2, 4, 5]), alike(None, [7]), alike((1, 2), [1])
    ((1, 2), (7,), (1,))
    """
    if known is None or tuple(ids[: len(known)]) == known:
        return tuple(ids) if known is None else known
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(known, ids, strict=False))
    return tuple(token for token, _ in pairs)


def excerpt(row: dict[str, Any], max_length: int) -> tuple[dict[str, Any], float]:
    """(the row, or the beginning of one that is far too long; how many times longer the row is).

    >>> short, scale = excerpt({"text": "ha " * 1_000_000}, 100)
    >>> len(short["text"]), scale
    (1200, 2500.0)
    """
    if "text" in row:
        size, room = len(row["text"]), EXCERPT * max_length
        if size <= LONG * max_length + 20_000:
            return row, 1.0
        return row | {"text": row["text"][:room]}, size / room
    messages = row["messages"]
    size = sum(len(message["content"]) + 10 for message in messages)
    if size <= LONG * max_length + 20_000:
        return row, 1.0
    kept: list[dict[str, Any]] = []
    room = EXCERPT * max_length
    taken = 0
    for message in messages:
        part = message | {"content": message["content"][: max(1, room - taken)]}
        taken += len(part["content"]) + 10
        kept.append(part)
        if taken >= room and part["role"] != "system":
            break
    if kept[-1]["role"] != "assistant":  # conversations end with an answer; this one begins beyond max_length
        kept.append({"role": "assistant", "content": "…"})
    return row | {"messages": kept}, size / taken


def misfits(measures: Measures) -> dict[str, np.ndarray]:
    """Repair → which rows it leaves out (booleans)."""
    is_refused = np.isin(measures.numbers, list(measures.refused))
    return {
        "drop-refused": is_refused,
        "drop-too-long": measures.lengths > measures.max_length,
        "drop-nothing-trained": (measures.trained_kept == 0) & ~is_refused,
        "drop-special-tokens": np.isin(measures.numbers, list(measures.special)),
    }


def without_misfits(prepared: Prepared, measures: Measures, recipe: Recipe) -> Prepared:
    """Leave out the rows that only the tokenizer can judge, as the recipe's repairs say."""
    kept = np.ones(len(measures.numbers), dtype=bool)
    dropped = Counter(prepared.dropped)
    for fix, which in misfits(measures).items():
        if fix in recipe.fixes:
            dropped[TOKEN_FIXES[fix]] += int((kept & which).sum())
            kept &= ~which
    parts, first = {}, 0
    for name, rows in prepared.splits().items():
        parts[name] = rows.view(rows.numbers[kept[first : first + len(rows)]])
        first += len(rows)
    return replace(prepared, **parts, dropped=dict(+dropped), measures=measures.take(kept))
