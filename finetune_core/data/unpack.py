"""From what a person has (a file, a folder, an archive, pasted text) to plain files that can be read.

Archives are never trusted: no path of theirs is used on disk, and what they grow into is counted as it grows.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ..errors import FinetuneError
from .filenames import READ_ME, SUFFIXES, is_about, is_data, is_hidden, spaced, split_of

MAX_BYTES = 8 * 1024**3  # of all files together, unpacked
MAX_FILES = 10_000
ZIP, GZIP, ZSTD = b"PK\x03\x04", b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
# what the libraries raise at a damaged archive; zipfile's word for a packing it does not know is a RuntimeError
BROKEN = (zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError, ValueError, RuntimeError)
OTHER_KINDS = (  # what people upload by mistake, by its first bytes
    (b"%PDF", "a PDF", "Copy its text, or export the table behind it as CSV or Excel."),
    (b"\x89PNG", "a picture", "A language model learns from text."),
    (b"\xff\xd8\xff", "a picture", "A language model learns from text."),
    (b"GIF8", "a picture", "A language model learns from text."),
    (b"SQLite format 3", "a database", "Export the table you need as CSV."),
    (b"Rar!", "a RAR archive", "Unpack it and choose the file inside."),
    (b"7z\xbc\xaf", "a 7-Zip archive", "Unpack it and choose the file inside."),
    (b"BZh", "a bzip2 file", "Unpack it and choose the file inside."),
    (b"\xfd7zXZ", "an xz file", "Unpack it and choose the file inside."),
    (b"GGUF", "a model", "Choose it as the model, and here the rows to learn from."),
    (b"\x80\x02", "a Python pickle", "It could run programs when opened; save the rows as JSONL."),
    (b"\x80\x04", "a Python pickle", "It could run programs when opened; save the rows as JSONL."),
    (b"\x7fELF", "a program", "Choose a file with rows, such as .jsonl or .csv."),
    (b"MZ", "a program", "Choose a file with rows, such as .jsonl or .csv."),
)


@dataclass(frozen=True)
class DataFile:
    """A plain file that can be read, the name a person knows it by, and the split its name says."""

    path: Path
    name: str
    split: str | None = None


def unpack(path: Path, folder: Path) -> tuple[list[DataFile], tuple[str, ...]]:
    """(all data files of a file, folder or archive, names of the documents about them, which are not read as rows).

    What must be unpacked goes into `folder`. Raises FinetuneError for nothing to read, an unsafe or broken archive, or
    one that grows too large.
    """
    if not path.exists():
        raise FinetuneError(f"There is no file or folder {path}.", "Check the path.", code="no-file")
    inbox = Inbox(folder)
    if not path.is_dir():
        files = _open(path, path.name, inbox)
    else:
        every = {file: file.relative_to(path) for file in sorted(path.rglob("*"))}
        found = [file for file, name in every.items() if is_data(name) and file.is_file()]
        if len(found) > MAX_FILES:
            raise FinetuneError(
                f"{path.name} holds {len(found):,} data files.", "Choose a folder with fewer files.", code="too-large"
            )
        inside = [file for file in found if file.resolve().is_relative_to(path.resolve())]  # no links that lead out
        files = [opened for file in inside for opened in _open(file, every[file].as_posix(), inbox)]
        inbox.documents += [name for file, name in every.items() if _is_document(name) and file.is_file()]
    if not files:
        raise FinetuneError(
            f"{path.name} holds no file with rows.",
            f"Fijn reads {', '.join(SUFFIXES[:8])}, .parquet, .arrow and .txt, also as .gz, .zst or in a .zip.",
            code="no-file",
        )
    return _with_splits(files), tuple(sorted(name.as_posix() for name in inbox.documents))


def _with_splits(files: list[DataFile]) -> list[DataFile]:
    """One file is never a split by its name, and without a training split there are no splits."""
    named = [DataFile(file.path, file.name, split_of(file.name)) for file in files]
    if len(files) == 1 or not any(file.split == "train" for file in named):
        return [DataFile(file.path, file.name) for file in files]
    return [DataFile(file.path, file.name, file.split or "train") for file in named]


def _is_document(inside: Path) -> bool:
    """One that is told of: a README says itself that it is none of the rows."""
    return is_about(inside) and not is_hidden(inside) and spaced(inside) not in READ_ME


class Inbox:
    """A folder for what is unpacked, under names of ours, the bytes that may still come, and the documents met."""

    def __init__(self, folder: Path, left: int = MAX_BYTES):
        self.folder = folder
        self.left = left
        self.count = 0
        self.documents: list[Path] = []

    def take(self, source: IO[bytes], name: str) -> Path:
        self.count += 1
        target = self.folder / f"{self.count:05d}{Path(name).suffix.casefold()}"
        self._copy(source, target, name)
        return target

    def _copy(self, source: IO[bytes], target: Path, name: str) -> None:
        try:
            with target.open("wb") as file:
                while block := source.read(1 << 20):
                    self.left -= len(block)
                    if self.left < 0:
                        raise FinetuneError(
                            f"{name} unpacks to more than {MAX_BYTES // 1024**3} GB.",
                            "Unpack it yourself and choose a part of it.",
                            code="too-large",
                        )
                    file.write(block)
        except Exception as error:
            target.unlink(missing_ok=True)
            if isinstance(error, BROKEN) or type(error).__name__ == "ZstdError":
                raise _broken(name) from None
            raise


def _open(path: Path, name: str, inbox: Inbox) -> list[DataFile]:
    with path.open("rb") as file:
        head = file.read(600)
    for magic, kind, fix in OTHER_KINDS:
        if head.startswith(magic):
            raise FinetuneError(f"{name} is {kind}, not rows of text.", fix, code="wrong-kind")
    if head[257:262] == b"ustar":
        raise FinetuneError(f"{name} is a tar archive.", "Unpack it and choose the file inside.", code="wrong-kind")
    if head.startswith(GZIP):
        return _unpack_one(gzip.open(path, "rb"), name.removesuffix(".gz"), inbox)
    if head.startswith(ZSTD):
        import zstandard

        return _unpack_one(zstandard.open(path, "rb"), name.removesuffix(".zst"), inbox)
    if head.startswith(ZIP):
        return _open_zip(path, name, inbox)
    return [DataFile(path, name)]


def _unpack_one(source: IO[bytes], name: str, inbox: Inbox) -> list[DataFile]:
    with source:
        target = inbox.take(source, name)
    with target.open("rb") as file:
        if file.read(262)[257:] == b"ustar":
            raise FinetuneError(f"{name} is a tar archive.", "Unpack it and choose the file inside.", code="wrong-kind")
    return [DataFile(target, name)]


def _open_zip(path: Path, name: str, inbox: Inbox) -> list[DataFile]:
    try:
        archive = zipfile.ZipFile(path)
    except BROKEN:
        raise _broken(name) from None
    with archive:
        members = archive.infolist()
        names = {member.filename for member in members}
        if "xl/workbook.xml" in names or "xl/workbook.bin" in names or "content.xml" in names:
            _check_workbook(members, name)
            return [DataFile(path, name)]
        if "word/document.xml" in names or "ppt/presentation.xml" in names:
            raise FinetuneError(
                f"{name} is an Office document, not rows.", "Put the rows in a table and save it as .xlsx or .csv.",
                code="wrong-kind",
            )  # fmt: skip
        _refuse_unsafe(members, name)
        files = []
        for member in members:
            inside = Path(member.filename.replace("\\", "/"))
            if _is_document(inside) and not member.is_dir():
                inbox.documents.append(inside)
            if member.is_dir() or not is_data(inside):
                continue
            if inside.suffix.casefold() == ".zip":
                raise FinetuneError(
                    f"{name} holds another zip ({inside.name}).", "Unpack it and choose the file inside.",
                    code="unsafe-archive",
                )  # fmt: skip
            try:
                with archive.open(member) as source:
                    target = inbox.take(source, inside.name)
            except BROKEN:
                raise _broken(name) from None
            except OSError as error:
                if error.errno == errno.EINVAL:  # a position that is not in the file
                    raise _broken(name) from None
                raise
            files += _open(target, inside.as_posix(), inbox)
        return files


def _refuse_unsafe(members: list[zipfile.ZipInfo], name: str) -> None:
    if len(members) > MAX_FILES or sum(member.file_size for member in members) > MAX_BYTES:
        raise FinetuneError(
            f"{name} unpacks to more than {MAX_BYTES // 1024**3} GB or {MAX_FILES:,} files.",
            "Unpack it yourself and choose a part of it.",
            code="too-large",
        )
    for member in members:
        inside = Path(member.filename.replace("\\", "/"))
        is_link = stat.S_ISLNK(member.external_attr >> 16)
        if is_link or inside.is_absolute() or ".." in inside.parts or re.match(r"[A-Za-z]:", member.filename):
            raise FinetuneError(
                f"{name} was not opened: it has unsafe paths ({member.filename!r} would lead outside its folder).",
                "Make the zip again from the data files only, or upload the file that you need by itself.",
                code="unsafe-archive",
            )
        if member.flag_bits & 0x1:
            raise FinetuneError(
                f"{name} is locked with a password.", "Unpack it yourself and choose the file inside.",
                code="unsafe-archive",
            )  # fmt: skip


def _check_workbook(members: list[zipfile.ZipInfo], name: str) -> None:
    if sum(member.file_size for member in members) > MAX_BYTES // 8:  # a workbook is read into memory
        raise FinetuneError(
            f"The workbook {name} unpacks to more than {MAX_BYTES // 8 // 1024**3} GB.",
            "Save the sheet as CSV.",
            code="too-large",
        )


def _broken(name: str) -> FinetuneError:
    return FinetuneError(
        f"{name} is damaged: it cannot be unpacked to its end.", "Download or make it again.", code="broken-archive"
    )


def fingerprint(files: Iterable[DataFile]) -> tuple[str, int]:
    """(sha256, bytes) of the unpacked content. For several files: of their hashes and names in order."""
    hashes, total = [], 0
    for file in files:
        with file.path.open("rb") as content:
            hashes.append((hashlib.file_digest(content, "sha256").hexdigest(), file.name))
        total += file.path.stat().st_size
    if len(hashes) == 1:
        return hashes[0][0], total
    return hashlib.sha256(json.dumps(hashes).encode()).hexdigest(), total


def save_pasted(text: str, folder: Path) -> Path:
    """Keep pasted text as a file, with the suffix that it is. The same text gives the same file.

    Raises FinetuneError if there is nothing in it.
    """
    text = text.strip("\ufeff\r\n ") if text.strip() else ""
    if not text:
        raise FinetuneError("Nothing was pasted: the box is empty.", "Paste some rows first.", code="empty")
    content = text.encode("utf-8", "replace") + b"\n"
    name = f"pasted-{hashlib.sha256(content).hexdigest()[:10]}{_pasted_suffix(text)}"
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / f"{name}.part"
    beside.write_bytes(content)
    return Path(shutil.move(beside, folder / name))


def _pasted_suffix(text: str) -> str:
    if text[0] in "{[":
        return ".json"  # the reader tells lines from a list
    lines = text.splitlines()
    if len(lines) > 1 and all("\t" in line for line in lines[:5]):
        return ".tsv"  # cells copied from a spreadsheet
    from .tables import find_dialect

    return ".csv" if find_dialect(f"{text[:65536]}\n").is_table else ".txt"
