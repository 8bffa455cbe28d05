"""What a repository says about the run in it (fijn.json), as this program writes it. It is a stranger's JSON: what is
not of the right type is left out, and so is what has no name here."""

from __future__ import annotations

from typing import Any, Literal, Required

from pydantic import FiniteFloat, TypeAdapter, ValidationError
from typing_extensions import TypedDict

Number = FiniteFloat | None
Plain = str | int | FiniteFloat | bool | None


class Rival(TypedDict, total=False):
    name: Required[str]
    title: Required[str]
    score: Required[FiniteFloat]
    low: Required[FiniteFloat]
    high: Required[FiniteFloat]
    phrase: str
    note: str
    model: str
    scores: dict[str, FiniteFloat]
    tokens_per_request: Number
    prompt_tokens: FiniteFloat
    answer_tokens: FiniteFloat
    mean_length: Number
    stop_rate: Number
    seconds: Number
    seconds_per_request: Number
    answers_kept: int
    macro_f1: FiniteFloat
    macro_f1_low: FiniteFloat
    macro_f1_high: FiniteFloat


class Verdict(TypedDict, total=False):
    sentence: Required[str]
    difference: Number
    low: Number
    high: Number
    n: int
    enough: bool | None
    better: bool | None
    needed_rows: int | None
    against: str | None
    others: dict[str, Verdict]


class Loss(TypedDict, total=False):
    base: Number
    tuned: Number
    perplexity: dict[str, Number]


class Area(TypedDict):
    n: int
    before: int
    after: int


class Changed(TypedDict):
    id: str
    prompt: str
    before: bool
    after: bool


class Drift(TypedDict, total=False):
    tokens: int
    same: Number
    nats: Number
    sentence: str


class Forgetting(TypedDict, total=False):
    state: str
    sentence: Required[str]
    n: int
    before: FiniteFloat
    after: FiniteFloat
    difference: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat
    lost: int
    won: int
    areas: dict[str, Area]
    changed: list[Changed]
    drift: Drift
    seconds: FiniteFloat


class Curves(TypedDict, total=False):
    kind: str
    sentence: str
    fix: str
    changes: dict[str, Plain]
    overfit: bool


class Judge(TypedDict, total=False):
    sentence: Required[str]
    judge: str
    against: str
    wins: int
    ties: int
    losses: int
    n: int
    difference: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat


class Report(TypedDict, total=False):
    n: Required[int]
    rivals: Required[list[Rival]]
    available: int
    split: str
    note: str
    metric: str
    metric_kind: str
    metric_explains: str
    verdict: Verdict
    loss: Loss
    forgetting: Forgetting | None
    curves: Curves | None
    judge: Judge | None
    settings: dict[str, Plain | list[str]]
    run: str
    quick: bool
    complete: bool
    seconds: FiniteFloat
    made: FiniteFloat


class Source(TypedDict, total=False):
    name: str
    place: str
    bytes: int
    sha256: str | None
    config: str | None
    revision: str | None
    licence: str | None


class Data(TypedDict, total=False):
    source: Source
    shape: str
    shapes: dict[str, int]
    columns: list[str]
    rows_read: int
    dropped: dict[str, int]
    repaired: dict[str, int]
    rows: dict[str, int]
    own_splits: list[str]


class Start(TypedDict, total=False):
    machine: str
    versions: dict[str, str]


class Done(TypedDict, total=False):
    outcome: Literal["finished", "stopped"]
    seconds: FiniteFloat
    steps: int
    best_step: int | None
    train_seconds: FiniteFloat


PARTS = {"report": Report, "data": Data, "start": Start, "done": Done}


def taken(about: Any) -> dict[str, dict[str, Any]]:
    """The parts of an opened fijn.json that are what they should be; a report without its rows.

    >>> taken({"done": {"steps": "12", "pid": 1}, "start": {"versions": "<b>"}, "report": [1]})
    {'done': {'steps': 12}}
    """
    found = {}
    for name, shape in PARTS.items():
        try:
            found[name] = dict(TypeAdapter(shape).validate_python(about[name]))
        except (ValidationError, KeyError, TypeError):
            continue
    if "report" in found:
        found["report"]["rows"] = []
    return found
