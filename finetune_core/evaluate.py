"""Was it worth it? The tuned model and its rivals answer the same held-out rows; what came out goes to report.json."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import FinetuneError
from .progress import summarize
from .proof.contest import RIVALS, Contest, enter_rivals, held_out, prepare_contest, prompt_ids, read_rows
from .proof.metrics import score
from .proof.report import Entry, plain, settings, write_up
from .proof.rivals import Rival, question
from .proof.verdict import read_curves
from .recipe import Recipe
from .render import render_many
from .run import Run

if TYPE_CHECKING:
    from .answers.chatter import Chatter

Tell = Callable[..., Any]
Scorer = Callable[[Contest, Sequence[str]], dict[str, list[float]]]  # scores by series, one for each row
QUICK = ("base", "tuned")
KNOWN_ROWS = 500  # training rows that are looked at to choose the metric


def evaluate(
    run: Run,
    chatter: Chatter | None = None,
    tell: Tell | None = None,
    *,
    rivals: Sequence[str] | None = None,
    quick: bool = False,
    max_rows: int | None = None,
    metric: str | None = None,
    forgetting: bool | None = None,
    check_file: Path | None = None,
) -> dict[str, Any]:
    """Compare a run's tuned model with its rivals and write report.json. Returns the report.

    quick: base and tuned only, no probe. rivals: names out of RIVALS. max_rows, metric: instead of the recipe's and of
    the one that fits the answers. check_file: a Python file of the person's own that scores (own_check.py). `tell` gets
    diary lines ("stage", name="evaluating", fraction=...). A `stop` file written meanwhile ends it, and what is done by
    then is reported. Raises FinetuneError if the run has no result.
    """
    began = time.time()
    tell = _seldom(tell)
    recipe = run.recipe
    stop_file = run.path / "stop"
    old_stop = stop_file.stat().st_mtime_ns if stop_file.exists() else None

    def stopped() -> bool:
        return stop_file.exists() and stop_file.stat().st_mtime_ns != old_stop

    tell(0.0)
    if not run.has_result():
        raise FinetuneError("This run has no tuned model yet.", "Finish its training first.", code="no-result")
    if chatter is None:
        from .model import load_for_chat

        chatter = load_for_chat(run)
    names = tuple(rivals) if rivals else QUICK if quick else RIVALS
    forgetting = not quick if forgetting is None else forgetting
    data = run.path / "data"
    split, rows = held_out(data)
    known = read_rows(data / "train.jsonl", KNOWN_ROWS)
    metric = "check" if check_file else metric
    contest = prepare_contest(rows, split, recipe, chatter.tokenizer, max_rows=max_rows, metric=metric, known=known)
    line_up = enter_rivals(names, contest, recipe, lambda: read_rows(data / "train.jsonl"), chatter.tokenizer)
    line_up = [*line_up, *_last_checkpoint(run, chatter, names)]

    share = 0.75 if forgetting else 0.95
    scorer = check_scorer(check_file) if check_file else score_answers
    entries = hold(chatter, contest, line_up, scorer, tell=lambda part: tell(share * part), should_stop=stopped)
    loss = measure_loss(chatter, contest, ("base", "tuned"), recipe.max_length)
    tell(share + 0.05)
    probe = None
    if forgetting and not stopped():
        from .proof.forgetting import measure_forgetting

        probe = measure_forgetting(chatter, on_fraction=lambda part: tell(share + 0.05 + (0.95 - share) * part))
    report = {
        **write_up(contest, entries, loss),
        "forgetting": probe,
        "curves": read_curves(summarize(run.events()), recipe).as_dict(),
        "run": run.id,
        "quick": quick,
        "complete": not stopped(),
        "settings": settings(recipe, contest, line_up),
        "seconds": round(time.time() - began, 1),
        "made": round(began, 3),
    }
    report["curves"]["overfit"] = report["curves"]["kind"] == "overfitting"
    report = plain(report)
    run.write_report(report)
    tell(1.0)
    return report


def should_i(
    recipe: Recipe,
    tell: Tell | None = None,
    *,
    token: str | None = None,
    max_rows: int | None = None,
    metric: str | None = None,
) -> dict[str, Any]:
    """Before any training: what do the rivals reach, and what is left to win? A report like `evaluate`'s; no file."""
    from .answers.chatter import AdapterModels, Chatter
    from .data import prepare
    from .model import chat_dtype, fetch_model, load_base
    from .render import load_tokenizer

    began = time.time()
    tell = _seldom(tell)
    tell(0.0)
    prepared = prepare(recipe, token=token)
    folder = fetch_model(recipe.model_name_or_path, recipe.model_revision, token=token)
    model = load_base(folder, dtype=chat_dtype(recipe.dtype), attn_implementation=recipe.attn_implementation or "sdpa")
    chatter = Chatter(AdapterModels(model, {}), load_tokenizer(folder), ["base"])
    split, rows = ("test", prepared.test) if len(prepared.test) else ("validation", prepared.validation)
    known = [prepared.train[place] for place in range(min(KNOWN_ROWS, len(prepared.train)))]
    contest = prepare_contest(rows, split, recipe, chatter.tokenizer, max_rows=max_rows, metric=metric, known=known)
    line_up = enter_rivals(RIVALS, contest, recipe, lambda: prepared.train, chatter.tokenizer)
    line_up = [rival for rival in line_up if rival.model == "base"]
    entries = hold(chatter, contest, line_up, tell=lambda part: tell(0.95 * part))
    loss = measure_loss(chatter, contest, ("base",), recipe.max_length)
    report = {
        **write_up(contest, entries, loss),
        "forgetting": None,
        "curves": None,
        "settings": settings(recipe, contest, line_up),
        "seconds": round(time.time() - began, 1),
        "made": round(began, 3),
    }
    tell(1.0)
    return plain(report)


def _last_checkpoint(run: Run, chatter: Chatter, names: Sequence[str]) -> list[Rival]:
    """The last checkpoint, where the result is an earlier, better one."""
    best = summarize(run.events()).best_step
    last = [name for name in chatter.names() if name.startswith("checkpoint-")][-1:]
    if "last" not in names or not best or not run.recipe.early_stopping or not last:
        return []
    step = int(last[0].rpartition("-")[2])
    return [] if step <= best else [Rival("last", f"Tuned, step {step}", "the last checkpoint", last[0], question)]


def hold(
    chatter: Chatter,
    contest: Contest,
    line_up: Sequence[Rival],
    scorer: Scorer | None = None,
    tell: Callable[[float], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> list[Entry]:
    """Let every rival answer every row. One that was stopped half-way is left out."""
    entries: list[Entry] = []
    if contest.metric.kind == "loss":
        return entries
    tell = tell or (lambda part: None)
    for turn, rival in enumerate(line_up):
        began = time.monotonic()
        prompts = [prompt_ids(rival.messages(row), chatter.tokenizer, row) for row in contest.rows]

        def progress(ended: int, written: int, turn: int = turn) -> None:
            tell((turn + ended / max(1, len(contest.rows))) / len(line_up))

        answers = chatter.generate(
            rival.model, prompts, max_new_tokens=contest.max_new_tokens, on_tokens=progress, should_stop=should_stop
        )
        if any(answer.finish_reason == "cancelled" for answer in answers):
            break
        seconds = time.monotonic() - began
        scores = (scorer or score_answers)(contest, [answer.text for answer in answers])
        entries.append(Entry(rival, answers, [len(prompt) for prompt in prompts], scores, seconds))
    return entries


def score_answers(contest: Contest, answers: Sequence[str]) -> dict[str, list[float]]:
    return score(contest.metric.kind, answers, contest.references)


def check_scorer(file: Path) -> Scorer:
    """Scores by a person's own check, in a sandbox."""
    from .proof.own_check import run_check

    def scorer(contest: Contest, answers: Sequence[str]) -> dict[str, list[float]]:
        return {"check": run_check(file, answers, contest.references, contest.rows).scores}

    return scorer


def measure_loss(chatter: Chatter, contest: Contest, names: Sequence[str], max_length: int) -> dict[str, list[float]]:
    """Nats per token of each row's last answer (of a plain text: of all of it), by model. Rows cut as in training."""
    from .proof.likelihood import borrowed, likelihoods, split_answer

    limit = min(max_length, chatter.tokenizer.model_max_length)
    refused: dict[int, FinetuneError] = {}
    rendered = render_many(contest.rows, chatter.tokenizer, limit, refused)
    asked = [found for one in rendered if (found := split_answer(one))]
    losses: dict[str, list[float]] = {}
    for name in names:
        if asked and name in chatter.names():
            with borrowed(chatter, name) as model:
                found = likelihoods(model, asked, pad_id=chatter.tokenizer.pad_id)
            losses[name] = [one.per_token for (one,) in found]
    return losses


def _seldom(tell: Tell | None) -> Callable[[float], None]:
    """Diary lines for a fraction, at most one a second and one for every two hundredths."""
    last = [-1.0, 0.0]

    def say(fraction: float) -> None:
        now = time.monotonic()
        due = fraction - last[0] >= 0.02 and now - last[1] >= 1.0
        if tell is not None and (due or last[0] < 0 or fraction >= 1.0 > last[0]):
            last[:] = [fraction, now]
            tell("stage", name="evaluating", fraction=round(min(1.0, fraction), 3))

    return say
