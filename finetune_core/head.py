"""The language-model head: TRL's fused head with less work, on a processor one product each way instead of tiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from trl.kernels import ChunkedLogProbFunction
from trl.trainer import utils as trl_utils

from .memory import HEAD_SCORES, TILE_COLUMNS

HEAD_COLUMNS = TILE_COLUMNS["cpu"]  # of the vocabulary at once, where TRL's function does it


def score_trained_tokens_only() -> None:
    """Project only the positions that are trained through the language-model head.

    TRL's fused head does so where Triton runs; elsewhere it scores every position and masks the rest, so that the
    shapes stay the same for compiled devices. PyTorch on a CPU or on Apple's chips compiles nothing, and in chat rows
    most positions are context. The result is the same: the others' part in the loss is zero either way. Where TRL's
    function is left to do it on a CPU, it takes the vocabulary in narrower pieces, which stay in the cache.
    """
    if hasattr(trl_utils, "_use_triton"):
        trl_utils._use_triton = lambda device: device.type in ("cpu", "cuda", "mps", "xpu")
    trl_utils._ChunkedLogProbFunction = Head
    if not torch.accelerator.is_available():
        trl_utils._CHUNKED_LOGPROB_CHUNK_SIZE = HEAD_COLUMNS


class Head:
    """Stands where TRL's function does (`trl.trainer.utils._ChunkedLogProbFunction`) and has its signature.

    TRL's is made for GPUs. On a processor it passes about twenty times over the scores, computes them twice, and turns
    the head into float32 for the way back. What is unusual is left to it: a head that is trained or has a bias, scores
    that are scaled or capped, autocast, other devices.
    """

    @staticmethod
    def apply(
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        chunk_size: int,
        final_logit_softcapping: float | None = None,
        logit_scale: float = 1.0,
        outputs: Sequence[str] = (),
    ) -> tuple[Tensor | None, ...]:
        usual = (
            hidden.device.type == "cpu"
            and not torch.is_autocast_enabled("cpu")
            and bias is None
            and final_logit_softcapping is None
            and temperature == logit_scale == 1
            and not weight.requires_grad
            and weight.dtype == hidden.dtype
            and not {"log_sum_sq_probs", "mean_logits"} & set(outputs)
        )
        if usual:
            log_probs, entropy, is_top1 = _LogProbs.apply(hidden, weight, targets)
            return log_probs, entropy, None, None, is_top1
        capped, scaled = final_logit_softcapping, logit_scale
        return ChunkedLogProbFunction.apply(
            hidden, weight, bias, targets, temperature, chunk_size, capped, scaled, outputs
        )


class _LogProbs(torch.autograd.Function):
    """hidden (tokens, width), frozen weight (words, width), targets (tokens) -> log-probability of each target, entropy
    of what could come (both float32, nats), whether the target comes first.

    The gradient of a log-probability with respect to its hidden state is Wᵀ(1_target - p): known as soon as the scores
    are, so nothing is computed again on the way back. Nothing flows back through the entropy, which is shown only.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        tokens = max(1, HEAD_SCORES // len(weight))
        way_back = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        log_probs, entropy, is_top1 = [], [], []
        for at in range(0, len(hidden), tokens):
            wanted = targets[at : at + tokens, None]
            scores = (hidden[at : at + tokens] @ weight.t()).float()
            first = scores.argmax(-1, keepdim=True)
            shares = scores.softmax(-1)
            log_sum = scores.gather(1, first) - shares.gather(1, first).log()  # the largest share is never 0
            log_probs.append(scores.gather(1, wanted) - log_sum)
            entropy.append(log_sum - torch.bmm(shares[:, None], scores[..., None])[:, 0])
            is_top1.append(first == wanted)
            if way_back is not None:
                shares.scatter_add_(1, wanted, torch.full_like(log_sum, -1))
                torch.mm(shares.to(weight.dtype), weight, out=way_back[at : at + tokens])
        ctx.save_for_backward(way_back)
        none = hidden.new_empty(0, 1, dtype=torch.float32)
        made = [torch.cat([*parts, none])[:, 0] for parts in (log_probs, entropy)]
        first = torch.cat([*is_top1, targets.new_empty(0, 1, dtype=torch.bool)])[:, 0]
        ctx.mark_non_differentiable(made[1], first)
        return made[0], made[1], first

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        (way_back,) = ctx.saved_tensors
        return (way_back * -gradient[:, None]).to(way_back.dtype), None, None
