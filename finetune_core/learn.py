"""One training to its end: rows that are token ids already → trainer → tuned weights in the run's folder."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import measured
from .events import Event
from .files import put
from .liger import liger_kept_apart
from .machine import this_machine
from .recipe import Recipe
from .run import Run

if TYPE_CHECKING:
    from .encoded import Sets
    from .render import ChatTokenizer

Tell = Callable[..., Event]
MEASURED_TOKENS, MEASURED_SECONDS = 2000, 5.0  # a shorter training is mostly warm-up and measures nothing


@liger_kept_apart()
def learn(
    run: Run,
    recipe: Recipe,
    folder: Path,
    tokenizer: ChatTokenizer,
    rows: Sets,
    sample: list[dict],
    tell: Tell,
) -> tuple[str, dict[str, Any]]:
    """Train this recipe on the run's rows and keep the result. `rows`: encoded, to train on and to validate with.

    folder: the base model's files. Returns the outcome ("finished" or "stopped") and facts for the diary: steps,
    best_step, train_seconds, peak_gb. Where memory runs out, it raises what torch raises.

    Of several processes (recipe.num_processes), each comes here, with its share of a step; the first one saves.
    """
    from .model import save_tokenizer
    from .trainer import build_trainer, dry_run
    from .watching import Diary

    machine = this_machine()
    diary = Diary(run, tell, tokenizer, sample, everybody=bool(recipe.fsdp))
    trainer = build_trainer(recipe, folder, run.path / "checkpoints", rows, [diary], machine)
    if machine.kind != "cpu":  # a CPU ends the process instead of saying that memory is short
        dry_run(trainer)
    checkpoints = run.checkpoints()
    began = time.monotonic()
    trainer.train(resume_from_checkpoint=str(checkpoints[-1]) if checkpoints else None)
    seconds = time.monotonic() - began

    stopped = (run.path / "stop").exists()
    first = trainer.is_world_process_zero()
    tell("stage", name="saving")
    result = run.result_dir
    beside = result.with_name(result.name + ".part")
    if recipe.fsdp:
        trainer.save_weights(beside)
    elif first:
        trainer.model.save_pretrained(beside, safe_serialization=True)
    if not first:
        return ("stopped" if stopped else "finished"), {}
    save_tokenizer(tokenizer, folder, beside)
    _name_base(beside, recipe)
    put(beside, result)
    by_itself = recipe == run.recipe and recipe.num_processes == 1  # else it is not what the plan estimated
    if by_itself and diary.real_tokens >= MEASURED_TOKENS and diary.busy_seconds >= MEASURED_SECONDS:
        spent = diary.real_tokens, diary.busy_seconds, diary.peak_gb
        measured.remember(run.plan() or {}, recipe, folder, machine, *spent)
    facts = {
        "steps": trainer.state.global_step,
        "best_step": best_step(trainer.state.best_model_checkpoint),
        "train_seconds": round(seconds, 1),
        "peak_gb": diary.peak_gb,
    }
    diary.forget()
    del trainer
    release_memory()
    return ("stopped" if stopped else "finished"), facts


def sample_of(run: Run, recipe: Recipe, tokenizer: ChatTokenizer) -> list[dict]:
    """The conversation that is answered while it learns."""
    from .encoded import read_rows
    from .watching import sample_messages

    train_rows, validation_rows = read_rows(run)
    return sample_messages(recipe, validation_rows or train_rows, tokenizer)


def best_step(checkpoint: str | None) -> int | None:
    """The step of a checkpoint's folder: checkpoint-200 → 200."""
    return int(Path(checkpoint).name.rpartition("-")[2]) if checkpoint else None


def _name_base(folder: Path, recipe: Recipe) -> None:
    """peft wrote the local folder it loaded from; elsewhere the adapter is found by the model's own name."""
    path = folder / "adapter_config.json"
    if path.is_file():
        config = json.loads(path.read_text(encoding="utf-8"))
        config["base_model_name_or_path"] = recipe.model_name_or_path
        config["revision"] = recipe.model_revision
        path.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def release_memory() -> None:
    """Give back the memory of a model that is done with, and measure the peak anew: what did not fit is no part of what
    the next attempt takes."""
    import torch

    from .model import free_memory

    free_memory()
    if torch.cuda.is_initialized():  # to ask a GPU that only other processes used would take memory of it
        torch.cuda.reset_peak_memory_stats()
