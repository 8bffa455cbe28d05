"""Try several settings and keep the best, judged by the validation rows alone; the test rows stay unseen to the end.

Every trial is an ordinary run in a process of its own, so it waits in line, can be watched, and outlives this process.
optuna chooses what to try next, and gives up early on what falls behind.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from . import launch, preflight
from .alone import WAITING
from .errors import FinetuneError, explain
from .files import write_json
from .progress import kept_loss, summarize
from .recipe import Recipe
from .run import Run
from .search_space import Space, combinations, usual_space

Say = Callable[[float | None, str], None]
MOST_TRIALS = 100
POLL_SECONDS = 0.5
JUDGED_FROM = 30  # per cent of a trial; earlier a long one, whose learning rate falls later, looks worse than it is


@dataclass(frozen=True)
class Trial:
    """One setting tried. The lower the validation loss, the better."""

    run: str
    values: dict[str, Any]
    outcome: str  # running, finished, pruned (it fell behind and was stopped), stopped, failed
    validation_loss: float | None = None  # of the weights that it keeps, nats per token
    steps: int = 0
    seconds: float = 0.0
    problem: str = ""


@dataclass(frozen=True)
class Sweep:
    """What has been tried so far, best first."""

    space: Space
    asked: int  # how many trials
    trials: list[Trial] = field(default_factory=list)
    sentence: str = ""
    proved: str = ""  # what the best one showed on the test rows

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def sweep(
    recipe: Recipe,
    space: Space,
    trials: int,
    runs_dir: Path,
    *,
    token: str | None = None,
    owner: str = "",
    say: Say | None = None,
    should_stop: Callable[[], bool] | None = None,
    on_change: Callable[[Sweep], None] | None = None,
) -> Sweep:
    """Try up to so many settings; all of them in a space that is not larger. Returns what was found, best first.

    Raises FinetuneError before anything is started if a value is wrong, or there are no validation rows.
    """
    say, should_stop = say or (lambda fraction, says: None), should_stop or (lambda: False)
    tell = on_change or (lambda now: None)
    if not 1 <= trials <= MOST_TRIALS:
        raise FinetuneError(f"{trials} trials?", f"From 1 to {MOST_TRIALS} can be made.", code="usage")
    say(None, "looking at the rows")
    seen = preflight.look(recipe, token=token)
    space = space or usual_space(seen.plan.recipe)
    planned = seen.plan.recipe  # for all the same
    recipe = recipe.replace(num_train_epochs=planned.num_train_epochs, eval_rows=planned.eval_rows, max_minutes=None)
    for values in combinations(space)[:2000]:
        recipe.replace(**values)  # every wrong value is told now, not after an hour
    if not len(seen.prepared.validation):
        raise FinetuneError(
            "A sweep is judged by validation rows, and there are none.", "Set validation_size=0.1.", code="no-rows"
        )
    every = max(1, round(seen.plan.steps / recipe.num_train_epochs / 4))
    own = {name: getattr(seen.plan.recipe, name) for name in space}
    study, drawn = _study(space, trials, own, recipe.seed), _Draw(space)
    now = Sweep(space, min(trials, len(combinations(space))))
    done: list[Trial] = []
    while len(done) < now.asked and not should_stop():
        asked, values = drawn.next(study)

        def progress(trial: Trial, share: float, waits: bool = False) -> None:
            nonlocal now
            now = Sweep(space, now.asked, ranked([*done, trial]))
            tell(now)
            which = f"trial {len(done) + 1} of {now.asked}: {in_words(trial.values)}"
            say((len(done) + share) / now.asked, f"{which}, {WAITING}" if waits else which)

        tried = recipe.replace(**values, eval_steps=every)
        trial = _try(seen, tried, values, runs_dir, token, asked, progress, should_stop, owner)
        done.append(trial)
        drawn.tell(study, asked, trial)
        now = Sweep(space, now.asked, ranked(done), sentence(ranked(done), own))
        tell(now)
    best = next((trial for trial in now.trials if trial.outcome == "finished"), None)
    if best and recipe.evaluate and len(seen.prepared.test) and not should_stop():
        say(0.99, "proving the best on the test rows")
        now = Sweep(space, now.asked, now.trials, now.sentence, _prove(Run(runs_dir / best.run), should_stop))
        tell(now)
    say(1.0, "")
    return now


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """Best first: those that went to the end by their validation loss, then those that did not."""

    def key(trial: Trial) -> tuple[bool, float]:
        loss = trial.validation_loss
        return trial.outcome != "finished", math.inf if loss is None else loss

    return sorted(trials, key=key)


def sentence(trials: Sequence[Trial], own: Mapping[str, Any]) -> str:
    """What the sweep found, beside the recipe as it was."""
    done = [trial for trial in trials if trial.outcome == "finished" and trial.validation_loss is not None]
    if not done:
        if trials and all(trial.outcome == "stopped" for trial in trials):
            return "It was stopped before a trial came to its end."
        why = next((trial.problem for trial in trials if trial.problem), "")
        return f"No trial came to its end. {why or 'Open the first one to see why.'}"
    best = done[0]
    says = f"Best of {len(trials)}: {in_words(best.values)}, with a validation loss of {best.validation_loss:.3f}"
    before = next((trial for trial in done if trial.values == dict(own)), None)
    if before is best:
        return f"{says}. These are the settings that you had."
    if before is not None:
        return f"{says} where your settings reach {before.validation_loss:.3f}."
    return says + "."


def in_words(values: Mapping[str, Any]) -> str:
    """Settings in a line.

    >>> in_words({"learning_rate": 0.001, "lora_r": 16})
    'learning_rate 0.001, lora_r 16'
    """
    return ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()
    )


# --- one trial ---


def _try(
    seen: preflight.Preflight,
    recipe: Recipe,
    values: dict[str, Any],
    runs_dir: Path,
    token: str | None,
    asked: Any,
    progress: Callable[..., None],
    should_stop: Callable[[], bool],
    owner: str = "",
) -> Trial:
    """Train one setting on the rows that were looked at, and tell optuna each look at the validation rows; stop it
    when it falls behind."""
    run = None
    try:
        run = preflight.create_run_from(preflight.look_again(seen, recipe), runs_dir, owner=owner)
        progress(Trial(run.id, values, "running"), 0.0)
        launch.start_new(run, token, options=("--no-evaluate",))
        pruned, told, size = False, 0, -1
        while (version := run.version())[2]:  # alive; the worker holds its lock before it writes its first line
            if version[0] != size:
                size = version[0]
                far = summarize(run.events())
                for step, loss in far.eval_loss[told:]:  # of trials of several lengths, what compares is the part done
                    asked.report(loss, round(100 * step / max(far.total_steps, step)))
                told = len(far.eval_loss)
                share = far.step / far.total_steps if far.total_steps else 0.0
                progress(_trial(run, values, "running"), share, far.stage == WAITING)
                if told and not pruned and far.step < far.total_steps and asked.should_prune():
                    pruned = True
                    (run.path / "stop").touch()
            if should_stop() and not (run.path / "stop").exists():
                (run.path / "stop").touch()
            time.sleep(POLL_SECONDS)
        status = run.status()
        outcome = (
            "pruned" if pruned and status == "stopped" else status if status in ("finished", "stopped") else "failed"
        )
        return _trial(run, values, outcome)
    except (KeyboardInterrupt, SystemExit):
        if run and run.is_alive():
            (run.path / "stop").touch()  # it has a session of its own, where nobody would stop it
        raise
    except FinetuneError as error:  # a setting that this machine cannot do is a result, not the end of the sweep
        there = run is not None and run.path.exists()
        return Trial(run.id if there else "", values, "failed", problem=str(explain(error)))


def _trial(run: Run, values: dict[str, Any], outcome: str) -> Trial:
    seen = summarize(run.events())
    loss = kept_loss(seen, run.recipe.early_stopping)
    problem = f"{seen.error['problem']} {seen.error['fix']}" if seen.error else ""
    return Trial(run.id, values, outcome, loss, seen.step, round(seen.seconds, 1), problem)


def _prove(run: Run, should_stop: Callable[[], bool]) -> str:
    """The best one against the untuned model, on the test rows: once, at the end."""
    job = launch.comparison(run)
    launch.evaluate(run, "--quick")
    while job.is_alive():
        if should_stop() and not job.is_asked_to_stop():
            job.stop_path.touch()
        time.sleep(POLL_SECONDS)
    return str(((run.report() or {}).get("verdict") or {}).get("sentence", ""))


# --- optuna ---


def _study(space: Space, trials: int, own: Mapping[str, Any], seed: int) -> Any:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        direction="minimize",
        sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=max(3, trials // 3)),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=JUDGED_FROM),
    )
    if all(own[name] in values for name, values in space.items()):
        study.enqueue_trial(dict(own))  # the settings as they are come first: the others are measured by them
    everything = combinations(space)
    if len(everything) <= trials:
        for values in everything:
            study.enqueue_trial(values)
    return study


class _Draw:
    """What to try next; a setting that was tried is not tried again, its loss is known."""

    def __init__(self, space: Space):
        self.space = space
        self.known: dict[str, float | None] = {}

    def next(self, study: Any) -> tuple[Any, dict[str, Any]]:
        while True:
            asked = study.ask()
            values = {name: asked.suggest_categorical(name, choices) for name, choices in self.space.items()}
            if (key := repr(values)) not in self.known:
                return asked, values
            self._end(study, asked, self.known[key])

    def tell(self, study: Any, asked: Any, trial: Trial) -> None:
        loss = trial.validation_loss if trial.outcome in ("finished", "pruned") else None
        self.known[repr(trial.values)] = loss
        self._end(study, asked, loss, pruned=trial.outcome == "pruned")

    @staticmethod
    def _end(study: Any, asked: Any, loss: float | None, pruned: bool = False) -> None:
        from optuna.trial import TrialState

        if loss is None:
            study.tell(asked, state=TrialState.FAIL)
        elif pruned:
            study.tell(asked, state=TrialState.PRUNED)
        else:
            study.tell(asked, loss)


def write_sweep(folder: Path, now: Sweep) -> None:
    write_json(folder / "report.json", now.as_dict())
