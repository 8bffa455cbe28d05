"""The pins are the tested set: what is installed is what is pinned."""

import re
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = ("requirements.txt", "tests/requirements.txt")
PINS = [line.split("#")[0].split(";")[0].strip() for file in FILES for line in (ROOT / file).read_text().splitlines()]


@pytest.mark.parametrize("pin", [pin for pin in PINS if pin and not pin.startswith("-")])
def test_what_is_pinned_is_installed(pin):
    name, number = re.fullmatch(r"([A-Za-z0-9_.-]+)(?:\[[a-z,]+\])?==([\w.+!-]+)", pin).groups()
    assert version(name).split("+")[0] == number
