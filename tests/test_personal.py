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


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ('{"bsn": "111222333"}', '{"bsn": "[citizen service number]"}'),  # known by the word before it
        ('{"bsn": 111222333}', '{"bsn": [citizen service number]}'),
        ('{"jan@winkel.nl": 1.10}', '{"[e-mail address]": 1.10}'),
        ('{\n  "to": "jan@winkel.nl"\n}', '{\n  "to": "[e-mail address]"\n}'),  # in its own layout
        (
            r'{"a": "x\njan@winkel.nl", "bsn": "111222333"}',
            r'{"a": "x\n[e-mail address]", "bsn": "[citizen service number]"}',
        ),
    ],
)
def test_nothing_personal_is_left_in_a_text_that_is_json(text, masked):
    assert personal.mask_all(text) == masked


def test_what_holds_nothing_personal_stays_the_same_object():
    row = {"messages": [{"role": "user", "content": "Hi", "tool_calls": [{"arguments": '{"a": 1}'}]}], "id": 1}
    assert personal.mask_all(row) is row
