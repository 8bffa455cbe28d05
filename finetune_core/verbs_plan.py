"""The verb `plan`: will it fit, how long, at what price; with --probe, measured on the real model."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .alone import WAITING, alone
from .machine import take_one_gpu, this_machine
from .output import Output
from .verbs import GOOD, look_at

PROBE_SECONDS = 10.0


def plan(options: argparse.Namespace, out: Output) -> int:
    from .preflight import offers as offers_for
    from .preflight import plan_for

    seen = look_at(options, out)
    if options.probe:
        take_one_gpu()
        from .model import require_same_gpu
        from .speed import probe

        require_same_gpu(this_machine())
        with alone(options.runs_dir, lambda: out.say(WAITING)):
            out.say(f"Training for {PROBE_SECONDS:.0f} seconds to measure…")
            probe(seen, PROBE_SECONDS)
        seen = replace(seen, plan=plan_for(seen.recipe, seen.facts, seen.diagnosis, this_machine()))
    made, offers = seen.plan, offers_for(seen)
    total = made.memory_gb["total"]
    words = f"{made.fits}: {total:.1f} of {made.available_gb:.1f} GB, {made.steps} steps, about {made.seconds:.0f} s\n"
    lines = [f"  {reason}" for reason in made.reasons]
    lines += [f"  Or: {suggestion.says} ({_typed(suggestion.changes)})" for suggestion in made.suggestions]
    lines += ["On the usual GPUs (estimated):"]
    for offer in offers:
        price = "" if offer.dollars is None else f", ${offer.dollars:.2f}"
        says = "does not fit" if offer.fits == "no" else f"{offer.fits}, about {offer.seconds / 60:.0f} min{price}"
        lines.append(f"  {offer.name:12}{offer.needs_gb:6.1f} of {offer.usable_gb:.0f} GB  {says}")
    out.give(made.as_dict() | {"elsewhere": [offer.as_dict() for offer in offers]}, words + "\n".join(lines))
    return GOOD


def _typed(changes: Mapping[str, Any]) -> str:
    """Settings as the command line takes them; nothing behind the sign: chosen for this machine and model.

    >>> _typed({"learning_rate": None, "lora_r": 8})
    'learning_rate= lora_r=8'
    """
    return " ".join(f"{name}={'' if value is None else value}" for name, value in changes.items())
