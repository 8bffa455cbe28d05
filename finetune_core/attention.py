"""Attention of packed rows, each row over itself alone: no mask of all positions against all is built or multiplied.

TRL's collator says where the rows of a pack begin (`cu_seq_lens_q`). On NVIDIA GPUs that compute in 16 bits, PyTorch's
own flash kernel for rows of unequal length does them all at once; elsewhere one causal attention a row does, on a
processor in bfloat16 by plain products. The result is that of sdpa with its dense mask (tests/test_packing.py asks each
architecture).
"""

from __future__ import annotations

from functools import cache
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "packed_rows"
WIDEST_HEAD = 256  # of flash kernels
LONGEST_PLAIN = 512  # tokens of a row whose scores are held whole
_ASKS_ABOUT_FEWER_KEYS = "enable_gqa" in signature(varlen_attn).parameters  # torch 2.11 takes fewer keys as they are


def attend_rows_apart(model: PreTrainedModel) -> bool:
    """Let a model that computes with sdpa take packed batches row by row; all other batches go on as they did.

    Only where packing.attends_by_row says so: others do not hand the rows' places down to their attention. Returns
    whether it does.
    """
    if model.config.get_text_config()._attn_implementation != "sdpa":
        return False
    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, _mask)
    model.set_attn_implementation(NAME)
    return model.config.get_text_config()._attn_implementation == NAME


def _mask(*args: Any, attention_mask: Tensor | None = None, allow_is_causal_skip: bool = True, **kwargs: Any) -> Any:
    """None for packed rows: they come without a padding mask, and transformers forbids to take them for one row."""
    if attention_mask is None and not allow_is_causal_skip:
        return None
    return sdpa_mask(*args, attention_mask=attention_mask, allow_is_causal_skip=allow_is_causal_skip, **kwargs)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """query (1, heads, tokens, width), key and value (1, fewer heads, tokens, width) -> (1, tokens, heads, width)."""
    if cu_seq_lens_q is None or attention_mask is not None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    if torch.is_autocast_enabled(query.device.type):  # rotary embeddings bring float32 back
        wanted = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(wanted), key.to(wanted), value.to(wanted)
    if _flash_takes(query, value) and not dropout:
        return _flash(query, key, value, cu_seq_lens_q, int(max_length_q or query.shape[2]), scaling, sliding_window)
    lengths = cu_seq_lens_q.diff().tolist()
    rows = []
    for q, k, v in zip(query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2), strict=True):
        looks_back = _causal(q.shape[2], sliding_window, q.device)
        if _is_faster_plain(q) and not dropout and "is_causal" in looks_back:
            rows.append(_Plain.apply(q, k, v, q.shape[-1] ** -0.5 if scaling is None else scaling))
        else:
            few = {"enable_gqa": q.shape[1] != k.shape[1]}
            rows.append(scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scaling, **few, **looks_back))
    return torch.cat(rows, 2).transpose(1, 2).contiguous(), None


def _causal(length: int, window: int | None, device: torch.device) -> dict[str, Any]:
    """How sdpa is to look back: all the way, or so many tokens."""
    if window is None or length <= window:
        return {"is_causal": True}
    seen = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    return {"attn_mask": seen.triu(1 - window)}


def _is_faster_plain(query: Tensor) -> bool:
    """Measured on two cores with bfloat16 products: 1.0 to 4.4 times sdpa's forward and back up to 512 tokens, in which
    its backward pass is slow; in float32 it is not.
    """
    small = query.device.type == "cpu" and query.dtype == torch.bfloat16 and query.shape[2] <= LONGEST_PLAIN
    return small and query.requires_grad


class _Plain(torch.autograd.Function):
    """Causal attention of one row: softmax(s Q Kᵀ) V; the shares are computed again on the way back, not kept.

    q (1, heads, tokens, width), k and v (1, fewer heads, tokens, width) -> (1, heads, tokens, width). The backward pass
    is that of FlashAttention-2 (https://arxiv.org/abs/2307.08691, algorithm 2) in one block. Sums and shares are
    float32, products are in q's precision.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        heads, tokens, width = k.shape[1], q.shape[2], q.shape[3]
        grouped = q.reshape(heads, -1, width)  # those queries that share keys, below one another
        out = torch.bmm(_shares(grouped, k[0], scale, tokens).to(q.dtype), v[0])
        ctx.save_for_backward(grouped, k[0], v[0], out)
        ctx.scale, ctx.shape = scale, q.shape
        return out.view(*q.shape[:3], v.shape[3])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out = ctx.saved_tensors
        gradient = gradients[0].reshape(out.shape)
        shares = _shares(q, k, ctx.scale, ctx.shape[2])
        for_v = torch.bmm(shares.to(q.dtype).transpose(1, 2), gradient)
        scores = torch.bmm(gradient, v.transpose(1, 2)).to(shares.dtype)
        scores -= (gradient * out).sum(-1, keepdim=True, dtype=shares.dtype)
        scores = scores.mul_(shares).mul_(ctx.scale).to(q.dtype)
        return torch.bmm(scores, k).view(ctx.shape), torch.bmm(scores.transpose(1, 2), q)[None], for_v[None], None


def _shares(q: Tensor, k: Tensor, scale: float, tokens: int) -> Tensor:
    """q (heads, group x tokens, width), k (heads, tokens, width) -> shares of keys, (heads, group x tokens, tokens)."""
    scores = torch.bmm(q, k.transpose(1, 2)).to(torch.promote_types(q.dtype, torch.float32)).mul_(scale)
    later = torch.ones(tokens, tokens, dtype=torch.bool, device=q.device).triu_(1)
    scores.view(len(q), -1, tokens, tokens).masked_fill_(later, -torch.inf)
    return scores.softmax(-1)


def _flash_takes(query: Tensor, value: Tensor) -> bool:
    return (
        query.device.type == "cuda"
        and query.dtype in (torch.bfloat16, torch.float16)
        and query.shape[-1] == value.shape[-1] <= WIDEST_HEAD
        and query.shape[-1] % 8 == 0
        and _has_flash(query.device.index or 0)
    )


@cache
def _has_flash(device: int) -> bool:
    """Whether this GPU (Ampere or newer) and this build of torch have the kernel."""
    if torch.version.hip or torch.cuda.get_device_capability(device) < (8, 0):
        return False
    return torch.backends.cuda.is_flash_attention_available()


def _flash(
    query: Tensor, key: Tensor, value: Tensor, starts: Tensor, longest: int, scaling: float | None, window: int | None
) -> tuple[Tensor, None]:
    q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))  # (tokens, heads, width)
    fewer = {"enable_gqa": True} if _ASKS_ABOUT_FEWER_KEYS else {}
    back = -1 if window is None else window - 1
    out = varlen_attn(q, k, v, starts, starts, longest, longest, scale=scaling, window_size=(back, 0), **fewer)
    return out[None], None
