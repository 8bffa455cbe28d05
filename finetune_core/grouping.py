"""Rows of like length share a batch where they are not packed."""

from __future__ import annotations

from typing import Any

import torch
from datasets import Dataset
from transformers.trainer_pt_utils import LengthGroupedSampler
from trl import SFTTrainer

from .encoded import token_lengths


class RowsTrainer(SFTTrainer):
    """TRL's trainer, which groups rows by length without reading them: transformers reads each row to measure it.

    The rows of one step are grouped, whoever computes them: with several processes, transformers would group those of
    one process's share.
    """

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
