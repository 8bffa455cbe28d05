"""Which encoding a text file is in: by its mark, by being valid UTF-8, else by charset-normalizer's best guess."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import FinetuneError

MARKS = (  # byte order marks; UTF-32 first, as UTF-16's is the beginning of it
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# What files are really in; among all of Python's a short text always fits something odd.
COMMON = ["cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "iso8859_2", "koi8_r", "shift_jis",
          "euc_jp", "gb18030", "big5", "euc_kr", "mac_roman", "cp850"]  # fmt: skip
BLOCK = 1 << 20


@dataclass(frozen=True)
class Encoding:
    """The codec to read with. `certain`: by a mark or by being valid; `replaced`: bytes that even so are no text."""

    codec: str
    certain: bool = True
    replaced: int = 0

    @property
    def name(self) -> str:
        """For people.

        >>> Encoding("utf-8-sig").name
        'UTF-8 (BOM)'
        """
        return {"utf-8": "UTF-8", "utf-8-sig": "UTF-8 (BOM)", "utf-16": "UTF-16", "utf-32": "UTF-32",
                "cp1252": "Windows-1252 (Latin-1)"}.get(self.codec, self.codec)  # fmt: skip


def find_encoding(path: Path, wished: str | None = None) -> Encoding:
    """Reads the whole file once, in blocks. Raises FinetuneError if it is no text at all, or for an unknown wish."""
    with path.open("rb") as file:
        head = file.read(4096)
    if wished:
        return _as_wished(path, head, wished)
    for mark, codec in MARKS:
        if head.startswith(mark):
            return Encoding(codec)
    if guess := _utf16_without_mark(head):
        return Encoding(guess, certain=False)
    if b"\0" in head:
        raise FinetuneError(
            f"{path.name} is not text: it has zero bytes.",
            "Choose a file with rows, such as .jsonl, .csv or .xlsx.",
            code="wrong-kind",
        )
    return Encoding("utf-8") if _is_utf8(path) else _guess(path)


def _as_wished(path: Path, head: bytes, wished: str) -> Encoding:
    try:
        codec = codecs.lookup(wished).name
    except LookupError:
        raise FinetuneError(
            f"{wished!r} is no known encoding.", "Try utf-8, utf-16 or cp1252.", code="bad-recipe"
        ) from None
    if codec == "utf-16" and not head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        codec = _utf16_without_mark(head) or ""
    if not codec:  # Python cannot even begin to read it so
        raise FinetuneError(
            f"{path.name} is not UTF-16.",
            "Choose “as detected” under “Encoding”, or take encoding-utf-16 out of `fixes`.",
            code="wrong-encoding",
        )
    return Encoding(codec)


def _is_utf8(path: Path) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                decoder.decode(block)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _guess(path: Path) -> Encoding:
    """UTF-8 with a few broken places, or another encoding: by how many of the high bytes are valid UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    odd, valid, replaced = bytearray(), 0, 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            text = decoder.decode(block)
            if block.isascii():
                continue
            bad = text.count("\ufffd")
            replaced += bad
            valid += sum(len(run) for run in re.findall("[\x80-\ufffc\U00010000-\U0010ffff]+", text))
            if bad and len(odd) < 65536:
                odd += b"\n".join(re.findall(rb"[^\n]{0,200}[\x80-\xff][^\n]{0,200}", block)[:200])
    if valid > 10 * replaced:
        return Encoding("utf-8", certain=False, replaced=replaced)
    from charset_normalizer import from_bytes

    matches = from_bytes(bytes(odd), cp_isolation=COMMON)
    best = matches.best()
    if best is None:
        return Encoding("cp1252", certain=False)
    equals = [match for match in matches if match.chaos <= best.chaos and match.coherence >= best.coherence]
    # on a tie, what Windows writes in Western Europe and America
    western = any("cp1252" in (match.encoding, *match.could_be_from_charset) for match in equals)
    return Encoding("cp1252" if western else best.encoding, certain=False)


def _utf16_without_mark(head: bytes) -> str | None:
    """Every second byte zero: Latin letters in UTF-16."""
    even, odd = head[0::2], head[1::2]
    if len(head) < 8:
        return None
    if odd.count(0) > 0.7 * len(odd) and even.count(0) < 0.1 * len(even):
        return "utf-16-le"
    if even.count(0) > 0.7 * len(even) and odd.count(0) < 0.1 * len(odd):
        return "utf-16-be"
    return None
