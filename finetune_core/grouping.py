"""What the rows of a batch share: their length where they are not packed, and their beginning where they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from transformers.trainer_pt_utils import LengthGroupedSampler
from trl import SFTTrainer

from .encoded import token_lengths
from .render import IGNORED


class RowsTrainer(SFTTrainer):
    """TRL's trainer, which groups rows by length without reading them: transformers reads each row to measure it.

    The rows of one step are grouped, whoever computes them: with several processes, transformers would group those of
    one process's share.
    """

    beginning: tuple[int, ...] = ()  # token ids that were taken off every packed row; each batch gets them once

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if self.beginning:
            inputs = with_beginning(inputs, self.beginning)
            if model.training:  # TRL counts the tokens that are computed; these belong to each row
                self._total_train_tokens += len(self.beginning) * (len(inputs["cu_seq_lens_q"]) - 3)
        return super().compute_loss(model, inputs, *args, **kwargs)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Any:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        rows = self.train_dataset if train_dataset is None else train_dataset
        step = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return LengthGroupedSampler(step, lengths=token_lengths(rows))

    def _get_eval_sampler(self, eval_dataset: Dataset) -> Any:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_eval_sampler(eval_dataset)
        seeded = torch.Generator().manual_seed(self.args.seed)
        return LengthGroupedSampler(self.args.eval_batch_size, lengths=token_lengths(eval_dataset), generator=seeded)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Nothing where the checkpoint to go on from is the last step's: in an epoch that ends early, transformers
        would take one step more."""
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*args, **kwargs)
        else:
            self.control.should_training_stop = True


def with_beginning(batch: dict[str, Any], beginning: Sequence[int]) -> dict[str, Any]:
    """A packed batch of rows that lack their beginning, with that beginning as a row of its own before them.

    `input_ids`, `labels`, `position_ids`: (1, tokens) -> (1, tokens of the beginning + tokens). Each row goes on where
    the beginning ends, and has so many keys more than queries (`cu_seq_lens_k`): attention.py lets it look at them.
    """
    ids, size = batch["input_ids"], len(beginning)
    first = ids.new_tensor([list(beginning)])
    starts = batch["cu_seq_lens_q"]
    queries = torch.cat([starts.new_zeros(1), starts + size])
    more = torch.arange(len(queries), device=starts.device, dtype=starts.dtype).sub(1).clamp(min=0) * size
    made = {name: value for name, value in batch.items() if name != "seq_idx"}
    return made | {
        "input_ids": torch.cat([first, ids], 1),
        "labels": torch.cat([torch.full_like(first, IGNORED), batch["labels"]], 1),
        "position_ids": torch.cat([torch.arange(size, device=ids.device)[None], batch["position_ids"] + size], 1),
        "cu_seq_lens_q": queries,
        "cu_seq_lens_k": queries + more,
        "max_length_q": max(batch["max_length_q"], size),
        "max_length_k": batch["max_length_k"] + size,
    }
