"""Which languages rows are in, by their commonest small words: enough to say “English and Dutch”, no more."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

# Small words of one language that are none of the others'; a text must have several to count.
WORDS = {
    "English": "the and is of that it was for with this have not you are but they which would there what",
    "Dutch": "het een van niet zijn ook aan wordt maar deze mijn naar heeft voor hij ik niet wij geen nog",
    "German": "und ist nicht das ein mit auf für sich auch eine ich haben wird aber werden dem zum oder",
    "French": "les des est une dans pas pour qui sur avec vous nous sont mais cette être aux leur très",
    "Spanish": "los las una por con para está pero más como muy este hay son también del ser todo",
    "Italian": "il che non per sono con della nel anche più gli questo molto ha alla come ma dei",
    "Portuguese": "não uma com para são mais como mas está muito você isso ele também pela dos foi",
}  # fmt: skip
SMALL = {language: frozenset(words.split()) for language, words in WORDS.items()}
LETTERS = re.compile(r"[^\W\d_]+")
SCRIPTS = (
    ("Chinese or Japanese", re.compile("[\u3040-\u30ff\u4e00-\u9fff]")),
    ("Korean", re.compile("[\uac00-\ud7af]")),
    ("Cyrillic", re.compile("[\u0400-\u04ff]")),
    ("Arabic", re.compile("[\u0600-\u06ff]")),
    ("Hebrew", re.compile("[\u0590-\u05ff]")),
    ("Greek", re.compile("[\u0370-\u03ff]")),
    ("Devanagari", re.compile("[\u0900-\u097f]")),
    ("Thai", re.compile("[\u0e00-\u0e7f]")),
)


def language_of(text: str) -> str | None:
    """The language, or None where the text is too short or too mixed to say.

    >>> language_of("the cat is not on the mat, but that was the plan")
    'English'
    """
    text = text[:1000]
    if not text.isascii():
        for script, pattern in SCRIPTS:
            if len(pattern.findall(text)) > 0.3 * len(LETTERS.sub("", text) or text) or len(pattern.findall(text)) > 20:
                return script
    words = Counter(LETTERS.findall(text.casefold()))
    counts = Counter({language: sum(words[word] for word in small) for language, small in SMALL.items()})
    (first, most), (_, second) = counts.most_common(2)
    return first if most >= 3 and most >= 2 * second else None


def languages(texts: Iterable[str]) -> dict[str, int]:
    """How many texts are in each language; texts that cannot be told are left out."""
    counts = Counter(language for text in texts if (language := language_of(text)) is not None)
    return dict(counts.most_common())
