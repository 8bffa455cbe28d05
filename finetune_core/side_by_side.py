"""Causal attention of rows of like length side by side, by batched products: for packed rows on a processor."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

LONGEST_KEPT = 128  # of a row whose shares are kept for the way back; longer ones' are computed again
MOST_SCORES = 2**21  # of rows side by side


class SideBySide(torch.autograd.Function):
    """Causal attention of each packed row over itself: softmax(s Q Kᵀ) V by batched matrix products.

    q (1, heads, tokens, width), k and v (1, fewer heads, shared + tokens, width) -> (1, tokens, heads, width of v). The
    first `shared` keys are seen by every token of every row. Rows of like length are computed side by side, each filled
    up at its end: no token looks at what comes later, so what fills up is seen by none, and nothing flows back from it.
    Heads that share keys lie below one another in one product.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float, lengths: tuple[int, ...], shared: int
    ) -> Tensor:
        heads, keys = q.shape[1], k.shape[1]
        out = v.new_empty(q.shape[2] * heads, v.shape[3])
        kept = []
        for rows in _alike(lengths, heads, shared):
            at_q, at_k = _places(lengths, rows, keys, heads // keys), _places(lengths, rows, keys, 1, shared)
            queries, seen, said = at_q.take(q), at_k.take(k), at_k.take(v)
            shares = _shares(queries, seen, scale, shared)
            at_q.put(torch.bmm(shares, said), out)
            kept += [queries, seen, said, *([shares] if shares.shape[2] <= LONGEST_KEPT else [])]
        ctx.save_for_backward(*kept)
        ctx.scale, ctx.lengths, ctx.shared, ctx.shapes = scale, lengths, shared, (q.shape, k.shape, v.shape)
        return out.view(1, q.shape[2], heads, v.shape[3])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        kept, shared = list(ctx.saved_tensors), ctx.shared
        heads, keys = ctx.shapes[0][1], ctx.shapes[1][1]
        gradient = gradients[0].transpose(1, 2)
        wanted = [gradient.new_empty(shape[2] * shape[1], shape[3]) for shape in ctx.shapes]
        to_all = [gradient.new_zeros(shared * keys, shape[3], dtype=torch.float32) for shape in ctx.shapes[1:]]
        for rows in _alike(ctx.lengths, heads, shared):
            at_q, at_k = _places(ctx.lengths, rows, keys, heads // keys), _places(ctx.lengths, rows, keys, 1, shared)
            q, k, v = kept.pop(0), kept.pop(0), kept.pop(0)
            shares = kept.pop(0) if k.shape[1] <= LONGEST_KEPT else _shares(q, k, ctx.scale, shared)
            through = at_q.take(gradient, fill=0)
            at_k.put(torch.bmm(shares.transpose(1, 2), through), wanted[2], to_all[1])
            scores = torch._softmax_backward_data(torch.bmm(through, v.transpose(1, 2)), shares, -1, shares.dtype)
            at_q.put(torch.baddbmm(q, scores, k, beta=0, alpha=ctx.scale), wanted[0])
            at_k.put(torch.baddbmm(k, scores.transpose(1, 2), q, beta=0, alpha=ctx.scale), wanted[1], to_all[0])
        for states, sums in zip(wanted[1:], to_all, strict=True):
            states[: shared * keys] = sums.to(states.dtype)
        by_head = (
            states.view(1, shape[2], shape[1], shape[3]).transpose(1, 2)
            for states, shape in zip(wanted, ctx.shapes, strict=True)
        )
        return *by_head, None, None, None


def _shares(q: Tensor, k: Tensor, scale: float, shared: int) -> Tensor:
    """q (rows x heads, group x tokens, width), k (rows x heads, shared + tokens, width) -> what each looks at, in q's
    dtype."""
    tokens = k.shape[1] - shared
    later = _later(tokens, q.shape[1] // tokens, shared, q.dtype)
    return torch.baddbmm(later, q, k.transpose(1, 2), alpha=scale).softmax(-1)


@lru_cache(maxsize=64)
def _later(tokens: int, group: int, shared: int, dtype: torch.dtype) -> Tensor:
    """(group x tokens, shared + tokens), -inf where a token comes after the one that looks."""
    return torch.full((tokens, shared + tokens), -torch.inf, dtype=dtype).triu_(1 + shared).repeat(group, 1)


@lru_cache(maxsize=64)
def _alike(lengths: tuple[int, ...], heads: int, shared: int = 0) -> tuple[tuple[int, ...], ...]:
    """Which rows are computed side by side: none under half as long as the longest, and no more scores than a cache
    holds.

    >>> _alike((10, 100, 60, 9), heads=4)
    ((1, 2), (0, 3))
    """
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        longest = lengths[groups[-1][0]] if groups else 0
        scores = heads * longest * (shared + longest)
        if 2 * lengths[row] >= longest > 0 and (len(groups[-1]) + 1) * scores <= MOST_SCORES:
            groups[-1].append(row)
        else:
            groups.append([row])
    return tuple(tuple(group) for group in groups)


class _Places(NamedTuple):
    """Where the tokens of some packed rows lie in a pack and in a batch of those rows filled up to one length."""

    batch: tuple[int, int]  # rows x heads, group x tokens
    source: Tensor  # for each slot of the batch: token x heads + head in the pack; of the row's last where it fills up
    filling: Tensor  # the slots that fill up
    slots: Tensor  # the slots of the rows' own tokens
    targets: Tensor  # and where they lie in the pack
    shared: int  # tokens at the beginning of the pack that lie before each row's own in the batch

    def take(self, states: Tensor, fill: float | None = None) -> Tensor:
        """(1, heads, tokens, width) of a pack -> (rows x heads, group x tokens, width)."""
        flat = states[0].transpose(0, 1).reshape(-1, states.shape[-1]).index_select(0, self.source)
        if fill is not None:
            flat.index_fill_(0, self.filling, fill)
        return flat.view(*self.batch, -1)

    def put(self, states: Tensor, pack: Tensor, to_all: Tensor | None = None) -> None:
        """Back into a pack (tokens x heads, width). What goes to the shared tokens is added to `to_all`."""
        flat = states.view(-1, states.shape[-1])
        pack.index_copy_(0, self.targets, flat if len(self.slots) == len(flat) else flat.index_select(0, self.slots))
        if self.shared and to_all is not None:
            heads = to_all.shape[0] // self.shared
            each = states.view(-1, heads, states.shape[1], states.shape[2])[:, :, : self.shared]
            to_all += each.sum(0, dtype=torch.float32).transpose(0, 1).reshape(to_all.shape)


@lru_cache(maxsize=64)
def _places(lengths: tuple[int, ...], rows: tuple[int, ...], keys: int, group: int, shared: int = 0) -> _Places:
    ends = torch.tensor(lengths).cumsum(0)[list(rows), None] + shared
    sizes = torch.tensor([lengths[row] for row in rows])[:, None]
    tokens = 16 * math.ceil(int(sizes.max()) / 16)  # few lengths: each asks for products of its own making
    at = torch.arange(tokens)[None]
    own = ends - sizes + at.minimum(sizes - 1)
    token = torch.cat([torch.arange(shared).expand(len(rows), -1), own], 1)[:, None, None, :]
    head = torch.arange(keys * group).view(1, keys, group, 1)
    source = (token * keys * group + head).flatten()

    def where(of_own: Tensor, of_shared: bool) -> Tensor:
        marks = torch.cat([torch.full((len(rows), shared), of_shared), of_own], 1)
        return marks[:, None, None, :].expand(-1, keys, group, -1).flatten().nonzero()[:, 0]

    slots, filling = where(at < sizes, False), where(at >= sizes, False)
    batch = (len(rows) * keys, group * (shared + tokens))
    return _Places(batch, source, filling, slots, source[slots], shared)
