"""Who is signed in to the Hub, for the cards that push: asked in the background, so that no page waits for it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from finetune_core import hub
from finetune_core.takeaway import account

from . import visitor

ASK_AGAIN = 60.0  # seconds until the Hub is asked anew who is signed in


@dataclass(frozen=True)
class Known:
    name: str
    is_away: bool  # the Hub cannot be reached


_asking = threading.Lock()
_known: Known | None = None
_asked = 0.0


def known_account() -> Known | None:
    """Who is signed in, as last heard: on a Space who is asking, else on this machine, asked in the background and
    None until there is an answer."""
    global _asked
    if (asker := visitor.now()).space is not None:
        return Known(asker.name, False)
    if time.monotonic() - _asked > ASK_AGAIN or _asked == 0.0:
        _asked = time.monotonic()
        threading.Thread(target=_ask, daemon=True).start()
    return _known


def _ask() -> None:
    global _known
    with _asking:
        away = not hub.reachable(1.5)
        _known = Known("" if away else account.signed_in_as(), away)
