"""`push`: a run's result on the Hub, private unless asked otherwise, checked before anything is made or sent."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import hub
from ..errors import FinetuneError
from ..run import Run
from .card import write_card
from .export import export
from .facts import gather
from .kept import RESULT_FILES, exports_dir, kept
from .place import claim, upload

Tell = Callable[..., Any]
OF_ONE_KIND = ["*.safetensors", "*.safetensors.index.json", "adapter_config.json", "config.json"]  # adapter, merged


def push(
    run: Run,
    repo_id: str,
    *,
    to: str = "adapter",
    private: bool = True,
    token: str | None = None,
    tell: Tell | None = None,
) -> dict[str, Any]:
    """Put the adapter or the merged weights into a repository: {url, repo_id, private, parity, files, bytes}.

    What the other of the two left in it goes. private: of a new repository; one that is there stays as it is.
    token: of the account, else HF_TOKEN or the local login. What is there already is not sent again, so a push that
    was cut off goes on where it stopped. Raises FinetuneError; name, token and rights are checked within seconds.
    """
    say = tell or (lambda kind, **data: None)
    say("stage", name="checking", says="asking the Hub")
    if not run.has_result():
        raise FinetuneError("This run has no tuned model yet.", "Finish its training first.", code="no-result")
    place = claim(run, repo_id, private=private, token=token)
    if to == "adapter" and run.recipe.method != "full" and hub.looks_local(run.recipe.model_name_or_path):
        raise FinetuneError(
            "An adapter needs its base model, and this one's is a folder on this machine that nobody else can load.",
            "Push the merged weights instead (--merged).",
            code="base-not-on-hub",
        )
    made = kept_export(run, to, say)
    folder = Path(made["path"])
    from ..model import fetch_model

    base = fetch_model(run.recipe.model_name_or_path, run.recipe.model_revision, token=place.token)
    write_card(folder, gather(run, base, made["parity"]), to, place.repo_id)
    say("stage", name="uploading", says=place.sending(made["bytes"]))
    upload(folder, place, run, RESULT_FILES, OF_ONE_KIND)
    return {
        "url": place.url,
        "repo_id": place.repo_id,
        "private": place.is_private,
        "to": to,
        "files": made["files"],
        "bytes": made["bytes"],
        "parity": made["parity"],
    }


def kept_export(run: Run, to: str, tell: Tell) -> dict[str, Any]:
    """The run's own export, made now unless it is there already."""
    if there := kept(run, to):
        return there
    shutil.rmtree(exports_dir(run, to), ignore_errors=True)
    return export(run, to, exports_dir(run, to), tell=tell)
