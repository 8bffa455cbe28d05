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

from .words import count, esc, many

Report = Mapping[str, Any]
Row = Mapping[str, Any]

FILTERS = {
    "all": "All",
    "wrong": "Tuned is wrong",
    "fixed": "Tuning fixed",
    "broke": "Tuning broke",
}
ORDERS = {"rows": "In their order", "worst": "Worst first", "best": "Best first", "shuffled": "Shuffled"}
PAGE = 10  # rows shown at first, and more with each click


def rivals(report: Report) -> list[Mapping[str, Any]]:
    return list(report.get("rivals") or [])


def is_tuned(name: str) -> bool:
    return name == "tuned" or name.startswith(("tuned-", "tuned ", "checkpoint-"))


def kind(name: str) -> str:
    """The class of a rival's colour and mark."""
    return "tuned" if is_tuned(name) else "base" if name == "base" else "other"


def tuned_name(report: Report) -> str:
    return next((r["name"] for r in rivals(report) if r["name"] == "tuned"), "tuned")


def is_share(report: Report) -> bool:
    """True for scores between 0 and 1, of which more is better; a loss is none."""
    return not str(report.get("metric", "")).lower().startswith("loss")


def is_right(score: float | None) -> bool:
    return score is not None and score >= 0.999


# --- the rows ---


def wanted(report: Report, which: str) -> list[tuple[int, Row]]:
    """Rows of a filter, with their place in the report: wrong, fixed (base was worse), broke (base was better)."""
    tuned = tuned_name(report)

    def keeps(row: Row) -> bool:
        mine, base = row.get("scores", {}).get(tuned), row.get("scores", {}).get("base")
        if which == "wrong":
            return mine is not None and not is_right(mine)
        if which == "fixed":
            return mine is not None and base is not None and mine > base + 1e-9
        if which == "broke":
            return mine is not None and base is not None and mine < base - 1e-9
        return True

    return [(index, row) for index, row in enumerate(report.get("rows") or []) if keeps(row)]


def ordered(found: Sequence[tuple[int, Row]], order: str, tuned: str, seed: str = "") -> list[tuple[int, Row]]:
    """In their order, or by the tuned model's score; shuffled the same way each time for one run."""
    if order == "shuffled":
        return random.Random(seed).sample(list(found), len(found))
    if order in ("worst", "best"):
        sign = 1 if order == "worst" else -1
        return sorted(found, key=lambda item: sign * (item[1].get("scores", {}).get(tuned) or 0.0))
    return list(found)


def filter_choices(report: Report) -> list[tuple[str, str]]:
    return [(f"{label} ({count(len(wanted(report, key)))})", key) for key, label in FILTERS.items()]


def rows(report: Report, which: str = "all", order: str = "rows", limit: int = PAGE, seed: str = "") -> str:
    """The rows with every rival's answer side by side."""
    found = ordered(wanted(report, which), order, tuned_name(report), seed)
    if not found:
        nothing = {
            "wrong": "The tuned model got every row right.",
            "fixed": "There is no row that tuning made better.",
            "broke": "There is no row that tuning made worse.",
        }.get(which, "The report holds no rows.")
        return f'<p class="card empty">{nothing}</p>'
    titles = {rival["name"]: str(rival.get("title") or rival["name"]) for rival in rivals(report)}
    shown = "".join(_row(index, row, titles) for index, row in found[:limit])
    return f'<div class="proof-rows">{shown}</div><p class="muted num rows-shown">{_shown(found, limit)}</p>'


def _shown(found: Sequence[Any], limit: int) -> str:
    return f"{count(min(limit, len(found)))} of {many(len(found), 'row')}"


def _row(index: int, row: Row, titles: Mapping[str, str]) -> str:
    reference = str(row.get("reference", ""))
    answers = row.get("answers") or {}
    names = sorted(answers, key=lambda name: (not is_tuned(name), name != "base"))
    across = len(names) + 1 if len(names) < 4 else 3
    cells = [_reference(reference)] + [
        _answer(name, titles.get(name, name), str(answers[name]), reference, row.get("scores", {}).get(name))
        for name in names
    ]
    return (
        f'<article class="proof-row"><header><span class="proof-id num">{esc(row.get("id", index + 1))}</span>'
        f'<p class="proof-prompt">{esc(prompt_text(row))}</p>'
        f'<button type="button" class="btn quiet" data-use="{index}">Ask it in the chat</button></header>'
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


def _answer(name: str, title: str, answer: str, reference: str, score: float | None) -> str:
    if score is None:
        state, mark = "", ""
    elif score in (0.0, 1.0):
        state = "right" if score else "wrong"
        mark = f'<span class="mark {state}">{"✓ right" if score else "✗ wrong"}</span>'
    else:
        state, mark = "partly", f'<span class="mark partly num">{score:.2f}</span>'
    body = marked(answer, reference) if answer.strip() else "<i>an empty answer</i>"
    return (
        f'<div class="answer {kind(name)} {state}"><h4><span class="who">{esc(title)}</span>{mark}</h4>'
        f'<p class="{_kind_of_text(answer)}">{body}</p></div>'
    )


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
    """A spreadsheet runs what begins like a formula; an apostrophe makes it text (OWASP, CSV injection).

    >>> cell("=1+1"), cell("-2"), cell(0.5)
    ("'=1+1", "'-2", 0.5)
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    text = str(value)
    return "'" + text if text.lstrip(" ")[:1] in ("=", "+", "-", "@", "\t", "\r", "\n") else text
