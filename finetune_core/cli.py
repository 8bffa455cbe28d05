"""The command line: one verb per thing a user does. `--json` on stdout, everything else on stderr; exit 0 good,
1 refused or failed, 2 usage, 3 stopped. What a verb does is in verbs*.py."""

from __future__ import annotations

import argparse
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

from . import verbs, verbs_answer, verbs_away, verbs_jobs, verbs_plan, verbs_proof, verbs_train
from .errors import FinetuneError, explain, redact
from .output import Output, own_stdout
from .run import default_runs_dir
from .verbs import GOOD, REFUSED, STOPPED, USAGE


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    options = parse(arguments)
    if not options.debug:
        warnings.filterwarnings("ignore", category=FutureWarning)  # a library's word to who programs with it
    with own_stdout(options.json) as stream:
        out = Output(options.json, stream)
        try:
            return options.do(options, out)
        except FinetuneError as error:
            return _refuse(error, out, options.debug)
        except KeyboardInterrupt:
            print("\ninterrupted", file=sys.stderr)
            return STOPPED
        except BrokenPipeError:
            return GOOD
        except Exception as error:
            return _refuse(explain(error), out, options.debug or not sys.stderr.isatty())


def _refuse(error: FinetuneError, out: Output, with_traceback: bool) -> int:
    if out.as_json:
        out.json({"error": error.as_dict()})
    print(f"error: {error.problem} {error.fix}", file=sys.stderr)
    if with_traceback and (error.code == "bug" or error.__cause__ is not None):
        print(redact(traceback.format_exc()), file=sys.stderr)
    return USAGE if error.code == "usage" else REFUSED


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options of one verb. argparse takes no `field=value` behind a flag (RECIPE --json field=value), so what it
    leaves over is added here."""
    top = parser()
    options, rest = top.parse_known_args(arguments)
    if not hasattr(options, "overrides") or any(word.startswith("-") or "=" not in word for word in rest):
        options = top.parse_args(arguments)  # which says what is wrong, and ends
    else:
        options.overrides = [*options.overrides, *rest]
    return options


def parser() -> argparse.ArgumentParser:
    """All verbs and their options."""
    top = argparse.ArgumentParser(
        prog="python -m finetune_core", description="Fine-tune a language model and see whether it helped."
    )
    subparsers = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, do: Callable[..., int], says: str) -> argparse.ArgumentParser:
        one = subparsers.add_parser(name, help=says, description=says)
        one.add_argument("--json", action="store_true", help="JSON on stdout, everything else on stderr")
        one.add_argument(
            "--runs-dir", type=lambda text: Path(text).absolute(), default=default_runs_dir(), help="where runs live"
        )
        one.add_argument("--debug", action="store_true", help="show the traceback of an error")
        one.set_defaults(do=do)
        return one

    def recipe_verb(name: str, do: Callable[..., int], says: str, what: str = "RECIPE") -> argparse.ArgumentParser:
        one = verb(name, do, says)
        one.add_argument("recipe", metavar=what, help="a YAML file or a preset's name" + what[6:].lower())
        one.add_argument("overrides", nargs="*", default=[], metavar="field=value", help="values to replace")
        return one

    def run_verb(name: str, do: Callable[..., int], says: str) -> argparse.ArgumentParser:
        one = verb(name, do, says)
        one.add_argument("run", metavar="RUN", help="a run's folder or id")
        return one

    verb("presets", verbs.presets, "list the starting points")
    recipe_verb("check", verbs.check, "look at the rows before training")
    one = recipe_verb("plan", verbs_plan.plan, "memory, minutes and settings")
    one.add_argument("--probe", action="store_true", help="train for ten seconds first, to measure instead of guess")
    one.add_argument("--into", type=Path, help="a folder for what --probe measures and its progress")
    one = recipe_verb("train", verbs_train.train, "train a recipe, or go on with a run", "RECIPE | RUN")
    one.add_argument("--no-evaluate", action="store_true", help="leave the test rows unseen, whatever the recipe says")
    one.add_argument("--then-serve", action="store_true", help="go on as `serve` with the models that were compared")
    verbs_jobs.register(verb, one)
    verb("runs", verbs.runs, "list the runs")
    run_verb("stop", verbs.stop, "stop after this step and keep what was learned")
    run_verb("delete", verbs.delete, "delete a run's folder")
    verbs_proof.add_verbs(verb, run_verb, recipe_verb)
    one = run_verb("predict", verbs_answer.predict, "answer the rows of a file")
    one.add_argument("--input", required=True, help="CSV, Excel, JSON, JSONL, Parquet or Arrow; no answers needed")
    one.add_argument(
        "--output",
        required=True,
        help="a .xlsx, .csv (delimiter of the input) or .tsv: the input's columns and `prediction`; or a .jsonl: `id`, "
        "`prediction`",
    )
    one.add_argument("--question", metavar="COLUMN", help="the column to answer (default: found as in training)")
    one.add_argument("--base", action="store_true", help="the untuned model")
    one.add_argument("--max-new-tokens", type=int, help="longest answer, in tokens (default: the recipe's)")
    one = run_verb("chat", verbs_answer.chat, "talk to the tuned model")
    one.add_argument("--base", action="store_true", help="the untuned model")
    one.add_argument("--message", help="one question; without it, a conversation on the terminal")
    one.add_argument("--system", help="a system prompt (default: the one that the run's rows were given)")
    one.add_argument("--temperature", type=float, default=0.0, help="0 (default): always the likeliest words")
    one.add_argument("--max-new-tokens", type=int, help="longest answer, in tokens (default: 256)")
    one = run_verb("serve", verbs_answer.serve, "answer the OpenAI chat-completions protocol on this machine")
    one.add_argument("--port", type=int, default=0, help="0: any free port")
    one.add_argument("--idle-seconds", type=int, default=0, help="end after this long without a question")
    verbs_away.register(verb, run_verb)
    verb("fetch", verbs.fetch, "bring the starter model to this machine")
    verb("env", verbs.env, "what this installation and machine have")
    return top
