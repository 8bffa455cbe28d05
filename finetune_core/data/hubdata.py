"""Rows of a data set on the Hub, kept in the cache of `datasets`: nothing is fetched twice. Large ones are streamed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import hub
from ..errors import FinetuneError, explain, first_line
from ..presets import DATA_DIR
from ..recipe import Recipe
from .filenames import PACKED, SPLITS, SUFFIXES
from .json_rows import Record
from .readers import Reading, read_file
from .streamed import kept
from .unpack import DataFile

HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
PAGE = re.compile(r"https://huggingface\.co/datasets/([\w.-]+/[\w.-]+)")
STREAM_BYTES = 3 * 1024**3  # larger than this is not put on disk first
SHARD = re.compile(r"-(?P<split>[\w.]+?)(-\d{5}-of-\d{5})?\.arrow")


@dataclass(frozen=True)
class HubFacts:
    """What the Hub says of a data set before it is read."""

    revision: str | None = None  # commit
    licence: str | None = None
    bytes: int = 0


def hub_name(name: str) -> str | None:
    """owner/name of a data set, from that or from the address of its page; None if it is neither.

    >>> hub_name("https://huggingface.co/datasets/acme/faq/viewer"), hub_name("./faq.csv")
    ('acme/faq', None)
    """
    if page := PAGE.match(name):
        return page[1]
    return name if HUB_NAME.fullmatch(name) and not name.startswith(".") else None


@dataclass(frozen=True)
class HubChoices:
    """What can be chosen of a data set on the Hub."""

    configs: tuple[str, ...]
    splits: tuple[str, ...]  # of the chosen configuration, or of the one that is read when none is chosen
    revisions: tuple[str, ...]  # branches and tags


def is_on_hub(name: str) -> bool:
    """The name of a data set on the Hub, and neither starter data nor a file or folder here."""
    if Path(name).name == name and (DATA_DIR / name).is_dir():
        return False
    return hub_name(name) is not None and not looks_like_file(name) and not Path(name).expanduser().exists()


def looks_like_file(name: str) -> bool:
    """Whether it is written like a path or a file that can be read, whether or not that is there."""
    return name.startswith(("/", "./", "../", "~")) or "\\" in name or name.casefold().endswith(SUFFIXES + PACKED)


def choices(name: str, config: str | None = None, revision: str | None = None, token: str | None = None) -> HubChoices:
    """Configurations, splits and revisions to choose from. Raises FinetuneError."""
    name = hub_name(name) or name
    hub.require_reachable(f"The data set {name}")
    import datasets
    from huggingface_hub import HfApi

    try:
        configs = datasets.get_dataset_config_names(name, revision=revision, token=token)
        read = next((known for known in (config, "default") if known in configs), configs[0])
        splits = datasets.get_dataset_split_names(name, read, revision=revision, token=token)
        refs = HfApi(token=token).list_repo_refs(name, repo_type="dataset")
    except Exception as error:
        raise _in_words(error, name) from error
    return HubChoices(tuple(configs), tuple(splits), tuple(ref.name for ref in (*refs.branches, *refs.tags)))


def read_hub(recipe: Recipe, name: str, token: str | None, tell: Callable[[float, str], None]) -> tuple[
    HubFacts, list[Reading]
]:  # fmt: skip
    """What the Hub says about a data set, and its splits to read. Raises FinetuneError within five seconds if away."""
    if not hub.reachable():
        if cached := _cached(name, recipe):
            return cached
        hub.require_reachable(f"The data set {name}")
    tell(0.0, f"fetching {name}")
    import datasets

    options: dict[str, Any] = {"revision": recipe.dataset_revision, "token": token}
    try:
        facts = _facts(name, recipe.dataset_revision, token)
        builder = datasets.load_dataset_builder(name, recipe.dataset_config, **options)
        size = max(builder.info.download_size or 0, facts.bytes)
        if size > STREAM_BYTES:
            found = _streamed(
                datasets.load_dataset(name, recipe.dataset_config, streaming=True, **options), name, recipe
            )
            names = _wanted(list(found), recipe.dataset_train_split, name)
            which = name, recipe.dataset_config, facts.revision, recipe.max_rows, recipe.seed
            return facts, [kept(_reading(split, found[split], role), *which, split) for split, role in names.items()]
        builder.download_and_prepare()
        found = builder.as_dataset()
        names = _wanted(list(found), recipe.dataset_train_split, name)
        return facts, [_reading(split, found[split], role) for split, role in names.items()]
    except Exception as error:
        raise _in_words(error, name) from error


def _streamed(splits: Any, name: str, recipe: Recipe) -> dict[str, Any]:
    """As many rows of each split as are wanted, drawn from a window of ten thousand."""
    if recipe.max_rows is None:
        raise FinetuneError(
            f"The data set {name} is larger than {STREAM_BYTES // 1024**3} GB.",
            "Set max_rows, for example to 100000: so many rows are then drawn from its stream.",
            code="too-large",
        )
    return {
        split: rows.shuffle(seed=recipe.seed, buffer_size=10_000).take(recipe.max_rows)
        for split, rows in splits.items()
    }


def _wanted(splits: list[str], train: str, name: str) -> dict[str, str]:
    """Which splits are read, and as what.

    >>> _wanted(["train_sft", "test_sft", "train_gen"], "train_sft", "x")
    {'train_sft': 'train', 'test_sft': 'test'}
    """
    if len(splits) == 1 and train == "train":
        train = splits[0]
    if train not in splits:
        raise FinetuneError(
            f"{name} has no split {train!r}; it has {', '.join(splits)}.",
            f"Set dataset_train_split to one of them, such as {splits[0]}.",
            code="no-split",
        )
    ending = train.removeprefix("train") if train.startswith("train") else ""
    others = {split: SPLITS.get(split.removesuffix(ending) if ending else split, "") for split in splits}
    return {train: "train"} | {
        split: role for split, role in others.items() if role in ("validation", "test") and split != train
    }


def _reading(split: str, rows: Any, role: str) -> Reading:
    from datasets import Audio, ClassLabel, Image

    features = rows.features or {}
    labels = {column: kind.names for column, kind in features.items() if isinstance(kind, ClassLabel)}
    media = [column for column, kind in features.items() if isinstance(kind, Image | Audio)]
    if media:
        rows = rows.remove_columns(media)
    total = len(rows) if hasattr(rows, "__len__") else 0
    done = 0

    def records() -> Iterator[Record]:
        nonlocal done
        for batch in rows.iter(batch_size=500):
            for values in zip(*batch.values(), strict=True):
                row = dict(zip(batch, values, strict=True))
                for column, names in labels.items():
                    if isinstance(row.get(column), int) and 0 <= row[column] < len(names):
                        row[column] = names[row[column]]
                done += 1
                yield Record(done, done, row)

    columns = {
        column: "text" if getattr(kind, "dtype", "") in ("string", "large_string") else
        "label" if isinstance(kind, ClassLabel) else str(getattr(kind, "dtype", type(kind).__name__))
        for column, kind in features.items()
    }  # fmt: skip
    return Reading(split, "hub", records(), lambda: done / total if total else 0.5, columns=columns, split=role)


def _facts(name: str, revision: str | None, token: str | None) -> HubFacts:
    from huggingface_hub import HfApi

    about = HfApi(token=token).dataset_info(name, revision=revision, timeout=4, files_metadata=True)
    licence = about.card_data.get("license") if about.card_data else None
    size = sum(file.size or 0 for file in about.siblings or [])
    return HubFacts(about.sha, ", ".join(licence) if isinstance(licence, list) else licence, size)


def _cached(name: str, recipe: Recipe) -> tuple[HubFacts, list[Reading]] | None:
    """The newest copy that `datasets` keeps: <cache>/owner___name/<config>/<version>/<commit>/name-<split>.arrow."""
    import os

    from huggingface_hub.constants import HF_HOME

    cache = Path(os.environ.get("HF_DATASETS_CACHE") or Path(HF_HOME) / "datasets")
    pattern = f"{recipe.dataset_config or '*'}/*/{recipe.dataset_revision or '*'}/dataset_info.json"
    copies = sorted((cache / name.replace("/", "___")).glob(pattern), key=lambda file: file.stat().st_mtime)
    if not copies or len({file.parents[2].name for file in copies}) > 1:
        return None
    folder = copies[-1].parent
    shards = [(match["split"], file) for file in sorted(folder.glob("*.arrow")) if (match := SHARD.search(file.name))]
    if not shards:
        return None
    roles = _wanted(list(dict.fromkeys(split for split, _ in shards)), recipe.dataset_train_split, name)
    readings = [read_file(DataFile(file, file.name, roles[split])) for split, file in shards if split in roles]
    return HubFacts(folder.name), readings


def _in_words(error: Exception, name: str) -> FinetuneError:
    kind = type(error).__name__
    words = str(error)
    if isinstance(error, FinetuneError):
        return error
    if kind == "DatasetNotFoundError" and "is a gated dataset" in words:  # `datasets` drops what it came from
        return FinetuneError(
            f"{name} is gated: its owner asks each reader to accept terms first.",
            f"Accept them at {hub.endpoint()}/datasets/{name}, then sign in here with that account (`hf auth login`).",
            code="gated",
        )
    if kind == "DatasetNotFoundError":
        return FinetuneError(
            f"The Hub knows no data set {name}, or it is private and you are not signed in.",
            "Check the spelling (owner/name), or sign in with an account that may read it (`hf auth login`).",
            code="not-found",
        )
    if kind == "RevisionNotFoundError":
        return FinetuneError(
            f"The Hub knows {name}, but not this revision of it.",
            "Clear dataset_revision, or copy the name of a branch, tag or commit from its page.",
            code="not-found",
        )
    if "Config name is missing" in words or "BuilderConfig" in words:
        found = re.findall(r"\[[^\]]*\]", words)
        return FinetuneError(
            f"{name} has several configurations{': ' + found[0] if found else ''}.",
            "Set dataset_config to one of them.",
            code="no-config",
        )
    if "scripts are no longer supported" in words:
        return FinetuneError(
            f"{name} is read by a program of its own, which is not run here for safety.",
            "Look for a copy with data files (the Hub makes one in the branch refs/convert/parquet: "
            "set dataset_revision to it), or download its files.",
            code="needs-code",
        )
    explained = explain(error)
    if explained.code != "bug":
        return explained
    return FinetuneError(
        f"The data set {name} cannot be read: {first_line(error)}",
        "Look at its page on the Hub whether its viewer works, or download its files and choose them here.",
        code="unreadable-data",
    )
