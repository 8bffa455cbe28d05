"""Letters come out as they were written, in any encoding."""

from __future__ import annotations

import pytest

from finetune_core.data.encoding import find_encoding
from finetune_core.errors import FinetuneError


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Een reünie in het café, één keer", "cp1252"),
        ("Größe, Mädchen, schön", "latin-1"),
        ("Привет, как дела? Сегодня хорошо", "cp1251"),
        ("今日はいい天気ですね。散歩に行きましょう", "shift_jis"),
        ("dzień dobry, zażółć gęślą jaźń i tak dalej", "cp1250"),
        ("plain", "ascii"),
        ("naïve 😀", "utf-8"),
        ("naïve 😀", "utf-16"),
        ("naïve 😀", "utf-32"),
        ("just letters here", "utf-16-be"),
    ],
)
def test_letters_survive_their_encoding(text, encoding, tmp_path):
    (tmp_path / "x").write_bytes(text.encode(encoding))
    assert (tmp_path / "x").read_text(find_encoding(tmp_path / "x").codec).lstrip("\ufeff") == text


def test_what_is_wished_for_and_cannot_be_is_told_in_words(tmp_path):
    (tmp_path / "rows.csv").write_text("question,answer\nHow?,So.\n")
    with pytest.raises(FinetuneError, match=r"rows\.csv is not UTF-16\..*as detected"):
        find_encoding(tmp_path / "rows.csv", "utf-16")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_a_wish_for_utf_16_is_granted_with_a_mark_and_without(encoding, tmp_path):
    (tmp_path / "x").write_bytes("just letters here".encode(encoding))
    assert (tmp_path / "x").read_text(find_encoding(tmp_path / "x", "utf-16").codec) == "just letters here"


def test_the_replacement_character_itself_is_valid_text(tmp_path):
    (tmp_path / "x").write_text("� is a character")
    assert find_encoding(tmp_path / "x").certain
