"""`push`: a run's result on the Hub, private unless asked otherwise, checked before anything is made or sent."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import hub
from ..errors import FinetuneError
from ..run import Run
from . import account
from .card import write_card
from .export import export
from .facts import gather
from .kept import RESULT_FILES, exports_dir, kept

Tell = Callable[..., Any]
FRESH = {".gitattributes"}  # what a new repository holds
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
    account.require_name(repo_id)
    if not run.has_result():
        raise FinetuneError("This run has no tuned model yet.", "Finish its training first.", code="no-result")
    token = token or account.find_token()
    me = account.sign_in(token)
    repo_id = me.full_name(repo_id)
    me.require_write(repo_id)
    account.require_name(repo_id)
    is_private = _require_ours(run, repo_id, private, token or "")
    if to == "adapter" and run.recipe.method != "full" and hub.looks_local(run.recipe.model_name_or_path):
        raise FinetuneError(
            "An adapter needs its base model, and this one's is a folder on this machine that nobody else can load.",
            "Push the merged weights instead (--merged).",
            code="base-not-on-hub",
        )
    made = kept_export(run, to, say)
    folder = Path(made["path"])
    from ..model import fetch_model

    base = fetch_model(run.recipe.model_name_or_path, run.recipe.model_revision, token=token)
    write_card(folder, gather(run, base, made["parity"]), to, repo_id)
    say("stage", name="uploading", says=f"{made['bytes'] / 1e6:.0f} MB to {repo_id}")
    url = _upload(folder, repo_id, private, token or "", run.id)
    return {
        "url": url,
        "repo_id": repo_id,
        "private": is_private,
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


def _require_ours(run: Run, repo_id: str, private: bool, token: str) -> bool:
    """A name is free, holds nothing yet, or holds this very run. Returns whether it will be private.

    A repository that is there stays as it is. Raises FinetuneError (repo-taken, repo-public).
    """
    there = account.repository(repo_id, token)
    if there is None:
        return private
    names = {str(file.get("rfilename")) for file in there.get("siblings") or ()}
    ours = (there.get("cardData") or {}).get("fijn_run") == run.id
    if names - FRESH and not ours:
        raise FinetuneError(
            f"{repo_id} is there already and holds something else.", "Choose another name.", code="repo-taken"
        )
    if private and not there.get("private"):
        raise FinetuneError(
            f"{repo_id} is there already, and everyone can see it.",
            "Make it private on its Settings page, choose another name, or push it as public.",
            code="repo-public",
        )
    return bool(there.get("private"))


def _upload(folder: Path, repo_id: str, private: bool, token: str, run_id: str) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    api = HfApi(token=token, library_name="fijn")
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        # the card first: it says whose a half-sent one is; then what an earlier push of another kind left there goes
        for patterns, gone in ((["README.md"], None), (list(RESULT_FILES), OF_ONE_KIND)):
            api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                allow_patterns=patterns,
                delete_patterns=gone,
                commit_message=f"Fijn run {run_id}",
            )
    except Exception as error:
        raise account.told(error) from error
    return f"{hub.endpoint()}/{repo_id}"
