"""Who is asking, and what they may do. Off a Space there is one person, and everything is theirs.

A handler asks `now()`. It is the request of the event that gradio is answering, so a handler cannot mistake one
visitor for another, and code outside an event gets nobody. On a Space a person is who the Hub says has the token of
their sign-in: gradio's own profile is no proof, nor is a token that a caller sends along, which may be another app's.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.context import LocalContext

from finetune_core import access
from finetune_core.errors import FinetuneError
from finetune_core.run import Run, list_runs
from finetune_core.space import Identity, Space, is_same_site, may_use_machine, owner_of, this_space
from finetune_core.takeaway import account

NOT_YOURS = "not-your-machine"  # code of the refusal to spend a Space's machine


@dataclass(frozen=True)
class Visitor:
    """Nobody, unless there is a name or no Space."""

    space: Space | None = None
    identity: Identity = field(default_factory=Identity)
    token: str | None = field(default=None, repr=False)
    expires_at: float = 0.0  # of the token, in seconds since 1970
    problem: FinetuneError | None = None  # why the Hub did not say who this is
    has_ended: bool = False  # they had signed in, and that has run out or was revoked

    @property
    def name(self) -> str:
        return self.identity.name

    @property
    def may_use_machine(self) -> bool:
        return may_use_machine(self.space, self.identity)

    def owns(self, folder: Path) -> bool:
        """Is this folder (of a run, of a job) theirs?"""
        return self.space is None or (bool(self.name) and owner_of(folder) == self.name)

    def seconds_left(self) -> float | None:
        """Until the sign-in ends; None where none does."""
        return self.expires_at - time.time() if self.expires_at else None


def now() -> Visitor:
    """Who the handler that is running answers."""
    return of(LocalContext.request.get(None)) if this_space() else Visitor()


def of(request: gr.Request | None) -> Visitor:
    """Who sent this request."""
    space = this_space()
    if space is None:
        return Visitor()
    info = _sign_in(space, request)
    if info is None:
        return Visitor(space)
    token, ends = str(info["access_token"]), float(info.get("expires_at") or 0)
    if ends <= time.time():
        return Visitor(space, has_ended=True)
    try:
        identity = access.who_has(token)
    except FinetuneError as error:
        return Visitor(space, problem=error)
    return Visitor(space, identity, token, ends) if identity.name else Visitor(space, has_ended=True)


def _sign_in(space: Space, request: gr.Request | None) -> Mapping[str, Any] | None:
    """What the signed cookie of a request from the Space's own page holds."""
    asked = getattr(request, "request", None)
    scope = getattr(asked, "scope", None)
    if not space.can_sign_in or not isinstance(scope, dict):
        return None
    if not is_same_site(space, asked.headers.get("origin"), asked.headers.get("host")):
        return None
    info = (scope.get("session") or {}).get("oauth_info") or {}
    return info if info.get("access_token") else None


def require_sign_in_lasts() -> None:
    """Raises FinetuneError (sign-in-ended) for who was signed in here a moment ago."""
    if now().has_ended:
        raise account.sign_in_ended("Sign in again at the top of the page. Your runs are kept, and go on.")


def require_machine() -> Visitor:
    """Who is asking, if they may spend this machine's time. Raises FinetuneError (not-your-machine, …) otherwise.

    Every handler that starts a process asks this: a hidden button is no lock.
    """
    visitor = now()
    if visitor.may_use_machine:
        return visitor
    require_sign_in_lasts()
    if visitor.problem:
        raise visitor.problem
    owner = visitor.space.owner if visitor.space else ""
    raise FinetuneError(
        f"This Space's machine is for its owner, {owner}.",
        "Sign in if that is you, duplicate the Space, or run Fijn on your own computer.",
        code=NOT_YOURS,
    )


def require_signed_in() -> Visitor:
    """Who is asking, if what they start can be on an account of their own. Raises FinetuneError (no-token) otherwise.

    For rented hardware, which costs this machine next to nothing; off a Space the one person there always may.
    """
    visitor = now()
    if visitor.space is None or visitor.name:
        return visitor
    raise visitor.problem or FinetuneError(
        "Nobody is signed in on this page.",
        "Sign in at the top of it: jobs run on your own account and are paid from its credit.",
        code="no-token",
    )


def own_runs(runs_dir: Path) -> list[Run]:
    """Their runs, newest first."""
    visitor = now()
    return [run for run in list_runs(runs_dir) if visitor.owns(run.path)]
