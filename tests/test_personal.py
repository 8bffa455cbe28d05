"""Personal data is found by its form, and by its checksum where it has one."""

from __future__ import annotations

import pytest

from finetune_core.data import personal


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("mail jan@dewinkel.nl now", "mail [e-mail address] now"),
        ("pay NL91 ABNA 0417 1643 00 today", "pay [IBAN] today"),
        ("pay NL92 ABNA 0417 1643 00 today", "pay NL92 ABNA 0417 1643 00 today"),  # its checksum is wrong
        ("call +31 6 1234 5678 or 06-12345678", "call [phone number] or [phone number]"),
        ("bel 020-1234567, (0512) 34 56 78 of 088 123 45 67", "bel [phone number], [phone number] of [phone number]"),
        ("on 01-02-2026, size 010-20 or 0123-456", "on 01-02-2026, size 010-20 or 0123-456"),
        ("bsn 111222333 is valid, bsn 111222334 is not", "bsn [citizen service number] is valid, bsn 111222334 is not"),
        ("card 4111 1111 1111 1111.", "card [card number]."),
        ("order 20261122001, 3.14159265358, 1234-5678", "order 20261122001, 3.14159265358, 1234-5678"),
        ("key hf_abcdefghijklmnopqrstuvwxyzABCDEF12", "key [key]"),
        ("write to info@example.com", "write to info@example.com"),
    ],
)
def test_personal_data_is_found_by_its_form_and_checksum(text, masked):
    assert personal.mask(text) == masked
