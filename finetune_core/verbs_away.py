"""The verbs that take a run's result away and bring it back: export, push, pull. Heavy imports wait inside."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from .output import Output
from .run import Run
from .verbs import GOOD


def export(options: argparse.Namespace, out: Output) -> int:
    from .takeaway.diary import written
    from .takeaway.export import export as work

    run = Run.find(options.runs_dir, options.run)
    output = Path(options.output).expanduser().absolute()
    with written(run, options.to, _progress_line(out)) as tell:
        made = work(run, options.to, output, kinds=options.types, tell=tell)
        tell("done", **made)
    out.give(made, f"{made['path']}\n{_parity_words(made['parity'])}")
    return GOOD


def push(options: argparse.Namespace, out: Output) -> int:
    from .takeaway.diary import written
    from .takeaway.push import push as work

    run = Run.find(options.runs_dir, options.run)
    to = "merged" if options.merged else "adapter"
    with written(run, "push", _progress_line(out)) as tell:
        made = work(run, options.repo_id, to=to, private=not options.public, tell=tell)
        tell("done", **made)
    out.give(made, made["url"])
    return GOOD


def pull(options: argparse.Namespace, out: Output) -> int:
    from .takeaway.pull import pull as work

    run = work(options.repo_id, options.runs_dir, revision=options.revision, tell=_progress_line(out))
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
    one.add_argument("repo_id", metavar="REPO_ID", help="owner/name, or a name for your own account")
    one.add_argument("--merged", action="store_true", help="whole weights instead of the adapter")
    one.add_argument("--public", action="store_true", help="everyone may see it")
    one = verb("pull", pull, "open a run that was pushed to the Hub on this machine")
    one.add_argument("repo_id", metavar="REPO_ID", help="owner/name")
    one.add_argument("--revision", help="branch, tag or commit")


def _parity_words(parity: dict[str, Any]) -> str:
    return (
        f"{parity['same']} of {parity['compared']} answers are the tuned model's own; log-probabilities differ by "
        f"{parity['logprob_mean']:.2g} nats a token ({parity['engine']})."
    )


def _progress_line(out: Output) -> Any:
    def tell(kind: str, **data: Any) -> None:
        if kind == "stage":
            far = f" {data['fraction']:.0%}" if data.get("fraction") is not None else ""
            print(f"{data['name']}{far} {data.get('says', '')}".rstrip(), file=sys.stderr)

    return tell
