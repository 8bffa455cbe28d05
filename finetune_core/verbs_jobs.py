"""`train RECIPE --on jobs[:FLAVOR]` and `hardware`: the same training on rented hardware. Heavy imports wait inside."""

from __future__ import annotations

import argparse
import json
import time
from typing import TYPE_CHECKING, Any

from .amounts import duration, minutes, money
from .errors import KILLED, FinetuneError
from .output import Output
from .presets import resolve_recipe
from .run import Run

if TYPE_CHECKING:
    from .jobs.hardware import Estimate
    from .preflight import Preflight
    from .takeaway.account import Account

HERE = "here"


def register(verb: Any, train: argparse.ArgumentParser) -> None:
    """Add the verb `hardware`, and to `train` where it shall run."""
    train.add_argument(
        "--on",
        default=HERE,
        metavar="here|jobs[:FLAVOR]",
        help="this machine, or Hugging Face Jobs by the minute",
    )
    train.add_argument("--yes", action="store_true", help="agree to the price and to the rows going to the Hub")
    verb("hardware", hardware, "what Hugging Face Jobs rents out now, and its price")


def hardware(options: argparse.Namespace, out: Output) -> int:
    from .jobs.hardware import list_flavors

    found = [flavor.as_dict() for flavor in list_flavors(_token())]
    lines = [f"{each['flavor']:18}${each['dollars_per_hour']:<9.2f}an hour  {each['title']}" for each in found]
    out.give(found, "\n".join(lines))
    return 0


def run_for_jobs(options: argparse.Namespace, out: Output) -> Run | None:
    """The run that this `train` means to have on Jobs: a new one, or an earlier one of there; None for this machine.

    After one that ran out of memory it is another one, a rung down the ladder; where its process was killed, --on jobs
    says to go on as it was. Raises FinetuneError (not-agreed) with the price before anything is made, unless --yes was
    given.
    """
    from .jobs.rung import rungs_of, why_lower
    from .jobs.sent import sent_of
    from .verbs_train import run_to_go_on

    if run := run_to_go_on(options):
        if sent_of(run) is None:
            return None
        as_it_was = options.on != HERE and why_lower(run).code == KILLED
        return _rung_down(run, options, out) if rungs_of(run) and not as_it_was else run
    where, _, flavor = options.on.partition(":")
    if where == HERE and not flavor:
        return None
    if where != "jobs":
        raise FinetuneError(f"{options.on!r} is no place to train.", "Write --on jobs or --on jobs:l4x1.", code="usage")
    return _new_run(options, out, flavor)


def _new_run(options: argparse.Namespace, out: Output, flavor: str) -> Run:
    from .jobs.hardware import choose, list_flavors, machine_to_look_with, with_all_gpus
    from .jobs.order import order, tenant
    from .jobs.sent import require_can_travel
    from .preflight import look

    recipe = resolve_recipe(options.recipe, options.overrides)
    require_can_travel(recipe)
    token = _token()
    me = tenant(token)
    flavors = list_flavors(token)
    recipe = with_all_gpus(recipe, flavors, flavor)
    with out.progress() as show:
        seen = look(recipe, token=token, on_progress=show, machine=machine_to_look_with(flavors, flavor))
    made = choose(seen, flavors, flavor)
    _require_yes(_terms(seen, made, me), f"To agree, add --yes (and --on jobs:{made.flavor.name}).", options, out)
    return order(seen, made, me.name, options.runs_dir)


def _rung_down(run: Run, options: argparse.Namespace, out: Output) -> Run:
    """A new run with the first rung that is left after one that ran out of memory, on the same hardware; the one that
    was made for it, if it was started before."""
    from .jobs.order import order, tenant
    from .jobs.rung import made_for, offer, recipe_with, rungs_of, step_from, why_lower
    from .jobs.sent import sent_of
    from .ladder import as_typed

    rung = rungs_of(run)[0]
    if before := made_for(run, rung):
        return _rung_down(before, options, out) if rungs_of(before) else before
    token = _token()
    me, sent = tenant(token), sent_of(run)
    with out.progress() as show:
        seen, made = offer(recipe_with(run, rung), sent, token, show)
    why = why_lower(run)
    says = f"{why.problem} As a new run: {as_typed(rung)} {_terms(seen, made, me)}"
    again = "python -m finetune_core train"
    fix = f"To agree, add --yes. For other settings or hardware: {again} {run.path / 'recipe.yaml'} FIELD=VALUE "
    fix += f"--on jobs:{sent.flavor}"
    if why.code == KILLED:
        fix += f" To go on as it was, from its last checkpoint: {again} {run.id} --on jobs"
    _require_yes(says, fix, options, out)
    return order(seen, made, me.name, options.runs_dir, after=step_from(run, rung))


def _terms(seen: Preflight, made: Estimate, me: Account) -> str:
    """What a person agrees to with --yes."""
    rows = sum(len(part) for part in (seen.prepared.train, seen.prepared.validation, seen.prepared.test))
    says = (
        f"{made.flavor.title} ({money(60 * made.flavor.dollars_per_minute)} an hour): {minutes(made.seconds)} "
        f"and {money(made.dollars)}; it is ended after {duration(made.timeout_seconds)}, so "
        f"{money(made.dollars_at_most)} at most. Your {rows} rows go to a private repository of {me.name} on the Hub "
        f"and to the job; checkpoints and the result are kept there too."
    )
    if made.idle_gpus:
        gpus = len(made.flavor.machine.gpus)
        says += f" {made.idle_gpus} of its {gpus} GPUs would do nothing: num_processes={gpus} uses all."
    if me.ends_at is not None and (left := me.ends_at - time.time()) < made.timeout_seconds:
        says += (
            f" Your token ends in {duration(max(left, 60))}, perhaps before the job does, which could then keep "
            "nothing there: use one that lasts longer."
        )
    return says


def _require_yes(says: str, fix: str, options: argparse.Namespace, out: Output) -> None:
    """Raises FinetuneError (not-agreed) where nobody has agreed to this."""
    if not options.yes:
        raise FinetuneError(says, fix, code="not-agreed")
    out.say(says)


def train(run: Run, options: argparse.Namespace, out: Output) -> int:
    """Follow it to its end; the exit code."""
    from .jobs.follow import follow
    from .verbs import GOOD, REFUSED, STOPPED
    from .verbs_train import tell_as_it_goes

    out.say(f"Run {run.id}")
    outcome, told = tell_as_it_goes(run, out, lambda show: follow(run, on_event=show, agreed=options.yes))
    if outcome is None:
        return REFUSED
    if out.as_json and "done" not in told:  # it was over before we looked
        out.json(json.loads(run.events()[-1].as_json()))
    return STOPPED if outcome == "stopped" else GOOD


def _token() -> str:
    from .takeaway import account

    token = account.find_token()
    if not token:
        raise FinetuneError("You are not signed in to the Hub.", account.SIGN_IN, code="no-token")
    return token
