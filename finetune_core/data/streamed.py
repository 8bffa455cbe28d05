"""Rows of a stream, kept on disk as they arrive, so that the check, the page and the training fetch them once."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ..files import cache_dir
from .json_rows import Record
from .readers import Reading, read_file
from .rows import as_json_line
from .unpack import DataFile

KEPT_SECONDS = 24 * 3600


def kept(reading: Reading, *key: object) -> Reading:
    """The reading, written down on its way; or what was written when the same key was streamed before.

    `key` says which rows these are: data set, configuration, commit, split, how many, seed. Rows are kept under Fijn's
    own cache, complete or not at all, and no longer than a day: they may be private.
    """
    forget_streams()
    name = hashlib.sha256(repr(key).encode()).hexdigest()[:32]
    path = cache_dir() / "streams" / f"{name}.jsonl"
    if path.is_file() and path.stat().st_size:
        found = read_file(DataFile(path, reading.name, reading.split))
        return replace(found, kind="hub", columns=reading.columns)
    return replace(reading, records=_written(reading, path))


def forget_streams() -> None:
    """Delete what was kept longer than a day ago: the check and the training that it was for are over."""
    for path in (cache_dir() / "streams").glob("*"):
        with contextlib.suppress(FileNotFoundError):  # another process tidies too
            if path.stat().st_mtime < time.time() - KEPT_SECONDS:
                path.unlink()


def _written(reading: Reading, path: Path) -> Iterator[Record]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
        beside = Path(file.name)
        try:
            for record in reading.records:
                file.write(as_json_line(record.value or {}))
                yield record
            file.flush()
            beside.replace(path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                beside.unlink()
