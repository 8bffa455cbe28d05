"""The verbs that take a run's result or its rows away, and bring a result back: export, push, push-data, pull.

Heavy imports wait inside."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import launch
from .errors import FinetuneError
from .locks import hold
from .output import Output
from .run import Run
from .verbs import GOOD


def export(options: argparse.Namespace, out: Output) -> int:
    from .takeaway.export import export as work

    run = Run.find(options.runs_dir, options.run)
    output = Path(options.output).expanduser().absolute()
    with _taking(run, options.to) as say:
        made = work(run, options.to, output, kinds=options.types, tell=_teller(say))
        say(1.0, made=made)
    out.give(made, f"{made['path']}\n{_parity_words(made['parity'])}")
    return GOOD


def push(options: argparse.Namespace, out: Output) -> int:
    from .takeaway.push import push as work

    run = Run.find(options.runs_dir, options.run)
    to = "merged" if options.merged else "adapter"
    with _taking(run, "push") as say:
        made = work(run, options.repo_id, to=to, private=not options.public, tell=_teller(say))
        say(1.0, made=made)
    out.give(made, made["url"])
    return GOOD


def push_data(options: argparse.Namespace, out: Output) -> int:
    from .takeaway.push_data import push_data as work

    run = Run.find(options.runs_dir, options.run)
    with _taking(run, "push-data") as say:
        made = work(run, options.repo_id, private=not options.public, agreed=options.yes, tell=_teller(say))
        say(1.0, made=made)
    out.give(made, made["url"])
    return GOOD


def pull(options: argparse.Namespace, out: Output) -> int:
    from .leftovers import sweep_leftovers
    from .takeaway.pull import pull as work

    sweep_leftovers(options.runs_dir)  # a pull that was killed may have filled the disk
    run = work(options.repo_id, options.runs_dir, revision=options.revision, tell=_teller())
    out.give({"id": run.id, "path": str(run.path)}, f"Run {run.id}")
    return GOOD


def register(verb: Any, run_verb: Any) -> None:
    """Add these verbs to the command line: `verb(name, function, what it does)`, and the same with a RUN to name."""
    from .takeaway import KINDS, TARGETS

    one = run_verb("export", export, "write the result as files that other programs load, and compare them")
    one.add_argument("--to", choices=TARGETS, required=True, help="what was trained, whole weights, or for Ollama")
    one.add_argument("--output", required=True, metavar="DIR", help="a new or empty folder")
    one.add_argument(
        "--types", nargs="+", choices=KINDS, default=["f16", "q8_0"], help="GGUF number formats (default: f16 q8_0)"
    )
    one = run_verb("push", push, "put the result on the Hub (private; token from HF_TOKEN or `hf auth login`)")
    _add_place(one)
    one.add_argument("--merged", action="store_true", help="whole weights instead of the adapter")
    one = run_verb("push-data", push_data, "put the rows as used on the Hub, as a data set (private; token as in push)")
    _add_place(one)
    one.add_argument("--yes", action="store_true", help="agree to rows going there that seem to hold personal data")
    one = verb("pull", pull, "open a run that was pushed to the Hub on this machine")
    one.add_argument("repo_id", metavar="REPO_ID", help="owner/name")
    one.add_argument("--revision", help="branch, tag or commit")


def _add_place(one: argparse.ArgumentParser) -> None:
    one.add_argument("repo_id", metavar="REPO_ID", help="owner/name, or a name for your own account")
    one.add_argument("--public", action="store_true", help="everyone may see it")


def _parity_words(parity: dict[str, Any]) -> str:
    return (
        f"{parity['same']} of {parity['compared']} answers are the tuned model's own; log-probabilities differ by "
        f"{parity['logprob_mean']:.2g} nats a token ({parity['engine']})."
    )


@contextmanager
def _taking(run: Run, what: str) -> Iterator[Callable[..., None]]:
    """Keep the job of an export or a push; a run has one of them at a time, because they share files and memory."""
    busy = FinetuneError("This run is being exported already.", "Wait until that is done, then try again.", "busy")
    with hold(run.path / ".take.lock", busy), launch.taking(run, what).working() as say:
        yield say


def _teller(say: Callable[..., None] | None = None) -> Callable[..., None]:
    """The stages of the work, for a person at the terminal and for the job's page."""

    def tell(kind: str, **data: Any) -> None:
        if kind != "stage":
            return
        name, fraction, says = data["name"], data.get("fraction"), data.get("says", "")
        far = f" {fraction:.0%}" if fraction is not None else ""
        print(f"{name}{far} {says}".rstrip(), file=sys.stderr)
        if say:
            say(fraction, says, stage=name)

    return tell
