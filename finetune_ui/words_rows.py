"""The rows of a proof with every rival's answer side by side, filtered, ordered, and as files. Pure.

The report is read forgivingly: an older run's may lack a part.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

from finetune_core.amounts import count, many, percent

from .words import esc

Report = Mapping[str, Any]
Row = Mapping[str, Any]

FILTERS = {
    "all": "All",
    "wrong": "Tuned is wrong",
    "fixed": "Tuning fixed",
    "broke": "Tuning broke",
}
# of answers that are more or less alike, none is right and none is broken
BY_DEGREE = {"wrong": "Tuned is far off", "fixed": "Tuning is nearer", "broke": "Tuning is further off"}
ORDERS = {"rows": "In their order", "worst": "Worst first", "best": "Best first", "shuffled": "Shuffled"}
PAGE = 10  # rows shown at first, and more with each click


def rivals(report: Report) -> list[Mapping[str, Any]]:
    return list(report.get("rivals") or [])


def is_tuned(name: str) -> bool:
    return name in ("tuned", "best", "last") or name.startswith(("tuned-", "tuned ", "checkpoint-"))


def kind(name: str) -> str:
    """The class of a rival's colour and mark."""
    return "tuned" if is_tuned(name) else "base" if name == "base" else "other"


def tuned_name(report: Report) -> str:
    return next((r["name"] for r in rivals(report) if r["name"] == "tuned"), "tuned")


def unit(report: Report) -> str:
    """What a score is: "share" of right answers, "points" of 0 to 100, or "loss", of which less is better."""
    kind_of = str(report.get("metric_kind") or report.get("metric") or "").lower()
    return "loss" if kind_of.startswith("loss") else "points" if kind_of in ("text", "chrf") else "share"


def said(score: float, of: str) -> str:
    """A score in its unit.

    >>> said(0.812, "share"), said(0.812, "points"), said(0.812, "loss")
    ('81%', '81', '0.812')
    """
    return percent(score) if of == "share" else f"{100 * score:.0f}" if of == "points" else f"{score:.3f}"


# --- the rows ---


def wanted(report: Report, which: str) -> list[tuple[int, Row]]:
    """Rows of a filter, with their place in the report: wrong, fixed (base was worse), broke (base was better).

    Wrong is less than all right, or less than half of the points where answers are only more or less alike.
    """
    tuned, of = tuned_name(report), unit(report)
    sign = -1.0 if of == "loss" else 1.0
    enough = 0.5 if of == "points" else 0.999

    def keeps(row: Row) -> bool:
        mine, base = row.get("scores", {}).get(tuned), row.get("scores", {}).get("base")
        if which == "wrong":
            return mine is not None and mine < enough
        if which in ("fixed", "broke"):
            gain = 0.0 if mine is None or base is None else sign * (mine - base)
            return gain > 1e-9 if which == "fixed" else gain < -1e-9
        return True

    return [(index, row) for index, row in enumerate(report.get("rows") or []) if keeps(row)]


def ordered(report: Report, found: Sequence[tuple[int, Row]], order: str, seed: str = "") -> list[tuple[int, Row]]:
    """The rows in their order, or by the tuned model's score; shuffled the same way each time for one run."""
    tuned = tuned_name(report)
    if order == "shuffled":
        return random.Random(seed).sample(list(found), len(found))
    if order in ("worst", "best"):
        sign = (1 if order == "worst" else -1) * (-1 if unit(report) == "loss" else 1)
        return sorted(found, key=lambda item: sign * (item[1].get("scores", {}).get(tuned) or 0.0))
    return list(found)


def filter_choices(report: Report) -> list[tuple[str, str]]:
    """The filters with how many rows each keeps; a loss is never right or wrong."""
    of = unit(report)
    labels = FILTERS if of == "share" else FILTERS | BY_DEGREE
    keys = [key for key in labels if not (key == "wrong" and of == "loss")]
    return [(f"{labels[key]} ({count(len(wanted(report, key)))})", key) for key in keys]


def rows(report: Report, which: str = "all", order: str = "rows", limit: int = PAGE, seed: str = "") -> str:
    """The rows with every rival's answer side by side."""
    found = ordered(report, wanted(report, which), order, seed)
    if not found:
        nothing = {
            "wrong": "The tuned model got every row right.",
            "fixed": "There is no row that tuning made better.",
            "broke": "There is no row that tuning made worse.",
        }.get(which, "The report holds no rows.")
        return f'<p class="card empty">{nothing}</p>'
    titles = {rival["name"]: str(rival.get("title") or rival["name"]) for rival in rivals(report)}
    shown = "".join(_row(index, row, titles, unit(report)) for index, row in found[:limit])
    return f'<div class="proof-rows">{shown}</div><p class="muted num rows-shown">{_shown(found, limit)}</p>'


def _shown(found: Sequence[Any], limit: int) -> str:
    return f"{count(min(limit, len(found)))} of {many(len(found), 'row')}"


def _row(index: int, row: Row, titles: Mapping[str, str], of: str) -> str:
    reference, answers, scores = str(row.get("reference", "")), row.get("answers") or {}, row.get("scores") or {}
    names = sorted(answers or scores, key=lambda name: (not is_tuned(name), name != "base"))
    cells = [_reference(reference)] if reference else []
    cells += [
        _answer(name, titles.get(name, name), answers.get(name), reference, scores.get(name), of) for name in names
    ]
    across = len(cells) if len(cells) < 5 else 3
    asked = prompt_text(row)
    button = (
        f'<button type="button" class="btn quiet" data-use="{index}">Ask it in the chat</button>' if answers else ""
    )
    return (
        f'<article class="proof-row"><header><span class="proof-id num">{esc(row.get("id", index + 1))}</span>'
        f'<p class="proof-prompt">{esc(asked)}</p>{button}</header>'
        f'<div class="proof-answers" style="--cells:{across}">{"".join(cells)}</div></article>'
    )


def prompt_text(row: Row) -> str:
    """The row's question: its last user message, or its text."""
    prompt = row.get("prompt", "")
    if isinstance(prompt, str):
        return prompt
    said = [message for message in prompt if isinstance(message, Mapping) and message.get("role") == "user"]
    return str(said[-1].get("content", "")) if said else ""


def _reference(reference: str) -> str:
    return (
        f'<div class="answer reference"><h4>In your data</h4>'
        f'<p class="{_kind_of_text(reference)}">{esc(reference) or "<i>nothing</i>"}</p></div>'
    )


def _answer(name: str, title: str, answer: str | None, reference: str, score: float | None, of: str) -> str:
    state, mark = "", ""
    if score is not None and of == "share" and score in (0.0, 1.0):
        state = "right" if score else "wrong"
        mark = f'<span class="mark {state}">{"✓ right" if score else "✗ wrong"}</span>'
    elif score is not None:
        state, mark = "partly", f'<span class="mark partly num">{said(score, of)}</span>'
    text = ""
    if answer is not None:
        body = marked(answer.strip(), reference.strip()) if answer.strip() else "<i>nothing but blanks</i>"
        text = f'<p class="{_kind_of_text(answer)}">{body}</p>'
    return f'<div class="answer {kind(name)} {state}"><h4><span class="who">{esc(title)}</span>{mark}</h4>{text}</div>'


def _kind_of_text(text: str) -> str:
    return "mono" if text.lstrip()[:1] in ("{", "[", "<") else "prose-text"


def marked(answer: str, reference: str, longest: int = 2000) -> str:
    """The answer, escaped, with the words that the reference does not have at their place underlined.

    >>> marked('a cat', 'a dog')
    'a <mark>cat</mark>'
    """
    answer = answer if len(answer) <= longest else answer[:longest] + "…"
    mine, theirs = _pieces(answer), _pieces(reference[:longest])
    blocks = difflib.SequenceMatcher(None, mine, theirs, autojunk=False).get_opcodes()
    same = sum(end - start for tag, start, end, _, _ in blocks if tag == "equal")
    if not mine or same < 0.3 * len(mine):  # nothing in common worth showing: a page of underlines says less than none
        return esc(answer)
    parts = []
    for tag, start, end, _, _ in blocks:
        text = "".join(mine[start:end])
        if text:
            parts.append(esc(text) if tag == "equal" or not text.strip() else f"<mark>{esc(text)}</mark>")
    return "".join(parts)


def _pieces(text: str) -> list[str]:
    return re.findall(r"\w+|\s+|[^\w\s]", text)


# --- downloads ---


def as_jsonl(report: Report) -> str:
    """One row a line, as the report has it."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in report.get("rows") or [])


def as_csv(report: Report) -> str:
    """A spreadsheet: id, prompt, reference, then answer and score of each rival. Formulas are made harmless."""
    names = [rival["name"] for rival in rivals(report)]
    out = io.StringIO()
    sheet = csv.writer(out, lineterminator="\r\n")
    sheet.writerow(
        [cell("id"), "prompt", "reference", *(cell(f"{n}: {w}") for n in names for w in ("answer", "score"))]
    )
    for index, row in enumerate(report.get("rows") or [], start=1):
        answers, scores = row.get("answers") or {}, row.get("scores") or {}
        pairs = [value for name in names for value in (answers.get(name, ""), scores.get(name, ""))]
        values = [row.get("id", index), prompt_text(row), row.get("reference", ""), *pairs]
        sheet.writerow([cell(value) for value in values])
    return "\ufeff" + out.getvalue()  # the mark that makes Excel read UTF-8


def cell(value: Any) -> Any:
    """A number as it is; anything else as a text that is never run.

    >>> cell("=1+1"), cell("-2"), cell(0.5)
    ("'=1+1", "'-2", 0.5)
    """
    from finetune_core.sheets import without_formula  # not before it is needed: it reads tables too

    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number else without_formula(str(value))
