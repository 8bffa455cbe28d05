"""What the boxes for a model and for rows offer: starters, recently used, what is on this machine, and the Hub."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import gradio as gr

from finetune_core import hub
from finetune_core.errors import FinetuneError
from finetune_core.recipe import DATA_DIR, STARTER_MODEL

from . import visitor
from .reading import may_name

RECENT = 12  # models and data sets of earlier runs offered again


def search_models(event: gr.KeyUpData) -> Any:
    return _search("model", event.input_value or "")


def search_data(event: gr.KeyUpData) -> Any:
    return _search("dataset", event.input_value or "")


def _search(kind: str, typed: str) -> Any:
    """The Hub's answers while typing; unchanged when it is away. A path on this machine is nobody else's business."""
    found = hub.search(kind, typed, token=visitor.now().token) if may_be_on_hub(typed) else []
    return gr.update(choices=[item.id for item in found]) if found else gr.skip()


def may_be_on_hub(typed: str) -> bool:
    """Whether this can become owner/name, and is not a path, a data file, or a half-typed one.

    >>> [may_be_on_hub(text) for text in ("qwen", "Qwen/Qwen2.5-0.5B", "C:/x", "~/klanten", "data/2026/x", "rows.cs")]
    [True, True, False, False, False, False]
    """
    from finetune_core.data.unpack import PACKED, SUFFIXES

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
    drafted = kept.get("boxes", {}).get("dataset_name") if isinstance(kept, dict) else None
    asker, recipes = visitor.now(), []
    for run in visitor.own_runs(runs_dir)[:RECENT]:
        try:
            recipes.append(run.recipe)
        except FinetuneError:
            continue
    # a Space's cache holds what its visitors chose, private models too
    cached = cached_models() if asker.space is None else []
    models = [STARTER_MODEL, *(recipe.model_name_or_path for recipe in recipes), *cached]
    data = [*data_choices(), *(_file_choice(recipe.dataset_name) for recipe in recipes)]
    if isinstance(drafted, str) and may_name(asker, drafted, runs_dir) and Path(drafted).is_file():
        data.append(_file_choice(drafted))
    return [gr.update(choices=list(dict.fromkeys(models))), gr.update(choices=list(dict.fromkeys(data)))]


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
