"""From a price that was agreed to, to a run that is ready to be sent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..preflight import Preflight, create_run_from
from ..run import Run
from ..takeaway import account
from .hardware import Estimate
from .sent import Sent, label_of


def tenant(token: str | None) -> account.Account:
    """Who rents: the user with this token. Raises FinetuneError: no-token, token-read-only, hub-away, …"""
    me = account.sign_in(token)
    me.require_write(f"{me.name}/fijn")  # the private repository's owner
    return me


def order(
    seen: Preflight,
    made: Estimate,
    name: str,
    runs_dir: Path,
    tail: str | None = None,
    owner: str = "",
    after: str = "",
) -> Run:
    """The run with its rows and its job.json; nothing is sent yet. The same `tail` twice gives the same run.

    name: the Hub's user who rents. owner: as in Run.create. after: as in Sent. Raises FinetuneError (data-blocked).
    """

    def is_of_there(folder: Path) -> None:
        """Write job.json before the folder counts as a run: nothing is left that this machine would train itself."""
        run = Run(folder)
        Sent(
            made.flavor.name,
            made.flavor.title,
            made.timeout_seconds,
            name,
            f"{name}/fijn-{label_of(run)}",
            dollars_per_minute=made.flavor.dollars_per_minute,
            after=after,
        ).save(run)

    return create_run_from(replace(seen, plan=made.plan), runs_dir, tail, owner, is_of_there)
