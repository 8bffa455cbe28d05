"""A short training that measures speed and memory instead of guessing them."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from . import measured
from .encoded import encode
from .errors import FinetuneError
from .liger import liger_kept_apart
from .machine import this_machine
from .model import fetch_model
from .preflight import Preflight
from .sharing import share
from .trainer import build_trainer, dry_run
from .turn import StoppedWaiting
from .watching import peak_memory_gb, wait_for_device

LEAST_STEPS = 3  # the first one warms up and is not counted
MOST_ROWS = 2000
FETCHING, LOADING, MEASURING = "fetching the model", "loading the model", "measuring"


def probe(
    seen: Preflight,
    seconds: float,
    say: Callable[..., Any] = lambda fraction, says="": None,
    should_stop: Callable[[], bool] = lambda: False,
    token: str | None = None,
) -> tuple[int, float, float]:
    """Train for about `seconds` on the real model and rows, keep nothing but the measurement.

    Returns (tokens, seconds of the steps that were counted, peak GiB), and remembers them for the next plan. `say`: how
    far it is. Raises FinetuneError when the model is not here and cannot be fetched, and StoppedWaiting; memory that
    runs out is raised as it is.
    """
    asked = seen.plan.recipe
    if asked.fsdp:
        raise FinetuneError(
            "The weights are to be shared among several processes, and one alone does not measure that.",
            "Plan without --probe, or set fsdp to false.",
            code="no-probe",
        )
    say(None, FETCHING)
    folder = fetch_model(asked.model_name_or_path, asked.model_revision, token=token)
    recipe = share(asked).recipe.replace(  # of several processes, the part of one: so the plan counts
        num_processes=1, max_steps=10_000, early_stopping=False, eval_steps=20_000, save_steps=20_000
    )
    rows = [row for row, _ in zip(seen.prepared.train, range(MOST_ROWS), strict=False)]
    clock, machine = _Clock(seconds, lambda share: say(share, MEASURING), should_stop), this_machine()
    with tempfile.TemporaryDirectory() as scratch:
        encoded = encode(rows, seen.tokenizer, asked.max_length, Path(scratch) / "rows.arrow")
        say(None, LOADING)
        with liger_kept_apart():
            trainer = build_trainer(recipe, folder, Path(scratch), (encoded, None), [clock], machine)
            if machine.kind != "cpu":  # as a training does
                dry_run(trainer)
            say(0.0, MEASURING)
            trainer.train()
    if should_stop():
        raise StoppedWaiting
    spent = clock.tokens, clock.seconds, peak_memory_gb()
    measured.remember(seen.plan.as_dict(), asked, folder, machine, *spent)
    return spent


class _Clock(TrainerCallback):
    """Counts the tokens and seconds of the steps after the first, and ends the training when there is enough."""

    def __init__(self, seconds: float, on_share: Callable[[float], Any], should_stop: Callable[[], bool]):
        self.wanted, self.tokens, self.seconds = seconds, 0, 0.0
        self.on_share, self.should_stop = on_share, should_stop
        self._mark, self._warm = 0.0, math.inf

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._mark = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        wait_for_device()
        if state.global_step > 1:
            self.seconds += time.monotonic() - self._mark
        control.should_log = True
        self.on_share(min(1.0, self.seconds / self.wanted))
        enough = self.seconds >= self.wanted and state.global_step >= LEAST_STEPS
        control.should_training_stop = enough or self.should_stop()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        counted = int((logs or {}).get("num_tokens", 0))
        if counted and math.isinf(self._warm):
            self._warm = counted
        if counted:
            self.tokens = counted - int(self._warm)
