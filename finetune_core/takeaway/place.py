"""A repository on the Hub that a run may fill: name, token and rights checked within seconds and before anything is
made, and files sent so that a push that was cut off goes on where it stopped."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import hub
from ..amounts import duration, size
from ..errors import FinetuneError
from ..run import Run
from . import account

FRESH = {".gitattributes"}  # what a new repository holds
CARD = "README.md"
SOON = 3600.0  # seconds


@dataclass(frozen=True)
class Place:
    """A repository that was found free, or to hold this run, and the token to write to it with."""

    repo_id: str  # owner/name
    kind: str  # model or dataset
    private: bool  # as asked for, should it be new
    is_private: bool  # as it will be: one that is there stays as it is
    token: str = field(repr=False)
    ends_at: float | None = None  # of the token, where it is known

    @property
    def url(self) -> str:
        return f"{hub.endpoint()}/{'datasets/' if self.kind == 'dataset' else ''}{self.repo_id}"

    def sending(self, n_bytes: int) -> str:
        """What is about to be sent, and when the token ends, if that is soon."""
        left = (self.ends_at or float("inf")) - time.time()
        soon = f"; your sign-in ends in {duration(max(left, 60))}" if left < SOON else ""
        return f"{size(n_bytes)} to {self.repo_id}{soon}"


def claim(run: Run, repo_id: str, *, private: bool, token: str | None, kind: str = "model") -> Place:
    """The repository of this name, if it is free, holds nothing yet, or holds this very run.

    token: of the account, else HF_TOKEN or the local login. Nothing is made. Raises FinetuneError: bad-name, no-token,
    bad-token, token-read-only, not-yours, repo-taken, repo-public, hub-away, ….
    """
    account.require_name(repo_id)
    token = token or account.find_token()
    me = account.sign_in(token)
    repo_id = me.full_name(repo_id)
    me.require_write(repo_id)
    account.require_name(repo_id)
    account.require_lasting(me.ends_at, time.time())
    there = account.repository(repo_id, token or "", kind)
    if there is not None:
        _require_ours(there, run, repo_id, private)
    is_private = private if there is None else bool(there.get("private"))
    return Place(repo_id, kind, private, is_private, token or "", me.ends_at)


def _require_ours(there: dict[str, Any], run: Run, repo_id: str, private: bool) -> None:
    """Raises FinetuneError (repo-taken, repo-public) for one that holds something else, or that everyone can see."""
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


def upload(folder: Path, place: Place, run: Run, files: Sequence[str], gone: Sequence[str]) -> None:
    """Send the folder's card, then its `files`; what earlier pushes left there and matches `gone` goes. Patterns.

    The token is asked about once more first: what is sent may have taken an hour to make. What is there already is not
    sent again. Raises FinetuneError.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import disable_progress_bars

    account.require_lasting(account.sign_in(place.token).ends_at, time.time())
    disable_progress_bars()
    api = HfApi(token=place.token, library_name="fijn")
    try:
        api.create_repo(place.repo_id, repo_type=place.kind, private=place.private, exist_ok=True)
        # the card first: it says whose a half-sent one is
        for allowed, deleted in (([CARD], None), (list(files), list(gone))):
            api.upload_folder(
                repo_id=place.repo_id,
                repo_type=place.kind,
                folder_path=folder,
                allow_patterns=allowed,
                delete_patterns=deleted,
                commit_message=f"Fijn run {run.id}",
            )
    except Exception as error:
        raise account.told(error, place.token) from error
