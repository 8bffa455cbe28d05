"""What each rival of the tuned model is asked: the same rows, with the help that a prompt can give. No torch.

base         the conversation as it is
system       with a better system prompt: the person's own, or one that says what the training answers look like
examples     with k training rows as turns in front, the same for every row
retrieved    with the k training rows whose questions are most similar (BM25), the most similar last
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .metrics import find_object, words

Row = Mapping[str, Any]
Messages = list[dict[str, Any]]
POOL = 20_000  # training rows that examples are drawn from and looked up in
WORDS_IN_SYSTEM_PROMPT = 50  # more different answers than this are not listed


@dataclass(frozen=True)
class Rival:
    """One contestant. `phrase` is its name inside a sentence; `model` a name that the Chatter knows."""

    name: str
    title: str
    phrase: str
    model: str
    messages: Callable[[Row], Messages]
    note: str = ""  # what a reader should know about how it was asked


def last_answer(row: Row) -> int:
    """The place of the turn that is the reference: the last one of the assistant. -1 if there is none."""
    messages = row.get("messages") or ()
    return next((at for at in range(len(messages) - 1, -1, -1) if messages[at].get("role") == "assistant"), -1)


def question(row: Row) -> Messages:
    """The conversation up to the last answer."""
    return [dict(message) for message in row["messages"][: last_answer(row)]]


def can_be_asked(row: Row) -> bool:
    """A row with something to ask and an answer in words to compare with."""
    at = last_answer(row)  # -1 for a row of plain text
    return at > 0 and row["messages"][at - 1].get("role") != "assistant" and bool(reference(row))


def reference(row: Row) -> str:
    """The answer to compare with. A call of a tool without words is compared as the JSON of the call."""
    message = row["messages"][last_answer(row)]
    if message.get("content"):
        return str(message["content"])
    calls = [call.get("function", call) for call in message.get("tool_calls") or ()]
    return json.dumps(calls[0] if len(calls) == 1 else calls, ensure_ascii=False) if calls else ""


def with_system(messages: Messages, system: str, replace: bool) -> Messages:
    """The conversation with another system prompt, or with one added below its own."""
    if messages and messages[0].get("role") == "system":
        own = messages[0].get("content") or ""
        content = system if replace or not own.strip() else f"{own}\n\n{system}"
        return [{"role": "system", "content": content}, *messages[1:]]
    return [{"role": "system", "content": system}, *messages]


def with_examples(messages: Messages, examples: Sequence[Row]) -> Messages:
    """The conversation with question and answer of some rows as turns behind its system prompt."""
    start = 1 if messages and messages[0].get("role") == "system" else 0
    turns = [turn for example in examples for turn in exchange(example)]
    return [*messages[:start], *turns, *messages[start:]]


def without_system(messages: Messages) -> Messages:
    """The conversation for a template without a system turn: its words on top of the first question instead."""
    if not messages or messages[0].get("role") != "system":
        return messages
    first, rest = messages[0], messages[1:]
    for at, message in enumerate(rest):
        if message.get("role") == "user":
            joined = {**message, "content": f"{first.get('content', '')}\n\n{message.get('content', '')}"}
            return [*rest[:at], joined, *rest[at + 1 :]]
    return rest


def exchange(row: Row) -> Messages:
    """The last question and answer of a row, as an example to show."""
    at = last_answer(row)
    ask = next((message for message in reversed(row["messages"][:at]) if message.get("role") == "user"), None)
    return [
        {"role": "user", "content": str((ask or {}).get("content", ""))},
        {"role": "assistant", "content": reference(row)},
    ]


def can_be_shown(row: Row) -> bool:
    """Rows that make sense as an example: one question, one answer, no tools."""
    if not can_be_asked(row) or row.get("tools"):
        return False
    roles = [message.get("role") for message in row["messages"] if message.get("role") != "system"]
    return roles == ["user", "assistant"]


def draw_pool(train: Sequence[Row], seed: int, size: int = POOL) -> list[Row]:
    """Rows to take examples from: all that can be shown, or a seeded sample of so many."""
    places: Iterable[int] = range(len(train))
    if len(train) > size:
        places = sorted(random.Random(seed).sample(range(len(train)), size))
    return [row for row in (train[place] for place in places) if can_be_shown(row)]


def choose_examples(pool: Sequence[Row], k: int, seed: int) -> list[Row]:
    """k rows that together show the most different answers: labels, or field values of JSON; seeded.

    A rival with examples deserves good ones: four of the same label would say less than four labels.
    """
    rows = [pool[place] for place in random.Random(seed).sample(range(len(pool)), min(len(pool), 2000))]
    if not rows or k <= 0:
        return []
    lengths = sorted(len(json.dumps(exchange(row))) for row in rows)
    rows = [row for row in rows if len(json.dumps(exchange(row))) <= 2 * lengths[len(lengths) // 2]]
    shows = [_shows(reference(row)) for row in rows]
    seen: Counter = Counter()
    chosen: list[int] = []
    while len(chosen) < min(k, len(rows)):
        left = (place for place in range(len(rows)) if place not in chosen)
        best = max(left, key=lambda place: sum(1 / (1 + seen[item]) for item in shows[place]) / len(shows[place]))
        chosen.append(best)
        seen.update(shows[best])
    return [rows[place] for place in chosen]


class Lookup:
    """BM25 over the questions of training rows (Robertson and Zaragoza 2009, as Lucene computes it; bm25s)."""

    def __init__(self, pool: Sequence[Row]):
        self.pool = list(pool)
        texts = [words(exchange(row)[0]["content"]) for row in self.pool]
        self._index = None
        if any(texts):
            import bm25s

            self._index = bm25s.BM25()
            self._index.index(texts, show_progress=False)

    def similar(self, row: Row, k: int) -> list[Row]:
        """The k most similar rows, the most similar last; fewer only if there are fewer."""
        asked = words(exchange(row)[0]["content"])
        if self._index is None or not asked:
            return self.pool[:k]
        scores = self._index.get_scores(asked)[: len(self.pool)]  # bm25s appends a row of its own for empty texts
        best = (-scores).argsort(kind="stable")[:k]
        return [self.pool[place] for place in reversed(best.tolist())]


def suggested_system_prompt(references: Sequence[str], kind: str) -> str | None:
    """What a careful person would tell the untuned model about the answers; None where that takes more than a look.

    >>> suggested_system_prompt(["no", "yes", "no"], "label")
    'Answer with exactly one of these and nothing else: no, yes.'
    """
    if kind == "label":
        found = Counter(answer.strip() for answer in references)
        listed = ", ".join(sorted(found))
        few = len(found) <= WORDS_IN_SYSTEM_PROMPT
        return f"Answer with exactly one of these and nothing else: {listed}." if few else None
    if kind == "json":
        objects = [found for answer in references if (found := find_object(answer))]
        names = Counter(name for item in objects for name in item)
        if not names or len(names) > 30:
            return None
        fields = ", ".join(_field(name, [item[name] for item in objects if name in item]) for name in names)
        return f"Answer with one JSON object and nothing else, with the fields {fields}."
    return None


def _field(name: str, values: Sequence[Any]) -> str:
    """A field and, where they are few, its values."""
    plain = [json.dumps(value, ensure_ascii=False) for value in values]
    found = sorted(set(plain))
    few = len(found) <= 20 and 2 * len(found) <= len(plain) and max(map(len, found)) <= 60
    return f"{json.dumps(name, ensure_ascii=False)} (one of {', '.join(found)})" if few else json.dumps(name)


def _shows(answer: str) -> tuple[str, ...]:
    """What an example teaches: each field and value of an object, else the answer itself."""
    found = find_object(answer) if answer.lstrip().startswith("{") else None
    if found:
        return tuple(f"{name}={json.dumps(value, sort_keys=True)}" for name, value in found.items())
    return (answer.strip(),)


def number_word(count: int) -> str:
    """A small number as it is written inside a sentence.

    >>> number_word(4), number_word(16)
    ('four', '16')
    """
    names = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
    return names[count] if count < len(names) else str(count)
