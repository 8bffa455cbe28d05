"""Files that a person drops and rows that they paste, kept in the runs folder so that nothing is lost."""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from finetune_core.errors import FinetuneError

PIECE = 1 << 20  # bytes read at a time
UPLOADS = ".uploads"  # inside the runs folder, which is never served


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

    return save_pasted(text, runs_dir / UPLOADS)


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
    home = runs_dir / UPLOADS
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
        (making / name).replace(folder / name)
        return folder / name
    finally:
        shutil.rmtree(making, ignore_errors=True)
