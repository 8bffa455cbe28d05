"""Was it worth it? The tuned model and its rivals answer the same held-out rows; what came out goes to report.json."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .data.rows import open_rows
from .errors import FinetuneError
from .progress import summarize
from .proof.answering import (
    ASKED_ALONE,
    QUICK,
    check_scorer,
    find_targets,
    hold,
    measure_loss,
    score_answers,
    told_problems,
)
from .proof.contest import RIVALS, enter_rivals, held_out, prepare_contest
from .proof.report import plain, settings, write_up
from .proof.rivals import Rival, question
from .proof.verdict import cut_short, read_curves
from .recipe import Recipe
from .run import Run

if TYPE_CHECKING:
    from .answers.chatter import Chatter
    from .proof.kept_answers import KeptAnswers

Tell = Callable[..., Any]
PROMPTS = ("base", "examples", "retrieved", "system")  # what needs no training
KNOWN_ROWS = 500  # training rows that are looked at to choose the metric


@dataclass(frozen=True)
class Asked:
    """What a person may choose about a comparison; None: as the recipe says, or as fits the answers."""

    rivals: tuple[str, ...] = ()  # names out of RIVALS; none named: all
    quick: bool = False  # base and tuned only, no probe
    rows: int | None = None
    metric: str | None = None
    examples: int | None = None  # in the prompt of the rivals with examples
    system_prompt: str | None = None  # of the rival with a better prompt
    check_file: Path | None = None  # a Python file of the person's own that scores (proof/own_check.py)
    forgetting: bool | None = None  # ask the general probe; None: unless quick
    judge_url: str | None = None  # an OpenAI-compatible endpoint; its key is OPENAI_API_KEY in the environment
    judge_model: str = ""
    again: bool = False  # ask the base model anew what it answered in an earlier comparison

    def recipe(self, recipe: Recipe) -> Recipe:
        """The run's recipe with what was asked for instead."""
        changes = {"few_shot_examples": self.examples, "rival_system_prompt": self.system_prompt}
        return recipe.replace(**{name: value for name, value in changes.items() if value is not None})


def evaluate(
    run: Run,
    chatter: Chatter | None = None,
    tell: Tell | None = None,
    asked: Asked | None = None,
    *,
    should_stop: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Compare a run's tuned model with its rivals and write report.json. Returns the report.

    `tell` gets diary lines ("stage", name="evaluating", fraction=..., says=...). should_stop: instead of a `stop` file
    that is written meanwhile; then what is done is reported, unless there is an earlier report that says more.
    Raises FinetuneError if the run has no result.
    """
    began = time.time()
    asked = asked or Asked()
    tell = _seldom(tell)
    recipe = asked.recipe(run.recipe)
    stopped = should_stop or _stop_file(run)
    tell(0.0)
    if not run.has_result():
        raise FinetuneError("This run has no tuned model yet.", "Finish its training first.", code="no-result")
    if chatter is None:
        from .model import load_for_chat

        tell(0.0, "loading the model")
        chatter = load_for_chat(run)
    kept = None if asked.again else _kept(run.path, run.path.parent, chatter)
    names = asked.rivals or (QUICK if asked.quick else RIVALS)
    forgetting = not asked.quick if asked.forgetting is None else asked.forgetting
    data = run.path / "data"
    split, rows = held_out(data)
    known = open_rows(data / "train.jsonl")[:KNOWN_ROWS]
    metric = "check" if asked.check_file else asked.metric
    contest = prepare_contest(rows, split, recipe, chatter.tokenizer, max_rows=asked.rows, metric=metric, known=known)
    line_up = enter_rivals(names, contest, recipe, lambda: open_rows(data / "train.jsonl"), chatter.tokenizer)
    line_up = [*line_up, *_other_checkpoint(run, chatter, names)]

    share = 0.75 if forgetting else 0.95
    problems: list[str] = []
    scorer = check_scorer(asked.check_file, problems) if asked.check_file else score_answers
    entries = hold(
        chatter,
        contest,
        line_up,
        scorer,
        tell=lambda part, says: tell(share * part, says),
        should_stop=stopped,
        targets=(targets := find_targets(chatter, contest, recipe.max_length)),
        alone=0 if asked.quick else ASKED_ALONE,
        kept=kept,
    )
    earlier = run.report()
    if stopped() and earlier and "tuned" not in [entry.rival.name for entry in entries]:
        return earlier
    loss = measure_loss(chatter, targets, ("base", "tuned"), entries, kept)
    tell(share + 0.05, "the loss")
    probe = None
    if forgetting and not stopped():
        from .proof.forgetting import measure_forgetting

        probe = measure_forgetting(
            chatter,
            on_fraction=lambda part: tell(share + 0.05 + (0.95 - share) * part, "what was forgotten"),
            kept=kept,
        )
    progress = summarize(run.events())
    shortened = cut_short(progress, recipe, run.plan())
    report = {
        **write_up(contest, entries, loss),
        "forgetting": probe,
        "curves": read_curves(progress, recipe, shortened).as_dict(),
        "run": run.id,
        "quick": asked.quick,
        "complete": not stopped(),
        "settings": settings(recipe, contest, line_up),
        "seconds": round(time.time() - began, 1),
        "made": round(began, 3),
    }
    checked = told_problems(problems, sum(len(entry.answers) for entry in entries))
    fewer = shortened.said_afterwards() if shortened else ""
    report["note"] = " ".join(filter(None, [report["note"], fewer, checked]))
    report["curves"]["overfit"] = report["curves"]["kind"] == "overfitting"
    run.write_report(plain(report))  # before the judge: an endpoint that is away must not cost the comparison
    if asked.judge_url and not stopped():
        from .proof.judge import judge_report

        tell(0.99, "the judge")
        try:
            report["judge"] = judge_report(report, url=asked.judge_url, model=asked.judge_model)
        except FinetuneError as error:
            report["judge"] = {"error": error.as_dict()}
    report = plain(report)
    run.write_report(report)
    tell(1.0)
    return report


def _kept(folder: Path, runs_dir: Path, chatter: Chatter) -> KeptAnswers | None:
    from .proof.kept_answers import kept_answers

    return kept_answers(folder, runs_dir, chatter)


def _stop_file(run: Run) -> Callable[[], bool]:
    """Was a `stop` file written since now?"""
    path = run.path / "stop"
    before = path.stat().st_mtime_ns if path.exists() else None
    return lambda: path.exists() and path.stat().st_mtime_ns != before


def should_i(
    recipe: Recipe,
    tell: Tell | None = None,
    *,
    token: str | None = None,
    metric: str | None = None,
    should_stop: Callable[[], bool] | None = None,
    folder: Path | None = None,
) -> dict[str, Any]:
    """Before any training: what do the rivals reach, and what is left to win? A report like `evaluate`'s; no file.

    folder: a place of its own in a folder in the runs folder, for the answers, which the comparison behind a training
    need not ask for again. Its test rows are those of a run of this recipe, and validation rows where there are none.
    """
    from .answers.chatter import AdapterModels, Chatter
    from .data import prepare
    from .model import chat_dtype, fetch_model, load_base
    from .render import load_tokenizer

    began = time.time()
    tell = _seldom(tell)
    tell(0.0)
    weights = fetch_model(recipe.model_name_or_path, recipe.model_revision, token=token)
    tokenizer = load_tokenizer(weights)
    tell(0.0, "reading the rows")
    prepared = prepare(recipe, token=token, tokenizer=tokenizer)
    tell(0.0, "loading the model")
    model = load_base(weights, dtype=chat_dtype(recipe.dtype), attn_implementation=recipe.attn_implementation or "sdpa")
    chatter = Chatter(AdapterModels(model, {}), tokenizer, ["base"])
    kept = _kept(folder, folder.parent.parent, chatter) if folder else None
    split, rows = ("test", prepared.test) if len(prepared.test) else ("validation", prepared.validation)
    known = [prepared.train[place] for place in range(min(KNOWN_ROWS, len(prepared.train)))]
    contest = prepare_contest(rows, split, recipe, chatter.tokenizer, metric=metric, known=known)
    line_up = enter_rivals(PROMPTS, contest, recipe, lambda: prepared.train, chatter.tokenizer)
    targets = find_targets(chatter, contest, recipe.max_length)
    entries = hold(
        chatter,
        contest,
        line_up,
        tell=lambda part, says: tell(0.95 * part, says),
        should_stop=should_stop,
        targets=targets,
        alone=ASKED_ALONE,
        kept=kept,
    )
    loss = measure_loss(chatter, targets, ("base",), entries, kept)
    report = {
        **write_up(contest, entries, loss),
        "forgetting": None,
        "curves": None,
        "complete": len(entries) == len(line_up) or contest.metric.kind == "loss",
        "settings": settings(recipe, contest, line_up),
        "seconds": round(time.time() - began, 1),
        "made": round(began, 3),
    }
    tell(1.0)
    return plain(report)


def _other_checkpoint(run: Run, chatter: Chatter, names: Sequence[str]) -> list[Rival]:
    """The best or the last checkpoint, whichever is not the result, as a rival; none where they are the same."""
    best = summarize(run.events()).best_step
    steps = sorted(int(name.rpartition("-")[2]) for name in chatter.names() if name.startswith("checkpoint-"))
    if not best or not steps or best >= steps[-1]:
        return []
    if run.recipe.early_stopping:  # the best was kept
        name, phrase, step = "last", "the last checkpoint", steps[-1]
    else:
        name, phrase, step = "best", "the best checkpoint", best
    if name not in names or step not in steps:
        return []
    return [Rival(name, f"Tuned, {name} ({step})", phrase, f"checkpoint-{step}", question)]


def _seldom(tell: Tell | None) -> Callable[..., None]:
    """Diary lines for a fraction, at most one a second: one for every two hundredths, and for what is begun."""
    last: list[Any] = [-1.0, 0.0, ""]

    def say(fraction: float, says: str = "") -> None:
        now = time.monotonic()
        due = (fraction - last[0] >= 0.02 or says != last[2]) and now - last[1] >= 1.0
        if tell is not None and (due or last[0] < 0 or fraction >= 1.0 > last[0]):
            last[:] = [fraction, now, says]
            tell("stage", name="evaluating", fraction=round(min(1.0, fraction), 3), says=says)

    return say
