"""The trainers of several processes: the rows of a step are shared (DDP), and the weights too where asked (FSDP)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel
from transformers.distributed import DistributedConfig
from transformers.distributed.checkpoint import load_optimizer_distributed, save_optimizer_distributed
from transformers.distributed.utils import gather_full_state_dict

from .errors import FinetuneError
from .grouping import RowsTrainer
from .machine import Machine
from .model import load_base
from .recipe import Recipe
from .shares_read import weights_only

OPTIMIZER_SHARES, SCHEDULER = "optimizer", "scheduler.pt"  # in a checkpoint of shared weights


class SharedTrainer(RowsTrainer):
    """A training that several processes share sees the rows in the order of one process, step by step.

    Each process would draw the order of an epoch from random numbers of its own, which part as soon as one drops out
    more than another.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.accelerator.rng_types = ["torch"]  # at the start of an epoch, everybody has those of the first


def weight_shares(recipe: Recipe, machine: Machine) -> DistributedConfig | None:
    """How `load_base` deals out the weights among the processes; None where each holds them all."""
    if not recipe.fsdp:
        return None
    return DistributedConfig(
        fsdp_size=recipe.num_processes,
        # under autocast alone, the rounded copies of all gathered layers would wait for the backward pass
        fsdp_mixed_precision=machine.autocasts(recipe.method, recipe.dtype or "float32"),
    )


def require_shares(model: PreTrainedModel) -> None:
    """Every layer is a unit that is gathered by itself. Raises FinetuneError where transformers knows no such plan."""
    layers = model.config.get_text_config().num_hidden_layers
    if sum(isinstance(module, FSDPModule) for module in model.modules()) <= layers:
        raise FinetuneError(
            f"transformers cannot share the layers of a model of type {model.config.model_type} among processes.",
            "Set fsdp to false (each process then needs room for the whole model), or choose another model.",
            code="no-fsdp",
        )


class ShardedTrainer(SharedTrainer):
    """A model that was loaded in shares (`weight_shares`): its checkpoints are those of any other training, and resume.

    An adapter lies whole beside the shares, so its checkpoints are written and read as in one process. Where all
    weights move, they are gathered for a checkpoint, and each process writes its share of the optimizer's moments.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        settings = kwargs["args"]
        settings.save_only_model = True  # transformers begins with nothing else, as it would not save the moments
        super().__init__(*args, **kwargs)
        settings.save_only_model = False
        self._moves_all = isinstance(self.model, PreTrainedModel)

    def save_weights(self, folder: Path) -> None:
        """The adapter, or the model gathered on the first process, which writes it. All of them call this.

        Left to themselves, peft gathers the whole base model in every process before it takes the adapter out, and
        transformers writes tied weights twice.
        """
        if self._moves_all:
            kept = gather_full_state_dict(self.model)
            for name in self.model.all_tied_weights_keys:
                kept.pop(name, None)
        else:
            kept = {name: value for name, value in self.model.named_parameters() if value.requires_grad}
        if not self.is_world_process_zero():
            return
        config = self.model.config
        shares, config.distributed_config = config.distributed_config, None  # nothing is left to gather
        try:
            self.model.save_pretrained(folder, safe_serialization=True, state_dict=kept)
        finally:
            config.distributed_config = shares

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        self.save_weights(folder)
        if self.args.should_save:
            self.processing_class.save_pretrained(folder)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self._moves_all:
            return super()._save_optimizer_and_scheduler(output_dir)
        save_optimizer_distributed(self.model, self.optimizer.optimizer, str(Path(output_dir) / OPTIMIZER_SHARES))
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER)
        return None

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not self._moves_all or checkpoint is None:
            return super()._load_optimizer_and_scheduler(checkpoint)
        shares = Path(checkpoint) / OPTIMIZER_SHARES
        with weights_only(shares):
            load_optimizer_distributed(self.model, self.optimizer.optimizer, str(shares))
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER, weights_only=True))
        return None

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if not self._moves_all:
            return super()._load_from_checkpoint(resume_from_checkpoint, model)
        return self._take_weights(Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        if not self._moves_all:
            return super()._load_best_model()
        return self._take_weights(Path(self.state.best_model_checkpoint))

    def _take_weights(self, folder: Path) -> None:
        """Each process reads its share of what was saved, as it did of the base model."""
        for module in self.model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()
        saved = load_base(
            folder,
            dtype=str(self.model.dtype).removeprefix("torch."),
            shares=self.model.config.distributed_config,
        )
        with torch.no_grad():
            for mine, theirs in zip(self.model.parameters(), saved.parameters(), strict=True):
                mine.copy_(theirs)
