"""Attention of packed rows, each row over itself alone: no mask of all positions against all is built or multiplied.

TRL's collator says where the rows of a pack begin (`cu_seq_lens_q`). On NVIDIA GPUs that compute in 16 bits, PyTorch's
own flash kernel for rows of unequal length does them all at once; elsewhere one causal attention a row does. The result
is that of sdpa with its dense mask (tests/test_packing.py asks each architecture).
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
    rows = [
        scaled_dot_product_attention(
            q, k, v, dropout_p=dropout, scale=scaling, enable_gqa=q.shape[1] != k.shape[1],
            **_causal(q.shape[2], sliding_window, q.device),
        )
        for q, k, v in zip(query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2), strict=True)
    ]  # fmt: skip
    return torch.cat(rows, 2).transpose(1, 2).contiguous(), None


def _causal(length: int, window: int | None, device: torch.device) -> dict[str, Any]:
    """How sdpa is to look back: all the way, or so many tokens."""
    if window is None or length <= window:
        return {"is_causal": True}
    seen = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    return {"attn_mask": seen.triu(1 - window)}


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
