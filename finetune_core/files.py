"""Where Fijn keeps its own files, and files that are read while another process writes them: written beside and
renamed, so there is never half of one."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from .amounts import size
from .errors import FinetuneError


def cache_dir() -> Path:
    """Fijn's own cache: FIJN_CACHE, else `fijn` beside the Hub's cache (~/.cache/fijn)."""
    from huggingface_hub import constants

    return Path(os.environ.get("FIJN_CACHE") or Path(constants.HF_HOME).parent / "fijn").expanduser().absolute()


# what a mounted bucket (FUSE) says where it cannot do what a disk can: lock, map, append, rename over what is there
UNSUPPORTED = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.ENODEV, errno.EXDEV}


def is_unsupported(error: OSError) -> bool:
    """The file system lacks this; it is not full, away or forbidden."""
    return error.errno in UNSUPPORTED


# what a folder says that another process has open (Windows, a network drive) or writes into, or that is another user's
NOT_OURS = {errno.EACCES, errno.EPERM, errno.EBUSY, errno.ENOTEMPTY}


def remove(folder: Path) -> None:
    """Delete a folder that nobody needs any more. One that is gone already is no error, as two may tidy at once; one
    that is in use, or another user's, stays for the next time."""
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in NOT_OURS:
            raise


def existing(folder: Path) -> Path:
    """The folder itself, or the nearest one above it that is there."""
    while not folder.exists():
        folder = folder.parent
    return folder


def require_disk(folder: Path, needed: int, what: str, fix: str) -> None:
    """Raises FinetuneError (disk-full) where this folder's disk has fewer bytes free; it need not be there yet."""
    place = existing(folder.absolute())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise FinetuneError(
            f"{what} needs {size(needed)}, and only {size(free)} are free on the disk of {place}.",
            fix,
            code="disk-full",
        )


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, which takes this one's place when the block has ended well; else nothing of it stays."""
    beside = path.with_name(path.name + ".part")
    try:
        yield beside
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    replace_file(path, beside)


def replace_file(path: Path, by: Path) -> None:
    """Rename a file over another; where that cannot be, write it into it."""
    try:
        by.replace(path)
    except OSError as error:
        if not is_unsupported(error):
            raise
        shutil.copyfile(by, path)  # who reads it meanwhile may see half of it, and asks again
        by.unlink()


def move(folder: Path, to: Path, last: str = "") -> None:
    """Rename a folder; where that cannot be, copy it, with the file named `last` in it at the end."""
    try:
        folder.rename(to)
    except OSError as error:
        if not is_unsupported(error):
            raise
        to.mkdir(parents=True, exist_ok=True)  # what a killed copy left is written over
        for each in sorted(folder.rglob("*"), key=lambda each: (each == folder / last, each)):
            target = to / each.relative_to(folder)
            if each.is_dir():
                target.mkdir(exist_ok=True)
            else:
                shutil.copyfile(each, target)
        shutil.rmtree(folder)


def put(folder: Path, to: Path) -> None:
    """Move a folder to where another may be; from another disk it is copied beside first, so nobody sees half of it."""
    beside = to.with_name(to.name + ".part")
    if folder != beside:
        shutil.rmtree(beside, ignore_errors=True)  # of who was killed
        move(folder, beside)
    shutil.rmtree(to, ignore_errors=True)
    move(beside, to)


def append(path: Path, line: bytes) -> None:
    """Add a line. A half line left by a killed writer is closed first, so it spoils only itself."""
    try:
        with path.open("ab+") as file:
            if file.tell() > 0:
                file.seek(-1, 2)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            file.write(line + b"\n")
    except OSError as error:
        if not is_unsupported(error):
            raise
        before = path.read_bytes() if path.exists() else b""
        closed = before if before.endswith(b"\n") or not before else before + b"\n"
        with replacing(path) as beside:
            beside.write_bytes(closed + line + b"\n")


def read_json_lines(path: Path) -> list[Any]:
    """The values of a file of JSON lines; none if there is no such file. A line that is none is left out: whoever wrote
    it was killed."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError:
        return []
    values = []
    for line in lines:
        with suppress(ValueError):
            values.append(json.loads(line))
    return values


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write an object so that nobody ever reads half of it."""
    with replacing(path) as beside:
        beside.write_text(json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in this file; None if there is no such file, or nothing like that in it."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def read_yaml(path: Path) -> dict[str, Any]:
    """Fields and values of a recipe or preset. Raises FinetuneError (bad-recipe) if there is no such file, or none."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FinetuneError(f"There is no file {path}.", "Check the path of the recipe.", code="bad-recipe") from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark else ""
        raise FinetuneError(
            f"{path.name} is not a readable YAML file{where}.",
            "One `field: value` a line; compare it with a file in presets/.",
            code="bad-recipe",
        ) from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise FinetuneError(
            f"{path.name} does not hold fields and values.", "One `field: value` a line.", code="bad-recipe"
        )
    return values
