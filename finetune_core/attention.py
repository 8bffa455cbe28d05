"""Attention of rows over themselves alone: no mask of all positions against all is built or multiplied.

TRL's collator says where the rows of a pack begin (`cu_seq_lens_q`). On NVIDIA GPUs that compute in 16 bits, PyTorch's
own flash kernel for rows of unequal length does them all at once; on a processor rows of like length are computed side
by side, by batched products; else one causal attention a row does. Where all rows begin alike, the beginning is the
first row of the pack, and every other one looks at it as well (grouping.py). Rows of a batch that are filled up at
their end need no mask either. The result is that of sdpa with its dense mask (tests/test_packing.py and
test_beginning.py ask each architecture).
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

from .side_by_side import SideBySide

NAME = "packed_rows"
WIDEST_HEAD = 256  # of flash kernels
# Tokens of the longest row whose scores are held whole. Measured on two cores with AVX512-BF16, 4 to 24 rows, forward
# and back: against one sdpa a row 3 to 9 times as fast in bfloat16, where its backward pass is slow, and still as fast
# at 500 tokens; in float32 1.3 to 1.7 times up to 64 tokens, and slower from 150.
LONGEST_BATCHED = 512
LONGEST_BATCHED_FLOAT32 = 128
_ASKS_ABOUT_FEWER_KEYS = "enable_gqa" in signature(varlen_attn).parameters  # torch 2.11 takes fewer keys as they are


def attend_rows_apart(model: PreTrainedModel) -> bool:
    """Let a model that computes with sdpa take packed batches row by row, and filled-up ones without a mask.

    Only where packing.attends_by_row says so: others do not hand the rows' places down to their attention. Returns
    whether it does.
    """
    if model.config.get_text_config()._attn_implementation != "sdpa":
        return False
    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, _mask)
    model.set_attn_implementation(NAME)
    return model.config.get_text_config()._attn_implementation == NAME


def _mask(
    *args: Any,
    q_length: int,
    kv_length: int,
    attention_mask: Tensor | None = None,
    local_size: int | None = None,
    allow_is_causal_skip: bool = True,
    **kwargs: Any,
) -> Any:
    """None, which stands for causal attention, where no other mask is needed.

    Packed rows come without a padding mask, and transformers forbids to take them for one row. Rows that are filled up
    at their end have no token that sees the filling, and what the filling sees is nobody's business; of all positions
    against all, sdpa would keep a mask in float32 for each layer.
    """
    if attention_mask is None and not allow_is_causal_skip:
        return None
    whole = q_length == kv_length and (local_size is None or kv_length < local_size)
    if attention_mask is not None and allow_is_causal_skip and whole and _ends_filled_up(attention_mask):
        return None
    more = {"attention_mask": attention_mask, "local_size": local_size, "allow_is_causal_skip": allow_is_causal_skip}
    return sdpa_mask(*args, q_length=q_length, kv_length=kv_length, **more, **kwargs)


def _ends_filled_up(attention_mask: Tensor) -> bool:
    """(rows, tokens), True or 1 for a real token: no real one comes after one that only fills up."""
    real = attention_mask.bool()
    return bool((real[:, :-1] | ~real[:, 1:]).all())


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    cu_seq_lens_q: Tensor | None = None,
    cu_seq_lens_k: Tensor | None = None,
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
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    lengths = tuple(cu_seq_lens_q.diff().tolist())
    if shared := _beginning(cu_seq_lens_q, cu_seq_lens_k):  # the first row is what all others begin with
        states = (query[:, :, :shared], key[:, :, :shared], value[:, :, :shared])
        first = _apart(*states, lengths[:1], 0, scale, dropout, None)
        others = _apart(query[:, :, shared:], key, value, lengths[1:], shared, scale, dropout, None)
        return torch.cat([first, others], 1), None
    if _flash_takes(query, value) and not dropout:
        return _flash(query, key, value, cu_seq_lens_q, int(max_length_q or query.shape[2]), scale, sliding_window)
    return _apart(query, key, value, lengths, 0, scale, dropout, sliding_window), None


def _beginning(queries: Tensor, keys: Tensor | None) -> int:
    """Tokens of the first row that are keys of all others too: by so many, these have more keys than queries."""
    if keys is None or keys is queries or len(queries) < 3:
        return 0
    return int(keys[2] - keys[1] - queries[2] + queries[1])


def _apart(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: tuple[int, ...],
    shared: int,
    scale: float,
    dropout: float,
    window: int | None,
) -> Tensor:
    """(1, tokens, heads, width): each row over itself and over the first `shared` keys, which are no row's own."""
    most = LONGEST_BATCHED if query.dtype == torch.bfloat16 else LONGEST_BATCHED_FLOAT32
    most = most if query.device.type == "cpu" and not dropout else 0
    short = [row for row, length in enumerate(lengths) if length <= min(most, window or most)]
    if len(short) == len(lengths):
        return SideBySide.apply(query, key, value, scale, lengths, shared)
    before = [states[:, :, :shared] for states in (key, value)]
    queries = query.split(lengths, 2)
    keys, values = (states[:, :, shared:].split(lengths, 2) for states in (key, value))
    rows: list[Any] = [None] * len(lengths)
    if short:
        states = (
            torch.cat([queries[row] for row in short], 2),
            torch.cat([before[0], *(keys[row] for row in short)], 2),
            torch.cat([before[1], *(values[row] for row in short)], 2),
        )
        shorts = tuple(lengths[row] for row in short)
        for row, out in zip(short, SideBySide.apply(*states, scale, shorts, shared).split(shorts, 1), strict=True):
            rows[row] = out
    for row, length in enumerate(lengths):
        if rows[row] is None:
            q, k, v = queries[row], keys[row], values[row]
            if shared:  # a row with its beginning is causal again; nobody asks what the beginning sees here
                q = torch.cat([q.new_zeros(*q.shape[:2], shared, q.shape[3]), q], 2)
                k, v = torch.cat([before[0], k], 2), torch.cat([before[1], v], 2)
            options = {"enable_gqa": q.shape[1] != k.shape[1], **_causal(q.shape[2], window, q.device)}
            out = scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scale, **options)
            rows[row] = out.transpose(1, 2)[:, -length:]
    return torch.cat(rows, 1)


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
