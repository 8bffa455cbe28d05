"""What a model card can say about a run, read from its folder and from what is known of its base model."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from .. import hub
from ..errors import FinetuneError
from ..files import read_json
from ..progress import Progress, summarize
from ..recipe import STARTER_MODEL, Recipe
from ..run import Run
from . import origin

LANGUAGE_CODES = {"English": "en", "Dutch": "nl", "German": "de", "French": "fr", "Spanish": "es"}
LEAST_SHARE = 0.15  # of the rows that a language must have to be named


@dataclass(frozen=True)
class Licence:
    """As the base model's own card gives it; all None where it is not known."""

    id: str | None = None
    name: str | None = None
    link: str | None = None


@dataclass(frozen=True)
class Facts:
    """Everything a card is written from. Nothing in it is guessed."""

    run_id: str
    recipe: Recipe
    base_is_local: bool  # a folder on somebody's machine, so not a name that a stranger can load
    base_revision: str | None
    licence: Licence
    template: str
    stop_tokens: tuple[str, ...]
    data: dict[str, Any]  # the run's data card
    report: dict[str, Any] | None
    parity: dict[str, Any] | None
    progress: Progress
    versions: dict[str, str] = field(default_factory=dict)
    languages: tuple[str, ...] = ()  # ISO 639-1
    train_seconds: float | None = None
    steps: int | None = None

    @cached_property
    def base(self) -> str:
        """The base model's name, without a path of this machine."""
        name = self.recipe.model_name_or_path
        return Path(name).name if self.base_is_local else name

    @cached_property
    def hub_dataset(self) -> str | None:
        return origin.hub_dataset(self.data)

    @cached_property
    def data_name(self) -> str:
        return origin.data_name(self.data, self.recipe)


def gather(run: Run, base: Path | None, parity: dict[str, Any] | None) -> Facts:
    """Read a run. `base`: the base model's folder on this machine, for its revision and licence."""
    from ..render import load_tokenizer

    events = run.events()
    started = [event.data for event in events if event.kind == "start"]
    done = [event.data for event in events if event.kind == "done"]
    try:
        tokenizer = load_tokenizer(run.result_dir)
        template, stops = tokenizer.chat_template, {tokenizer.backend.id_to_token(id) for id in tokenizer.stop_ids}
    except FinetuneError:  # an older result, without its tokenizer
        template, stops = "", set()
    recipe = run.recipe
    return Facts(
        run_id=run.id,
        recipe=recipe,
        base_is_local=hub.looks_local(recipe.model_name_or_path),
        base_revision=recipe.model_revision or _commit(base),
        licence=base_licence(recipe.model_name_or_path, base),
        template=template,
        stop_tokens=tuple(sorted(token for token in stops if token)),
        data=read_json(run.path / "data" / "card.json") or {},
        report=run.report(),
        parity=parity,
        progress=summarize(events),
        versions=started[-1].get("versions", {}) if started else {},
        languages=languages_of(run),
        train_seconds=done[-1].get("train_seconds") if done else None,
        steps=done[-1].get("steps") if done else None,
    )


def base_licence(name: str, folder: Path | None) -> Licence:
    """The base model's licence, from the card beside its weights, else from the Hub within seconds; empty where neither
    says."""
    if name == STARTER_MODEL:
        return Licence("apache-2.0")
    found = _front_matter(folder / "README.md") if folder else {}
    if not found.get("license") and not hub.looks_local(name) and hub.reachable():
        found = _hub_card(name)
    values = [found.get(key) for key in ("license", "license_name", "license_link")]
    values = [value[0] if isinstance(value, list) and value else value for value in values]
    return Licence(*(value if isinstance(value, str) else None for value in values))


def _hub_card(name: str) -> dict[str, Any]:
    from huggingface_hub import HfApi

    try:
        card = HfApi().model_info(name, timeout=4).card_data
    except Exception:  # a card without a licence is better than no export
        return {}
    return card.to_dict() if card else {}


def _front_matter(path: Path) -> dict[str, Any]:
    import yaml

    try:
        found = re.match(r"---\s*\n(.*?)\n---\s*(?:\n|$)", path.read_text(encoding="utf-8"), re.S)
        value = yaml.safe_load(found[1]) if found else {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return value if isinstance(value, dict) else {}


def _commit(base: Path | None) -> str | None:
    """The commit of a snapshot in the Hub's cache: its folder's name."""
    is_snapshot = base is not None and base.parent.name == "snapshots" and re.fullmatch(r"[0-9a-f]{40}", base.name)
    return base.name if is_snapshot and base else None


def languages_of(run: Run, most: int = 200) -> tuple[str, ...]:
    """Codes of the languages that a run's rows' words are in, commonest first."""
    from ..data.languages import language_of
    from ..data.rows import open_rows

    seen: Counter[str] = Counter()
    rows = open_rows(run.path / "data" / "train.jsonl")[:most]
    for row in rows:
        text = " ".join(str(message.get("content") or "") for message in row.get("messages", ())) or row.get("text", "")
        if language := language_of(str(text)):
            seen[language] += 1
    known = [LANGUAGE_CODES[name] for name, count in seen.most_common() if count >= LEAST_SHARE * len(rows)
             and name in LANGUAGE_CODES]  # fmt: skip
    return tuple(known)
