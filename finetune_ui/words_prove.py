"""The proof in words and html: the verdict, the rivals, and the rows with every answer. Pure: a report in, html out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from . import charts
from .words import count, duration, esc, join, many, percent
from .words_rows import Report, is_share, kind, rivals

# --- the verdict ---


def verdict(report: Report) -> str:
    """The sentence, large, and under it what it rests on."""
    said = report.get("verdict") or {}
    tone = "even" if said.get("better") is None else "good" if (said.get("difference") or 0) > 0 else "bad"
    n = int(report.get("n") or 0)
    under = join(
        [
            f"{many(n, 'test row')} that it never saw",
            f"{esc(report.get('metric', ''))}",
            "the ranges hold with 95% certainty",
            f"compared in {duration(report['seconds'])}" if report.get("seconds") else "",
        ]
    )
    sentence = _with_figures(str(said.get("sentence", "")))
    return (
        f'<section class="verdict {tone}"><h2 class="lead verdict-says">{sentence}</h2>'
        f'<p class="sub num">{under}.</p></section>'
    )


def _with_figures(sentence: str) -> str:
    """The sentence with its numbers in tabular figures, so they stand out quietly."""
    return re.sub(r"(\d[\d.,]*\d|\d)", r"<b>\1</b>", esc(sentence).replace("&#x27;", "’"))


def bars(report: Report) -> str:
    """Every rival with its interval, best last as the report has them."""
    found = rivals(report)
    share = is_share(report)
    most = max([float(r.get("high") or r.get("score") or 0) for r in found] + [1e-9])
    scale = 1.0 if share else most
    drawn = [
        charts.Bar(
            title=str(rival.get("title") or rival["name"]),
            css=kind(rival["name"]),
            score=float(rival.get("score") or 0) / scale,
            low=float(rival.get("low", rival.get("score") or 0)) / scale,
            high=float(rival.get("high", rival.get("score") or 0)) / scale,
            says=percent(rival["score"]) if share else f"{rival['score']:.3f}",
            interval=_interval(rival, share),
            note=_request(rival),
        )
        for rival in found
    ]
    title = "Right answers" if share else esc(report.get("metric", "Score"))
    same = f"the same {many(int(report.get('n') or 0), 'row')} for each; the thin line is the 95% range"
    return (
        f'<section class="card rivals-card"><header class="card-head"><h3 class="card-title">{title}</h3>'
        f'<p class="muted">{same}</p></header>'
        f"{charts.interval_bars(drawn)}</section>"
    )


def _request(rival: Mapping[str, Any]) -> str:
    """What one answer costs, and how often it did not end by itself."""
    tokens, stops = rival.get("tokens_per_request"), rival.get("stop_rate")
    cut = f"{percent(1 - stops)} cut off" if stops is not None and stops < 0.95 else ""
    return join([f"{count(tokens)} tokens a request" if tokens is not None else "", cut])


def _interval(rival: Mapping[str, Any], share: bool) -> str:
    if rival.get("low") is None or rival.get("high") is None:
        return ""
    if not share:
        return f"{rival['low']:.3f} to {rival['high']:.3f}"
    return f"{100 * rival['low']:.0f} to {100 * rival['high']:.0f}"


def facts(report: Report) -> str:
    """Small cards: what a request costs, what was forgotten, what the curves say. Only those that are known."""
    cards = [card for card in (_cost(report), _forgetting(report), _overfitting(report), _loss(report)) if card]
    return f'<div class="facts">{"".join(cards)}</div>' if cards else ""


def _fact(title: str, says: str, text: str, tone: str = "") -> str:
    return (
        f'<section class="card fact {tone}"><h3 class="card-title">{esc(title)}</h3>'
        f'<p class="fact-says num">{esc(says)}</p><p class="muted">{esc(text)}</p></section>'
    )


def _cost(report: Report) -> str:
    found = {rival["name"]: rival for rival in rivals(report)}
    tuned = found.get("tuned")
    against = found.get((report.get("verdict") or {}).get("against") or "") or found.get("base")
    if not tuned or not against or tuned.get("tokens_per_request") is None or not against.get("tokens_per_request"):
        return ""
    mine, theirs = float(tuned["tokens_per_request"]), float(against["tokens_per_request"])
    title = "What a request costs"
    if theirs >= 1.05 * mine:
        says = f"{theirs / mine:.1f}× shorter prompts"
        return _fact(title, says, f"{count(mine)} tokens instead of {count(theirs)} for “{against['title']}”.", "good")
    return _fact(title, "About the same", f"{count(mine)} tokens a prompt, with either model.")


def _forgetting(report: Report) -> str:
    found = report.get("forgetting")
    if not found:
        return ""
    if isinstance(found, str):
        return _fact("What it forgot", "", found)
    says = str(found.get("sentence") or found.get("says") or "")
    before, after = found.get("before", found.get("base")), found.get("after", found.get("tuned"))
    if isinstance(before, int | float) and isinstance(after, int | float):
        return _fact("What it forgot", f"{percent(before)} → {percent(after)}", says)
    return _fact("What it forgot", "", says) if says else ""


def _overfitting(report: Report) -> str:
    found = report.get("curves")
    if isinstance(found, str) and found:
        return _fact("What the curves say", "", found)
    says = str((found or {}).get("sentence") or (found or {}).get("says") or "")
    if not says:
        return ""
    bad = bool(found.get("overfit"))
    return _fact("What the curves say", "Overfitting" if bad else "No overfitting", says, "warn" if bad else "")


def _loss(report: Report) -> str:
    loss = report.get("loss") or {}
    if not isinstance(loss.get("base"), int | float) or not isinstance(loss.get("tuned"), int | float):
        return ""
    return _fact(
        "Surprise at the right answers",
        f"{loss['base']:.2f} → {loss['tuned']:.2f}",
        "Loss on the test rows before and after, in nats per token. Lower is better.",
    )


# --- when there is no report ---


def nothing(status: str, *, asked: bool, test_rows: int | None, stage: str, fraction: float | None) -> str:
    """Why there is no proof yet, and what leads to one."""
    if status == "running" and stage == "evaluating":
        width = f"{100 * (fraction or 0):.0f}%"
        return _empty(
            "Comparing now.",
            "Every rival answers the same test rows, none of which was trained on. The verdict appears here by itself.",
            f'<div class="wait-bar{"" if fraction is not None else " unknown"}"><i style="width:{width}"></i></div>'
            f'<p class="num muted">{percent(fraction) if fraction is not None else ""}&nbsp;</p>',
        )
    if status == "running":
        return _empty(
            "The proof comes after training.",
            "Then the base model, the base model with examples in its prompt, and your tuned model "
            "answer the same rows, and one sentence says whether it was worth it.",
        )
    if status in ("new", "failed", "interrupted"):
        return _empty("Nothing to prove yet.", "Finish the training first; the proof follows by itself.")
    if test_rows == 0:
        return _empty(
            "There are no test rows.",
            "A proof needs rows that were never trained on. Set test_size above 0 under “All settings” (0.1 is usual) "
            "and train again.",
        )
    if not asked:
        return _empty(
            "The comparison was switched off.",
            "This run was made with evaluate: false. The command below compares it still.",
        )
    return _empty(
        "Not compared yet.",
        "The training ended before the comparison. The command below makes up for it.",
    )


def _empty(title: str, text: str, more: str = "") -> str:
    return f'<section class="card empty"><p class="lead">{esc(title)}</p><p class="sub">{esc(text)}</p>{more}</section>'
