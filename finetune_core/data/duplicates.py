"""Rows that are the same, nearly the same, or begin the same: what must not stand on both sides of a split.

Exact and folded sameness by 64-bit hashes taken while rows stream by; nearness by MinHash (Broder 1997, datasketch)
over runs of three words, confirmed by counting the runs.
"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash

from .rows import Rows

PERMUTATIONS, BANDS = 48, 12  # 12 bands of 4: a pair of similarity 0.8 is met with 99.8 %, one of 0.4 with 27 %
FEW = 1000  # rows up to which every pair is compared
NEAR = 0.8  # share of runs of words that two rows have in common
MIN_SHINGLES = 6  # shorter texts share too little to be called near
MAX_WORDS = 600  # of a long text its beginning is enough
COMMON = 0.02  # a run of words in more rows than this belongs to a form letter, not to a row


@dataclass(frozen=True)
class Keys:
    """64-bit hashes of each row: equal hashes, equal text."""

    exact: np.ndarray  # everything
    folded: np.ndarray  # everything, apart from capitals, spaces and the end's punctuation
    prompt: np.ndarray  # all before the last answer, folded
    opening: np.ndarray  # all before the first answer, folded
    second: np.ndarray  # all before the second answer, where there is one; folded
    answer: np.ndarray  # the last answer, folded
    answer_length: np.ndarray  # characters

    def __len__(self) -> int:
        return len(self.exact)

    def take(self, numbers: np.ndarray) -> Keys:
        return Keys(*(getattr(self, name)[numbers] for name in self.__dataclass_fields__))


class KeyMaker:
    """Collects the keys of rows as they come."""

    def __init__(self) -> None:
        self._arrays = [array("Q") for _ in Keys.__dataclass_fields__]

    def add(self, row: dict[str, Any]) -> tuple[int, ...]:
        """Returns the row's keys, in the order of Keys' fields."""
        keys = row_keys(row)
        for column, key in zip(self._arrays, keys, strict=True):
            column.append(key)
        return keys

    def finish(self) -> Keys:
        return Keys(*(np.frombuffer(column, dtype=np.uint64) for column in self._arrays))


def row_keys(row: dict[str, Any]) -> tuple[int, ...]:
    """The keys of one row, in the order of Keys' fields."""
    if "text" in row:
        text = fold(row["text"])
        key = _hash(text)
        return _hash(row["text"]), key, key, key, key, key, len(text)
    messages = row["messages"]
    said = [f"{message['role']}\0{message['content']}{message.get('tool_calls', '')}" for message in messages]
    folded = [fold(part) for part in said]
    turns = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
    last = turns[-1]
    answer = fold(messages[last]["content"])
    return (
        _hash("\1".join(said)),
        _hash("\1".join(folded)),
        _hash("\1".join(folded[:last])),
        _hash("\1".join(folded[: turns[0]])),
        _hash("\1".join(folded[: turns[1] if len(turns) > 1 else last])),
        _hash(answer or folded[last]),
        len(answer),
    )


def fold(text: str) -> str:
    """
    >>> fold("  The Cat sat.\\n") == fold("the cat sat")
    True
    """
    return " ".join(text.casefold().split()).rstrip(" .!?…")


def repeats(keys: np.ndarray) -> np.ndarray:
    """True for each row whose key an earlier row has."""
    is_repeat = np.ones(len(keys), dtype=bool)
    is_repeat[np.unique(keys, return_index=True)[1]] = False
    return is_repeat


def near_pairs(rows: Rows, skip: np.ndarray, on_progress: Callable[[float], None] | None = None) -> np.ndarray:
    """Pairs of near rows as numbers, shape (pairs, 2); rows in `skip` (exact repeats) are left out.

    Each row of a band's group is compared with the group's first two, so a group of any size costs little.
    """
    kept = np.flatnonzero(~skip)
    common = _common_shingles(rows, kept)
    if len(kept) <= FEW:
        candidates = _sharing(rows, kept, common)
    else:
        signatures, members = _signatures(rows, kept, common, on_progress)
        candidates = np.unique(np.concatenate(list(_candidates(signatures, members))), axis=0)
    cache: dict[int, frozenset[int]] = {}

    def runs(number: int) -> frozenset[int]:
        if number not in cache:
            if len(cache) > 20_000:
                cache.clear()
            cache[number] = frozenset(shingles(row_text(rows[number]))) - common
        return cache[number]

    return np.array(
        [(a, b) for a, b in candidates.tolist() if _jaccard(runs(a), runs(b)) >= NEAR], dtype=np.int64
    ).reshape(-1, 2)


def _sharing(rows: Rows, kept: np.ndarray, common: frozenset[int]) -> np.ndarray:
    """All pairs of a few rows that share a run of words: exact, and without loading datasketch (and scipy)."""
    having: dict[int, list[int]] = {}
    pairs: set[tuple[int, int]] = set()
    for number in kept.tolist():
        runs = shingles(row_text(rows[number])) - common
        if len(runs) >= MIN_SHINGLES:
            for run in runs:
                pairs.update((earlier, number) for earlier in having.setdefault(run, []))
                having[run].append(number)
    return np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2)


def _signatures(
    rows: Rows, kept: np.ndarray, common: frozenset[int], on_progress: Callable[[float], None] | None
) -> tuple[np.ndarray, np.ndarray]:
    """(MinHash values, shape (members, PERMUTATIONS); which rows the members are)."""
    from datasketch import MinHash

    sketch = MinHash(num_perm=PERMUTATIONS, hashfunc=int)
    empty = sketch.hashvalues
    signatures = np.empty((len(kept), PERMUTATIONS), dtype=np.uint32)
    members = array("q")
    for done, number in enumerate(kept.tolist()):
        runs = shingles(row_text(rows[number]))
        if common:
            runs = runs - common
        if len(runs) >= MIN_SHINGLES:
            sketch.hashvalues = empty
            sketch.update_batch(runs)
            signatures[len(members)] = sketch.hashvalues
            members.append(number)
        if on_progress and done % 2000 == 0:
            on_progress(done / len(kept))
    return signatures[: len(members)], np.frombuffer(members, dtype=np.int64)


def _candidates(signatures: np.ndarray, members: np.ndarray) -> Iterator[np.ndarray]:
    """Pairs that agree in all values of a band, shape (pairs, 2), smaller number first."""
    width = PERMUTATIONS // BANDS
    yield np.empty((0, 2), dtype=np.int64)
    for band in range(BANDS):
        values = np.ascontiguousarray(signatures[:, band * width : (band + 1) * width])
        rows = values.view(np.dtype((np.void, values.dtype.itemsize * width))).ravel()
        _, group = np.unique(rows, return_inverse=True)
        order = np.argsort(group, kind="stable")
        sorted_groups = group[order]
        starts = np.flatnonzero(np.r_[True, sorted_groups[1:] != sorted_groups[:-1]])
        begin = np.repeat(starts, np.diff(np.r_[starts, len(order)]))
        rank = np.arange(len(order)) - begin
        for anchor in (0, 1):
            later = rank > anchor
            a, b = members[order[begin[later] + anchor]], members[order[later]]
            yield np.stack([np.minimum(a, b), np.maximum(a, b)], axis=1)


def _common_shingles(rows: Rows, kept: np.ndarray, sample: int = 2000) -> frozenset[int]:
    """Runs of words that many rows share (a question's form, a greeting): they say nothing about two rows."""
    if len(kept) < 50:
        return frozenset()
    counts: dict[int, int] = {}
    numbers = kept[:: max(1, len(kept) // sample)]
    for number in numbers.tolist():
        for run in shingles(row_text(rows[number])):
            counts[run] = counts.get(run, 0) + 1
    limit = max(5, COMMON * len(numbers))
    return frozenset(run for run, count in counts.items() if count > limit)


def row_text(row: dict[str, Any]) -> str:
    """What a row says, without its system prompt."""
    if "text" in row:
        return row["text"]
    return "\n".join(message["content"] for message in row["messages"] if message["role"] != "system")


class _Codes(dict[str, int]):
    """A number for each word, the same in every process; the words of a language are few, so most are known."""

    def __missing__(self, word: str) -> int:
        if len(self) > 1_000_000:
            self.clear()
        code = self[word] = zlib.crc32(word.encode("utf-8", "replace"))
        return code


_codes = _Codes()


def shingles(text: str) -> set[int]:
    """Hashes of the runs of three words; of characters where words are not parted by spaces (Chinese, Thai)."""
    text = text[: MAX_WORDS * 20].casefold()
    words = text.split()
    if len(words) * 12 < len(text):
        words = list(text.replace(" ", ""))
    codes = np.array([_codes[word] for word in words[:MAX_WORDS]], dtype=np.uint32)
    # three odd factors, so that the order of the words counts
    runs = codes[:-2] * np.uint32(0x9E3779B1) + codes[1:-1] * np.uint32(0x85EBCA77) + codes[2:] * np.uint32(0xC2B2AE3D)
    return set(runs.tolist())


def groups(keys: Keys, pairs: np.ndarray) -> np.ndarray:
    """A group number for each row: rows that are the same or near, have the same prompt, or begin the same share
    one. Where one key would hold a tenth of all rows (a fixed greeting), it does not count.
    """
    count = len(keys)
    links = [pairs]
    for key in (keys.folded, keys.prompt, keys.opening, keys.second):
        _, first, inverse, sizes = np.unique(key, return_index=True, return_inverse=True, return_counts=True)
        counts = (sizes[inverse] > 1) & ((sizes[inverse] <= max(10, count // 10)) | (key is keys.folded))
        later = np.flatnonzero(counts & (first[inverse] != np.arange(count)))
        links.append(np.stack([first[inverse][later], later], axis=1))
    return _components(count, np.concatenate(links))


def _components(count: int, links: np.ndarray) -> np.ndarray:
    """Union-find over the links; most rows have none."""
    parent = np.arange(count)
    known: dict[int, int] = {}

    def root(number: int) -> int:
        while (up := known.get(number, number)) != number:
            known[number] = number = known.get(up, up)
        return number

    for a, b in links.tolist():
        a, b = root(a), root(b)
        if a != b:
            known[max(a, b)] = min(a, b)
            known.setdefault(min(a, b), min(a, b))
    for number in known:
        parent[number] = root(number)
    return parent


def _jaccard(a: frozenset[int], b: frozenset[int]) -> float:
    return len(a & b) / len(a | b) if a and b else 0.0


def _hash(text: str) -> int:
    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "replace"))
