"""What a file's name says: whether there are rows in it, or words about them, and of which split they are."""

from __future__ import annotations

import re
from pathlib import Path

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".tab", ".xlsx", ".xlsm", ".xls", ".ods", ".parquet", ".pq",
            ".arrow", ".feather", ".txt", ".text", ".md")  # fmt: skip
PACKED = (".gz", ".zst", ".zip")
NOT_DATA = ("requirements.txt", "dataset_info.json", "dataset_dict.json",
            "state.json", "dataset_infos.json", "package.json")  # fmt: skip
READ_ME = ("readme", "read me", "leesmij", "lees mij")
ABOUT = (  # files of text beside the data
    *READ_ME, "license", "licence", "licentie", "copying", "copyright", "notice",
    "citation", "attribution", "authors", "contributing", "changelog", "code of conduct", "data card", "datasheet",
)  # fmt: skip
SPLITS = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation", "eval": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip


def split_of(name: str) -> str | None:
    """Which split a file's name says: its first or last word, or its folder's; never a part of a word.

    >>> split_of("train-00000-of-00002.parquet"), split_of("reviews_test.csv"), split_of("latest.csv")
    ('train', 'test', None)
    """
    path = Path(name)
    words = [word for word in re.split(r"[-_. ]+", path.name.split(".")[0].casefold()) if word]
    for word in (*words[:1], *words[-1:], path.parent.name.casefold()):
        if word in SPLITS:
            return SPLITS[word]
    return None


def is_data(inside: Path) -> bool:
    """A file with rows, by its name in a folder or archive."""
    name = inside.name.casefold()
    return not is_hidden(inside) and not is_about(inside) and name not in NOT_DATA and name.endswith(SUFFIXES + PACKED)


def is_hidden(inside: Path) -> bool:
    """Whether it, or a folder that it lies in, is hidden, or macOS's own part of a zip."""
    return any(part.startswith((".", "__MACOSX")) for part in inside.parts)


def is_about(inside: Path) -> bool:
    """A document about the data, by its name; of licences there may be several, such as LICENSE-MIT.txt."""
    stem = spaced(inside)
    is_licence = re.fullmatch(r"licen[cs]e (mit|apache|bsd|gpl|cc|odc|odbl|cdla)\b.*", stem) is not None
    return inside.suffix.casefold() in (".md", ".txt", ".text") and (stem in ABOUT or is_licence)


def spaced(inside: Path) -> str:
    """Its name without suffix, in words.

    >>> spaced(Path("docs/DATA_CARD.md"))
    'data card'
    """
    return re.sub(r"[-_. ]+", " ", inside.stem.casefold())
