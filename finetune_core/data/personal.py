"""Personal data and keys in text, by precise patterns with their checksums: few false alarms rather than every find.

The detectors that find names too (presidio, scrubadub) load a language model of hundreds of megabytes; this finds
what has a form of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

SECRETS = re.compile(
    r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----"
    r"|\bAKIA[0-9A-Z]{16}\b"  # Amazon
    r"|\bgh[pousr]_[A-Za-z0-9]{36,}\b|\bgithub_pat_\w{50,}"
    r"|\bglpat-[\w-]{20,}"
    r"|\bhf_[A-Za-z0-9]{30,}\b"
    r"|\bsk-(?:proj-|ant-)?[A-Za-z0-9_-]{32,}"
    r"|\bAIza[\w-]{35}\b"  # Google
    r"|\bxox[abprs]-[\w-]{20,}"  # Slack
    r"|\b(?:sk|rk)_live_[A-Za-z0-9]{20,}"  # Stripe
    r"|\beyJ[\w-]{15,}\.eyJ[\w-]{15,}\.[\w-]{20,}"  # signed web token
)
BEGINNINGS = ("AKIA", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "hf_", "sk-", "AIza", "xox",
              "_live_", "eyJ", "PRIVATE KEY")  # fmt: skip
EMAIL = re.compile(r"\b[A-Za-z0-9][\w.+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.){1,4}[A-Za-z]{2,24}\b")
IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}\b")
PHONE = re.compile(
    r"(?<![\w+])(?:\+|00)[1-9](?:[ -]?\(?\d\)?){7,13}(?!\w)"
    r"|(?<![\w.,-])0[67][ -]?(?:\d[ -]?){8}(?![\w-])"
    # a landline, of ten or eleven digits, whose area code stands apart: 020-1234567, (0512) 34 56 78
    r"|(?<![\w.,-])\(?0(?:[1-57]\d|8[58])\)?[ -](?:\d{7,8}|\d{3}[ -]\d\d ?\d\d|\d{4}[ -]\d{4}|\d\d \d\d \d{3})(?![\w-])"
    r"|(?<![\w.,-])\(?0[1-57]\d\d\)?[ -](?:\d{6,7}|\d\d[ -]\d\d[ -]\d\d|\d{3}[ -]\d{3,4})(?![\w-])"
)
CARD = re.compile(r"(?<![\w-])(?:\d[ -]?){12,18}\d(?![\w-])")
BSN = re.compile(r"(?i)\b(?:bsn|burgerservicenummer|sofinummer)\D{0,12}(\d{9})\b")
EXAMPLE_HOSTS = ("example.com", "example.org", "example.net", "example.nl", ".invalid", ".example", ".test")
HAS_DIGITS = re.compile(r"\d[\d ()-]{6}")


def find_secrets(text: str) -> bool:
    """
    >>> find_secrets("use AKIAIOSFODNN7EXAMPLE here")
    True
    """
    return any(beginning in text for beginning in BEGINNINGS) and SECRETS.search(text) is not None


def find_personal(text: str) -> Iterator[tuple[str, int, int]]:
    """(kind, start, end) of each find.

    >>> [kind for kind, *_ in find_personal("Mail jan@winkel.nl or pay NL91 ABNA 0417 1643 00.")]
    ['e-mail address', 'IBAN']
    """
    if "@" in text:
        for match in EMAIL.finditer(text):
            if not match[0].casefold().endswith(EXAMPLE_HOSTS):
                yield "e-mail address", *match.span()
    if HAS_DIGITS.search(text) is None:
        return
    taken = []
    for kind, pattern, is_valid in (
        ("IBAN", IBAN, is_iban),
        ("phone number", PHONE, lambda _: True),
        ("card number", CARD, is_card),
    ):
        for match in pattern.finditer(text):
            start, end = match.span()
            if is_valid(match[0]) and not any(a < end and start < b for a, b in taken):
                taken.append((start, end))
                yield kind, start, end
    for match in BSN.finditer(text):
        if is_bsn(match[1]):
            yield "citizen service number", *match.span(1)


def mask(text: str) -> str:
    """
    >>> mask("Mail jan@winkel.nl.")
    'Mail [e-mail address].'
    """
    for kind, start, end in sorted(find_personal(text), key=lambda found: -found[1]):
        text = f"{text[:start]}[{kind}]{text[end:]}"
    return SECRETS.sub("[key]", text) if find_secrets(text) else text


def texts_of(value: Any) -> Iterator[str]:
    """Every text in a row, however deep: system prompts and arguments of tools are learned and leave as well.

    >>> list(texts_of({"messages": [{"role": "user", "content": "Hi"}], "id": 1}))
    ['user', 'Hi']
    """
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from texts_of(each)


def mask_all(value: Any) -> Any:
    r"""The same with every text in it masked; the value itself where it holds nothing to mask.

    A text that is JSON, as arguments of tools may be, stays JSON where it can: a number gets no quotation marks.

    >>> mask_all({"arguments": '{"to":"a\\njan@winkel.nl"}'})
    {'arguments': '{"to": "a\\n[e-mail address]"}'}
    """
    if isinstance(value, dict):
        inner: Any = {key: mask_all(each) for key, each in value.items()}
        return value if all(inner[key] is each for key, each in value.items()) else inner
    if isinstance(value, list):
        inner = [mask_all(each) for each in value]
        return value if all(made is each for made, each in zip(inner, value, strict=True)) else inner
    if not isinstance(value, str) or (masked := mask(value)) == value:
        return value
    parsed = _parsed(value)
    if parsed is None or _parsed(masked) is not None:
        return masked
    return mask(json.dumps(mask_all(parsed), ensure_ascii=False))  # a find took part of an escape, such as \n


def _parsed(text: str) -> Any:
    """The object or list that this text is as JSON, else None."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        return json.loads(text)
    except ValueError:
        return None


def is_iban(text: str) -> bool:
    """ISO 13616: moved round and read as a number, the remainder by 97 is 1."""
    code = text.replace(" ", "")
    if not 15 <= len(code) <= 34:
        return False
    return int("".join(str(int(letter, 36)) for letter in code[4:] + code[:4])) % 97 == 1


def is_bsn(digits: str) -> bool:
    """The Dutch eleven test, with weight -1 for the last digit."""
    weights = (9, 8, 7, 6, 5, 4, 3, 2, -1)
    total = sum(int(digit) * weight for digit, weight in zip(digits, weights, strict=True))
    return total % 11 == 0 and int(digits) > 0


def is_card(text: str) -> bool:
    """Luhn's sum, and a beginning that card issuers use."""
    digits = [int(digit) for digit in text if digit.isdigit()]
    if not 13 <= len(digits) <= 19 or digits[0] not in (3, 4, 5, 6):
        return False
    doubled = [digit if place % 2 == 0 else sum(divmod(2 * digit, 10)) for place, digit in enumerate(reversed(digits))]
    return sum(doubled) % 10 == 0
