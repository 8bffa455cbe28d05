"""The price of a new job for a run that had one: what was agreed to holds, or the person is asked again."""

from __future__ import annotations

from dataclasses import replace

from ..amounts import duration, money
from ..errors import FinetuneError
from ..run import Run
from .hardware import list_flavors
from .sent import Sent, sent_of

CHANGED = "price-changed"  # code of the refusal to pay more than was agreed to


def price_now(sent: Sent, token: str) -> float:
    """Dollars a minute of its hardware, as the Hub lists it now. Raises FinetuneError: no-flavor, hub-away, …"""
    found = [flavor.dollars_per_minute for flavor in list_flavors(token) if flavor.name == sent.flavor]
    if not found:
        raise FinetuneError(
            f"The Hub rents out no {sent.title} ({sent.flavor}) any more.",
            "Start a new run with its recipe on other hardware (`python -m finetune_core hardware` lists it).",
            code="no-flavor",
        )
    return found[0]


def costs_more(dollars: float, agreed: float) -> bool:
    """Whether this is more than was agreed to: what a job costs at most, as a person was shown it, in whole cents.

    >>> costs_more(0.4049, 0.40), costs_more(0.41, 0.40), costs_more(0.009, 0.0)
    (False, True, False)
    """
    return _as_shown(dollars) > _as_shown(agreed)


def _as_shown(dollars: float) -> float:
    return round(dollars, 2) if dollars >= 0.01 else 0.0


def at_price(sent: Sent, dollars_per_minute: float, agreed: bool = False) -> Sent:
    """The order at the price of now, if a job of it costs no more than was agreed to.

    agreed: to the price of now. Raises FinetuneError (price-changed).
    """
    now = replace(sent, dollars_per_minute=dollars_per_minute)
    if not agreed and costs_more(now.dollars_at_most, sent.dollars_at_most):
        before = money(sent.dollars_at_most) if sent.dollars_per_minute else "none"
        raise FinetuneError(
            f"{sent.title} costs {money(60 * dollars_per_minute)} an hour now. A new job is ended after "
            f"{duration(sent.timeout_seconds)}, so it costs {money(now.dollars_at_most)} at most, and {before} "
            "was agreed to. Nothing was started.",
            "To agree, add --yes.",
            code=CHANGED,
        )
    return now


def agree(run: Run, dollars_per_minute: float) -> None:
    """Write the price that a person agreed to into job.json, unless somebody follows the job, who has agreed already.

    Everything else stays as it is by then: another page may have started a newer job meanwhile. Raises FinetuneError
    (busy) where another start takes long.
    """
    with run.starting(20.0):
        newest = sent_of(run)
        if newest is not None and not run.is_alive():
            replace(newest, dollars_per_minute=dollars_per_minute).save(run)
