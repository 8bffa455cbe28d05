"""The verbs of the proof: evaluate a run, ask whether to train at all, compare runs, sweep settings."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import launch
from .alone import WAITING, alone
from .errors import FinetuneError
from .files import write_json
from .job import Job
from .output import Output
from .presets import resolve_recipe
from .proof.metrics import METRICS
from .recipe import Recipe
from .run import Run
from .space import owner_of
from .turn import StoppedWaiting
from .verbs import GOOD, REFUSED, STOPPED, bring_starter, ctrl_c_stops, needs_result

if TYPE_CHECKING:
    from .sweep import Sweep, Trial


def add_verbs(verb: Callable[..., Any], run_verb: Callable[..., Any], recipe_verb: Callable[..., Any]) -> None:
    """Tell the command line about the verbs of this file."""
    one = run_verb("evaluate", evaluate, "compare the tuned model with its rivals on the test rows")
    one.add_argument("--quick", action="store_true", help="the untuned model only, and no general questions")
    one.add_argument("--rivals", type=_listed, default=(), help="names with commas between: base,system,examples,…")
    one.add_argument("--rows", type=_positive, help="compare on at most this many rows")
    one.add_argument("--metric", choices=[kind for kind in METRICS if kind != "check"], help="instead of what fits")
    one.add_argument("--examples", type=int, help="examples in the prompt of the rival that gets examples")
    one.add_argument("--system-prompt", help="a better prompt to try on the untuned model")
    one.add_argument("--check-file", type=Path, help="a Python file of yours with check(answer, reference, row)")
    one.add_argument("--no-forgetting", action="store_true", help="leave the general questions out")
    one.add_argument("--judge", metavar="URL", help="an OpenAI-compatible endpoint that compares answers; "
                     "it gets the test rows, and its key from OPENAI_API_KEY")  # fmt: skip
    one.add_argument("--judge-model", metavar="NAME", default="", help="the model that judges there")
    one.add_argument("--ask-again", action="store_true", help="also what the untuned model has answered before")
    one.add_argument("--html", type=Path, metavar="FILE", help="also write the report as one page to mail")
    one = recipe_verb("should-i", should_i, "before training: how far do prompts get, and what is left to win")
    one.add_argument("--metric", choices=[kind for kind in METRICS if kind != "check"], help="instead of what fits")
    one.add_argument("--into", type=Path, help="a folder for the report and its progress")
    one = verb("compare", compare, "runs beside each other: scores, curves, cost, and the settings that differ")
    one.add_argument("runs", nargs="+", metavar="RUN", help="two or more folders or ids")
    one = recipe_verb("sweep", sweep, "try several settings and keep the best by its validation loss")
    one.add_argument("--trials", type=_positive, default=8, help="at most this many runs (8)")
    one.add_argument("--into", type=Path, help="a folder for the table and its progress")


def evaluate(options: argparse.Namespace, out: Output) -> int:
    from .evaluate import Asked
    from .evaluate import evaluate as work

    run = Run.find(options.runs_dir, options.run)
    needs_result(run)
    asked = Asked(
        rivals=options.rivals,
        quick=options.quick,
        rows=options.rows,
        metric=options.metric,
        examples=options.examples,
        system_prompt=options.system_prompt,
        check_file=options.check_file,
        forgetting=False if options.no_forgetting else None,
        judge_url=options.judge,
        judge_model=options.judge_model,
        again=options.ask_again,
    )
    _refuse_early(asked.check_file, asked.judge_url, asked.judge_model)
    job = launch.comparison(run)
    try:
        with job.working() as say, machine_for(job, run.path.parent, say):
            report = work(run, tell=_teller(say), asked=asked, should_stop=job.is_asked_to_stop)
    except StoppedWaiting:
        return STOPPED
    if options.html:
        from .proof.report_page import write_page

        options.html.write_text(write_page(run) or "", encoding="utf-8")
    out.give(report, "\n".join(reported(report)))
    return GOOD if report.get("complete", True) else STOPPED


def should_i(options: argparse.Namespace, out: Output) -> int:
    from .evaluate import should_i as work

    recipe = resolve_recipe(options.recipe, options.overrides)
    bring_starter(recipe, out)
    job = job_of(options, "should-i", recipe)
    try:
        with job.working() as say, machine_for(job, options.runs_dir, say):
            report = work(
                recipe,
                _teller(say),
                token=os.environ.get("HF_TOKEN"),
                metric=options.metric,
                should_stop=job.is_asked_to_stop,
                folder=job.folder,
            )
            write_json(job.folder / "report.json", report)
    except StoppedWaiting:
        return STOPPED
    out.give(report, "\n".join(reported(report)))
    return GOOD if report["complete"] else STOPPED


def reported(report: dict[str, Any]) -> list[str]:
    """A report as a person reads it at a terminal: the sentence, every rival in a line, what was asked and how."""
    lines = [(report.get("verdict") or {}).get("sentence") or "Nothing was compared."]
    points = report["metric_kind"] != "loss"
    for rival in report["rivals"]:
        score, low, high = (100 * rival[name] if points else rival[name] for name in ("score", "low", "high"))
        reach = f"{score:.0f} ({low:.0f} to {high:.0f})" if points else f"{score:.3f} ({low:.3f} to {high:.3f})"
        tokens = rival["tokens_per_request"]
        cost = f"  {tokens:.0f} tokens a request" if tokens is not None else ""
        lines.append(f"  {reach:22} {rival['title']:28}{cost}")
        if rival["note"]:  # the prompt that was tried
            lines.append(f"    {rival['note']}")
    if report["rivals"]:
        scale = ", from 0 to 100" if points else ""
        lines.append(f"{report['metric']}{scale}, with 95 % intervals, on {report['n']} {report['split']} rows.")
    return [*lines, *filter(None, [report["note"]])]


def compare(options: argparse.Namespace, out: Output) -> int:
    from .proof.side_by_side import look_at, side_by_side

    runs = [Run.find(options.runs_dir, name) for name in dict.fromkeys(options.runs)]
    if len(runs) < 2:
        raise FinetuneError("One run has nothing to be compared with.", "Name two or more.", code="usage")
    found = side_by_side([look_at(run) for run in runs])
    out.give(found, "\n".join(_compared(found)))
    return GOOD


def _compared(found: dict[str, Any]) -> list[str]:
    """The comparison as a person reads it at a terminal."""
    lines = [found["sentence"]]
    for place, run in enumerate(found["runs"], start=1):
        score = "not proved" if run["score"] is None else f"{run['score']:.3f} ({run['low']:.3f} to {run['high']:.3f})"
        loss = "" if run["validation_loss"] is None else f"  validation loss {run['validation_loss']:.3f}"
        lines.append(f"{place}. {run['id']}\n   {score}{loss}  {run['steps']} steps, {run['seconds']:.0f} s")
    lines += [f"  {name:32}{'  '.join(map(str, values))}" for name, values in found["settings"].items()]
    return lines


def sweep(options: argparse.Namespace, out: Output) -> int:
    from .search_space import read_space
    from .sweep import sweep as work
    from .sweep import write_sweep

    fixed, space = read_space(options.overrides)
    recipe = resolve_recipe(options.recipe, fixed)
    bring_starter(recipe, out)
    job = job_of(options, "sweep", recipe)
    shown: list[str] = []
    anew = "\r\x1b[K" if sys.stderr.isatty() else ""  # over the line that says how far it is

    def once(line: str) -> None:
        if line and line not in shown:
            shown.append(line)
            print(f"{anew}{line}", file=sys.stderr, flush=True)

    def show(fraction: float | None, says: str) -> None:
        say(fraction, says)
        once(says)  # one line for each trial
        if anew and fraction is not None:
            print(f"{anew}{fraction:4.0%}", end="" if fraction < 1 else "\n", file=sys.stderr, flush=True)

    def keep(now: Sweep) -> None:
        write_sweep(job.folder, now)
        for trial in now.trials:
            if trial.outcome != "running":
                once(_tried(trial))

    with ctrl_c_stops(job.stop_path), job.working() as say:
        (job.folder / "report.json").unlink(missing_ok=True)  # the table of an earlier sweep is not this one's
        found = work(
            recipe,
            space,
            options.trials,
            options.runs_dir,
            token=os.environ.get("HF_TOKEN"),
            owner=owner_of(job.folder),
            say=show,
            should_stop=job.is_asked_to_stop,
            on_change=keep,
        )
    proved = [f"The best one on the test rows: {found.proved}"] if found.proved else []
    out.give(found.as_dict(), "\n".join([found.sentence, *map(_tried, found.trials), *proved]))
    if len(found.trials) < found.asked:
        return STOPPED
    return GOOD if any(trial.outcome == "finished" for trial in found.trials) else REFUSED


def _tried(trial: Trial) -> str:
    """A trial in a line: the validation loss of what it keeps, how it ended, what was tried, and where to look."""
    loss = "–" if trial.validation_loss is None else f"{trial.validation_loss:.3f}"
    settings = "  ".join(f"{name}={value}" for name, value in trial.values.items())
    return f"{loss:>8}  {trial.outcome:9} {settings}  {trial.seconds:.0f} s  {trial.run}"


# --- parts ---


def job_of(options: argparse.Namespace, verb: str, recipe: Recipe) -> Job:
    """The job of a verb before training: in the folder of --into, else where the page looks for it."""
    if options.into is not None:
        return Job(options.into, verb)
    return launch.before_training(options.runs_dir, verb, launch.key_of(recipe, verb=verb))


@contextmanager
def machine_for(job: Job, runs_dir: Path, say: Callable[..., None]) -> Iterator[None]:
    """The machine for this job: wait in line, and let the chat's server give its memory back."""
    with alone(runs_dir, lambda: say(None, WAITING), job.is_asked_to_stop):
        yield


def _teller(say: Callable[..., None]) -> Callable[..., None]:
    """The stages of the work, for the job's page and for a person at the terminal."""

    def tell(kind: str, **data: Any) -> None:
        if kind == "stage" and data.get("fraction") is not None:
            say(data["fraction"], data.get("says", ""))
            print(f"\r{data['fraction']:4.0%} {data.get('says', ''):40}", end="", file=sys.stderr, flush=True)
            if data["fraction"] >= 1:
                print(file=sys.stderr)

    return tell


def _refuse_early(check_file: Path | None, judge_url: str | None, judge_model: str) -> None:
    """Raises FinetuneError for what would else only come out at the end of a long comparison."""
    if check_file is not None:
        from .proof.own_check import run_check

        run_check(check_file, [], [], [])
    if judge_url and not judge_url.startswith(("http://", "https://")):
        raise FinetuneError(f"{judge_url} is no address.", "It begins with http:// or https://.", code="judge-away")
    if judge_url and not judge_model:
        raise FinetuneError("Which model judges?", "Name it with --judge-model.", code="usage")


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _positive(text: str) -> int:
    if int(text) < 1:
        raise ValueError
    return int(text)
