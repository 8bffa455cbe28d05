"""What the Hub says about a visitor of a Space: who has a token, and may they read this. Asked once, kept shortly."""

from __future__ import annotations

import hashlib
import threading
import time
from dataclasses import dataclass

from . import hub
from .errors import FinetuneError, explain
from .space import Identity, read_identity
from .takeaway import account

KEPT = 120.0  # seconds that an answer counts
AWAY = 15.0  # seconds until a Hub that did not answer is asked again
GRACE = 600.0  # seconds that a known visitor stays known while the Hub does not answer
MOST = 2000  # answers remembered

_lock = threading.Lock()
_people: dict[str, _Answer] = {}
_readable: dict[tuple[str, str, str], float] = {}  # (token's hash, kind, name) → when the Hub last said yes


@dataclass(frozen=True)
class _Answer:
    identity: Identity
    asked: float  # when the Hub was asked last
    heard: float  # when it answered last
    error: FinetuneError | None = None


def who_has(token: str) -> Identity:
    """Whose token this is; nobody's if the Hub does not know it. Within five seconds.

    Raises FinetuneError (hub-away, hub-slow, …) if the Hub does not say.
    """
    key, now = _hash(token), time.monotonic()
    with _lock:
        known = _people.get(key)
    if known and now - known.asked < (KEPT if known.error is None else AWAY):
        return _told(known)
    try:
        found = _Answer(read_identity(account.ask_hub("/api/whoami-v2", token)), now, now)
    except FinetuneError as error:
        if error.code in (*account.REFUSED, "forbidden"):
            found = _Answer(Identity(), now, now)
        elif known and known.identity.name and now - known.heard < GRACE:
            found = _Answer(known.identity, now, known.heard)
        else:
            found = _Answer(Identity(), now, 0.0, error)
    with _lock:
        _people[key] = found
        while len(_people) > MOST:
            _people.pop(next(iter(_people)))
    return _told(found)


def _told(answer: _Answer) -> Identity:
    if answer.error is not None:
        raise answer.error
    return answer.identity


def require_readable(kind: str, name: str, token: str | None) -> None:
    """Raise FinetuneError unless the Hub lets this token (None: nobody's) read the repository now.

    kind: model or dataset. All visitors share the Hub's cache on disk, and huggingface_hub hands a cached private
    repository to anybody, so this is asked before anything is read; a yes counts for two minutes.
    """
    key, now = (_hash(token or ""), kind, name), time.monotonic()
    with _lock:
        if now - _readable.get(key, -KEPT) < KEPT:
            return
    _ask(kind, name, token)
    with _lock:
        _readable[key] = now
        while len(_readable) > MOST:
            _readable.pop(next(iter(_readable)))


def _ask(kind: str, name: str, token: str | None) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status, validate_repo_id

    try:
        validate_repo_id(name)  # it becomes part of an address
    except HFValidationError:
        raise FinetuneError(
            f"{name[:80]!r} is no name on the Hub.", "Names on the Hub look like owner/name.", code="not-found"
        ) from None
    hub.require_reachable(f"{'The model' if kind == 'model' else 'The data set'} {name}")
    gated = FinetuneError(
        f"{name} is gated: its owner asks each reader to accept terms first.",
        f"Accept them at {hub.endpoint()}/{'datasets/' if kind == 'dataset' else ''}{name}, then sign in here.",
        code="gated",
    )
    # what anybody may read is what the Hub tells anybody about and does not gate
    address = f"{hub.endpoint()}/api/{kind}s/{name}" + ("/auth-check" if token else "")
    try:
        answer = get_session().get(address, headers=build_hf_headers(token=token or False), timeout=account.SECONDS)
        hf_raise_for_status(answer)
        if not token and answer.json().get("gated"):
            raise gated
    except Exception as error:
        known = explain(error)
        if known.code == "gated":
            raise gated from (None if error is gated else error)
        if known.code == "not-found" or getattr(getattr(error, "response", None), "status_code", 0) in (401, 403, 404):
            raise FinetuneError(
                f"The Hub knows no {'model' if kind == 'model' else 'data set'} {name} that you may read here.",
                "Check the spelling (owner/name). A private one can be used after you sign in, if you let Fijn read "
                "it; or run Fijn on your own computer.",
                code="not-found",
            ) from error
        raise account.told(error) from error


def forget() -> None:
    """Ask everything anew (for tests)."""
    with _lock:
        _people.clear()
        _readable.clear()


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
