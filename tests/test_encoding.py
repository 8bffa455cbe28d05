"""Letters come out as they were written, in any encoding."""

from __future__ import annotations

import pytest

from finetune_core.data.encoding import find_encoding


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


def test_the_replacement_character_itself_is_valid_text(tmp_path):
    (tmp_path / "x").write_text("� is a character")
    assert find_encoding(tmp_path / "x").certain
