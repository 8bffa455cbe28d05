"""What the boxes for a model and for rows offer: starters, recently used, what is on this machine, and the Hub."""

from __future__ import annotations

import contextlib
import os
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import gradio as gr

from finetune_core import hub
from finetune_core.errors import FinetuneError
from finetune_core.machine import Machine, this_machine
from finetune_core.memory import first_guess
from finetune_core.presets import DATA_DIR
from finetune_core.recipe import STARTER_MODEL
from finetune_core.run import Run
from finetune_core.takeaway import account

from . import signed_in, visitor, words_hub
from .reading import may_name

RECENT = 12  # models and data sets of earlier runs offered again


def search_models(runs_dir: Path, typed: str) -> Any:
    return _search("model", runs_dir, typed)


def search_data(runs_dir: Path, typed: str) -> Any:
    return _search("dataset", runs_dir, typed)


def _search(kind: str, runs_dir: Path, typed: str) -> Any:
    """The Hub's answers while typing, what earlier runs used and what is one's own first; unchanged when it is away.

    A path on this machine is nobody else's business.
    """
    if not may_be_on_hub(typed):
        return gr.skip()
    asker, me = visitor.now(), signed_in.known_account()
    token = asker.token if asker.space else account.find_token()
    found = {item.id: item for item in hub.search(kind, typed, token=token, own=me.name if me else "")}
    if not found:
        return gr.skip()
    used = [name for name in _used(kind, runs_dir) if typed.strip().casefold() in name.casefold()]
    machine = _machine(int(time.time() // 60))

    def told(name: str) -> str:
        item = found.get(name, hub.HubItem(name))
        fits = first_guess(item.parameters, machine) if kind == "model" and item.parameters else ""
        return words_hub.found(item, fits, name in used)

    return gr.update(choices=[(told(name), name) for name in dict.fromkeys([*used, *found])])


def only_names(runs_dir: Path, kind: str, chosen: Any) -> Any:
    """What was chosen stands in the box by its name, without what the list said about it; the list is as at first."""
    if not (isinstance(chosen, str) and may_be_on_hub(chosen)):
        return gr.skip()
    offered = _offered(runs_dir)[kind]
    more = [] if chosen in (value for _, value in offered) else [(chosen, chosen)]
    return gr.update(choices=[*more, *offered], value=chosen)


@lru_cache(maxsize=1)
def _machine(_minute: int) -> Machine:
    """Asked once a minute: nvidia-smi takes its time."""
    return this_machine()


def _used(kind: str, runs_dir: Path) -> list[str]:
    """Names on the Hub that one's earlier runs had, newest first."""
    names = []
    for run in visitor.own_runs(runs_dir)[:RECENT]:
        with contextlib.suppress(FinetuneError):
            names.append(_names_of(run.path)[kind])
    return [name for name in dict.fromkeys(names) if may_be_on_hub(name)]


@lru_cache(maxsize=256)
def _names_of(folder: Path) -> dict[str, str]:
    """A recipe is never edited after creation."""
    recipe = Run(folder).recipe
    return {"model": recipe.model_name_or_path, "dataset": recipe.dataset_name}


def may_be_on_hub(typed: str) -> bool:
    """Whether this can become owner/name, and is not a path, a data file, or a half-typed one.

    >>> [may_be_on_hub(text) for text in ("qwen", "Qwen/Qwen2.5-0.5B", "C:/x", "~/klanten", "data/2026/x", "rows.cs")]
    [True, True, False, False, False, False]
    """
    from finetune_core.data.filenames import PACKED, SUFFIXES

    text = typed.strip()
    if text.startswith(("/", "~", ".")) or any(mark in text for mark in "\\:") or text.count("/") > 1:
        return False
    first, slash, _ = text.partition("/")
    if slash and Path(first).is_dir():  # a folder beside this program
        return False
    ending = Path(text).suffix.casefold()
    return not ending or not any(known.startswith(ending) for known in SUFFIXES + PACKED)


def first_choices(runs_dir: Path, kept: Any = None) -> list[Any]:
    """What the two boxes offer before anything is typed: starters, recently used, and models in the Hub's cache.

    `kept`: the draft in the browser; its file is offered under its own name.
    """
    offered = _offered(runs_dir, kept)
    return [gr.update(choices=offered["model"]), gr.update(choices=offered["dataset"])]


def _offered(runs_dir: Path, kept: Any = None) -> dict[str, list[tuple[str, str]]]:
    drafted = kept.get("boxes", {}).get("dataset_name") if isinstance(kept, dict) else None
    asker, used = visitor.now(), []
    for run in visitor.own_runs(runs_dir)[:RECENT]:
        with contextlib.suppress(FinetuneError):
            used.append(_names_of(run.path))
    # a Space's cache holds what its visitors chose, private models too
    cached = cached_models() if asker.space is None else []
    models = [STARTER_MODEL, *(names["model"] for names in used), *cached]
    data = [*data_choices(), *(_file_choice(names["dataset"]) for names in used)]
    if isinstance(drafted, str) and may_name(asker, drafted, runs_dir) and Path(drafted).is_file():
        data.append(_file_choice(drafted))
    return {"model": [(name, name) for name in dict.fromkeys(models)], "dataset": list(dict.fromkeys(data))}


def data_choices() -> list[tuple[str, str]]:
    """The starter data that comes with Fijn."""
    return [(folder.name, folder.name) for folder in sorted(DATA_DIR.iterdir()) if folder.is_dir()]


def _file_choice(name: str) -> tuple[str, str]:
    return (Path(name).name if os.sep in name and Path(name).is_file() else name, name)


def cached_models(limit: int = 20) -> list[str]:
    """Complete models in the Hub's cache, newest first."""
    from huggingface_hub import constants

    folders = [f for f in Path(constants.HF_HUB_CACHE).glob("models--*--*") if f.is_dir()]
    folders.sort(key=lambda folder: folder.stat().st_mtime, reverse=True)
    names = ["/".join(folder.name.split("--")[1:]) for folder in folders]
    return [name for name in names if hub.local_model(name) is not None][:limit]
