"""Files that a person drops and rows that they paste, kept in the runs folder so that nothing is lost."""

from __future__ import annotations

import contextlib
import hashlib
import re
import secrets
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from finetune_core.errors import FinetuneError
from finetune_core.files import remove, replace_file
from finetune_core.space import ANYONE, UPLOADS, upload_home

from . import visitor

PIECE = 1 << 20  # bytes read at a time
KEPT_SECONDS = 24 * 3600.0  # for an upload of a Space's visitor who is not signed in


def keep_file(runs_dir: Path, path: str, upload_dir: Path) -> Path:
    """Copy an upload out of gradio's temporary folder. Only files in that folder: the path comes from a browser.

    Raises FinetuneError for any other path and for an empty file.
    """
    source = Path(path).resolve()
    if not source.is_relative_to(upload_dir.resolve()) or not source.is_file():
        raise FinetuneError("That upload is not here any more.", "Drop the file again.", code="no-upload")
    if source.stat().st_size == 0:
        raise FinetuneError(f"{source.name} is empty.", "Choose a file with rows in it.", code="empty-file")
    with source.open("rb") as file:
        return _keep(runs_dir, iter(lambda: file.read(PIECE), b""), safe_name(source.name))


def keep_text(runs_dir: Path, text: str) -> Path:
    """Pasted rows as a file whose ending says what they look like. Raises FinetuneError if there are none."""
    from finetune_core.data import save_pasted

    return save_pasted(text, home_of(runs_dir))


def home_of(runs_dir: Path) -> Path:
    """The folder for an upload of who is asking, inside the runs folder, which is never served.

    On a Space it has a name that nobody can guess, and what came from a visitor without a name is thrown away a day
    later.
    """
    asker = visitor.now()
    if asker.space is None:
        return runs_dir / UPLOADS
    throw_away(runs_dir / UPLOADS / ANYONE, time.time() - KEPT_SECONDS)
    return upload_home(runs_dir, asker.name) / secrets.token_hex(16)


def throw_away(home: Path, before: float) -> None:
    """Delete the folders in it that are older than this moment, in seconds since 1970."""
    for folder in home.glob("*/"):
        with contextlib.suppress(FileNotFoundError):  # another page tidies too
            if folder.stat().st_mtime < before:
                remove(folder)


def safe_name(name: str) -> str:
    """A file name that cannot leave its folder and looks like the person's own.

    >>> safe_name("../My tickets (2).csv"), safe_name("...")
    ('My tickets (2).csv', 'data')
    """
    last = re.split(r"[/\\]", name)[-1]
    kept = re.sub(r"[^\w .()+-]", "_", last).strip(" .")
    return kept[-120:] or "data"


def _keep(runs_dir: Path, pieces: Iterator[bytes], name: str) -> Path:
    """Written beside and renamed into a folder named after the content: twice the same is kept once."""
    home = home_of(runs_dir)
    home.mkdir(parents=True, exist_ok=True)
    making = Path(tempfile.mkdtemp(dir=home, prefix=".part-"))
    try:
        digest = hashlib.sha256()
        with (making / name).open("wb") as file:
            for piece in pieces:
                digest.update(piece)
                file.write(piece)
        folder = home / digest.hexdigest()[:16]
        folder.mkdir(exist_ok=True)
        replace_file(folder / name, making / name)
        return folder / name
    finally:
        remove(making)
