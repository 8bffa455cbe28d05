"""What the job's command runs: the training as a child process, and a line in the log where that child was killed.

A machine with no memory left ends a process without a word to it (SIGKILL, exit code 137), so the one that learns
cannot say so itself. This one is small: the kernel chooses the other. Where the whole container ends, as of a job that
is cancelled or at its time-out, this process ends too and says nothing.

python -m finetune_core.jobs.around         with what finetune_core.jobs.inside needs
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import KILLED, FinetuneError
from ..events import Event

MARK = "fijn-event "  # a line of the diary among the job's log lines
NUMBER = 0  # of this line; those of the child begin at 1
GRACE = 2.0  # seconds in which an end of the whole container comes to this process too
COUNTS = (Path("/sys/fs/cgroup/memory.events"), Path("/sys/fs/cgroup/memory/memory.oom_control"))  # of the container
WITH_LESS = (
    "Run it again with less: `train RUN` and the page offer the next step, if one is left, with its price. Or take "
    "hardware with more memory."
)
SIGNS = (
    "Exit code 137 is how a machine ends a process when its own memory, not a GPU's, is full: most likely that is why"
)


def main(line: Sequence[str] = (sys.executable, "-m", "finetune_core.jobs.inside")) -> int:
    """The child's exit code, 137 where it was killed."""
    before, was_asked = memory_kills(), False

    def pass_on(number: int, _frame: Any) -> None:
        nonlocal was_asked
        was_asked = True
        child.send_signal(number)

    child = subprocess.Popen(line)
    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGINT, pass_on)
    code = child.wait()
    if code == -signal.SIGKILL and not was_asked:
        time.sleep(GRACE)
        told = what_killed_it(before, memory_kills())
        event = Event("error", time.time(), {**told.as_dict(), "run": os.environ.get("FIJN_RUN", "")})
        print(f"\n{MARK}{NUMBER} {event.as_json()}", flush=True)  # the child's last line may be half a one
    return 128 - code if code < 0 else code


def memory_kills(counts: Sequence[Path] = COUNTS) -> int | None:
    """How many processes of this container a kernel without memory has ended; None where it does not say."""
    for path in counts:
        try:
            lines = path.read_text().splitlines()
        except OSError:
            continue
        for words in map(str.split, lines):
            if words[:1] == ["oom_kill"] and words[-1].isdigit():
                return int(words[-1])
    return None


def what_killed_it(before: int | None, after: int | None) -> FinetuneError:
    """What is known of the end, by the kernel's count before and after it, and what is guessed."""
    if before is None or after is None:
        says = f"The training was killed on the rented machine. {SIGNS}; its kernel keeps no count that would say so."
        return FinetuneError(says, WITH_LESS, code=KILLED)
    if after > before:
        says = "The rented machine had no memory left (its own, not a GPU's): its kernel says that it ended the "
        return FinetuneError(f"{says}training for that.", WITH_LESS, code=KILLED)
    return FinetuneError(
        "The training was killed on the rented machine (exit code 137), and not for its memory, as its kernel counts.",
        "Resume: a new job goes on from the last checkpoint.",
        code="job-died",
    )


if __name__ == "__main__":
    sys.exit(main())
