"""What Hugging Face Jobs rents out to who is asking, read from the Hub in the background: the page never waits."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass

from finetune_core.errors import FinetuneError, explain, refusal
from finetune_core.jobs.hardware import Flavor, list_flavors
from finetune_core.jobs.order import tenant
from finetune_core.takeaway import account

from . import visitor
from .visitor import Visitor

KEPT = 300.0  # seconds that prices count
AGAIN = 3.0  # seconds after which the Hub is asked again when it had no answer
MOST = 200  # answers remembered


@dataclass(frozen=True)
class Rents:
    """What can be rented, by whom; neither a name nor an error while the answer is on its way."""

    name: str = ""
    flavors: tuple[Flavor, ...] = ()
    error: FinetuneError | None = None

    @property
    def pending(self) -> bool:
        return not self.name and self.error is None


def _ask(token: str) -> Rents:
    """Within half a minute."""
    return Rents(tenant(token).name, tuple(list_flavors(token)))


class Renting:
    """Answers by token, of which only a hash is kept."""

    def __init__(self, ask: Callable[[str], Rents] = _ask):
        self._ask = ask
        self._asked: OrderedDict[str, tuple[Future[Rents], float]] = OrderedDict()
        self._last: dict[str, Rents] = {}
        self._pool = ThreadPoolExecutor(max_workers=4, thread_name_prefix="renting")

    def of(self, asker: Visitor, wait_seconds: float = 0.0) -> Rents:
        """For who is asking; on a Space never with another token than their own."""
        token = asker.token if asker.space else account.find_token()
        if not token:
            unknown = FinetuneError("You are not signed in to the Hub.", account.SIGN_IN, code="no-token")
            return Rents(error=refusal(visitor.require_signed_in) or unknown)
        key = hashlib.sha256(token.encode()).hexdigest()
        future, began = self._asked.get(key, (None, 0.0))
        waited = time.monotonic() - began
        if future is None or (future.done() and waited > (AGAIN if future.exception() else KEPT)):
            future = self._pool.submit(self._ask, token)
            self._asked[key] = future, time.monotonic()
            while len(self._asked) > MOST:
                self._last.pop(self._asked.popitem(last=False)[0], None)
        wait_for([future], timeout=wait_seconds)
        if not future.done():
            return self._last.get(key, Rents())
        if error := future.exception():
            return Rents(error=explain(error))
        self._last[key] = future.result()
        return self._last[key]
