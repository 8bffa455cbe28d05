"""The Hugging Face Hub, asked with a time-out: is it there, what does it have, may this account use it.

huggingface_hub retries a dead connection for 25 seconds before it says so; everything here answers within five.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from .errors import FinetuneError, explain
from .recipe import STARTER_MODEL

T = TypeVar("T")

REMEMBER_SECONDS = 60.0
SMALL_FILES = ["*.json", "*.jinja", "tokenizer.model", "README.md"]
_lock = threading.Lock()
_last: tuple[float, str, bool] | None = None  # (when, endpoint, reachable)
_pool = ThreadPoolExecutor(max_workers=8, thread_name_prefix="hub")


@dataclass(frozen=True)
class HubItem:
    """One search result."""

    id: str
    downloads: int = 0
    gated: bool = False
    private: bool = False
    parameters: int | None = None  # of a model whose weights are safetensors
    size: str | None = None  # of a data set, as its card says: 1K<n<10K
    licence: str | None = None


def endpoint() -> str:
    """The Hub's address: HF_ENDPOINT, else https://huggingface.co."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def is_offline() -> bool:
    """The person switched the Hub off (HF_HUB_OFFLINE)."""
    return os.environ.get("HF_HUB_OFFLINE", "").strip().lower() in ("1", "true", "yes", "on")


def reachable(timeout: float = 1.5) -> bool:
    """Whether the Hub's host takes a connection within `timeout` seconds. Remembered for a minute."""
    global _last
    if is_offline():
        return False
    with _lock:
        if _last and _last[1] == endpoint() and time.monotonic() - _last[0] < REMEMBER_SECONDS:
            return _last[2]
    answer = bool(_within(timeout, _connect, None))
    with _lock:
        _last = (time.monotonic(), endpoint(), answer)
    return answer


def forget() -> None:
    """Ask again next time (the Retry button)."""
    global _last
    with _lock:
        _last = None


def require_reachable(what: str) -> None:
    """Raise FinetuneError (code hub-away) if the Hub is away, naming what was wanted."""
    if not reachable():
        switched_off = " (HF_HUB_OFFLINE is set)" if is_offline() else ""
        raise FinetuneError(
            f"{what} is not on this machine, and the Hub cannot be reached{switched_off}.",
            "Check the connection, choose the starter model, or give a folder on this machine.",
            code="hub-away",
        )


FACTS = {"model": ["downloads", "gated", "private", "safetensors", "tags"],
         "dataset": ["downloads", "gated", "private", "tags"]}  # fmt: skip


@lru_cache(maxsize=256)
def _search(kind: str, query: str, limit: int, token: str | None, own: str, _epoch: int) -> tuple[HubItem, ...]:
    from huggingface_hub import HfApi

    api = HfApi(token=token or False)
    more: dict[str, Any] = {"search": query, "sort": "downloads", "limit": limit, "expand": FACTS[kind]}
    if kind == "model":
        more["pipeline_tag"] = "text-generation"
    ask = api.list_models if kind == "model" else api.list_datasets
    mine = [_item(each) for each in ask(author=own, **more)] if own else []
    return tuple(dict.fromkeys([*mine, *(_item(each) for each in ask(**more))]))[:limit]


def _item(found: Any) -> HubItem:
    tags = dict(tag.split(":", 1) for tag in found.tags or () if ":" in tag)
    return HubItem(
        found.id,
        found.downloads or 0,
        bool(getattr(found, "gated", False)),
        bool(found.private),
        getattr(getattr(found, "safetensors", None), "total", None),
        tags.get("size_categories"),
        tags.get("license"),
    )


def search(
    kind: str, query: str, *, limit: int = 8, token: str | None = None, own: str = "", timeout: float = 2.5
) -> list[HubItem]:
    """Models or data sets whose name contains the query, those of the account `own` first, then by downloads.

    [] when the Hub is away, slow, or refuses. Kept for five minutes.
    """
    query = query.strip()
    if len(query) < 2 or not reachable(1.0):
        return []
    epoch = int(time.time() // 300)
    return list(_within(timeout, lambda: _search(kind, query, limit, token, own, epoch), ()))


def local_model(name: str, revision: str | None = None) -> Path | None:
    """The folder of a model that is already on this machine: a folder, the Hub cache, or the converted starter."""
    folder = Path(name).expanduser()
    if looks_local(name):
        return folder if (folder / "config.json").is_file() else None
    if name == STARTER_MODEL and revision is None:
        from .starter import where_is_starter

        return where_is_starter()[0]
    return _cached(name, revision)


def looks_local(name: str) -> bool:
    """A path, not owner/name: absolute, ./relative, ~, or a folder that exists."""
    return name.startswith(("/", "./", "../", "~", ".\\")) or Path(name).expanduser().is_dir() or ":\\" in name


def require_name(name: str) -> None:
    """Raises FinetuneError if no repository can have this name."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        raise FinetuneError(
            f"{name!r} is neither a folder on this machine nor a name on the Hub.",
            "Names on the Hub look like owner/name.",
            code="not-found",
        ) from None


def small_files(name: str, revision: str | None = None, *, token: str | None = None) -> tuple[Path, int | None]:
    """A folder with a Hub model's config, tokenizer and template, without its weights; and how many values these hold.

    The Hub counts them from the headers of the safetensors; None where it has not.

    Raises FinetuneError within seconds: away, unknown, gated, or a repository without safetensors.
    """
    from huggingface_hub import HfApi, snapshot_download

    require_reachable(f"The model {name}")
    require_name(name)
    try:
        about = HfApi(token=token).model_info(name, revision=revision, timeout=4)
    except Exception as error:
        raise explain(error) from error
    files = [sibling.rfilename for sibling in about.siblings or []]
    if not any(file.endswith(".safetensors") for file in files):
        raise FinetuneError(
            f"{name} has no safetensors weights.",
            "Choose a repository with .safetensors files; other formats can run code when they are opened.",
            code="no-safetensors",
        )
    folder = _within(
        30, lambda: Path(snapshot_download(name, revision=about.sha, allow_patterns=SMALL_FILES, token=token)), None
    )
    if folder is None:
        raise FinetuneError(
            f"The Hub did not send {name}'s configuration in time.", "Try again in a moment.", code="hub-slow"
        )
    return folder, getattr(about.safetensors, "total", None)


def _cached(name: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json", revision=revision)
    except HFValidationError:
        return None
    if not isinstance(found, str):
        return None
    folder = Path(found).parent
    return folder if (folder / "tokenizer.json").is_file() and any(folder.glob("*.safetensors")) else None


def _connect() -> bool:
    parts = urlsplit(endpoint())
    port = parts.port or (443 if parts.scheme == "https" else 80)
    proxy = os.environ.get("HTTPS_PROXY" if parts.scheme == "https" else "HTTP_PROXY")
    host = parts.hostname or ""
    if proxy and host not in ("127.0.0.1", "localhost"):
        proxied = urlsplit(proxy if "//" in proxy else f"//{proxy}")
        host, port = proxied.hostname or host, proxied.port or 3128
    with socket.create_connection((host, port), timeout=5):
        return True


def _within(seconds: float, ask: Callable[[], T], otherwise: Any) -> T | Any:
    """The answer of `ask`, or `otherwise` if it fails or takes longer; a stuck look-up stays in its own thread."""
    future = _pool.submit(ask)
    try:
        return future.result(timeout=seconds)
    except (FutureTimeout, OSError):
        return otherwise
    except Exception as error:
        if type(error).__module__.startswith(("huggingface_hub", "httpx", "httpcore")):
            return otherwise
        raise
