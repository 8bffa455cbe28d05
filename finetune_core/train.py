"""The worker: a run's recipe -> SFTTrainer -> adapter. The only caller of TRL. Heavy imports wait for the lock."""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from . import measured
from .errors import FinetuneError, explain
from .events import Event
from .machine import this_machine
from .recipe import Recipe
from .run import Run

if TYPE_CHECKING:
    from .data import Prepared
    from .render import ChatTokenizer

Tell = Callable[..., Event]
SAMPLE_TOKENS = 32


def train(run: Run, on_event: Callable[[Event], None] | None = None, token: str | None = None) -> str:
    """Train or resume this run in this process. Returns its outcome: "finished" or "stopped".

    Every line of the diary is also given to `on_event`. Raises FinetuneError after writing it into the diary as the
    last line; anything else is a bug, and is written there too before it is raised.
    """

    def tell(kind: str, /, **data: Any) -> Event:
        event = run.tell(kind, **data)
        if on_event:
            on_event(event)
        return event

    lock = run.lock()
    try:
        lock.acquire(timeout=0.5)
    except Timeout:
        raise FinetuneError("This run is already going on.", "Watch it on the page.", code="running") from None
    began = time.monotonic()
    try:
        tell("start", command=["train", run.id], pid=os.getpid(), machine=this_machine().title, versions=versions())
        with _turn(run, tell):
            outcome, facts = _train(run, tell, token)
        tell("done", outcome=outcome, seconds=round(time.monotonic() - began, 1), run=run.id, **facts)
        return outcome
    except _StoppedWaiting:
        tell("done", outcome="stopped", seconds=round(time.monotonic() - began, 1), run=run.id)
        return "stopped"
    except FinetuneError as error:
        tell("error", **error.as_dict(), run=run.id)
        raise
    except (KeyboardInterrupt, SystemExit):
        raise  # interrupted: the status says so, and Resume is offered
    except BaseException as error:
        told = explain(error)
        tell("error", **told.as_dict(), run=run.id)
        if told.code == "bug":
            raise
        raise told from error
    finally:
        lock.release()


class _StoppedWaiting(Exception):
    """Stop was pressed while the run stood in line."""


class _turn:
    """One training at a time on this machine: wait in line, say so, and give up when asked to stop."""

    def __init__(self, run: Run, tell: Tell):
        self.run, self.tell = run, tell
        self.lock = FileLock(run.path.parent / ".gpu.lock")

    def __enter__(self) -> None:
        said = False
        while True:
            try:
                self.lock.acquire(timeout=0.1 if not said else 1.0)
                return
            except Timeout:
                if not said:
                    self.tell("stage", name="waiting for its turn")
                    said = True
            if (self.run.path / "stop").exists():
                raise _StoppedWaiting

    def __exit__(self, *_: object) -> None:
        self.lock.release()


def _train(run: Run, tell: Tell, token: str | None) -> tuple[str, dict[str, Any]]:
    recipe = run.recipe
    tell("stage", name="fetching")
    from .model import fetch_model

    folder = fetch_model(
        recipe.model_name_or_path,
        recipe.model_revision,
        token=token,
        on_progress=_fraction_teller(tell, "fetching"),
    )
    tell("stage", name="preparing data")
    from .render import load_tokenizer

    tokenizer = load_tokenizer(folder)
    train_rows, validation_rows = _rows(run, recipe, tokenizer, token, tell)

    tell("stage", name="loading the model")
    outcome, facts = _learn(run, recipe, folder, tokenizer, train_rows, validation_rows, tell)
    if outcome == "finished" and recipe.evaluate:
        gc.collect()
        from .evaluate import evaluate

        tell("stage", name="evaluating")
        evaluate(run, tell=tell, quick=True)
    return outcome, facts


def _rows(
    run: Run, recipe: Recipe, tokenizer: ChatTokenizer, token: str | None, tell: Tell
) -> tuple[list[dict], list[dict]]:
    """The run's own rows; the first worker writes them, a resumed one reads what was written."""
    folder = run.path / "data"
    if not (folder / "card.json").is_file():
        from .data import prepare

        prepared = prepare(
            recipe, token=token, tokenizer=tokenizer, on_progress=_fraction_teller(tell, "preparing data")
        )
        write_data(prepared, folder, (run.plan() or {}).get("passed"))
    return read_rows(folder / "train.jsonl"), read_rows(folder / "validation.jsonl")


def write_data(prepared: Prepared, folder: Path, passed: list[dict] | None = None) -> None:
    """train/validation/test.jsonl and, last, card.json: a folder with a card is complete.

    `passed`: the warnings with which the person went on anyway; the card keeps them.
    """
    from .data import write_rows

    folder.mkdir(parents=True, exist_ok=True)
    for name in ("train", "validation", "test"):
        write_rows(getattr(prepared, name), folder / f"{name}.jsonl")
    card = folder / "card.json.part"
    facts = prepared.card() | {"warnings_passed": passed or []}
    card.write_text(json.dumps(facts, ensure_ascii=False, indent=1), encoding="utf-8")
    card.replace(folder / "card.json")


def read_rows(path: Path) -> list[dict]:
    """One JSON object a line; [] if there is no such file."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


def _learn(
    run: Run,
    recipe: Recipe,
    folder: Path,
    tokenizer: ChatTokenizer,
    train_rows: list[dict],
    validation_rows: list[dict],
    tell: Tell,
) -> tuple[str, dict[str, Any]]:
    import torch
    from transformers import AutoTokenizer, EarlyStoppingCallback, PrinterCallback, set_seed
    from trl import SFTTrainer

    from .model import load_base, save_tokenizer
    from .watching import Diary

    machine = this_machine()
    set_seed(recipe.seed)
    train_set = encode(train_rows, tokenizer, recipe.max_length)
    validation_set = encode(validation_rows, tokenizer, recipe.max_length) if validation_rows else None
    if len(train_set) == 0:
        raise FinetuneError(
            "No row has an answer within max_length, so there is nothing to learn.",
            "Raise max_length, or check the rows.",
            code="nothing-to-learn",
        )
    model = load_base(
        folder,
        dtype=recipe.dtype or "float32",
        attn_implementation=recipe.attn_implementation or "sdpa",
        quantization="4bit" if recipe.method == "qlora" else None,
        for_training=True,
    )
    processing_class = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    diary = Diary(run, tell, tokenizer, sample_messages(recipe, validation_rows or train_rows), SAMPLE_TOKENS)
    callbacks = [diary]
    if recipe.early_stopping and validation_set is not None:
        callbacks.append(EarlyStoppingCallback(early_stopping_patience=recipe.early_stopping_patience))
    trainer = SFTTrainer(
        model=model,
        args=sft_config(recipe, run.path / "checkpoints", machine.kind == "cpu", validation_set is not None),
        train_dataset=train_set,
        eval_dataset=validation_set,
        processing_class=processing_class,
        peft_config=lora_config(recipe),
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)  # the diary says it better
    checkpoints = run.checkpoints()
    began = time.monotonic()
    trainer.train(resume_from_checkpoint=str(checkpoints[-1]) if checkpoints else None)
    seconds = time.monotonic() - began

    tell("stage", name="saving")
    stopped = (run.path / "stop").exists()
    result = run.result_dir
    beside = result.with_name(result.name + ".part")
    trainer.model.save_pretrained(beside, safe_serialization=True)
    save_tokenizer(tokenizer, folder, beside)
    _name_base(beside, recipe)
    _swap(beside, result)
    measured.remember(run, recipe, folder, machine, diary.real_tokens, diary.busy_seconds, diary.peak_gb)
    facts = {
        "steps": trainer.state.global_step,
        "best_step": best_step(trainer.state.best_model_checkpoint),
        "train_seconds": round(seconds, 1),
        "peak_gb": diary.peak_gb,
    }
    diary.forget()
    del trainer, model
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return ("stopped" if stopped else "finished"), facts


def encode(rows: list[dict], tokenizer: ChatTokenizer, max_length: int) -> Any:
    """Rows as a data set of `input_ids` and `labels` (-100: not trained); rows that train no token are left out."""
    import numpy as np
    import pyarrow as pa
    from datasets import Dataset

    from .render import render_each

    ids, labels, ends = array("i"), array("i"), array("q", [0])  # four bytes a token: rows may be many
    for row in render_each(rows, tokenizer, max_length):
        if row.trained:
            ids.extend(row.input_ids)
            labels.extend(row.labels)
            ends.append(len(ids))
    offsets = pa.array(np.frombuffer(ends, dtype=np.int64))
    columns = {
        name: pa.LargeListArray.from_arrays(offsets, pa.array(np.frombuffer(values, dtype=np.int32)))
        for name, values in (("input_ids", ids), ("labels", labels))
    }
    return Dataset(pa.table(columns))


def sft_config(recipe: Recipe, output_dir: Path, use_cpu: bool, has_validation: bool) -> Any:
    """TRL's SFTConfig for a resolved recipe. Names are the same, so most fields go over as they are."""
    from trl import SFTConfig

    same = {
        "learning_rate", "lr_scheduler_type", "warmup_steps", "num_train_epochs", "max_steps", "weight_decay",
        "per_device_train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing", "max_grad_norm",
        "seed", "logging_steps", "eval_steps", "save_steps",
    }  # fmt: skip
    values = recipe.model_dump(include=same)
    return SFTConfig(
        **values,
        output_dir=str(output_dir),
        packing=bool(recipe.packing),
        max_length=recipe.packing_length if recipe.packing else None,  # rows come cut to max_length already
        per_device_eval_batch_size=recipe.per_device_train_batch_size,
        eval_strategy="steps" if has_validation else "no",
        save_strategy="steps",
        save_total_limit=3,
        load_best_model_at_end=recipe.early_stopping and has_validation,
        metric_for_best_model="eval_loss" if has_validation else None,
        greater_is_better=False if has_validation else None,
        bf16=recipe.method == "full" and recipe.dtype == "float32" and not use_cpu and _cuda_bf16(),
        fp16=False,
        use_cpu=use_cpu,
        optim="adamw_torch_fused",
        logging_first_step=True,
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=not use_cpu,
        push_to_hub=False,
    )


def lora_config(recipe: Recipe) -> Any:
    """peft's LoraConfig, or None when all weights move."""
    if recipe.method == "full":
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=recipe.lora_r,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=recipe.lora_dropout,
        target_modules=recipe.lora_target_modules,
        use_rslora=recipe.use_rslora,
        use_dora=recipe.use_dora,
        bias="none",
        task_type="CAUSAL_LM",
    )


def sample_messages(recipe: Recipe, rows: list[dict]) -> list[dict]:
    """The conversation that is answered while it learns: the person's prompt, or a row without its last answer."""
    if recipe.sample_prompt:
        system = [{"role": "system", "content": recipe.system_prompt}] if recipe.system_prompt else []
        return [*system, {"role": "user", "content": recipe.sample_prompt}]
    for row in rows:
        messages = row.get("messages") or []
        answered = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
        if answered and answered[0] > 0:
            return messages[: answered[0]]
    return []


def best_step(checkpoint: str | None) -> int | None:
    return int(Path(checkpoint).name.rpartition("-")[2]) if checkpoint else None


def versions() -> dict[str, str]:
    """Of the libraries that shape a result; read from their metadata, not by importing them."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": sys.version.split()[0]}
    for name in ("torch", "transformers", "trl", "peft", "datasets", "tokenizers", "accelerate"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _name_base(folder: Path, recipe: Recipe) -> None:
    """peft wrote the local folder it loaded from; elsewhere the adapter is found by the model's own name."""
    path = folder / "adapter_config.json"
    if path.is_file():
        config = json.loads(path.read_text(encoding="utf-8"))
        config["base_model_name_or_path"] = recipe.model_name_or_path
        config["revision"] = recipe.model_revision
        path.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def _swap(beside: Path, result: Path) -> None:
    import shutil

    if result.exists():
        shutil.rmtree(result)
    beside.rename(result)


def _cuda_bf16() -> bool:
    import torch

    return torch.cuda.is_available() and torch.cuda.is_bf16_supported()


def _fraction_teller(tell: Tell, stage: str) -> Callable[..., None]:
    """At most one diary line per second and ten per cent, so the diary stays short."""
    last = {"time": 0.0, "fraction": -1.0}

    def on_progress(fraction: float | None, words: str = "") -> None:
        now = time.monotonic()
        if fraction is None or now - last["time"] < 1.0 or fraction - last["fraction"] < 0.1:
            return
        last.update(time=now, fraction=fraction)
        tell("stage", name=stage, fraction=round(fraction, 3), says=words)

    return on_progress
