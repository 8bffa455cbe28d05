"""The child of own_check.py: python -I own_check_child.py CHECK JOB RESULTS SECONDS MEMORY_MB. Imports nothing of ours.

It loads the check once, then forks for every answer: whatever one does, the next starts clean.
"""

import contextlib
import ctypes
import importlib.util
import json
import os
import resource
import signal
import sys
import time

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000


def main() -> None:
    check_file, job, results, seconds, memory_mb = sys.argv[1:]
    closed = close_network()
    with open(job, encoding="utf-8") as file:
        tasks = json.load(file)
    with open(results, "w", encoding="utf-8") as out:

        def say(**found) -> None:
            out.write(json.dumps(found) + "\n")
            out.flush()

        limit(int(memory_mb))
        try:
            check = load(check_file)
        except BaseException as error:
            return say(refused=f"{type(error).__name__}: {error}"[:300])
        say(closed=closed)
        for place, task in enumerate(tasks):
            say(place=place, **one(check, task, float(seconds)))


def load(path: str):
    spec = importlib.util.spec_from_file_location("own_check_file", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not callable(getattr(module, "check", None)):
        raise AttributeError("it has no function called check")
    return module.check


def one(check, task: dict, seconds: float) -> dict:
    """Run one check in a fork of its own; {"score": ...} or {"error": ...}."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        os.close(reading)
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 1))
        try:
            score = check(task["answer"], task["reference"], task["row"])
            found = {"score": score if isinstance(score, bool | int | float) else repr(score)[:100]}
            line = json.dumps(found)
        except BaseException as error:
            line = json.dumps({"error": f"{type(error).__name__}: {error}"[:300]})
        os.write(writing, line.encode())
        os._exit(0)
    os.close(writing)
    end = time.monotonic() + seconds
    os.set_blocking(reading, False)
    said, status = b"", None
    while status is None and time.monotonic() < end:
        finished, code = os.waitpid(child, os.WNOHANG)
        status = code if finished else None
        if status is None:
            time.sleep(0.002)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)  # also what the check may have started
    if status is None:
        os.waitpid(child, 0)
        os.close(reading)
        return {"error": f"took longer than {seconds:g} seconds"}
    with contextlib.suppress(BlockingIOError):
        said = os.read(reading, 65536)
    os.close(reading)
    try:
        return json.loads(said)
    except ValueError:
        return {"error": "the check's process died (out of memory, or it ended itself)"}


def limit(memory_mb: int) -> None:
    for name, value in (
        ("RLIMIT_AS", memory_mb * 2**20),
        ("RLIMIT_FSIZE", 64 * 2**20),
        ("RLIMIT_NOFILE", 64),
        ("RLIMIT_CORE", 0),
    ):
        with contextlib.suppress(ValueError, OSError):  # macOS refuses some values of RLIMIT_AS
            resource.setrlimit(getattr(resource, name), (value, value))


def close_network() -> bool:
    """A network namespace without any device, where the kernel lets an ordinary user make one."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        return libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0
    except (OSError, AttributeError):
        return False


if __name__ == "__main__":
    main()
