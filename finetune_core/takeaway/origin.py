"""Where a run's rows come from and what was done to them, as lines of a card. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..recipe import Recipe


def data_name(data: Mapping[str, Any], recipe: Recipe) -> str:
    """The data set's name; of a file or folder only its last part, because a path may say who it is about.

    data: a run's data card.
    """
    source = data.get("source") or {}
    name = str(source.get("name") or recipe.dataset_name)
    return name if source.get("place") in ("hub", "starter") else Path(name).name


def hub_dataset(data: Mapping[str, Any]) -> str | None:
    source = data.get("source") or {}
    return source.get("name") if source.get("place") == "hub" else None


def lines(data: Mapping[str, Any], recipe: Recipe) -> str:
    """Source, counts, splits, what was left out, repaired and passed over: a list in Markdown."""
    rows, own = data.get("rows") or {}, data.get("own_splits") or []
    found = [f"- Source: {code(data_name(data, recipe))}" + _source(data.get("source") or {})]
    found += [f"- Rows read: {data['rows_read']}"] if data.get("rows_read") else []
    if rows:
        found.append("- Rows: " + ", ".join(f"{count} {name}" for name, count in rows.items()))
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
    said = [f"{', '.join(own)} as in the source"] if own else []
    if drawn:
        how = f"drawn with seed {recipe.seed} ({', '.join(drawn)}), rows that are nearly the same kept in one split"
        said.append(f"{'the others ' if own else ''}{how}")
    return "; ".join(said) or "none"


def _source(source: Mapping[str, Any]) -> str:
    facts = []
    if source.get("place") == "hub":
        facts.append(f"https://huggingface.co/datasets/{source.get('name')}")
        facts += [f"configuration {code(source['config'])}"] if source.get("config") else []
        facts += [f"revision {code(source['revision'])}"] if source.get("revision") else []
    facts += [f"licence {source['licence']}"] if source.get("licence") else []
    facts += [f"sha256 `{source['sha256']}`"] if source.get("sha256") else []
    return f" ({', '.join(facts)})" if facts else ""


def code(value: object) -> str:
    """A text of somebody else's inside a line of Markdown."""
    return "`" + " ".join(str(value).replace("`", "'").split()) + "`"
