"""A resolved recipe and encoded rows as TRL's SFTTrainer. The only caller of TRL's trainer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import AutoTokenizer, EarlyStoppingCallback, PreTrainedModel, PrinterCallback, set_seed
from transformers.pytorch_utils import Conv1D
from trl import SFTConfig, SFTTrainer

from .attention import attend_rows_apart
from .encoded import shared_beginning, token_lengths, without_beginning
from .errors import FinetuneError
from .fast import GivesFreedMemoryBack, fuse_adapters
from .grouping import RowsTrainer
from .head import score_trained_tokens_only
from .liger import use_liger_kernels
from .machine import Machine
from .model import load_base
from .packing import attends_by_row
from .precision import FUSED, bits_of, moment_bytes
from .recipe import Recipe
from .schedule import evenly
from .together import ShardedTrainer, SharedTrainer, require_shares, weight_shares


def build_trainer(
    recipe: Recipe,
    folder: Path,
    output_dir: Path,
    rows: tuple[Dataset, Dataset | None],
    callbacks: Sequence[Any],
    machine: Machine,
) -> SFTTrainer:
    """The trainer with the model loaded from `folder`. `rows`: encoded training and validation rows.

    Within `liger.liger_kept_apart`, for as long as the model is used.
    """
    set_seed(recipe.seed)
    # before the weights: it joins the processes that take shares of them
    config = sft_config(recipe, output_dir, machine, rows[1] is not None)
    model = load_base(
        folder,
        dtype=recipe.dtype or "float32",
        attn_implementation=recipe.attn_implementation or "sdpa",
        quantization=bits_of(recipe),
        for_training=True,
        shares=weight_shares(recipe, machine),
    )
    if recipe.fsdp:
        require_shares(model)
    is_apart = attends_by_row(model.config.get_text_config().model_type) and attend_rows_apart(model)
    beginning: tuple[int, ...] = ()
    if recipe.share_prefix and recipe.packing and recipe.num_processes == 1 and is_apart:
        beginning = beginning_of(model, recipe, rows)
    if beginning:
        rows = without_beginning(rows[0], len(beginning)), rows[1] and without_beginning(rows[1], len(beginning))
    train_set, validation_set = rows
    if recipe.share_prefix and recipe.packing:  # a pack is planned for rows without it, and TRL cuts what is longer
        config.max_length = max(config.max_length, *(max(token_lengths(each)) for each in rows if each is not None))
    if validation_set is not None and recipe.eval_rows:
        validation_set = validation_set.select(evenly(len(validation_set), recipe.eval_rows))
    if recipe.use_liger_kernel:
        use_liger_kernels(model)
    adapter = lora_config(recipe)
    if adapter is not None:
        _require_targets(model, adapter.target_modules)
    callbacks = list(callbacks)
    if recipe.early_stopping and validation_set is not None:
        callbacks.append(EarlyStoppingCallback(early_stopping_patience=recipe.early_stopping_patience))
    if recipe.gradient_checkpointing and machine.kind == "cpu":
        callbacks.append(GivesFreedMemoryBack())
    score_trained_tokens_only()
    kind = ShardedTrainer if recipe.fsdp else SharedTrainer if recipe.num_processes > 1 else RowsTrainer
    trainer = kind(
        model=model,
        args=config,
        train_dataset=train_set,
        eval_dataset=validation_set,
        processing_class=AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True),
        peft_config=adapter,
        callbacks=callbacks,
    )
    trainer.beginning = beginning
    trainer.remove_callback(PrinterCallback)  # the diary says it better
    if adapter is not None and recipe.autocast_adapter_dtype is not None:
        _keep_adapter_in(trainer.model, "float32" if recipe.autocast_adapter_dtype else recipe.dtype or "float32")
    fuse_adapters(trainer.model)
    return trainer


def beginning_of(model: PreTrainedModel, recipe: Recipe, rows: tuple[Dataset, Dataset | None]) -> tuple[int, ...]:
    """Token ids with which all rows begin; none where computing them once would not be exact.

    Dropout draws for each row, and a layer that looks back over a window sees less of the beginning from further on.
    """
    config = model.config.get_text_config()
    settings = config.to_dict()
    draws = any(value for name, value in settings.items() if "drop" in name and isinstance(value, float))
    if draws or recipe.lora_dropout or settings.get("output_router_logits"):
        return ()
    sets = [each for each in rows if each is not None]
    longest = max(length for each in sets for length in token_lengths(each))
    if 0 < (settings.get("sliding_window") or 0) < longest:
        return ()
    return shared_beginning(sets)


def _keep_adapter_in(model: nn.Module, dtype: str) -> None:
    """Before the optimizer is made. DoRA's magnitudes stay: their steps are smaller than fewer bits can say."""
    for name, weight in model.named_parameters():
        if weight.requires_grad and "lora_magnitude_vector" not in name:
            weight.data = weight.data.to(getattr(torch, dtype))


def dry_run(trainer: SFTTrainer) -> None:
    """One forward and backward pass on the longest batch, with room for the optimizer's moments.

    What does not fit raises torch.OutOfMemoryError here, before the first step. Leaves weights, gradients, random
    numbers and the trainer's metrics as they were.
    """
    if trainer.args.activation_checkpointing:  # Trainer itself switches it on only when the training begins
        trainer.model.activation_checkpointing_enable(trainer.args.activation_checkpointing_kwargs)
    rows = trainer.train_dataset
    size = trainer.args.per_device_train_batch_size
    lengths = token_lengths(rows)
    longest = sorted(range(len(lengths)), key=lengths.__getitem__)[-size:]
    batch = trainer._prepare_inputs(trainer.data_collator([rows[index] for index in longest]))
    state = torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    was_training = trainer.model.training
    trainer.model.train()
    moments = _room_for_moments(trainer)
    try:
        with trainer.accelerator.autocast():  # which Trainer puts around the model when the training begins
            loss = trainer.compute_loss(trainer.model, batch)
        loss.backward()
    finally:
        del moments
        trainer.model.zero_grad(set_to_none=True)
        trainer.model.train(was_training)
        trainer._metrics["train"].clear()
        trainer._total_train_tokens = 0
        torch.set_rng_state(state[0])
        if state[1] is not None:
            torch.cuda.set_rng_state_all(state[1])


def _room_for_moments(trainer: SFTTrainer) -> list[torch.Tensor]:
    """As many bytes as the optimizer will hold on the weights' device."""
    embeddings = {id(module.weight) for module in trainer.model.modules() if isinstance(module, nn.Embedding)}
    room = []
    for weight in trainer.model.parameters():
        if weight.requires_grad:
            each = moment_bytes(trainer.args.optim, str(weight.dtype).removeprefix("torch."), id(weight) in embeddings)
            mine = weight.to_local() if isinstance(weight, DTensor) else weight
            room.append(torch.empty(mine.numel() * each, dtype=torch.uint8, device=weight.device))
    return room


def sft_config(recipe: Recipe, output_dir: Path, machine: Machine, has_validation: bool) -> SFTConfig:
    """TRL's SFTConfig for a resolved recipe. Names are the same, so most fields go over as they are."""
    same = {
        "learning_rate", "lr_scheduler_type", "warmup_steps", "num_train_epochs", "max_steps", "weight_decay",
        "per_device_train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing", "max_grad_norm",
        "seed", "logging_steps", "eval_steps", "save_steps", "dataloader_num_workers",
    }  # fmt: skip
    values = recipe.model_dump(include=same)
    config = SFTConfig(
        **values,
        output_dir=str(output_dir),
        packing=bool(recipe.packing),
        train_sampling_strategy="random" if recipe.packing else recipe.train_sampling_strategy or "group_by_length",
        max_length=recipe.packing_length if recipe.packing else None,  # rows come cut to max_length already
        per_device_eval_batch_size=recipe.per_device_train_batch_size,
        eval_strategy="steps" if has_validation else "no",
        save_strategy="steps",
        save_total_limit=3,
        load_best_model_at_end=recipe.early_stopping and has_validation,
        metric_for_best_model="eval_loss" if has_validation else None,
        greater_is_better=False if has_validation else None,
        bf16=machine.autocasts(recipe.method, recipe.dtype or "float32"),
        fp16=False,
        use_cpu=machine.kind == "cpu",
        optim=recipe.optim or FUSED,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=machine.kind != "cpu",
        ddp_backend="gloo" if machine.kind == "cpu" and recipe.num_processes > 1 else None,
        ddp_find_unused_parameters=False if recipe.num_processes > 1 else None,  # every adapter meets every token
        push_to_hub=False,
    )
    config._n_gpu = min(config.n_gpu, 1)  # with several in sight, Trainer would wrap the model in DataParallel
    return config


def lora_config(recipe: Recipe) -> LoraConfig | None:
    """peft's LoraConfig, or None when all weights move."""
    if recipe.method == "full":
        return None
    targets = recipe.lora_target_modules
    return LoraConfig(
        r=recipe.lora_r,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=recipe.lora_dropout,
        # a plain name is one name: peft would take it for a pattern that has to match a layer's whole path
        target_modules=[targets] if isinstance(targets, str) and re.fullmatch(r"[\w.]+", targets) else targets,
        use_rslora=recipe.use_rslora,
        use_dora=recipe.use_dora,
        bias="none",
        task_type="CAUSAL_LM",
    )


def _require_targets(model: PreTrainedModel, wanted: str | Iterable[str]) -> None:
    """Every name is of a layer that takes an adapter. peft skips a wrong name among right ones without a word.

    `wanted`: ends of layers' paths, or a pattern for whole paths. Raises FinetuneError with the names that there are.
    """
    if wanted == "all-linear":
        return
    head = model.get_output_embeddings()  # TRL reads its weight alone, so an adapter there would learn nothing
    paths = [
        path
        for path, layer in model.named_modules()
        if isinstance(layer, nn.Linear | nn.Embedding | Conv1D) and layer is not head
    ]
    if isinstance(wanted, str):
        wrong = [] if any(re.fullmatch(wanted, path) for path in paths) else [wanted]
    else:
        wrong = [name for name in wanted if not any(f".{path}".endswith(f".{name}") for path in paths)]
    if wrong:
        names = sorted({path.rpartition(".")[2] for path in paths})
        raise FinetuneError(
            f"lora_target_modules: this model has no layer for an adapter by the name {', '.join(sorted(wrong))}.",
            f"Write all-linear, or some of these: {', '.join(names)}.",
            code="bad-recipe",
        )
