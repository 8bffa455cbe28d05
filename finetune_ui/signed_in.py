"""Who is signed in to the Hub, for the cards that push: asked in the background, so that no page waits for it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from finetune_core import hub
from finetune_core.errors import FinetuneError
from finetune_core.takeaway import account

from . import visitor

ASK_AGAIN = 60.0  # seconds until the Hub is asked anew who is signed in
STEP, HOUR = 300.0, 3600.0  # seconds


@dataclass(frozen=True)
class Known:
    name: str
    is_away: bool  # the Hub cannot be reached
    ends_in: float | None = None  # seconds in steps of five minutes, where the sign-in or the token ends within an hour
    problem: tuple[str, str] | None = None  # why the Hub did not say who this is, and what to do


_asking = threading.Lock()
_known: Known | None = None
_asked = 0.0


def known_account() -> Known | None:
    """Who is signed in, as last heard: on a Space who is asking, else on this machine, asked in the background and
    None until there is an answer."""
    global _asked
    if (asker := visitor.now()).space is not None:
        return Known(asker.name, False, _soon(asker.expires_at or None), _words(asker.problem))
    if time.monotonic() - _asked > ASK_AGAIN or _asked == 0.0:
        _asked = time.monotonic()
        threading.Thread(target=_ask, daemon=True).start()
    return _known


def _soon(ends_at: float | None) -> float | None:
    left = (ends_at or float("inf")) - time.time()
    return max(STEP, left // STEP * STEP) if left < HOUR else None


def _words(error: FinetuneError | None) -> tuple[str, str] | None:
    return (error.problem, error.fix) if error else None


def _ask() -> None:
    global _known
    with _asking:
        if not hub.reachable(1.5):
            _known = Known("", True)
            return
        try:
            me = account.signed_in_here()
            _known = Known(me.name, False, _soon(me.ends_at)) if me else Known("", False)
        except FinetuneError as error:
            _known = Known("", False, problem=_words(error))
