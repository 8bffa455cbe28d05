"""Where a run's rows come from and what was done to them, as lines of a card. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ..recipe import Recipe

MARKS = re.compile(r"[\\`*\[\]<>#|~@&!$]|:(?=//)|(?<=www)\.", re.IGNORECASE)  # also what GitHub makes a link of
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)


def data_name(data: Mapping[str, Any], recipe: Recipe) -> str:
    """The data set's name; of a file or folder only its last part, because a path may say who it is about.

    data: a run's data card.
    """
    source = data.get("source") or {}
    name = str(source.get("name") or recipe.dataset_name)
    return name if source.get("place") in ("hub", "starter") else Path(name).name


def hub_dataset(data: Mapping[str, Any]) -> str | None:
    """The name of the data set on the Hub that the rows came from; None for any other source."""
    source = data.get("source") or {}
    return source.get("name") if source.get("place") == "hub" else None


def lines(data: Mapping[str, Any], recipe: Recipe) -> str:
    """Source, counts, splits, what was left out, repaired and passed over: a list in Markdown."""
    rows, own = data.get("rows") or {}, data.get("own_splits") or []
    found = [f"- Source: {code(data_name(data, recipe))}" + _source(data.get("source") or {})]
    found += [f"- Rows read: {data['rows_read']}"] if data.get("rows_read") else []
    if rows:
        found.append("- Rows: " + ", ".join(f"{count} {prose(name)}" for name, count in rows.items()))
    found.append(f"- Splits: {_splits(own, recipe)}")
    for title, key in (("Left out", "dropped"), ("Repaired", "repaired")):
        if counts := data.get(key):
            found.append(f"- {title}: " + ", ".join(f"{count} {code(why)}" for why, count in counts.items()))
    if passed := data.get("warnings_passed"):
        found.append("- Warnings passed: " + ", ".join(map(_passed, passed)))
    if data.get("shapes"):
        found.append("- Shape: " + ", ".join(code(shape) for shape in data["shapes"]))
    return "\n".join(found)


def _passed(warning: Mapping[str, Any]) -> str:
    return f"{code(warning.get('code'))}" + (f" ({warning['rows']} rows)" if warning.get("rows") else "")


def _splits(own: list[str], recipe: Recipe) -> str:
    """How rows came to be in their splits."""
    shares = (("validation", recipe.validation_size), ("test", recipe.test_size))
    drawn = [f"{share:.0%} {name}" for name, share in shares if name not in own and share]
    said = [f"{', '.join(map(prose, own))} as in the source"] if own else []
    if drawn:
        how = f"drawn with seed {recipe.seed} ({', '.join(drawn)}), rows that are nearly the same kept in one split"
        said.append(f"{'the others ' if own else ''}{how}")
    return "; ".join(said) or "none"


def _source(source: Mapping[str, Any]) -> str:
    facts = []
    if source.get("place") == "hub":
        name = str(source.get("name"))
        facts += [f"https://huggingface.co/datasets/{name}"] if REPOSITORY.fullmatch(name) else []
        facts += [f"configuration {code(source['config'])}"] if source.get("config") else []
        facts += [f"revision {code(source['revision'])}"] if source.get("revision") else []
    facts += [f"licence {prose(source['licence'])}"] if source.get("licence") else []
    facts += [f"sha256 {code(source['sha256'])}"] if source.get("sha256") else []
    return f" ({', '.join(facts)})" if facts else ""


# --- what somebody else wrote, inside a card ---


def as_yaml(values: Mapping[str, Any]) -> str:
    """Metadata without what is None; each text in one line, so that none can look like the end of the block."""
    known = {name: _flat(value) for name, value in values.items() if value is not None}
    return yaml.safe_dump(known, sort_keys=False, allow_unicode=True, width=10**6)


def _flat(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _flat(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_flat(each) for each in value]
    return " ".join(value.split()) if isinstance(value, str) else value


def code(value: object) -> str:
    """A text as Markdown code in one line; a backtick in it becomes an apostrophe."""
    return f"`{' '.join(str(value).replace('`', chr(39)).split()) or ' '}`"


def prose(value: object) -> str:
    """A text as plain words in a line or a cell of a table: no mark-up, no link and no HTML of its own.

    >>> print(prose("[a](http://b) <i> | *c*"))
    \\[a\\](http\\://b) \\<i\\> \\| \\*c\\*
    """
    return MARKS.sub(r"\\\g<0>", " ".join(str(value).split()))


def hub_link(name: str) -> str:
    """A model's page on the Hub; what is no repository's name is only written down."""
    return f"[{name}](https://huggingface.co/{name})" if REPOSITORY.fullmatch(name) else code(name)
