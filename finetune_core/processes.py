"""One training in several processes of this machine, one a GPU: torch's launcher starts them and ends them together.

The parent holds the run's lock and the machine's turn, prepares the rows, and reports how it ended; in between, the
first of the processes writes the diary. What each of them does is in rank.py.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import KILLED, FinetuneError
from .events import Event, events_from
from .files import read_json, remove
from .recipe import Recipe
from .run import Run

END_SECONDS = 10  # for the others, once one has ended
LOOK_SECONDS = 0.3  # between two looks at the diary


def scratch_of(run: Run) -> Path:
    """The folder in which parent and processes leave each other word: recipe.yaml, result.json, error-RANK.json."""
    return run.path / ".processes"


def learn_together(
    run: Run, recipe: Recipe, folder: Path, on_event: Callable[[Event], None] | None
) -> tuple[str, dict[str, Any]]:
    """Train to the end in `recipe.num_processes` processes: (outcome, facts). `folder`: the base model's.

    Raises FinetuneError with what went wrong first in any of them, or if one was ended from outside.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    scratch = scratch_of(run)
    remove(scratch)
    scratch.mkdir()
    recipe.save(scratch / "recipe.yaml")
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=recipe.num_processes,
        run_id=run.id,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,
        monitor_interval=0.1,
        virtual_local_rank=True,  # each sees its own GPU as the only one, as a single process does
        shutdown_timeout=END_SECONDS,
    )
    try:
        with _loopback(recipe.num_processes), _following(run.diary, on_event):
            elastic_launch(config, sys.executable)("-m", "finetune_core.rank", str(run.path), str(folder))
        result = read_json(scratch / "result.json") or {}
        return str(result["outcome"]), dict(result["facts"])
    except ChildFailedError as failed:
        raise _what_failed(scratch, failed.failures, recipe.num_processes) from None
    except SignalException as ended:  # torch's launcher has ended the processes
        raise SystemExit(128 + int(ended.sigval)) from None
    finally:
        remove(scratch)


def _what_failed(scratch: Path, failures: dict[int, Any], processes: int) -> FinetuneError:
    """The first error that is one of its own: who waits for a process that is gone fails with a connection's error."""
    told = sorted((said for file in scratch.glob("error-*.json") if (said := read_json(file))), key=lambda e: e["time"])
    told.sort(key=lambda said: said["code"] == "bug")
    died = [(rank, failure) for rank, failure in failures.items() if failure.exitcode < 0]
    if told and not (died and told[0]["code"] == "bug"):
        return FinetuneError(told[0]["problem"], told[0]["fix"], code=told[0]["code"])
    rank, failure = min(died or failures.items(), key=lambda item: item[1].timestamp)
    was_killed = failure.exitcode == -getattr(signal, "SIGKILL", 9)
    if was_killed:
        how = "was ended from outside, as a machine does that has no memory left"
    else:
        how = f"ended without a word (exit code {failure.exitcode})"
    return FinetuneError(
        f"Process {rank + 1} of {processes} {how}.",
        "Resume: it goes on from the last checkpoint. If it happens again, halve per_device_train_batch_size or "
        "num_processes; worker.log may say more.",
        code=KILLED if was_killed else "process-died",
    )


@contextmanager
def _following(diary: Path, on_event: Callable[[Event], None] | None) -> Iterator[None]:
    """Hand on the lines that another process adds to the diary during the block."""
    place = diary.stat().st_size if diary.exists() else 0
    over = threading.Event()

    def hand_on() -> None:
        nonlocal place
        events, place = events_from(diary, place)
        for event in events:
            on_event(event)  # type: ignore[misc]

    def look() -> None:
        while not over.wait(LOOK_SECONDS):
            hand_on()

    if on_event is None:
        yield
        return
    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        hand_on()


@contextmanager
def _loopback(processes: int) -> Iterator[None]:
    """What the processes and their launcher find in the environment; Ctrl-C stays ours, SIGTERM ends them all."""
    import psutil

    names = [
        name
        for name, addresses in psutil.net_if_addrs().items()
        if any(address.address == "127.0.0.1" for address in addresses)
    ]
    wanted = {"TORCHELASTIC_SIGNALS_TO_HANDLE": "SIGTERM"}
    wanted |= {"GLOO_SOCKET_IFNAME": names[0]} if names else {}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted |= {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max(1, cores // processes))}
    before = {name: os.environ.get(name) for name in wanted}
    here = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM) if here else None
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if here:
            signal.signal(signal.SIGTERM, handler)
