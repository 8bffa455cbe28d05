"""A model's files on this machine: a folder, a snapshot in the Hub's cache, or a download. Without torch."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from .errors import FinetuneError, explain
from .files import require_disk

OnProgress = Callable[[float, str], None]  # (fraction 0..1, what is going on)

INDEX = "model.safetensors.index.json"
SMALL_SUFFIXES = (".json", ".jinja", ".model", ".txt")


def cached_snapshot(name: str, revision: str | None = None) -> Path | None:
    """The complete snapshot of a Hub model in the local cache, or None. No network; about a millisecond."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"
    revision = revision or constants.DEFAULT_REVISION
    with contextlib.suppress(OSError):
        revision = (folder / "refs" / revision).read_text(encoding="utf-8").strip()
    snapshot = folder / "snapshots" / revision
    return snapshot if missing_in(snapshot) is None else None


def missing_in(folder: Path) -> str | None:
    """The first file that a usable model folder needs and this one lacks, or None if it is complete."""
    needed = ["config.json", "tokenizer.json", *_shards(folder)]
    return next((name for name in needed if not (folder / name).is_file()), None)


def require_model_folder(folder: Path) -> Path:
    """The folder, absolute, if it holds a model that can be loaded. Raises FinetuneError (code not-a-model)."""
    folder = folder.expanduser().absolute()
    names = {file.name for file in folder.iterdir()}
    if problem := refusal(names, str(folder)):
        raise problem
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = None
    if not isinstance(config, dict) or "model_type" not in config:
        raise _not_a_model(f"{folder}/config.json does not describe a model.", "Copy the folder again, complete.")
    if missing := missing_in(folder):
        raise _not_a_model(f"{folder} lacks {missing}.", "Copy the folder again, complete.")
    return folder


def refusal(names: Collection[str], where: str) -> FinetuneError | None:
    """Why files of these names are no model that can be trained here, or None if they are one."""
    if "config.json" not in names and "adapter_config.json" in names:
        return _not_a_model(f"{where} holds an adapter, not a model.", "Choose the model that it was trained on.")
    if not weight_files(names):
        if any(name.endswith(".gguf") for name in names):
            return _not_a_model(
                f"{where} holds GGUF files, which are for running a model, not for training one.",
                "Choose the repository that they were made from; it has safetensors files.",
            )
        if any(name.endswith((".bin", ".pt", ".pth", ".ckpt")) for name in names):
            return _not_a_model(
                f"{where} has its weights only in a pickle file (.bin), which can hide a program.",
                "Choose a version with safetensors files, or, if you trust its maker, load it in transformers and "
                "save it again with save_pretrained.",
            )
        return _not_a_model(f"{where} has no safetensors weights.", "Choose a text-generation model with safetensors.")
    if "config.json" not in names:
        return _not_a_model(f"{where} has no config.json.", "Choose a model in transformers' format.")
    if "tokenizer.json" not in names:
        return _not_a_model(
            f"{where} has no tokenizer.json.",
            "Choose a model with one, or load its tokenizer in transformers and save it again with save_pretrained.",
        )
    return None


def weight_files(names: Collection[str]) -> set[str]:
    """Those of the names that hold the weights, in transformers' layout.

    >>> sorted(weight_files(["model.safetensors", "consolidated.safetensors", "config.json"]))
    ['model.safetensors']
    """
    if "model.safetensors" in names:
        return {"model.safetensors"}
    return {name for name in names if re.fullmatch(r"model-\d+-of-\d+\.safetensors", name)}


def download(
    name: str,
    revision: str | None = None,
    *,
    token: str | None = None,
    on_progress: OnProgress | None = None,
) -> Path:
    """Fetch from the Hub what training needs (config, tokenizer, safetensors) into its cache; the snapshot.

    Ask hub.reachable() first. Raises FinetuneError: not found, gated, no safetensors, disk full, connection lost.
    """
    from huggingface_hub import HfApi, constants, snapshot_download

    try:
        info = HfApi(token=token).model_info(name, revision=revision, files_metadata=True, timeout=5)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or () if "/" not in file.rfilename}
        if problem := refusal(sizes, name):
            raise problem
        wanted = weight_files(sizes) | {file for file in sizes if file.endswith(SMALL_SUFFIXES)}
        total = sum(sizes[file] for file in wanted)
        cache = Path(constants.HF_HUB_CACHE)
        cache.mkdir(parents=True, exist_ok=True)
        blobs = cache / f"models--{name.replace('/', '--')}" / "blobs"
        fix = "Free some space, set HF_HOME to a larger disk, or choose a smaller model."
        require_disk(cache, total - _bytes_in(blobs), name, fix)
        with watched_bytes(blobs, total, f"downloading {name}", on_progress):
            folder = snapshot_download(name, revision=revision, allow_patterns=sorted(wanted), token=token)
    except FinetuneError:
        raise
    except Exception as error:
        known = explain(error)
        if type(error).__module__.startswith("httpx") or isinstance(error, ConnectionError | TimeoutError):
            lost = "The connection to the Hub was lost."
            known = FinetuneError(lost, "Try again; what has arrived is kept.", code="hub-away")
        if known.code == "bug":
            raise
        raise FinetuneError(f"{name}: {known.problem}", known.fix, code=known.code) from error
    return Path(folder)


@contextlib.contextmanager
def watched_bytes(folder: Path, total: int, words: str, on_progress: OnProgress | None) -> Iterator[None]:
    """Report how much of `total` bytes has arrived in the folder, twice a second, while the block runs."""
    if on_progress is None:
        yield
        return
    ended = threading.Event()
    before = _bytes_in(folder)

    def watch() -> None:
        while not ended.wait(0.5):
            here = _bytes_in(folder)
            done = min(total, here if total > before else here - before)
            on_progress(done / max(1, total), f"{words}: {done / 1e6:.0f} of {total / 1e6:.0f} MB")

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def _shards(folder: Path) -> list[str]:
    if (folder / INDEX).is_file() and not (folder / "model.safetensors").is_file():
        try:
            return sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
        except (OSError, ValueError, KeyError, AttributeError):
            return [INDEX + " in readable form"]
    return ["model.safetensors"]


def _bytes_in(folder: Path) -> int:
    total = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += file.stat().st_size if file.is_file() else 0
    return total


def _not_a_model(problem: str, fix: str) -> FinetuneError:
    return FinetuneError(problem, fix, code="not-a-model")
