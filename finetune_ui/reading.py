"""May this visitor of a Space have these rows and this model read for them? Off a Space everything may be read."""

from __future__ import annotations

from pathlib import Path

from finetune_core import access, hub
from finetune_core.errors import FinetuneError
from finetune_core.presets import DATA_DIR
from finetune_core.recipe import STARTER_MODEL, Recipe
from finetune_core.space import may_open

from .visitor import Visitor


def require_readable(visitor: Visitor, recipe: Recipe, runs_dir: Path) -> None:
    """Raise FinetuneError for a path of the Space's machine, and for what the Hub would not give this visitor."""
    if visitor.space is None:
        return
    model, data = recipe.model_name_or_path, recipe.dataset_name
    for text in (recipe.model_revision, recipe.dataset_revision, recipe.dataset_config):
        if text and ".." in text:  # these become part of a path in the Hub's cache, which all visitors share
            raise FinetuneError(f"{text[:80]} is no version or subset.", "Copy its name from the Hub.", "bad-choice")
    _require_place("model", model, hub.looks_local(model), visitor, runs_dir)
    _require_place("data set", data, _is_path(data), visitor, runs_dir)
    is_starter = model == STARTER_MODEL and recipe.model_revision is None
    if not is_starter and not hub.looks_local(model):
        access.require_readable("model", model, visitor.token)
    if not _is_starter(data) and not _is_path(data):
        access.require_readable("dataset", _hub_name(data), visitor.token)


def may_name(visitor: Visitor, path: str, runs_dir: Path) -> bool:
    """Is this a path that this visitor may have looked at?"""
    return visitor.space is None or may_open(Path(path), runs_dir, visitor.name)


def _require_place(what: str, name: str, is_path: bool, visitor: Visitor, runs_dir: Path) -> None:
    try:
        allowed = not is_path or may_open(Path(name), runs_dir, visitor.name)
    except (OSError, RuntimeError, ValueError):  # no such home, a loop of links, a zero byte
        allowed = False
    if not allowed:
        raise FinetuneError(
            f"{name[:80]} would be a place on this Space's own machine, which visitors cannot open.",
            f"Drop a file on the page, or give the name of a {what} on the Hub (owner/name)."
            if what == "data set"
            else "Give the name of a model on the Hub (owner/name).",
            code="not-yours",
        )


def _is_starter(data: str) -> bool:
    return Path(data).name == data and (DATA_DIR / data).is_dir()


def _is_path(data: str) -> bool:
    """Would it be opened here: an upload, a folder, anything that exists, and whatever is no name on the Hub."""
    from finetune_core.data.hubdata import hub_name, looks_like_file

    if _is_starter(data):
        return False
    return hub_name(data) is None or looks_like_file(data) or Path(data).expanduser().exists()


def _hub_name(data: str) -> str:
    from finetune_core.data.hubdata import hub_name

    return hub_name(data) or data
