"""What the Hub says can be chosen of a data set, asked in the background: the page never waits for it."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_core import hub

from . import visitor
from .reading import require_readable
from .visitor import Visitor

if TYPE_CHECKING:
    from finetune_core.data.hubdata import HubChoices
    from finetune_core.recipe import Recipe

PATIENCE = 8.0  # seconds after which the Hub counts as away
AGAIN = 30.0  # seconds after which it is asked again when it had no answer
KEPT = 50  # answers remembered


def _ask(
    name: str, config: str | None, revision: str | None, who: str = "", token: str | None = None
) -> HubChoices | None:
    from finetune_core.data.hubdata import choices

    return choices(name, config, revision, token) if hub.reachable(1.0) else None


class HubPicks:
    """Answers by data set, subset and version, and on a Space by who asks. Silent where there is none.

    runs_dir: where a visitor's uploads are.
    """

    def __init__(self, ask: Callable[..., Any] = _ask, runs_dir: Path = Path("runs")):
        self._ask, self._runs_dir = ask, runs_dir
        self._asked: OrderedDict[tuple[Any, ...], tuple[Future[Any], float]] = OrderedDict()
        self._pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="hub-picks")

    def of(self, recipe: Recipe) -> tuple[Mapping[str, Sequence[str]], bool]:
        """(field of the recipe → what it can be, whether an answer is still on its way); {} for what is not there."""
        from finetune_core.data.hubdata import is_on_hub

        name = recipe.dataset_name
        if not is_on_hub(name):
            return {}, False
        key: tuple[Any, ...] = (name, recipe.dataset_config, recipe.dataset_revision)
        asker, ask = visitor.now(), self._ask
        if asker.space is not None:
            key = (*key, asker.name)
            ask = partial(self._ask_for, asker, recipe)
        future, began = self._asked.get(key, (None, 0.0))
        waited = time.monotonic() - began
        if future is None or (waited > AGAIN and _answer(future) is None):
            future, waited = self._pool.submit(ask, *key), 0.0
            self._asked[key] = future, time.monotonic()
            while len(self._asked) > KEPT:
                self._asked.popitem(last=False)
        answer = _answer(future)
        asking = answer is None and not future.done() and waited < PATIENCE
        # a part that cannot be asked about must not take away the way back to the others
        answer = answer or self._last_answer(key)
        return {
            "dataset_config": answer.configs if answer else (),
            "dataset_train_split": answer.splits if answer else (),
            "dataset_revision": answer.revisions if answer else (),
        }, asking

    def _last_answer(self, key: tuple[Any, ...]) -> Any:
        """What was last heard about another subset or version of the same data set, asked for in the same way."""
        for other, (future, _) in reversed(list(self._asked.items())):
            answer = _answer(future)
            if answer is not None and (other[0], *other[3:]) == (key[0], *key[3:]):
                return answer
        return None

    def _ask_for(self, asker: Visitor, recipe: Recipe, *key: Any) -> Any:
        """For one visitor of a Space: with their token, and only what they may read (the cache is everybody's)."""
        require_readable(asker, recipe, self._runs_dir)
        return self._ask(*key, asker.token)


def _answer(future: Future[Any]) -> Any:
    return future.result() if future.done() and future.exception() is None else None
