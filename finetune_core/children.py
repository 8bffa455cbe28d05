"""Child processes: how they are started, waited for and ended, with which environment, and what their logs say."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

import psutil

from . import hub
from .errors import FinetuneError, redact
from .files import is_unsupported

PROJECT_DIR = Path(__file__).resolve().parent.parent
TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "OPENAI_API_KEY")


def tail(path: Path, lines: int = 200, limit: int = 64_000) -> str:
    """The end of a log, without tokens and without the overwritten part of progress bars."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - limit))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    kept = [line.rsplit("\r", 1)[-1].rstrip() for line in text.replace("\r\n", "\n").split("\n")]
    return redact("\n".join([line for line in kept if line][-lines:]))


def child_environment() -> dict[str, str]:
    """The environment of a child process: it finds this package, and asks the Hub only where that can be reached."""
    env = dict(os.environ)
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PROJECT_DIR), env.get("PYTHONPATH", "")]))
    env["PYTHONUNBUFFERED"] = "1"
    env["HF_HUB_DISABLE_TELEMETRY"] = "1"
    env.setdefault("TOKENIZERS_PARALLELISM", "false")
    env.pop("OAUTH_CLIENT_SECRET", None)  # a Space's own; no child signs anybody in
    if not hub.reachable():
        env["HF_HUB_OFFLINE"] = "1"
    return env


def run_tool(line: list[str], environment: dict[str, str], seconds: float | None = None) -> tuple[int, str]:
    """Run a helper program to its end, without any token: (exit code, the end of what it said). It dies with us."""
    env = {name: value for name, value in {**child_environment(), **environment}.items() if name not in TOKENS}
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=env)
        try:
            code = child.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            code = 124
        finally:
            if child.poll() is None:
                end(child.pid, 3)
        log.seek(max(0, log.seek(0, os.SEEK_END) - 64_000))
        return code, redact(log.read().decode("utf-8", "replace"))


def spawn(line: list[str], log_path: Path, secrets: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, which outlives this one; what it prints goes to the log."""
    with _opened(log_path) as log:  # a file, never a pipe: a closed page must not stall the worker
        log.write(f"$ {' '.join(line)}\n".encode())
        log.flush()
        return subprocess.Popen(
            line,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=child_environment() | dict(secrets or {}),
            start_new_session=True,
        )


def _opened(log_path: Path) -> IO[bytes]:
    """The log, open to append to; emptied where the file system cannot append."""
    try:
        return log_path.open("ab")
    except OSError as error:
        if not is_unsupported(error):
            raise
        return log_path.open("wb")


def spawn_until(
    begun: Callable[[], object], line: list[str], log_path: Path, secrets: Mapping[str, str] | None, wait_seconds: float
) -> subprocess.Popen[bytes]:
    """Returns once the process has begun, has ended, or has had its time."""
    process = spawn(line, log_path, secrets)
    deadline = time.monotonic() + wait_seconds
    while not begun() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    return process


def end(pid: int, wait_seconds: float) -> None:
    """SIGTERM, then SIGKILL, to a process and its children."""
    try:
        parent = psutil.Process(pid)
        family = [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for send in (signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM)):
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(send)
        _, family = psutil.wait_procs(family, timeout=wait_seconds if send == signal.SIGTERM else 3)
        if not family:
            return


def died(what: str, log: Path, code: str) -> FinetuneError:
    """A process that ended before it began: in its own words, if it had any."""
    if said := last_error(log):
        return FinetuneError(said, "Then start it again.", code=code)
    return FinetuneError(
        f"{what} ended before it began. Its log ends with: {tail(log, 3) or 'nothing'}",
        f"Start it again; if that does not help, read the whole log: {log}",
        code=code,
    )


def last_error(log: Path) -> str:
    """What a verb printed as its error, in words (cli prints `problem fix` on stderr)."""
    for line in reversed(tail(log, 30).splitlines()):
        if line.startswith("error: "):
            return line.removeprefix("error: ")
    return ""
