"""A run's curves, figures and answers while it learns, as html. Pure."""

from __future__ import annotations

from finetune_core.amounts import clock, count, gib, percent
from finetune_core.progress import Progress, reached, smooth
from finetune_core.recipe import Recipe

from . import charts
from .words import esc, icon

LOSS_HELP = (
    "How surprised the model is by the right answer, in nats per token: lower is better. "
    "Validation is measured on rows that it does not learn from; when it rises while training falls, it is overfitting."
)


def loss_card(status: str, progress: Progress, recipe: Recipe, planned_steps: int = 0) -> str:
    """Train and validation loss on one chart, with its two switches, and the figures under it.

    The axis spans all steps from the start, so that the curve grows into its place; when nothing more can come, it
    ends with the curve.
    """
    smoothed = smooth(progress.loss, smoothing(len(progress.loss)))
    lines = [
        charts.Line("train", "raw", progress.loss),
        charts.Line("train, smoothed", "smoothed", smoothed if len(smoothed) > 1 else ()),
        charts.Line("validation", "validation", progress.eval_loss),
    ]
    empty = "" if progress.loss else _empty_chart(status, recipe)
    whole = status != "finished" or not progress.loss
    last_step = (progress.total_steps or planned_steps) if whole else progress.loss[-1][0]
    switches = (
        '<label class="switch"><input type="checkbox" class="smooth-switch" checked> smooth</label>'
        '<label class="switch"><input type="checkbox" class="log-switch"> log scale</label>'
    )
    return (
        f'<section class="card loss-card"><header class="card-head"><h3 class="card-title">Loss '
        f'<span class="hint" tabindex="0" role="note" aria-label="{esc(LOSS_HELP)}" data-tip="{esc(LOSS_HELP)}">'
        f'{icon("info")}</span></h3><div class="legend"><span class="key train">train</span>'
        f'<span class="key validation">validation</span></div><div class="switches">{switches}</div></header>'
        f"{charts.curves(lines, last_step, label=_spoken(progress), empty=empty)}{figures(status, progress)}</section>"
    )


def smoothing(points: int) -> float:
    """How much of the past a smoothed point keeps. It lags by about 1.5 % of the curve, long or short.

    >>> [round(smoothing(points), 2) for points in (10, 60, 1000)]
    [0.13, 0.47, 0.94]
    """
    return 1 - 1 / (1 + 0.015 * points)


def _empty_chart(status: str, recipe: Recipe) -> str:
    if status in ("running", "new"):
        every = recipe.logging_steps or 1
        return f"The curve begins with step {every}."
    return "It ended before its first step, so there is no curve."


def _spoken(progress: Progress) -> str:
    if not progress.loss:
        return "Loss over steps, still empty"
    first, last = progress.loss[0], progress.loss[-1]
    validation = f"; validation now {progress.eval_loss[-1][1]:.2f}" if progress.eval_loss else ""
    return f"Training loss from {first[1]:.2f} at step {first[0]} to {last[1]:.2f} at step {last[0]}{validation}"


def figures(status: str, progress: Progress) -> str:
    """Step, time, speed, memory and token accuracy, each in its own place whatever is known."""
    over = status not in ("running", "new") or progress.stage in ("saving", "evaluating")
    loss = progress.eval_loss[-1][1] if progress.eval_loss else None
    accuracy = progress.eval_accuracy or progress.accuracy
    cells = [
        (
            "Step",
            count(reached(progress)) if progress.step else "–",
            f"of {count(progress.total_steps)}" if progress.total_steps else "",
            "One step: the model answers a batch of rows and its weights move a little.",
        ),
        (
            "Took" if over else "Time left",
            clock(progress.seconds) if over and progress.step else clock(progress.seconds_left),
            "" if over or progress.seconds_left is None else f"{clock(progress.seconds)} so far",
            "From this run's own speed; comparing afterwards comes on top.",
        ),
        (
            "Speed",
            count(progress.tokens_per_second) if progress.tokens_per_second else "–",
            "tokens/s" if progress.tokens_per_second else "",
            "Real tokens per second, without padding. A token is about three quarters of a word.",
        ),
        (
            "Memory",
            gib(progress.memory_gb) if progress.memory_gb else "–",
            "at most" if progress.memory_gb else "",
            "The most that was in use.",
        ),
        (
            "Validation loss",
            f"{loss:.3f}" if loss is not None else "–",
            _lowest(progress),
            "Measured on rows that are not trained on.",
        ),
        (
            "Right tokens",
            percent(accuracy[-1][1]) if accuracy else "–",
            ("validation" if progress.eval_accuracy else "train") if accuracy else "",
            "Token accuracy: how often the most likely next token is the one in your rows.",
        ),
    ]
    return '<dl class="figures">' + "".join(_figure(*cell) for cell in cells) + "</dl>"


def _lowest(progress: Progress) -> str:
    """How low the validation loss has been, once it rises again."""
    losses = [value for _, value in progress.eval_loss]
    return f"was {min(losses):.3f}" if losses and losses[-1] > min(losses) + 5e-4 else ""


def _figure(name: str, value: str, note: str, tip: str) -> str:
    return (
        f'<div class="figure" title="{esc(tip)}"><dt>{esc(name)}</dt>'
        f'<dd><b class="num">{esc(value)}</b> <small class="num">{esc(note)}</small></dd></div>'
    )


def samples_card(progress: Progress) -> str:
    """The fixed prompt's answers, newest first, back to the one before training."""
    if not progress.samples:
        return (
            '<section class="card samples-card"><h3 class="card-title">What it says as it learns</h3>'
            '<p class="muted">The same question is asked again and again while it trains. '
            "Its first answer comes with the first step.</p></section>"
        )
    prompt = progress.samples[-1][1]
    items = "".join(
        f'<li class="sample{" newest" if index == 0 else ""}{" untrained" if first == 0 else ""}">'
        f'<span class="sample-step num">{_when(first, last)}</span>'
        f'<p class="sample-answer{_code_like(answer)}">{esc(answer.strip()) or "<i>nothing but blanks</i>"}</p></li>'
        for index, (first, last, answer) in enumerate(reversed(changes(progress)))
    )
    return (
        f'<section class="card samples-card"><h3 class="card-title">What it says as it learns</h3>'
        f'<blockquote class="sample-prompt">{esc(prompt)}</blockquote><ol class="samples">{items}</ol></section>'
    )


def changes(progress: Progress) -> list[tuple[int, int, str]]:
    """The sampled answers as (first step, last step, answer), where the same answer again is no news.

    >>> changes(Progress(samples=((0, "q", "a"), (5, "q", "b"), (9, "q", "b"))))
    [(0, 0, 'a'), (5, 9, 'b')]
    """
    found: list[tuple[int, int, str]] = []
    for step, _, answer in progress.samples:
        if found and found[-1][2] == answer and found[-1][0] > 0:
            found[-1] = (found[-1][0], step, answer)
        else:
            found.append((step, step, answer))
    return found


def _when(first: int, last: int) -> str:
    if first == 0:
        return "before"
    return f"step {count(first)}" if first == last else f"{count(first)}–{count(last)}"


def _code_like(answer: str) -> str:
    return " mono" if answer.lstrip()[:1] in ("{", "[", "<") else ""


def log_text(text: str) -> str:
    """The readable log, escaped."""
    body = esc(text) if text.strip() else "The log is empty so far."
    return f'<pre class="run-log" tabindex="0" aria-label="Log of the training process">{body}</pre>'
