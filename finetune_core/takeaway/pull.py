"""`pull`: open a run that was pushed to the Hub on this machine, with its proof: to chat with it and to take it along.

Its rows stay where it was trained, so it is not trained any further here."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..errors import FinetuneError
from ..events import append_event
from ..files import cache_dir, read_json, replace_file, write_json
from ..leftovers import HELD, PULLING
from ..locks import busy, hold
from ..recipe import Recipe
from ..run import Run, result_name
from . import account
from .kept import ABOUT, RESULT_FILES
from .told import taken

Tell = Callable[..., Any]


def pull(
    repo_id: str, runs_dir: Path, *, revision: str | None = None, token: str | None = None, tell: Tell | None = None
) -> Run:
    """A new run with the recipe, the result and the report of a repository that Fijn pushed.

    It counts as a run once all of it is here, however a pull may end before that. The rows stay where they were
    trained. Raises FinetuneError: bad-name, not-found, not-a-run, hub-away, disk-full, ….
    """
    say = tell or (lambda kind, **data: None)
    account.require_name(repo_id)
    token = token or account.find_token()
    say("stage", name="checking", says="asking the Hub")
    there = account.ask_hub(
        f"/api/models/{repo_id}" + (f"/revision/{quote(revision, safe='')}" if revision else ""), token
    )
    names = {str(file.get("rfilename")) for file in there.get("siblings") or ()}
    if not {"recipe.yaml", ABOUT} <= names or not any(name.endswith(".safetensors") for name in names):
        raise FinetuneError(
            f"{repo_id} holds no run of Fijn.", "Choose a repository that `push` made.", code="not-a-run"
        )
    say("stage", name="fetching", says=repo_id)
    cache_dir().mkdir(parents=True, exist_ok=True)
    # on this machine's own disk: a download locks, appends and renames, which a runs folder on a bucket may not do
    with (
        tempfile.TemporaryDirectory(prefix=PULLING, dir=cache_dir(), ignore_cleanup_errors=True) as inbox,
        hold(Path(inbox) / HELD, busy()),  # of one that was killed nobody holds it: it is swept
    ):
        folder = Path(inbox) / "files"
        _download(repo_id, there.get("sha") or revision, folder, token)
        is_adapter = (folder / "adapter_config.json").is_file()
        recipe = Recipe.load(folder / "recipe.yaml")
        if not is_adapter and recipe.method != "full":  # merged: nothing is left to lay over a base model
            recipe = recipe.model_copy(update={"method": "full"})
        return Run.create(runs_dir, recipe, fill=lambda beside: _fill(beside, recipe, folder, repo_id))


def _fill(beside: Path, recipe: Recipe, folder: Path, repo_id: str) -> None:
    """Everything but the recipe, which is written last and makes it a run."""
    told = taken(read_json(folder / ABOUT) or {})
    result = beside / result_name(recipe)
    result.mkdir()
    for file in folder.iterdir():
        if file.is_file() and file.name not in ("recipe.yaml", "README.md", ABOUT, "parity.json"):
            replace_file(result / file.name, by=file)
    if data := told.get("data"):
        (beside / "data").mkdir()
        write_json(beside / "data" / "card.json", data)
    if report := told.get("report"):
        write_json(beside / "report.json", report)
    diary = Run(beside).diary
    append_event(diary, "start", **told.get("start", {}), pulled_from=repo_id)
    append_event(diary, "done", **{"outcome": "finished", "seconds": 0.0, **told.get("done", {})})


def _download(repo_id: str, revision: str | None, folder: Path, token: str | None) -> None:
    from huggingface_hub import snapshot_download

    try:
        snapshot_download(
            repo_id, revision=revision, local_dir=folder, allow_patterns=list(RESULT_FILES), token=token or False
        )
    except Exception as error:
        told = account.told(error)
        if told.code == "disk-full":
            fix = "Free some of it, or name a folder on another disk as FIJN_CACHE; then pull again."
            told = FinetuneError(f"The disk of {cache_dir()}, where it is fetched to, is full.", fix, code="disk-full")
        raise told from error
