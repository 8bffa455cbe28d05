"""What runs in a job: fetch the run, train it as on any machine, print its diary, keep its checkpoints and result.

python -m finetune_core.jobs.inside         with FIJN_REPO, FIJN_RUN and, as a secret, HF_TOKEN
"""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
from pathlib import Path
from typing import Any

from ..errors import FinetuneError, explain, redact
from ..events import Event
from ..output import own_stdout
from ..run import Run
from ..train import train
from .around import MARK

LOOK_SECONDS = 15.0  # between two looks for a stop
RESULT = ["events.jsonl", "report.json", "report*", "data/card.json", "adapter/*", "model/*"]
NEVER = ["*training_args.bin"]  # a pickle that nothing here reads


def main() -> int:
    """The exit code: 0 finished or stopped, 1 failed, and the diary's last line says why."""
    from huggingface_hub import snapshot_download

    repo, name = os.environ["FIJN_REPO"], os.environ["FIJN_RUN"]
    fetched = Path(snapshot_download(repo, local_dir=Path("runs") / ".fetched", allow_patterns=["run/**"])) / "run"
    (fetched / "stop").unlink(missing_ok=True)
    run = Run(fetched.rename(Path("runs").absolute() / name))
    keeper, number = Keeper(run, repo), 0

    def show(event: Event) -> None:
        nonlocal number
        number += 1
        print(f"{MARK}{number} {event.as_json()}", flush=True)
        if event.kind == "checkpoint":
            keeper.checkpoint(int(event.data["step"]))

    keeper.start()
    try:
        train(run, on_event=show, token=os.environ.get("HF_TOKEN"))
        return 0
    except FinetuneError:
        return 1
    finally:
        keeper.finish()


class Keeper:
    """Brings checkpoints to the repository while the training goes on, and looks there for a wish to stop."""

    def __init__(self, run: Run, repo_id: str):
        from huggingface_hub import HfApi

        self.run, self.repo_id, self.api = run, repo_id, HfApi(library_name="fijn")
        self._steps: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._sender = threading.Thread(target=self._send, daemon=True)
        self._over = threading.Event()

    def start(self) -> None:
        self._sender.start()
        threading.Thread(target=self._look, daemon=True).start()

    def checkpoint(self, step: int) -> None:
        self._steps.put(step)

    def finish(self) -> None:
        """The result and the whole diary; three tries, because a lost result is a lost training."""
        self._over.set()
        self._steps.put(None)
        self._sender.join()
        for attempt in range(3):
            try:
                self._upload(RESULT, "Result")
                return
            except Exception as error:
                print(f"The result could not be kept (try {attempt + 1} of 3): {explain(error)}", file=sys.stderr)
                self._wait(10)

    def _wait(self, seconds: float) -> None:
        threading.Event().wait(seconds)

    def _send(self) -> None:
        while True:
            step = self._steps.get()
            while step is not None and not self._steps.empty():  # only the newest matters
                step = self._steps.get()
            if step is None:
                return
            place = f"checkpoints/checkpoint-{step}"
            try:
                self._upload(["events.jsonl", "data/card.json", f"{place}/*"], f"Step {step}", "checkpoints/*")
            except Exception as error:  # the next one is tried again
                print(f"Checkpoint {step} could not be kept: {redact(str(explain(error)))}", file=sys.stderr)

    def _upload(self, what: list[str], message: str, instead_of: str | None = None) -> None:
        self.api.upload_folder(
            folder_path=self.run.path, path_in_repo="run", repo_id=self.repo_id, allow_patterns=what,
            ignore_patterns=NEVER, delete_patterns=instead_of, commit_message=message,
        )  # fmt: skip

    def _look(self) -> None:
        seconds = float(os.environ.get("FIJN_LOOK_SECONDS", LOOK_SECONDS))
        while not self._over.wait(seconds):
            with contextlib.suppress(Exception):  # asked again in a moment
                if self.api.file_exists(self.repo_id, "run/stop"):
                    (self.run.path / "stop").touch()
                    return


def event_in(line: str) -> tuple[str, dict[str, Any]] | None:
    """(its number, the event as JSON) of a log line that is one of the diary's; None for any other."""
    import json

    number, _, text = line.removeprefix(MARK).partition(" ")
    if not line.startswith(MARK) or not number.isdigit():
        return None
    try:
        said = json.loads(text)
    except ValueError:
        return None
    return (number, said) if isinstance(said, dict) and "kind" in said else None


if __name__ == "__main__":
    with own_stdout(False):
        code = main()
    sys.exit(code)
