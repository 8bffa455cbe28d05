"""A report as one HTML file that needs nothing else: to mail, to print, to put on the Hub. Values in, text out."""

from __future__ import annotations

import html
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..amounts import percent
from ..progress import Progress, smooth, summarize
from ..recipe import Recipe
from ..run import Run
from .metrics import METRICS, SERIES_TITLES

Report = Mapping[str, Any]
Point = tuple[int, float]
STYLE = Path(__file__).with_suffix(".css")
MOST_ROWS = 500  # a page with more is slow to open; report.json has them all
LONGEST = 4000  # characters of one answer


def write_page(run: Run) -> str | None:
    """The page of a run; None while it has no report."""
    report = run.report()
    return report_page(report, summarize(run.events()), run.recipe, run.id) if report else None


def report_page(report: Report, progress: Progress, recipe: Recipe, name: str) -> str:
    """The whole document. Every word that comes from data is escaped."""
    parts = [
        _head(report, recipe, name),
        _rivals(report),
        _cost(report),
        _forgetting(report.get("forgetting")),
        _judge(report.get("judge")),
        _curves(report.get("curves"), progress),
        _rows(report),
        _settings(recipe),
    ]
    style = STYLE.read_text(encoding="utf-8")
    title = esc(f"{_short(recipe.model_name_or_path)} on {_short(recipe.dataset_name)}: was it worth tuning?")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{title}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in parts if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def esc(value: Any) -> str:
    return html.escape(str(value), quote=True)


def _head(report: Report, recipe: Recipe, name: str) -> str:
    verdict = report.get("verdict") or {}
    tone, word = {True: ("good", "Better"), False: ("bad", "Worse")}.get(
        verdict.get("better"),
        ("even", "No clear difference"),  # type: ignore[arg-type]
    )
    n, available, split = report.get("n", 0), report.get("available"), report.get("split", "test")
    sampled = f", drawn from {available}" if available and available > n else ""
    made = time.strftime("%Y-%m-%d", time.gmtime(report.get("made") or 0))
    facts = [f"{n} {split} rows{sampled}", str(report.get("metric", "")), f"run {name}", made]
    note = f'<p class="note">{esc(report["note"])}</p>' if report.get("note") else ""
    return (
        f'<header><p class="over">{esc(_short(recipe.model_name_or_path))} tuned on '
        f"{esc(_short(recipe.dataset_name))} with Fijn</p>"
        f'<p class="tone {tone}">{word}</p><h1>{esc(verdict.get("sentence", ""))}</h1>'
        f'<p class="muted">{esc(" · ".join(fact for fact in facts if fact))}</p>{note}</header>'
    )


def _rivals(report: Report) -> str:
    rivals = list(report.get("rivals") or [])
    if not rivals:
        return ""
    is_loss = report.get("metric_kind") == "loss"
    top = max(rival["high"] for rival in rivals) if is_loss else 1.0
    lines = "".join(
        f"<tr class={_kind(rival['name'])}><th scope=row>{_mark(rival)} {esc(rival['title'])}"
        f"{_small(rival.get('note'))}</th>"
        f"<td class=plot>{_bar(rival, top)}</td>"
        f"<td class=num>{_score(rival['score'], is_loss)}<small>{_score(rival['low'], is_loss)} to "
        f"{_score(rival['high'], is_loss)}</small></td></tr>"
        for rival in rivals
    )
    explains = esc(report.get("metric_explains", ""))
    return (
        f"<section><h2>{esc(report.get('metric', 'Score'))}</h2><p class=muted>{explains} "
        "The thin line is the range that holds with 95% certainty.</p>"
        f"<table class=rivals><tbody>{lines}</tbody></table>{_more_scores(report, rivals)}</section>"
    )


def _bar(rival: Mapping[str, Any], top: float) -> str:
    """A bar with its interval, 0 to `top`, 300 wide."""
    scale = 300 / (top or 1.0)
    score, low, high = (scale * max(0.0, min(top, rival[key])) for key in ("score", "low", "high"))
    return (
        '<svg viewBox="0 0 302 22" role="img" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="track" x="0" y="5" width="300" height="12" rx="3"/>'
        f'<rect class="fill" x="0" y="5" width="{score:.1f}" height="12" rx="3"/>'
        f'<path class="range" d="M{low:.1f} 11H{high:.1f}M{low:.1f} 7V15M{high:.1f} 7V15"/></svg>'
    )


def _more_scores(report: Report, rivals: Sequence[Mapping[str, Any]]) -> str:
    """The other scores of the same answers."""
    metric = METRICS.get(str(report.get("metric_kind")))
    names = list(metric.series[1:]) if metric else []
    if any("macro_f1" in rival for rival in rivals):
        names.append("macro_f1")
    if not names:
        return ""
    head = "".join(f"<th scope=col>{esc(SERIES_TITLES.get(name, name))}</th>" for name in names)
    body = "".join(
        f"<tr><th scope=row>{esc(rival['title'])}</th>"
        + "".join(f"<td>{_score(rival.get(name, (rival.get('scores') or {}).get(name)))}</td>" for name in names)
        + "</tr>"
        for rival in rivals
    )
    return (
        f"<details><summary>More scores</summary><table><thead><tr><th></th>{head}</tr></thead>{body}</table></details>"
    )


def _cost(report: Report) -> str:
    rivals = [rival for rival in report.get("rivals") or [] if rival.get("tokens_per_request") is not None]
    if not rivals:
        return ""
    body = "".join(
        f"<tr><th scope=row>{esc(rival['title'])}</th><td>{rival['prompt_tokens']:.0f}</td>"
        f"<td>{rival['answer_tokens']:.0f}</td><td>{percent(rival['stop_rate'])}</td>"
        f"<td>{_seconds(rival.get('seconds_per_request'))}</td></tr>"
        for rival in rivals
    )
    head = "".join(
        f"<th scope=col>{name}</th>"
        for name in ("Tokens in the prompt", "Tokens in the answer", "Ends by itself", "Time")
    )
    return (
        "<section><h2>What a request costs</h2><p class=muted>Means over the same rows; the time is that of a single "
        f"request, on the machine that compared them.</p>{_table(head, body)}</section>"
    )


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} s"


def _forgetting(found: Mapping[str, Any] | None) -> str:
    if not found:
        return ""
    body = "".join(
        f"<tr><th scope=row>{esc(area.capitalize())}</th><td>{int(part['before'])} of {int(part['n'])}</td>"
        f"<td>{int(part['after'])} of {int(part['n'])}</td></tr>"
        for area, part in (found.get("areas") or {}).items()
    )
    drift = (found.get("drift") or {}).get("sentence", "")
    return (
        f"<section><h2>What it forgot</h2><p>{esc(found.get('sentence', ''))}</p><p class=muted>{esc(drift)}</p>"
        f"{_table('<th scope=col>Before</th><th scope=col>After</th>', body)}</section>"
    )


def _judge(found: Mapping[str, Any] | None) -> str:
    if not found or not found.get("sentence"):
        return ""
    return (
        f"<section><h2>A second opinion</h2><p>{esc(found['sentence'])}</p>"
        f"<p class=muted>By {esc(found.get('judge'))}; every pair was shown in both orders, and only the same choice "
        "twice counts.</p></section>"
    )


def _curves(reading: Mapping[str, Any] | None, progress: Progress) -> str:
    if not reading or not progress.loss:
        return ""
    fix = f"<p>{esc(reading['fix'])}</p>" if reading.get("fix") else ""
    return (
        f"<section><h2>How it learned</h2><p>{esc(reading.get('sentence', ''))}</p>{fix}"
        f"{curve_plot(smooth(progress.loss, 0.6), progress.eval_loss)}</section>"
    )


def curve_plot(train: Sequence[Point], validation: Sequence[Point]) -> str:
    """Loss over steps as SVG: a solid line for the training rows, a dashed one with dots for the validation rows."""
    points = [*train, *validation]
    if len(train) < 2:
        return ""
    steps, losses = [step for step, _ in points], [loss for _, loss in points]
    first, last, top = min(steps), max(steps), max(losses) * 1.05 or 1.0

    def at(point: Point) -> tuple[float, float]:
        return 50 + 640 * (point[0] - first) / max(1, last - first), 230 - 210 * point[1] / top

    def path(line: Sequence[Point]) -> str:
        return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in map(at, line))

    grid = "".join(
        f'<path class="grid" d="M50 {230 - 210 * part / 4:.1f}H690"/>'
        f'<text x="44" y="{234 - 210 * part / 4:.1f}" text-anchor="end">{top * part / 4:.2f}</text>'
        for part in range(5)
    )
    dots = "".join(f'<circle class="validation" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in map(at, validation))
    dashed = f'<path class="line validation" d="{path(validation)}"/>' if len(validation) > 1 else ""
    return (
        '<svg class="curves" viewBox="0 0 720 262" role="img" aria-label="Loss of the training rows and of the '
        f'validation rows over the steps">{grid}<path class="line train" d="{path(train)}"/>{dashed}{dots}'
        f'<text x="50" y="252">step {first}</text><text x="690" y="252" text-anchor="end">step {last}</text></svg>'
        '<p class="legend"><span class="train">training rows</span> <span class="validation">validation rows</span></p>'
    )


def _rows(report: Report) -> str:
    rows = list(report.get("rows") or [])
    if not rows or report.get("metric_kind") == "loss":
        return ""
    titles = {rival["name"]: rival["title"] for rival in report.get("rivals") or []}
    by_degree = report.get("metric_kind") == "text"  # more or less alike: none is right and none is broken
    shown = "".join(_row(row, titles, 0.5 if by_degree else 0.999) for row in rows[:MOST_ROWS])
    choices = (("all", "All rows"), ("wrong", "Tuned is wrong"), ("fixed", "Tuning fixed"), ("broke", "Tuning broke"))
    if by_degree:
        choices = (("all", "All rows"), ("wrong", "Tuned is far off"), ("fixed", "Tuning is nearer"),
                   ("broke", "Tuning is further off"))  # fmt: skip
    radios = "".join(
        f'<input type="radio" name="which" id="w-{key}"{" checked" if key == "all" else ""}>'
        f'<label for="w-{key}">{label}</label>'
        for key, label in choices
    )
    cut = f"<p class=muted>The first {MOST_ROWS} of {len(rows)} rows.</p>" if len(rows) > MOST_ROWS else ""
    return f'<section class="rows"><h2>The rows themselves</h2>{radios}{cut}<div class="list">{shown}</div></section>'


def _row(row: Mapping[str, Any], titles: Mapping[str, str], enough: float) -> str:
    scores, answers = row.get("scores") or {}, row.get("answers") or {}
    tuned, base = scores.get("tuned"), scores.get("base")
    marks = ["row"]
    if tuned is not None:
        marks += ["wrong"] * (tuned < enough)
        if base is not None:
            marks += ["fixed"] * (tuned > base + 1e-9) + ["broke"] * (tuned < base - 1e-9)
    cells = "".join(
        f'<dt class="{_kind(name)}">{esc(titles.get(name, name))} <b>{_verdict_mark(scores.get(name))}</b></dt>'
        f"<dd>{esc(_cut(answers[name])) or '<i>nothing</i>'}</dd>"
        for name in sorted(answers, key=lambda name: (name != "tuned", name != "base"))
    )
    return (
        f'<article class="{" ".join(marks)}"><p class="ask"><small>{esc(row.get("id", ""))}</small> '
        f"{esc(_cut(_asked(row.get('prompt', ''))))}</p>"
        f"<dl><dt>In the data</dt><dd>{esc(_cut(row.get('reference', '')))}</dd>{cells}</dl></article>"
    )


def _settings(recipe: Recipe) -> str:
    recipe = recipe.replace(
        **{name: _shareable(getattr(recipe, name)) for name in ("model_name_or_path", "dataset_name")}
    )
    changed = "".join(
        f"<tr><th scope=row>{esc(name)}</th><td>{esc(value)}</td></tr>" for name, value in recipe.changed().items()
    )
    table = f"<table>{changed}</table>" if changed else "<p class=muted>Every setting is the default.</p>"
    return (
        "<section><h2>How it was made</h2><details><summary>The settings that differ from the defaults</summary>"
        f"{table}"
        f"</details><details><summary>The whole recipe</summary><pre>{esc(recipe.as_yaml())}</pre></details>"
        "<p class=muted>Each rival answered the same rows, none of which was trained on, always with the likeliest "
        "token. Differences are judged row by row (paired): Tango's score interval for right-or-wrong answers, a "
        "studentised bootstrap for graded ones.</p></section>"
    )


def _asked(prompt: Any) -> str:
    if isinstance(prompt, str):
        return prompt
    said = [str(message.get("content", "")) for message in prompt if message.get("role") == "user"]
    return said[-1] if said else ""


def _score(value: float | None, is_loss: bool = False) -> str:
    if value is None:
        return "–"
    return f"{value:.2f}" if is_loss else percent(value)


def _verdict_mark(score: float | None) -> str:
    if score is None:
        return ""
    return {0.0: "✗", 1.0: "✓"}.get(score, f"{100 * score:.0f}")


def _kind(name: str) -> str:
    return name if name in ("tuned", "base") else "other"


def _table(head: str, body: str) -> str:
    return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>"


def _mark(rival: Mapping[str, Any]) -> str:
    """Colour is never the only sign."""
    return {"tuned": "●", "base": "○"}.get(rival["name"], "◌")


def _small(text: str | None) -> str:
    return f"<small>{esc(_cut(text, 400))}</small>" if text else ""


def _cut(text: Any, longest: int = LONGEST) -> str:
    text = str(text)
    return text if len(text) <= longest else text[:longest] + "…"


def _shareable(name: str) -> str:
    """A mailed page tells nobody's folders."""
    return _short(name) if Path(name).is_absolute() or name[:1] in "~.\\" or name[1:2] == ":" else name


def _short(name: str) -> str:
    """The last part of a name or path."""
    return name.rstrip("/\\").replace("\\", "/").rpartition("/")[2] or name
