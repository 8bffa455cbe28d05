"""Where Fijn keeps its own files, and files that are read while another process writes them: written beside and
renamed, so there is never half of one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def cache_dir() -> Path:
    """Fijn's own cache: FIJN_CACHE, else `fijn` beside the Hub's cache (~/.cache/fijn)."""
    from huggingface_hub import constants

    return Path(os.environ.get("FIJN_CACHE") or Path(constants.HF_HOME).parent / "fijn").expanduser().absolute()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, which takes this one's place when the block has ended well."""
    beside = path.with_name(path.name + ".part")
    yield beside
    beside.replace(path)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    with replacing(path) as beside:
        beside.write_text(json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in this file; None if there is no such file, or nothing like that in it."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
