"""`pull`: open a run that was pushed to the Hub on this machine, with its proof: to chat with it and to take it along.

Its rows stay where it was trained, so it is not trained any further here."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import FinetuneError
from ..events import append_event
from ..files import cache_dir, read_json, write_json
from ..recipe import Recipe
from ..run import Run
from . import account
from .kept import ABOUT, RESULT_FILES
from .told import taken

Tell = Callable[..., Any]


def pull(
    repo_id: str, runs_dir: Path, *, revision: str | None = None, token: str | None = None, tell: Tell | None = None
) -> Run:
    """A new run with the recipe, the result and the report of a repository that Fijn pushed.

    The rows stay where they were trained. Raises FinetuneError: bad-name, not-found, not-a-run, hub-away, ….
    """
    say = tell or (lambda kind, **data: None)
    account.require_name(repo_id)
    token = token or account.find_token()
    say("stage", name="checking", says="asking the Hub")
    there = account.ask_hub(f"/api/models/{repo_id}" + (f"/revision/{revision}" if revision else ""), token)
    names = {str(file.get("rfilename")) for file in there.get("siblings") or ()}
    if not {"recipe.yaml", ABOUT} <= names or not any(name.endswith(".safetensors") for name in names):
        raise FinetuneError(
            f"{repo_id} holds no run of Fijn.", "Choose a repository that `push` made.", code="not-a-run"
        )
    say("stage", name="fetching", says=repo_id)
    cache_dir().mkdir(parents=True, exist_ok=True)
    # on this machine's own disk: a download locks, appends and renames, which a runs folder on a bucket may not do
    with tempfile.TemporaryDirectory(prefix=".pulling-", dir=cache_dir()) as inbox:
        folder = Path(inbox) / "files"
        _download(repo_id, there.get("sha") or revision, folder, token)
        is_adapter = (folder / "adapter_config.json").is_file()
        recipe = Recipe.load(folder / "recipe.yaml")
        if not is_adapter and recipe.method != "full":  # merged: nothing is left to lay over a base model
            recipe = recipe.model_copy(update={"method": "full"})
        about = read_json(folder / ABOUT) or {}
        run = Run.create(runs_dir, recipe)
        try:
            _fill(run, folder, about, repo_id)
        except BaseException:
            shutil.rmtree(run.path, ignore_errors=True)
            raise
    return run


def _fill(run: Run, folder: Path, about: dict[str, Any], repo_id: str) -> None:
    run.result_dir.mkdir()
    for file in folder.iterdir():
        if file.is_file() and file.name not in ("recipe.yaml", "README.md", ABOUT, "parity.json"):
            shutil.copyfile(file, run.result_dir / file.name)
    told = taken(about)
    if data := told.get("data"):
        (run.path / "data").mkdir()
        write_json(run.path / "data" / "card.json", data)
    if report := told.get("report"):
        run.write_report(report)
    append_event(run.diary, "start", **told.get("start", {}), pulled_from=repo_id)
    append_event(run.diary, "done", **{"outcome": "finished", "seconds": 0.0, **told.get("done", {}), "run": run.id})


def _download(repo_id: str, revision: str | None, folder: Path, token: str | None) -> None:
    from huggingface_hub import snapshot_download

    try:
        snapshot_download(
            repo_id, revision=revision, local_dir=folder, allow_patterns=list(RESULT_FILES), token=token or False
        )
    except Exception as error:
        raise account.told(error) from error
