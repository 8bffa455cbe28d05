"""The verb `plan`: will it fit, how long, at what price; with --probe, measured on the real model."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from . import measured
from .amounts import duration, minutes, money
from .errors import FinetuneError, explain
from .fitting import better_preset
from .ladder import as_overrides, as_typed
from .machine import take_gpus, this_machine
from .output import Output
from .presets import resolve_recipe
from .recipe import Suggestion
from .turn import StoppedWaiting
from .verbs import GOOD, STOPPED, bring_starter, look_at, words_of_better
from .verbs_proof import job_of, machine_for

if TYPE_CHECKING:
    from .preflight import Preflight

PROBE_SECONDS = 10.0
READING = "reading the rows"


def plan(options: argparse.Namespace, out: Output) -> int:
    from .preflight import offers as offers_for

    try:
        seen = measure(options, out) if options.probe else look_at(options, out)
    except StoppedWaiting:
        return STOPPED
    made, offers = seen.plan, offers_for(seen)
    memory, takes = f"{made.memory_gb['total']:.1f} of {made.available_gb:.1f} GB", duration(made.seconds)
    words = f"{made.fits}: {memory}, {made.steps} steps, about {takes}\n"
    lines = ["  Memory ran out when it was measured."] if made.ran_out else []
    lines += [f"  {reason}" for reason in made.reasons]
    lines += [f"  Or: {suggestion.says} ({as_overrides(suggestion.changes)})" for suggestion in made.suggestions]
    lines += ["On the usual GPUs (estimated):"]
    for offer in offers:
        price = "" if offer.dollars is None else f", {money(offer.dollars)}"
        says = "does not fit" if offer.fits == "no" else f"{offer.fits}, {minutes(offer.seconds)}{price}"
        lines.append(f"  {offer.name:12}{offer.needs_gb:6.1f} of {offer.usable_gb:.0f} GB  {says}")
    better = better_preset(seen)
    lines += words_of_better(better, options.recipe)
    more = {"elsewhere": [offer.as_dict() for offer in offers], "better_preset": better and better.as_dict()}
    out.give(made.as_dict() | more, words + "\n".join(lines))
    return GOOD


def measure(options: argparse.Namespace, out: Output) -> Preflight:
    """Train for a moment, as a job that the page can watch; then the plan with what was measured.

    Raises FinetuneError (data-blocked; out-of-memory with the next rung of the ladder as its fix), and StoppedWaiting
    if asked to stop.
    """
    from .preflight import look, plan_for, refuse_blocked

    recipe = resolve_recipe(options.recipe, options.overrides)
    bring_starter(recipe, out)
    job, token = job_of(options, "plan", recipe), os.environ.get("HF_TOKEN")
    with job.working() as say:
        say(None, READING)
        with out.progress() as show:
            seen = look(recipe, token=token, on_progress=show)
        refuse_blocked(seen)
        with machine_for(job, options.runs_dir, say):
            machine = this_machine()  # with all its GPUs, and the memory that this process is about to take
            take_gpus()
            from .model import require_same_gpu
            from .speed import probe

            require_same_gpu(this_machine())
            out.say(f"Training for {PROBE_SECONDS:.0f} seconds to measure…")
            try:
                tokens, seconds, peak = probe(seen, PROBE_SECONDS, say, job.is_asked_to_stop, token)
            except (RuntimeError, MemoryError) as error:
                if explain(error).code != "out-of-memory":
                    raise
                measured.remember_ran_out(seen.plan.as_dict(), seen.plan.recipe, seen.facts.parameters, machine)
                raise _too_large(seen.plan.ladder) from error
        say(1.0, made={"tokens_per_second": round(tokens / seconds, 1), "peak_gb": round(peak, 3)})
    return replace(seen, plan=plan_for(seen.recipe, seen.facts, seen.diagnosis, machine))


def _too_large(ladder: Sequence[Suggestion]) -> FinetuneError:
    """The error that memory ran out, with the ladder's next rung as its fix."""
    fix = as_typed(ladder[0]) if ladder else "Choose a smaller model."
    return FinetuneError("It does not fit: memory ran out while it was measured.", fix, "out-of-memory")
