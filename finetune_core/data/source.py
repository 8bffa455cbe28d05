"""Where rows come from, found by the name in the recipe: starter data, a file or folder, the Hub."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import FinetuneError
from ..presets import DATA_DIR
from ..recipe import Recipe
from .hubdata import hub_name, looks_like_file, read_hub
from .readers import Reading, read_file
from .unpack import fingerprint, unpack


@dataclass(frozen=True)
class SourceFile:
    """How one file was read."""

    name: str
    kind: str  # jsonl, json, csv, excel, parquet, arrow, text, hub
    split: str | None = None
    encoding: str | None = None
    is_encoding_certain: bool = True
    delimiter: str | None = None
    has_header: bool | None = None
    above: tuple[str, ...] = ()  # what stands above the names of the columns
    sheet: str | None = None
    other_sheets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """What was read, so that it can be found and compared again."""

    name: str
    place: str  # starter, file, folder, hub
    files: tuple[SourceFile, ...] = ()
    bytes: int = 0  # unpacked
    sha256: str | None = None  # of the unpacked content
    config: str | None = None
    revision: str | None = None  # commit on the Hub
    licence: str | None = None
    columns: dict[str, str] = field(default_factory=dict)  # name → type
    documents: tuple[str, ...] = ()  # about the data, beside it; not read

    @property
    def first(self) -> SourceFile:
        return self.files[0]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def open_source(
    recipe: Recipe, token: str | None, folder: Path, tell: Callable[[float, str], None]
) -> tuple[Source, list[Reading]]:
    """The source and its readings. `folder` takes what has to be unpacked. Raises FinetuneError."""
    name = recipe.dataset_name
    starter = DATA_DIR / name
    is_starter = Path(name).name == name and starter.is_dir()
    path = starter if is_starter else Path(name).expanduser()
    if not is_starter and not path.exists():
        known = hub_name(name)
        if known is None or looks_like_file(name):
            raise _no_such(name)
        facts, readings = read_hub(recipe, known, token, tell)
        return Source(
            known, "hub", _files(readings), facts.bytes, config=recipe.dataset_config, revision=facts.revision,
            licence=facts.licence,
        ), readings  # fmt: skip
    try:
        files, documents = unpack(path, folder)
        tell(0.0, "reading")
        sha256, size = fingerprint(files)
        readings = [read_file(file, recipe.fixes) for file in files]
    except PermissionError:
        raise FinetuneError(
            f"{name} may not be read.", "Change its permissions, or copy it to a folder of yours.", code="no-permission"
        ) from None
    place = "starter" if is_starter else "folder" if path.is_dir() else "file"
    licence = "cc0-1.0" if is_starter else None
    return Source(name, place, _files(readings), size, sha256, licence=licence, documents=documents), readings


def _files(readings: list[Reading]) -> tuple[SourceFile, ...]:
    return tuple(
        SourceFile(
            reading.name, reading.kind, reading.split,
            reading.encoding.name if reading.encoding else None,
            reading.encoding.certain if reading.encoding else True,
            reading.delimiter, reading.has_header, reading.above, reading.sheet, reading.other_sheets,
        )
        for reading in readings
    )  # fmt: skip


def _no_such(name: str) -> FinetuneError:
    if "://" in name:
        return FinetuneError(
            f"{name} is an address; rows are not fetched from just anywhere.",
            "Download the file and choose it, or give the name of a data set on the Hub (owner/name).",
            code="no-file",
        )
    starters = ", ".join(sorted(folder.name for folder in DATA_DIR.iterdir() if folder.is_dir()))
    return FinetuneError(
        f"There is no file or folder {name}.",
        f"Check the path, give a data set's name on the Hub (owner/name), or choose starter data ({starters}).",
        code="no-file",
    )
