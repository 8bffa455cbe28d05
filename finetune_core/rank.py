"""One of the processes that share a training: `python -m finetune_core.rank RUN MODEL_FOLDER`, started by processes.py.

The first of them (rank 0) writes the diary, the checkpoints and the result; all of them end with their parent.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from .encoded import open_encoded
from .errors import FinetuneError, explain, redact
from .events import Event
from .files import write_json
from .learn import learn, sample_of
from .output import own_stdout
from .processes import scratch_of
from .recipe import Recipe
from .run import Run
from .sharing import share, weights_shared


def main(run_path: str, model_folder: str) -> int:
    """The exit code; what went wrong is left as error-RANK.json for the parent, its traceback on stderr."""
    run, rank = Run(Path(run_path)), int(os.environ["RANK"])
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    try:
        outcome, facts = _work(run, Path(model_folder), rank)
        if rank == 0:
            write_json(scratch_of(run) / "result.json", {"outcome": outcome, "facts": facts})
        return 0
    except BaseException as error:
        told = explain(error)
        with contextlib.suppress(OSError):  # the parent is gone, and its scratch with it
            write_json(scratch_of(run) / f"error-{rank}.json", told.as_dict() | {"time": time.time()})
        print(f"[process {rank + 1}] {redact(traceback.format_exc())}", file=sys.stderr, flush=True)
        return 1


def _work(run: Run, folder: Path, rank: int) -> tuple[str, dict[str, Any]]:
    from .render import load_tokenizer

    def tell(kind: str, /, **data: Any) -> Event:
        return run.tell(kind, **data) if rank == 0 else Event(kind, time.time(), data)

    shared = share(Recipe.load(scratch_of(run) / "recipe.yaml"))
    says = f"{shared.says} {weights_shared(shared.recipe)}" if shared.recipe.fsdp else shared.says
    if shared.rows == shared.asked:
        tell("stage", name="loading the model", says=says)
    else:
        tell("warning", code="batch-rounded", says=says)
    tokenizer = load_tokenizer(folder)
    sets = open_encoded(run, shared.recipe.max_length)  # the parent encoded them
    made = learn(run, shared.recipe, folder, tokenizer, sets, sample_of(run, shared.recipe, tokenizer), tell)
    _leave()
    return made


def _leave() -> None:
    import torch.distributed as dist

    if dist.is_initialized():
        dist.barrier()  # nobody hangs up while another still waits for an answer
        dist.destroy_process_group()


def _end_with_parent(parent: int) -> None:
    """However the parent dies, its processes do not go on without the lock that it held."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise FinetuneError("This is started by `train`.", "Run: python -m finetune_core train RECIPE", code="usage")
    with own_stdout(True):
        code = main(sys.argv[1], sys.argv[2])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # not through the exit handlers of a process group whose other end may hang
