"""The price of a new job for a run that had one: what was agreed to holds, or the person is asked again."""

from __future__ import annotations

from dataclasses import replace

from ..errors import FinetuneError
from .hardware import list_flavors
from .sent import Sent

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


def at_price(sent: Sent, dollars_per_minute: float, agreed: bool = False) -> Sent:
    """The order at the price of now, if that is no higher than the one agreed to.

    agreed: to the price of now. Raises FinetuneError (price-changed).
    """
    now = replace(sent, dollars_per_minute=dollars_per_minute)
    if dollars_per_minute > sent.dollars_per_minute and not agreed:
        before = f"${60 * sent.dollars_per_minute:.2f}" if sent.dollars_per_minute else "none"
        raise FinetuneError(
            f"{sent.title} costs ${60 * dollars_per_minute:.2f} an hour now, and {before} was agreed to. A new job is "
            f"ended after {sent.timeout_seconds / 60:.0f} minutes, so ${now.dollars_at_most:.2f} at most. Nothing was "
            "started.",
            "To agree, add --yes.",
            code=CHANGED,
        )
    return now
