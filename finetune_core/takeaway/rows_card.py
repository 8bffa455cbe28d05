"""A data set card: what the Hub reads in its front matter, then where the rows come from and what was done to them.

Pure. The front matter is https://huggingface.co/docs/hub/datasets-manual-configuration and datasets-cards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..amounts import many
from ..recipe import Recipe
from . import origin
from .origin import code, prose

SIZES = (
    ("n<1K", 1e3), ("1K<n<10K", 1e4), ("10K<n<100K", 1e5), ("100K<n<1M", 1e6), ("1M<n<10M", 1e7),
    ("10M<n<100M", 1e8), ("100M<n<1B", 1e9),
)  # fmt: skip


@dataclass(frozen=True)
class RowsFacts:
    """Everything that the card says."""

    run_id: str
    recipe: Recipe
    data: Mapping[str, Any]  # the run's data card
    rows: Mapping[str, int]  # of each split that has any
    columns: tuple[str, ...]
    personal: Mapping[str, int] = field(default_factory=dict)  # kind of personal data, or "key" → rows that hold it
    languages: tuple[str, ...] = ()  # ISO 639-1

    @property
    def licences(self) -> list[str]:
        """Licences as the source's own card gives them; none where it is not known."""
        known = (self.data.get("source") or {}).get("licence") or ""
        return [each for each in (part.strip() for part in known.split(",")) if each]


def file_of(split: str) -> str:
    return f"data/{split}.parquet"


def rows_card(facts: RowsFacts, repo_id: str) -> str:
    """The README.md of a pushed data set: front matter and text."""
    parts = [
        f"# {repo_id.split('/')[-1]}",
        f"The rows of a fine-tuning, as they were used: read from {code(origin.data_name(facts.data, facts.recipe))}, "
        "brought into one shape, cleaned and split.",
        f'## Load them\n\n```python\nfrom datasets import load_dataset\n\nrows = load_dataset("{repo_id}")\n```',
        "## What is in them\n\n" + _contents(facts),
        "## Where they come from\n\n" + origin.lines(facts.data, facts.recipe),
        "## Personal data\n\n" + _personal(facts.personal),
        "## Licence\n\n" + _licence(facts),
        f"Made with Fijn from run {code(facts.run_id)}.",
    ]
    return f"---\n{front_matter(facts)}---\n\n" + "\n\n".join(parts) + "\n"


def front_matter(facts: RowsFacts) -> str:
    """The metadata block, without its fences."""
    licences, source = facts.licences, origin.hub_dataset(facts.data)
    values: dict[str, Any] = {
        "license": licences[0] if len(licences) == 1 else licences or None,
        "language": list(facts.languages) or None,
        "size_categories": [size_category(sum(facts.rows.values()))],
        "task_categories": ["text-generation"],
        "source_datasets": [source] if source else None,
        "tags": ["fijn"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": file_of(split)} for split in facts.rows],
            }
        ],
        "fijn_run": facts.run_id,
    }
    return origin.as_yaml(values)


def size_category(count: int) -> str:
    """
    >>> size_category(320), size_category(1000)
    ('n<1K', '1K<n<10K')
    """
    return next((name for name, end in SIZES if count < end), "n>1B")


def _contents(facts: RowsFacts) -> str:
    table = ["| split | rows |", "|---|---|", *(f"| {split} | {count} |" for split, count in facts.rows.items())]
    says = f"Columns: {', '.join(map(code, facts.columns))}."
    if "messages" in facts.columns:
        says += (
            " `messages` is a conversation as chat templates take it (`role`, `content`); its last turn is the answer."
        )
    return "\n".join([*table, "", says + " What a row does not have is `None`."])


def _personal(found: Mapping[str, int]) -> str:
    looked = (
        "Looked for by their form: e-mail addresses, phone numbers, IBANs, card numbers, citizen service numbers and "
        "keys. Names and addresses of people were not looked for."
    )
    if not found:
        return f"{looked} None was found."
    return f"{looked} Found, it seems: {in_words(found)}."


def in_words(found: Mapping[str, int]) -> str:
    """
    >>> in_words({"e-mail address": 3, "key": 1})
    'e-mail address in 3 rows, key in 1 row'
    """
    return ", ".join(f"{kind} in {many(count, 'row')}" for kind, count in found.items())


def _licence(facts: RowsFacts) -> str:
    if facts.licences:
        source = code(origin.data_name(facts.data, facts.recipe))
        return f"{', '.join(map(prose, facts.licences))}, inherited from {source}."
    return "Not known: the source names none. Ask whoever owns the rows before you share them."
