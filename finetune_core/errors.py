"""Errors that a person can act on: what happened (`problem`), what to do next (`fix`), and a stable `code`."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from typing import Any

TOKEN_PATTERN = re.compile(r"\bhf_(?:oauth_)?[A-Za-z0-9._-]{8,}|\beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{5,}|\bsk-[\w-]{20,}")


class FinetuneError(Exception):
    """A failure that is the person's to solve, shown as problem and fix and never as a traceback.

    try:
        run = Run.create(runs_dir, recipe)
    except FinetuneError as error:
        print(error.problem, error.fix)
    """

    def __init__(self, problem: str, fix: str, code: str = "refused"):
        super().__init__(problem)
        self.problem = redact(problem)
        self.fix = redact(fix)
        self.code = code

    def __str__(self) -> str:
        return f"{self.problem} {self.fix}"

    def __reduce__(self):
        return FinetuneError, (self.problem, self.fix, self.code)

    def as_dict(self) -> dict[str, str]:
        return {"code": self.code, "problem": self.problem, "fix": self.fix}


def refusal(require: Callable[..., Any], *values: Any) -> FinetuneError | None:
    """Why `require(*values)` refuses; None where it does not."""
    try:
        require(*values)
    except FinetuneError as error:
        return error
    return None


def redact(text: str) -> str:
    """Replace everything that looks like an access token.

    >>> redact("login with hf_abcdefghijklmnop failed")
    'login with [token] failed'
    """
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "OPENAI_API_KEY"):
        secret = os.environ.get(name)
        if secret and len(secret) >= 8:
            text = text.replace(secret, "[token]")
    return TOKEN_PATTERN.sub("[token]", text)


KILLED = "killed-for-memory"  # code: a process was ended from outside, as a machine does that has no memory left


# By class name (also of base classes), so that this file imports nothing heavy.
# (code, problem or None for the library's own words, fix)
KNOWN: dict[str, tuple[str, str | None, str]] = {
    "OutOfMemoryError": (
        "out-of-memory",
        "The accelerator ran out of memory.",
        "Halve per_device_train_batch_size and double gradient_accumulation_steps, lower max_length, "
        "switch gradient_checkpointing on, or use method: qlora.",
    ),
    "MemoryError": (
        "out-of-memory",
        "This machine ran out of memory.",
        "Choose a smaller model, lower max_length or per_device_train_batch_size, or close other programs.",
    ),
    "GatedRepoError": (
        "gated",
        "This model or data set is gated: its owner asks you to accept terms first.",
        "Open its page on the Hub, accept the terms, then sign in here with that account (`hf auth login`).",
    ),
    "RepositoryNotFoundError": (
        "not-found",
        "The Hub knows no such repository, or it is private and you are not signed in.",
        "Check the spelling (owner/name), or sign in with an account that may read it (`hf auth login`).",
    ),
    "RevisionNotFoundError": (
        "not-found",
        "The Hub knows the repository, but not this revision.",
        "Clear model_revision, or copy the commit or branch name from the repository's page.",
    ),
    "EntryNotFoundError": (
        "not-found",
        "A file that is needed is missing in this repository.",
        "Choose a repository with safetensors weights and a tokenizer.json.",
    ),
    "LocalEntryNotFoundError": (
        "hub-away",
        "The Hub cannot be reached, and this is not on your machine yet.",
        "Check the connection, choose the starter model, or give a folder on this machine.",
    ),
    "OfflineModeIsEnabled": (
        "hub-away",
        "The Hub cannot be reached, and this is not on your machine yet.",
        "Check the connection, choose the starter model, or give a folder on this machine.",
    ),
    "ConnectError": ("hub-away", "The Hub cannot be reached.", "Check the connection and try again."),
    "ConnectTimeout": ("hub-away", "The Hub did not answer in time.", "Check the connection and try again."),
    "PermissionError": ("no-permission", None, "Choose a folder that you may write to, or change its permissions."),
    "UnicodeError": (
        "unreadable-file",
        "The file is not text in a known encoding.",
        "Save it as UTF-8 and try again.",
    ),
}


# By the status of the Hub's answer, where the class of the error says nothing. (code, problem, fix)
STATUSES: dict[int, tuple[str, str, str]] = {
    401: (
        "bad-token",
        "The Hub does not take your sign-in or token any more: it has ended, or was revoked.",
        "Sign in again (`hf auth login`; on a Space, at the top of the page), then try again.",
    ),
    403: (
        "forbidden",
        "The Hub does not let this account read that.",
        "Check the token's rights (huggingface.co/settings/tokens), or sign in with another account.",
    ),
    429: ("hub-busy", "The Hub has had too many questions from here.", "Wait a few minutes, then try again."),
}


def explain(error: BaseException) -> FinetuneError:
    """Turn any exception into one with a next step. Unknown ones become code "bug" and point to the log."""
    if isinstance(error, FinetuneError):
        return error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return FinetuneError(
            "The disk is full.",
            "Delete runs that you no longer need, or choose another folder with --runs-dir; then try again.",
            code="disk-full",
        )
    if _is_out_of_memory(error):
        return FinetuneError(KNOWN["OutOfMemoryError"][1] or "", KNOWN["OutOfMemoryError"][2], code="out-of-memory")
    for cls in type(error).__mro__:
        if cls.__name__ in KNOWN:
            code, problem, fix = KNOWN[cls.__name__]
            return FinetuneError(problem or first_line(error), fix, code=code)
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in STATUSES and any(cls.__name__ == "HfHubHTTPError" for cls in type(error).__mro__):
        code, problem, fix = STATUSES[status]
        return FinetuneError(problem, fix, code=code)
    cause = error.__cause__ or error.__context__
    if cause is not None and cause is not error:
        inner = explain(cause)
        if inner.code != "bug":
            return inner
    return FinetuneError(
        f"Something went wrong that Fijn did not foresee: {type(error).__name__}: {first_line(error)}",
        "Open the log for the details (worker.log in the run folder, or --debug); "
        "if it looks like our mistake, please report it.",
        code="bug",
    )


def _is_out_of_memory(error: BaseException) -> bool:
    words = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "out of memory" in words or "can't allocate memory" in words or "defaultcpuallocator" in words
    )


def first_line(error: BaseException, limit: int = 300) -> str:
    """The first line of an exception's text, short enough to show."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return redact(text if len(text) <= limit else text[: limit - 1] + "…")
