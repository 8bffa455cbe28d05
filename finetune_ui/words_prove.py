"""The proof in words and html: the verdict, the rivals, and the rows with every answer. Pure: a report in, html out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from finetune_core.amounts import count, duration, many, percent

from . import charts
from .words import esc, join, wait_bar
from .words_rows import Report, kind, rivals, said, unit

# --- the verdict ---


def verdict(report: Report) -> str:
    """The sentence, large, and under it what it rests on."""
    judged = report.get("verdict") or {}
    tone = "even" if judged.get("better") is None else "good" if (judged.get("difference") or 0) > 0 else "bad"
    under = join(
        [
            _rows_line(report),
            esc(report.get("metric", "")),
            "the ranges hold with 95% certainty",
            f"compared in {duration(report['seconds'])}" if report.get("seconds") else "",
        ]
    )
    notes = [str(report.get("note") or ""), "" if report.get("complete", True) else "It was stopped before its end."]
    note = f'<p class="sub verdict-note">{esc(" ".join(filter(None, notes)))}</p>' if any(notes) else ""
    sentence = _with_figures(str(judged.get("sentence", "")))
    return (
        f'<section class="verdict {tone}"><h2 class="lead verdict-says">{sentence}</h2>'
        f'<p class="sub num">{under}.</p>{note}</section>'
    )


def _rows_line(report: Report) -> str:
    n, available = int(report.get("n") or 0), int(report.get("available") or 0)
    split = {"validation": "validation row"}.get(str(report.get("split")), "test row")
    drawn = f"{count(n)} of {many(available, split)}" if available > n else many(n, split)
    return f"{drawn} that it was not trained on"


def _with_figures(sentence: str) -> str:
    """The sentence with its numbers in tabular figures, so they stand out quietly."""
    return re.sub(r"(\d[\d.,]*\d|\d)", r"<b>\1</b>", esc(sentence).replace("&#x27;", "’"))


def bars(report: Report) -> str:
    """Every rival with its interval, best last as the report has them."""
    found, of = rivals(report), unit(report)
    scale = max([float(r.get("high") or r.get("score") or 0) for r in found] + [1e-9]) if of == "loss" else 1.0
    drawn = [
        charts.Bar(
            title=str(rival.get("title") or rival["name"]),
            css=kind(rival["name"]),
            score=float(rival.get("score") or 0) / scale,
            low=float(rival.get("low", rival.get("score")) or 0) / scale,
            high=float(rival.get("high", rival.get("score")) or 0) / scale,
            says=said(float(rival.get("score") or 0), of),
            interval=_interval(rival, of),
            note=_request(rival),
            help=str(rival.get("note") or ""),
        )
        for rival in found
    ]
    title = "Right answers" if of == "share" else esc(report.get("metric", "Score"))
    less = "less is better; " if of == "loss" else ""
    explains = esc(report.get("metric_explains") or "")
    same = f"The same {many(int(report.get('n') or 0), 'row')} for each; {less}the thin line is the 95% range."
    return (
        f'<section class="card rivals-card"><header class="card-head"><h3 class="card-title">{title}</h3>'
        f'<p class="muted">{join([explains, same], " ")}</p></header>'
        f"{charts.interval_bars(drawn)}</section>"
    )


def _request(rival: Mapping[str, Any]) -> str:
    """What one answer costs, and how often it did not end by itself."""
    tokens, stops = rival.get("tokens_per_request"), rival.get("stop_rate")
    cut = f"{percent(1 - stops)} cut off" if stops is not None and stops < 0.95 else ""
    return join([f"{count(tokens)} tokens a request" if tokens is not None else "", cut])


def _interval(rival: Mapping[str, Any], of: str) -> str:
    if rival.get("low") is None or rival.get("high") is None:
        return ""
    if of == "loss":
        return f"{rival['low']:.2f} to {rival['high']:.2f}"
    return f"{100 * rival['low']:.0f} to {100 * rival['high']:.0f}"


def facts(report: Report) -> str:
    """Small cards: what a request costs, what was forgotten, what the curves say. Only those that are known."""
    made = (_cost(report), _forgetting(report), _overfitting(report), _loss(report), _judge(report))
    cards = [card for card in made if card]
    return f'<div class="facts">{"".join(cards)}</div>' if cards else ""


def _fact(title: str, says: str, text: str, tone: str = "", way: str = "") -> str:
    """way: html of a button that leads on."""
    return (
        f'<section class="card fact {tone}"><h3 class="card-title">{esc(title)}</h3>'
        f'<p class="fact-says num">{esc(says)}</p><p class="muted">{esc(text)}</p>{way}</section>'
    )


def _cost(report: Report) -> str:
    found = {rival["name"]: rival for rival in rivals(report)}
    tuned = found.get("tuned")
    against = found.get((report.get("verdict") or {}).get("against") or "") or found.get("base")
    if not tuned or not against or tuned.get("tokens_per_request") is None or not against.get("tokens_per_request"):
        return ""
    mine, theirs = float(tuned["tokens_per_request"]), float(against["tokens_per_request"])
    title = "What a request costs"
    other = f"instead of {count(theirs)} for “{against['title']}”, prompt and answer together."
    if theirs >= 1.05 * mine:
        return _fact(title, f"{theirs / mine:.1f}× fewer tokens", f"{count(mine)} tokens {other}")
    if mine >= 1.05 * theirs:
        return _fact(title, f"{mine / theirs:.1f}× more tokens", f"{count(mine)} tokens {other}")
    return _fact(title, "About the same", f"{count(mine)} tokens a request, with either model.")


FORGOT = {"kept": "Nothing to be seen", "lost": "It lost something", "gained": "It even gained"}
CURVES = {
    "good": "No overfitting",
    "overfitting": "Overfitting",
    "unfinished": "There was more to learn",
    "not-learning": "It hardly learned",
    "diverged": "The steps were too large",
    "unwatched": "Nobody watched",
    "short": "Too short to tell",
}


def _forgetting(report: Report) -> str:
    found = report.get("forgetting")
    if not isinstance(found, Mapping) or not found.get("sentence"):
        return ""
    state = str(found.get("state", ""))
    return _fact("What it forgot", FORGOT.get(state, ""), str(found["sentence"]), "warn" if state == "lost" else "")


def _overfitting(report: Report) -> str:
    found = report.get("curves")
    if not isinstance(found, Mapping) or not found.get("sentence"):
        return ""
    state = str(found.get("kind", ""))
    text = join([str(found["sentence"]), str(found.get("fix") or "")], " ")
    tone = "warn" if state in ("overfitting", "diverged", "not-learning") else ""
    label = set_up(advised(report))
    button = f'<button type="button" class="btn" data-advised>{esc(label)}</button>' if label else ""
    return _fact("What the curves say", CURVES.get(state, ""), text, tone, button)


# what the curves may advise to change; a report that came with a run from elsewhere changes nothing else
ADVISED = ("learning_rate", "num_train_epochs", "max_steps", "max_minutes", "early_stopping", "validation_size")


def advised(report: Report) -> dict[str, Any]:
    """Recipe fields that the curves advise to change."""
    found = report.get("curves")
    changes = found.get("changes") if isinstance(found, Mapping) else None
    if not isinstance(changes, Mapping):
        return {}
    return {name: changes[name] for name in ADVISED if isinstance(changes.get(name, ""), int | float | None)}


def set_up(changes: Mapping[str, Any]) -> str:
    """The button for a new run with what the curves advise; empty where they advise nothing."""
    return f"Set up a run with {in_words(changes)}" if in_words(changes) else ""


def set_up_done(changes: Mapping[str, Any]) -> str:
    """What Check says that button did."""
    return f"{in_words(changes)}, as the curves of that run advise"


def in_words(changes: Mapping[str, Any]) -> str:
    """
    >>> in_words({"num_train_epochs": 3.0, "max_minutes": None})
    '3 epochs'
    >>> in_words({"early_stopping": True, "num_train_epochs": 1.2})
    '1.2 epochs and early stopping'
    """
    said = {
        "learning_rate": lambda value: f"a learning rate of {value:g}",
        "num_train_epochs": lambda value: f"{value:g} {'epoch' if value == 1 else 'epochs'}",
        "max_steps": lambda value: many(value, "step"),
        "early_stopping": lambda _: "early stopping",
        "validation_size": lambda value: f"{percent(value)} of the rows for validation",
    }
    return " and ".join(say(changes[name]) for name, say in said.items() if changes.get(name))


def _loss(report: Report) -> str:
    loss = report.get("loss") or {}
    if unit(report) == "loss":  # the bars say it already
        return ""
    if not isinstance(loss.get("base"), int | float) or not isinstance(loss.get("tuned"), int | float):
        return ""
    return _fact(
        "Surprise at the right answers",
        f"{loss['base']:.2f} → {loss['tuned']:.2f}",
        "Loss on the test rows before and after, in nats per token. Lower is better.",
    )


def _judge(report: Report) -> str:
    """What another model thinks of the answers."""
    found = report.get("judge")
    if not isinstance(found, Mapping):
        return ""
    if isinstance(found.get("error"), Mapping):
        text = join([str(found["error"].get("problem", "")), str(found["error"].get("fix", ""))], " ")
        return _fact("What the judge says", "It did not answer", text, "warn")
    better = (found.get("low") or 0) > 0
    worse = (found.get("high") or 0) < 0
    says = "It prefers tuning" if better else "It prefers the other" if worse else "No preference"
    return _fact("What the judge says", says, str(found.get("sentence", "")), "warn" if worse else "")


# --- when there is no report ---


def nothing(status: str, *, asked: bool, test_rows: int | None, stage: str, fraction: float | None) -> str:
    """Why there is no proof yet, and what leads to one."""
    if status == "running" and stage == "evaluating":
        return _empty(
            "Comparing now.",
            "Every rival answers the same test rows, none of which was trained on. The verdict appears here by itself.",
            wait_bar(fraction, "Comparison")
            + f'<p class="num muted">{percent(fraction) if fraction is not None else ""}&nbsp;</p>',
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
            "This run was made with evaluate: false. It can still be compared.",
        )
    return _empty(
        "Not compared yet.",
        "The training ended before the comparison. It can be made up for here.",
    )


def _empty(title: str, text: str, more: str = "") -> str:
    return f'<section class="card empty"><p class="lead">{esc(title)}</p><p class="sub">{esc(text)}</p>{more}</section>'
