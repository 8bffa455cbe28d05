"""Look at a recipe in the background: read and check its rows, plan its training, while the page stays quick."""

from __future__ import annotations

import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from finetune_core import measured, preflight
from finetune_core.errors import FinetuneError, explain, refusal
from finetune_core.jobs.hardware import ANY
from finetune_core.machine import Machine, this_machine
from finetune_core.plan import Plan
from finetune_core.recipe import STARTER_MODEL, Recipe, group_of

from . import form, visitor, words_plan
from .reading import require_readable
from .visitor import Visitor

if TYPE_CHECKING:
    from finetune_core.preflight import Preflight

T = TypeVar("T")

KEPT = 8  # looks remembered; each holds its rows
CANCELLED = "cancelled"
ERROR_SECONDS = 5.0  # a failed look is tried again after this: the Hub may be back, the file may be there now


class Cancelled(Exception):
    """Raised inside a look whose recipe nobody waits for any more."""


@dataclass
class Look:
    """One look, as far as it is. `seen` and `error` are set once, before `ended`."""

    recipe: Recipe
    reads: str = ""  # a key of the rows that are read, whatever of them is left out
    fraction: float | None = None
    says: str = ""
    seen: Preflight | None = None
    error: FinetuneError | None = None
    began: float = field(default_factory=time.monotonic)
    ended: threading.Event = field(default_factory=threading.Event)
    unwanted: threading.Event = field(default_factory=threading.Event)
    learned: Any = field(default_factory=measured.version)  # what earlier runs taught the plan
    made: dict[Any, Any] = field(default_factory=dict)  # what was computed from it, for the page to show again

    @property
    def pending(self) -> bool:
        return not self.ended.is_set()

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` gives for this key, computed once for these rows: a million lengths take a second to count."""
        if key not in self.made:
            self.made[key] = make()
        return self.made[key]


class Looks:
    """Looks by what they read, and on a Space by who asks: what one visitor may read is not another's.

    Each is done once, however many pages ask. runs_dir: where a visitor's uploads are.
    """

    def __init__(self, look: Callable[..., Preflight] = preflight.look, runs_dir: Path = Path("runs")):
        self._look, self._runs_dir = look, runs_dir
        self._kept: OrderedDict[str, Look] = OrderedDict()
        self._last_of: dict[str, str] = {}  # who asked -> the key that they wait for
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="look")
        self._quick = ThreadPoolExecutor(max_workers=2, thread_name_prefix="trial")  # does not wait for whole looks

    def ask(self, recipe: Recipe, who: str = "", wait_seconds: float = 0.0) -> Look:
        """The look at this recipe, begun if nobody did. `who` waits for one look at a time: an older one is dropped."""
        asker = visitor.now()
        key = _key(recipe, asker)
        with self._lock:
            look = self._kept.get(key)
            if look is None or _is_stale(look):
                look = self._kept[key] = Look(recipe)
                self._pool.submit(self._run, look, asker)
            self._kept.move_to_end(key)
            before, self._last_of[who] = self._last_of.get(who), key
            if before not in (None, key) and before not in self._last_of.values() and before in self._kept:
                self._drop(before)
            while len(self._kept) > KEPT:
                self._drop(next(iter(self._kept)), forget=True)
        look.ended.wait(wait_seconds)
        return _for_recipe(look, recipe)

    def cancel(self, recipe: Recipe) -> None:
        """Stop reading. The look stays, as an error that says so, until `again`."""
        with self._lock:
            if (look := self._kept.get(_key(recipe, visitor.now()))) and look.pending:
                look.unwanted.set()
                look.error = FinetuneError("The check was cancelled.", "Start it again when you like.", CANCELLED)
                look.ended.set()

    def leave(self, recipe: Recipe) -> None:
        """Nobody waits for this look any more; one that has ended stays known."""
        with self._lock:
            self._drop(_key(recipe, visitor.now()))

    def soon(self, look: Look, key: Hashable, make: Callable[[], T]) -> Future[T]:
        """What `make` gives for these rows, made once and beside the page, which asks again until it is done."""
        return look.once(key, lambda: self._quick.submit(make))

    def again(self, recipe: Recipe) -> None:
        """Forget what is known, so that the next `ask` looks anew."""
        with self._lock:
            self._drop(_key(recipe, visitor.now()), forget=True)

    def _drop(self, key: str, forget: bool = False) -> None:
        look = self._kept.get(key)
        if look is not None and (look.pending or forget):
            look.unwanted.set()
            del self._kept[key]

    def _read_before(self, look: Look, asker: Visitor) -> Preflight | None:
        """An earlier look that read what this one would read, though its recipe left out other rows; None if none did.

        Notes in this look what it reads, so that later ones find it.
        """
        from finetune_core.data.again import reads_as

        look.reads = _key(reads_as(look.recipe), asker)
        with self._lock:
            return next((each.seen for each in self._kept.values() if each.seen and each.reads == look.reads), None)

    def _run(self, look: Look, asker: Visitor) -> None:
        def on_progress(fraction: float | None = None, says: str = "") -> None:
            look.fraction, look.says = fraction, says
            if look.unwanted.is_set():
                raise Cancelled

        try:
            on_progress()
            require_readable(asker, look.recipe, self._runs_dir)
            more: dict[str, Any] = {"token": asker.token} if asker.token else {}
            if refusal(preflight.refuse_impossible, look.recipe):  # its rows are read all the same
                more["machine"] = ANY
            if earlier := self._read_before(look, asker):
                more["earlier"] = earlier
            look.seen = self._look(look.recipe, on_progress=on_progress, **more)
        except Cancelled:
            return
        except Exception as error:
            look.error = explain(error)
            if look.error.code == "bug":
                traceback.print_exc()
        look.began = time.monotonic()
        look.ended.set()


def _key(recipe: Recipe, asker: Visitor) -> str:
    return f"{asker.name} {what_it_reads(recipe)}"


def what_it_reads(recipe: Recipe) -> str:
    """A key for everything that decides which rows are read and how: the rest only changes the plan."""
    values = recipe.model_dump(include={name for name in Recipe.model_fields if _changes_rows(name)})
    return repr(values) + _file_state(recipe.dataset_name)


def _changes_rows(name: str) -> bool:
    return group_of(name) == "Data" or name in (
        "model_name_or_path", "model_revision", "method", "objective", "max_length", "seed",
    )  # fmt: skip


def _file_state(name: str) -> str:
    """Size and time of a local file, so that an edited one is read again."""
    try:
        state = Path(name).expanduser().stat()
    except (OSError, ValueError):
        return ""
    return f" {state.st_size} {state.st_mtime_ns}"


def _is_stale(look: Look) -> bool:
    old = time.monotonic() - look.began > ERROR_SECONDS
    return look.error is not None and look.error.code != CANCELLED and old


def _for_recipe(look: Look, recipe: Recipe) -> Look:
    """The same rows under other training settings, or after something was measured: only the plan is made anew."""
    learned = measured.version()
    if look.seen is None or (look.seen.recipe == recipe and look.learned == learned):
        return look
    plan = look.once((recipe.model_dump_json(), learned), lambda: plan_again(look.seen, recipe))
    return replace(look, recipe=recipe, seen=replace(look.seen, recipe=recipe, plan=plan))


def plan_again(seen: Preflight, recipe: Recipe, machine: Machine | None = None) -> Plan:
    """A plan for other settings over rows and a model that were looked at already; a millisecond."""
    return preflight.plan_for(recipe, seen.facts, seen.diagnosis, machine or this_machine())


def preset_costs(look: Look | None) -> dict[str, str]:
    """Preset → how long it would take here, with the rows and the model that were looked at; {} while unknown."""
    if look is not None and look.error is not None:
        return dict.fromkeys((preset.name for preset in form.presets()), words_plan.COST_UNKNOWN)
    if look is None or look.seen is None:
        return {}
    machine, costs = this_machine(), {}
    for preset in form.presets():
        start, now = Recipe.make(preset.recipe), look.seen.recipe
        if start.method == "qlora" and machine.kind != "cuda":
            costs[preset.name] = words_plan.NEEDS_GPU
        elif start.model_name_or_path not in (STARTER_MODEL, now.model_name_or_path):
            costs[preset.name] = words_plan.NEEDS_DOWNLOAD
        else:
            kept = {"model_name_or_path": now.model_name_or_path, "dataset_name": now.dataset_name}
            asked = start.replace(**kept)
            again = partial(plan_again, look.seen, asked, machine)
            plan = look.once((asked.model_dump_json(), measured.version()), again)
            costs[preset.name] = words_plan.cost(plan)
    return costs
