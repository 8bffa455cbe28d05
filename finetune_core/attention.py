"""Attention of rows over themselves alone: no mask of all positions against all is built or multiplied.

TRL's collator says where the rows of a pack begin (`cu_seq_lens_q`). On NVIDIA GPUs that compute in 16 bits, PyTorch's
own flash kernel for rows of unequal length does them all at once; on a processor rows of like length are computed side
by side, by batched products; else one causal attention a row does. Rows of a batch that are filled up at their end
need no mask either. The result is that of sdpa with its dense mask (tests/test_packing.py asks each architecture).
"""

from __future__ import annotations

import math
from functools import cache, lru_cache
from inspect import signature
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "packed_rows"
WIDEST_HEAD = 256  # of flash kernels
# Tokens of the longest row whose scores are held whole. Measured on two cores with AVX512-BF16, 4 to 24 rows, forward
# and back: against one sdpa a row 3 to 9 times as fast in bfloat16, where its backward pass is slow, and still as fast
# at 500 tokens; in float32 1.3 to 1.7 times up to 64 tokens, and slower from 150.
LONGEST_BATCHED = 512
LONGEST_BATCHED_FLOAT32 = 128
LONGEST_KEPT = 128  # of a row whose shares are kept for the way back; longer ones' are computed again
MOST_SCORES = 2**21  # of rows side by side
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
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    lengths = cu_seq_lens_q.diff().tolist()
    parts = list(zip(query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2), strict=True))
    most = LONGEST_BATCHED if query.dtype == torch.bfloat16 else LONGEST_BATCHED_FLOAT32
    most = most if query.device.type == "cpu" and not dropout else 0
    short = [row for row, length in enumerate(lengths) if length <= min(most, sliding_window or most)]
    if len(short) == len(lengths):
        return _Batched.apply(query, key, value, scale, tuple(lengths)), None
    rows = [None] * len(lengths)
    if short:
        together = (torch.cat(states, 2) for states in zip(*(parts[row] for row in short), strict=True))
        shorts = tuple(lengths[row] for row in short)
        for row, out in zip(short, _Batched.apply(*together, scale, shorts).split(shorts, 1), strict=True):
            rows[row] = out
    for row, (q, k, v) in enumerate(parts):
        if rows[row] is None:
            options = {"enable_gqa": q.shape[1] != k.shape[1], **_causal(q.shape[2], sliding_window, q.device)}
            out = scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scale, **options)
            rows[row] = out.transpose(1, 2)
    return torch.cat(rows, 1), None


def _causal(length: int, window: int | None, device: torch.device) -> dict[str, Any]:
    """How sdpa is to look back: all the way, or so many tokens."""
    if window is None or length <= window:
        return {"is_causal": True}
    seen = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    return {"attn_mask": seen.triu(1 - window)}


class _Batched(torch.autograd.Function):
    """Causal attention of each packed row over itself: softmax(s Q Kᵀ) V by batched matrix products.

    q (1, heads, tokens, width), k and v (1, fewer heads, tokens, width) -> (1, tokens, heads, width of v). Rows of like
    length are computed side by side, each filled up at its end: no token looks at what comes later, so what fills up is
    seen by none, and nothing flows back from it. Heads that share keys lie below one another in one product.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float, lengths: tuple[int, ...]) -> Tensor:
        heads, keys = q.shape[1], k.shape[1]
        out = v.new_empty(q.shape[2] * heads, v.shape[3])
        kept = []
        for rows in _alike(lengths, heads):
            at_q, at_k = _places(lengths, rows, keys, heads // keys), _places(lengths, rows, keys, 1)
            queries, seen, said = at_q.take(q), at_k.take(k), at_k.take(v)
            shares = _shares(queries, seen, scale)
            at_q.put(torch.bmm(shares, said), out)
            kept += [queries, seen, said, *([shares] if shares.shape[2] <= LONGEST_KEPT else [])]
        ctx.save_for_backward(*kept)
        ctx.scale, ctx.lengths, ctx.shapes = scale, lengths, (q.shape, k.shape, v.shape)
        return out.view(1, q.shape[2], heads, v.shape[3])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        kept = list(ctx.saved_tensors)
        heads, keys = ctx.shapes[0][1], ctx.shapes[1][1]
        gradient = gradients[0].transpose(1, 2)
        wanted = [gradient.new_empty(shape[2] * shape[1], shape[3]) for shape in ctx.shapes]
        for rows in _alike(ctx.lengths, heads):
            at_q, at_k = _places(ctx.lengths, rows, keys, heads // keys), _places(ctx.lengths, rows, keys, 1)
            q, k, v = kept.pop(0), kept.pop(0), kept.pop(0)
            shares = kept.pop(0) if k.shape[1] <= LONGEST_KEPT else _shares(q, k, ctx.scale)
            through = at_q.take(gradient, fill=0)
            at_k.put(torch.bmm(shares.transpose(1, 2), through), wanted[2])
            scores = torch._softmax_backward_data(torch.bmm(through, v.transpose(1, 2)), shares, -1, shares.dtype)
            at_q.put(torch.baddbmm(q, scores, k, beta=0, alpha=ctx.scale), wanted[0])
            at_k.put(torch.baddbmm(k, scores.transpose(1, 2), q, beta=0, alpha=ctx.scale), wanted[1])
        by_head = (
            states.view(1, shape[2], shape[1], shape[3]).transpose(1, 2)
            for states, shape in zip(wanted, ctx.shapes, strict=True)
        )
        return *by_head, None, None


def _shares(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """q (rows x heads, group x tokens, width), k (rows x heads, tokens, width) -> what each looks at, in q's dtype."""
    later = _later(k.shape[1], q.shape[1] // k.shape[1], q.dtype)
    return torch.baddbmm(later, q, k.transpose(1, 2), alpha=scale).softmax(-1)


@lru_cache(maxsize=64)
def _later(tokens: int, group: int, dtype: torch.dtype) -> Tensor:
    """(group x tokens, tokens), -inf where a token comes after the one that looks."""
    return torch.full((tokens, tokens), -torch.inf, dtype=dtype).triu_(1).repeat(group, 1)


@lru_cache(maxsize=64)
def _alike(lengths: tuple[int, ...], heads: int) -> tuple[tuple[int, ...], ...]:
    """Which rows are computed side by side: none under half as long as the longest, and no more scores than a cache
    holds.

    >>> _alike((10, 100, 60, 9), heads=4)
    ((1, 2), (0, 3))
    """
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        longest = lengths[groups[-1][0]] if groups else 0
        if 2 * lengths[row] >= longest > 0 and (len(groups[-1]) + 1) * heads * longest**2 <= MOST_SCORES:
            groups[-1].append(row)
        else:
            groups.append([row])
    return tuple(tuple(group) for group in groups)


class _Places(NamedTuple):
    """Where the tokens of some packed rows lie in a pack and in a batch of those rows filled up to one length."""

    batch: tuple[int, int]  # rows x heads, group x tokens
    source: Tensor  # for each slot of the batch: token x heads + head in the pack; of the row's last where it fills up
    filling: Tensor  # the slots that fill up
    slots: Tensor  # the other slots
    targets: Tensor  # and where they lie in the pack

    def take(self, states: Tensor, fill: float | None = None) -> Tensor:
        """(1, heads, tokens, width) of a pack -> (rows x heads, group x tokens, width)."""
        flat = states[0].transpose(0, 1).reshape(-1, states.shape[-1]).index_select(0, self.source)
        if fill is not None:
            flat.index_fill_(0, self.filling, fill)
        return flat.view(*self.batch, -1)

    def put(self, states: Tensor, pack: Tensor) -> None:
        """Back into a pack (tokens x heads, width)."""
        flat = states.view(-1, states.shape[-1])
        pack.index_copy_(0, self.targets, flat.index_select(0, self.slots) if len(self.filling) else flat)


@lru_cache(maxsize=64)
def _places(lengths: tuple[int, ...], rows: tuple[int, ...], keys: int, group: int) -> _Places:
    ends = torch.tensor(lengths).cumsum(0)[list(rows), None]
    sizes = torch.tensor([lengths[row] for row in rows])[:, None]
    tokens = 16 * math.ceil(int(sizes.max()) / 16)  # few lengths: each asks for products of its own making
    at = torch.arange(tokens)[None]
    token = (ends - sizes + at.minimum(sizes - 1))[:, None, None, :]
    head = torch.arange(keys * group).view(1, keys, group, 1)
    source = (token * keys * group + head).flatten()
    real = (at < sizes)[:, None, None, :].expand(-1, keys, group, -1).flatten()
    slots = real.nonzero()[:, 0]
    return _Places((len(rows) * keys, group * tokens), source, (~real).nonzero()[:, 0], slots, source[slots])


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
