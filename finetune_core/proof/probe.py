"""The general probe: small questions about anything but the training rows, to see what tuning cost elsewhere. Light."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..presets import PRESETS_DIR

PROBE_DIR = PRESETS_DIR / "probe"
AREAS = ("facts", "arithmetic", "instructions", "language", "refusing")


@dataclass(frozen=True)
class Item:
    """One question. Either `right` and `wrong` answers to choose from, or a `rule` for a written answer, or neither:
    then only the drift of its answer is looked at."""

    id: str
    area: str
    language: str
    prompt: str
    right: str = ""
    wrong: tuple[str, ...] = ()
    rule: Mapping[str, Any] | None = None

    @property
    def messages(self) -> list[dict[str, str]]:
        return [{"role": "user", "content": self.prompt}]


@cache
def load_probe(folder: Path = PROBE_DIR) -> tuple[Item, ...]:
    """All items, area by area; the open ones last."""
    items = []
    for area in (*AREAS, "open"):
        for line in (folder / f"{area}.jsonl").read_text(encoding="utf-8").splitlines():
            values = json.loads(line)
            items.append(Item(**values | {"wrong": tuple(values.get("wrong", ()))}))
    return tuple(items)


def follows(rule: Mapping[str, Any], answer: str) -> bool:
    """Does a written answer keep to the rule?

    >>> follows({"contains": ["sea"], "max_words": 4}, "The Sea is blue."), follows({"regex": "^yes"}, "no")
    (True, False)
    """
    low = answer.casefold()
    if any(part.casefold() not in low for part in rule.get("contains", ())):
        return False
    if sum(part.casefold() in low for part in rule.get("any", ())) < rule.get("at_least", 0):
        return False
    if "regex" in rule and not re.search(rule["regex"], answer):
        return False
    return len(answer.split()) <= rule.get("max_words", 10**9)
