"""Scores of answers against references, row by row; which of them fits the data. Pure, numpy only."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Metric:
    """One way to judge answers. `series` are its per-row scores, the one that decides first."""

    kind: str
    title: str
    explains: str
    series: tuple[str, ...]
    higher_is_better: bool = True
    bounded: bool = True  # every row scores between 0 and 1

    @property
    def main(self) -> str:
        return self.series[0]


METRICS: dict[str, Metric] = {
    metric.kind: metric
    for metric in (
        Metric(
            "label",
            "Exact match",
            "An answer counts when it is the expected one, letter for letter, spaces around it aside.",
            ("exact", "lenient"),
        ),
        Metric(
            "json",
            "All fields right",
            "An answer counts when its JSON object has every field and value of the expected one and no other; "
            "words around the object are forgiven, for every rival alike.",
            ("exact", "field_f1", "valid"),
        ),
        Metric(
            "text",
            "chrF",
            "Letter sequences that an answer shares with the expected one, from 0 to 100 (chrF, Popović 2015).",
            ("chrf", "token_f1", "rouge_l", "exact"),
        ),
        Metric("check", "Your own check", "The function check of your own Python file says what counts.", ("check",)),
        Metric(
            "loss",
            "Loss",
            "How surprised the model is by the expected answer, in nats per token; lower is better.",
            ("loss",),
            higher_is_better=False,
            bounded=False,
        ),
    )
}

SERIES_TITLES = {
    "exact": "Exactly right",
    "lenient": "Right but for case and punctuation",
    "field_f1": "Fields right (F1)",
    "valid": "Valid JSON, nothing around it",
    "chrf": "chrF",
    "token_f1": "Words right (F1)",
    "rouge_l": "ROUGE-L",
    "check": "Your own check",
    "loss": "Loss",
    "macro_f1": "Macro-F1 over the labels",
}


def choose_metric(answers: Sequence[str]) -> str:
    """Which kind of score fits these reference answers.

    >>> choose_metric(['{"a": 1}', '{"a": 2}']), choose_metric(["yes", "no", "yes"] * 4), choose_metric(["Once upon"])
    ('json', 'label', 'text')
    """
    answers = [answer.strip() for answer in answers]
    if not answers or not any(answers):
        return "text"
    if all(_object_or_none(answer) is not None for answer in answers):
        return "json"
    distinct = Counter(answers)
    short = max(len(answer) for answer in distinct) <= 80 and all("\n" not in answer for answer in distinct)
    # labels come back; ten rows with ten different short answers are names or numbers, not labels
    few = len(distinct) <= min(50, len(answers) // 2)
    return "label" if short and few else "text"


def score(kind: str, answers: Sequence[str], references: Sequence[str]) -> dict[str, list[float]]:
    """Per-row scores between 0 and 1, one list per series of METRICS[kind]; the first one decides.

    >>> score("label", ["yes ", "No."], ["yes", "no"])
    {'exact': [1.0, 0.0], 'lenient': [1.0, 1.0]}
    """
    if len(answers) != len(references):
        raise ValueError(f"{len(answers)} answers for {len(references)} references")
    rows = [SCORERS[kind](answer, reference) for answer, reference in zip(answers, references, strict=True)]
    return {name: [float(row[name]) for row in rows] for name in METRICS[kind].series}


def score_label(answer: str, reference: str) -> dict[str, float]:
    """Exact: the same text. Lenient: the same label, whatever its case and punctuation."""
    return {
        "exact": float(answer.strip() == reference.strip()),
        "lenient": float(_plain_label(answer) == _plain_label(reference)),
    }


def score_json(answer: str, reference: str) -> dict[str, float]:
    """Exact: the same object, whatever the order of its keys. Field F1: (path, value) pairs in common."""
    expected, found = find_object(reference), find_object(answer)
    if expected is None:
        return {"exact": float(answer.strip() == reference.strip()), "field_f1": 0.0, "valid": 0.0}
    valid = float(_object_or_none(answer) is not None)
    if found is None:
        return {"exact": 0.0, "field_f1": 0.0, "valid": valid}
    return {
        "exact": float(_comparable(found) == _comparable(expected)),
        "field_f1": f1(Counter(_fields(found)), Counter(_fields(expected))),
        "valid": valid,
    }


def score_text(answer: str, reference: str) -> dict[str, float]:
    """chrF, token F1, ROUGE-L and exact match, each from 0 to 1."""
    got, wanted = words(answer), words(reference)
    return {
        "chrf": chrf(answer, reference),
        "token_f1": f1(Counter(got), Counter(wanted)),
        "rouge_l": rouge_l(got, wanted),
        "exact": float(answer.strip() == reference.strip()),
    }


SCORERS = {"label": score_label, "json": score_json, "text": score_text}


def f1(got: Counter, wanted: Counter) -> float:
    """Harmonic mean of precision and recall of two bags; two empty bags agree.

    >>> f1(Counter("ab"), Counter("bc"))
    0.5
    """
    if not got and not wanted:
        return 1.0
    common = sum((got & wanted).values())
    return 2 * common / (got.total() + wanted.total())


def rouge_l(got: Sequence[str], wanted: Sequence[str]) -> float:
    """ROUGE-L with equal weight for precision and recall (Lin 2004): the longest common subsequence of words.

    >>> rouge_l("the cat sat".split(), "the cat lay down".split())
    0.5714285714285714
    """
    if not got or not wanted:
        return float(not got and not wanted)
    row = np.zeros(len(wanted) + 1, dtype=np.int64)
    for word in got:
        match = row[:-1] + np.fromiter((word == other for other in wanted), dtype=np.int64, count=len(wanted))
        row[1:] = np.maximum.accumulate(np.maximum(row[1:], match))
    return float(2 * row[-1] / (len(got) + len(wanted)))


def chrf(answer: str, reference: str) -> float:
    """chrF2 of one answer, 0 to 1 (sacrebleu; Popović 2015)."""
    if not answer.strip() or not reference.strip():
        return float(answer.strip() == reference.strip())
    import sacrebleu

    return sacrebleu.sentence_chrf(answer, [reference]).score / 100


def words(text: str) -> list[str]:
    """Lower-cased words and numbers of any script; scripts without spaces go letter by letter.

    >>> words("Één fiets, 2 stoelen."), words("東京 is")
    (['één', 'fiets', '2', 'stoelen'], ['東', '京', 'is'])
    """
    return WORD.findall(unicodedata.normalize("NFKC", text).casefold())


WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\u0e00-\u0e7f]|[^\W\u3040-\u30ff\u3400-\u9fff\u0e00-\u0e7f]+"
)


def macro_f1(answers: Sequence[str], references: Sequence[str]) -> float:
    """Mean F1 over the labels that occur among the references: a rare label weighs as much as a common one.

    >>> round(macro_f1(["a", "a", "a"], ["a", "a", "b"]), 2)
    0.4
    """
    answers, references = [a.strip() for a in answers], [r.strip() for r in references]
    right = Counter(r for a, r in zip(answers, references, strict=True) if a == r)
    got, wanted = Counter(answers), Counter(references)
    return float(np.mean([2 * right[label] / (got[label] + wanted[label]) for label in wanted])) if wanted else 0.0


def perplexity(loss: float) -> float:
    """e to the loss, capped so that it stays a JSON number."""
    return math.exp(min(loss, 50.0))


def find_object(text: str) -> dict[str, Any] | None:
    """The first JSON object in a text, also inside a code fence or a sentence; None if there is none.

    >>> find_object('Sure! ```json\\n{"a": 1}\\n```')
    {'a': 1}
    """
    start = text.find("{")
    for _ in range(20):  # a text full of braces is no JSON; do not try them all
        if start < 0:
            return None
        try:
            value, _end = DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            start = text.find("{", start + 1)
            continue
        return value
    return None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def _object_or_none(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text.strip(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _fields(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(path, value) pairs of an object, depth first. Places in a list do not count, so order is forgiven."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _fields(item, f"{path}/{key}")
    elif isinstance(value, list) and value:
        for item in value:
            yield from _fields(item, f"{path}[]")
    else:
        yield path, repr(_comparable(value))


def _comparable(value: Any) -> Any:
    """Values that mean the same become equal: 1 and 1.0, " red" and "red"; True stays apart from 1."""
    if isinstance(value, Mapping):
        return {key: _comparable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_comparable(item) for item in value]
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, str):
        return value.strip()
    return float(value) if isinstance(value, int) and abs(value) < 2**53 else value


def _plain_label(text: str) -> str:
    return re.sub(r"^[\W_]+|[\W_]+$", "", unicodedata.normalize("NFKC", text).casefold())
