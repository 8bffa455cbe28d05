"""A rented run on the page: its job is followed, or a new one started at the price that the page showed."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_core import launch
from finetune_core.errors import FinetuneError
from finetune_core.jobs.follow import next_start
from finetune_core.jobs.order import order, tenant
from finetune_core.jobs.price import CHANGED, agree, costs_more, price_now
from finetune_core.jobs.rung import made_for, offer, recipe_with, step_from
from finetune_core.jobs.sent import Sent, sent_of
from finetune_core.ladder import as_overrides
from finetune_core.run import Run
from finetune_core.takeaway import account

from . import visitor, words_jobs, words_place
from .reading import require_readable

if TYPE_CHECKING:
    from finetune_core.jobs.hardware import Estimate
    from finetune_core.recipe import Suggestion

    from .visitor import Visitor

MOST_FOLLOWED = 4  # jobs of one visitor that a Space follows at a time
_starting: dict[str, threading.Lock] = {}  # by visitor: two starts at once must not both be the last with room


@dataclass(frozen=True)
class Agreed:
    """What a button of a rented run said last, where that is not the price in its job.json."""

    run_id: str = ""
    dollars_at_most: float = 0.0
    rung: str = ""  # of the ladder, as it is typed; "" for a new job with the same settings

    def covers(self, run: Run, dollars_at_most: float, rung: str = "") -> bool:
        is_this = (self.run_id, self.rung) == (run.id, rung)
        return is_this and not costs_more(dollars_at_most, self.dollars_at_most)


def follow(run: Run, asker: Visitor) -> None:
    """Follow a job in a process of its own. Raises FinetuneError (too-many-jobs) on a Space that follows as many
    jobs of this person as it may."""
    if asker.space is None:
        launch.start(run, asker.token)
        return
    with _starting.setdefault(asker.name, threading.Lock()):
        require_room(asker, run.path.parent, run.id)
        launch.start(run, asker.token)


def require_room(asker: Visitor, runs_dir: Path, but: str = "") -> None:
    """but: the end of a run's id, which does not count: a double click follows one job."""
    if asker.space is None:
        return
    others = (run for run in visitor.own_runs(runs_dir) if not (but and run.id.endswith(but)))
    going = sum(1 for run in others if sent_of(run) and run.is_alive())
    if going >= MOST_FOLLOWED:
        raise FinetuneError(*words_place.too_many(going), code="too-many-jobs")


def require_time_for(seconds: float) -> None:
    """Raises FinetuneError (sign-in-ends): a job puts its result on the Hub with the sign-in it was started with."""
    left = visitor.now().seconds_left()
    if left is not None and left < seconds:
        raise FinetuneError(*words_place.sign_in_ends(left, seconds), code="sign-in-ends")


def start(run: Run, sent: Sent, agreed: Agreed) -> Sent | None:
    """Follow the run's job, or start a new one. The order at the price of now, where nobody has agreed to that yet
    and so nothing was started; None for a job that is followed.

    Raises FinetuneError: no-token, too-many-jobs, no-flavor, hub-away, …
    """
    asker = visitor.require_signed_in()
    if next_start(run) == "new":
        token = _require_token(asker)
        require_time_for(sent.timeout_seconds)
        now = replace(sent, dollars_per_minute=price_now(sent, token))
        at_most = now.dollars_at_most
        if costs_more(at_most, sent.dollars_at_most) and not agreed.covers(run, at_most):
            return now
        agree(run, now.dollars_per_minute)
    follow(run, asker)
    return None


def start_rung(run: Run, sent: Sent, rung: Suggestion, agreed: Agreed) -> Run | Estimate:
    """A new run a rung down the ladder, on the hardware of one that ran out of memory there, and its job. What that
    would cost, where nobody has agreed to it yet and so nothing was made. The run, where it was made before.

    Raises FinetuneError: no-token, too-many-jobs, does-not-fit, no-flavor, hub-away, …
    """
    asker, runs_dir = visitor.require_signed_in(), run.path.parent
    if before := made_for(run, rung):
        return before
    token, recipe = _require_token(asker), recipe_with(run, rung)
    require_room(asker, runs_dir)
    require_readable(asker, recipe, runs_dir)
    seen, made = offer(recipe, sent, token)
    require_time_for(made.timeout_seconds)
    if not agreed.covers(run, made.dollars_at_most, as_overrides(rung.changes)):
        return made
    new = order(seen, made, tenant(token).name, runs_dir, owner=asker.name, after=step_from(run, rung))
    follow(new, asker)
    return new


def _require_token(asker: Visitor) -> str:
    """The token of who rents. Raises FinetuneError (no-token)."""
    token = asker.token if asker.space else account.find_token()
    if not token:
        raise FinetuneError("You are not signed in to the Hub.", account.SIGN_IN, code="no-token")
    return token


def question(sent: Sent, now: Sent) -> FinetuneError:
    """May it cost more than was agreed to?"""
    return FinetuneError(*words_jobs.dearer(sent, now), code=CHANGED)
