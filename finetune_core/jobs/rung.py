"""Where a job ran out of memory: the next rung of the ladder, as a new run on the same hardware at the price of now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from .. import errors
from ..errors import FinetuneError
from ..ladder import as_overrides, gentle_rungs, harder_rungs, steps_of, wider_rungs
from ..machine import Machine
from ..preflight import Preflight, look
from ..recipe import Recipe, Suggestion
from ..run import Run, list_runs
from .hardware import Estimate, choose, list_flavors, machine_to_look_with
from .sent import Sent, require_can_travel, sent_of

CPU = "cpu-"  # how the Hub's names for hardware without a GPU begin


def rungs_of(run: Run) -> list[Suggestion]:
    """What may be tried after a run whose worker went down the ladder in vain, or was killed before it could; [] for
    one that ended otherwise.

    The same settings again would cost as much and end the same way.
    """
    last, recipe = run.last_event(), run.recipe
    match last and last.kind == "error" and last.data.get("code"):
        case "out-of-memory":
            return [*wider_rungs(recipe, recipe.num_processes), *harder_rungs(recipe)]
        case errors.KILLED:
            return _after_a_kill(run, recipe)
    return []


def why_lower(run: Run) -> FinetuneError:
    """Why a gentler step is offered: memory ran out, or its process was killed, as a full machine does."""
    last = run.last_event()
    said = last.data if last is not None and last.kind == "error" else {}
    problem = said.get("problem", "") if said.get("code") == errors.KILLED else "It ran out of memory there."
    return FinetuneError(problem, "", code=str(said.get("code", "")))


def _after_a_kill(run: Run, recipe: Recipe) -> list[Suggestion]:
    """It was the memory of the machine itself. With a GPU a gentler step spares that one's, and nothing of this."""
    sent, steps = sent_of(run), steps_of(run.events())
    now = recipe.replace(**steps)
    if sent and sent.flavor.startswith(CPU):
        # how long the longest row is, is not known here: packs stay as long as they are
        rungs = [*gentle_rungs(now, now.packing_length or 0, Machine(0, 0.0, 0.0)), *harder_rungs(now)]
    else:
        rungs = [rung for rung in harder_rungs(now) if "max_length" not in rung.changes]
    return [replace(rung, changes=steps | rung.changes) for rung in rungs]


def recipe_with(run: Run, rung: Suggestion) -> Recipe:
    """The run's recipe one rung down; its warnings were accepted when the run was made."""
    return run.recipe.replace(**rung.changes, accept_warnings=True)


def step_from(run: Run, rung: Suggestion) -> str:
    """The run and the rung, as the order of a run that is made for it names them."""
    return f"{run.id} {as_overrides(rung.changes)}"


def made_for(run: Run, rung: Suggestion) -> Run | None:
    """The run that was made for this rung: its job may go on, and another would cost as much again."""
    step = step_from(run, rung)
    return next((each for each in list_runs(run.path.parent) if (sent := sent_of(each)) and sent.after == step), None)


def offer(
    recipe: Recipe, sent: Sent, token: str, on_progress: Callable[..., None] | None = None
) -> tuple[Preflight, Estimate]:
    """The rows looked at, and what this recipe costs on the hardware of an earlier order. Nothing is started.

    Raises FinetuneError: model-not-on-hub, does-not-fit, no-flavor, hub-away, …
    """
    require_can_travel(recipe)
    flavors = list_flavors(token)
    machine = machine_to_look_with(flavors, sent.flavor)
    seen = look(recipe, token=token, machine=machine, on_progress=on_progress)
    return seen, choose(seen, flavors, sent.flavor)
