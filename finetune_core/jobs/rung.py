"""Where a job ran out of memory: the next rung of the ladder, as a new run on the same hardware at the price of now."""

from __future__ import annotations

from collections.abc import Callable

from ..ladder import as_overrides, harder_rungs, wider_rungs
from ..preflight import Preflight, look
from ..recipe import Recipe, Suggestion
from ..run import Run, list_runs
from .hardware import Estimate, choose, list_flavors, machine_to_look_with
from .sent import Sent, require_can_travel, sent_of


def rungs_of(run: Run) -> list[Suggestion]:
    """What may be tried after a run whose worker went down the ladder in vain; [] for one that ended otherwise.

    The same settings again would cost as much and end the same way.
    """
    last = run.last_event()
    if last is None or last.kind != "error" or last.data.get("code") != "out-of-memory":
        return []
    recipe = run.recipe
    return [*wider_rungs(recipe, recipe.num_processes), *harder_rungs(recipe)]


def recipe_with(run: Run, rung: Suggestion) -> Recipe:
    """Its warnings were passed when the run was made."""
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
