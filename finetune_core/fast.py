"""Shortcuts on the training path: peft's own mathematics with less work, rounded in fewer places."""

from __future__ import annotations

import ctypes
import sys
from types import MethodType
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn
from transformers import TrainerCallback

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
LARGE_TENSOR = 2 * 1024**2  # bytes
MOST_ON_HEAP = 32 * 1024**2  # bytes; the threshold to which glibc goes up by itself, with twice as many kept free


def give_freed_memory_back() -> None:
    """Give memory that a layer needed only while it was computed back to the system at once; for checkpointing on a
    CPU.

    glibc serves what is as large as something freed before from one heap, and there the hidden states that are kept lie
    between the tensors that are not: a step of 16 layers took 0.83 GiB for 0.23 GiB of values. Each large tensor has
    pages of its own after this; other C libraries are left alone.
    """
    _set_malloc({M_MMAP_THRESHOLD: LARGE_TENSOR})


def keep_freed_memory() -> None:
    """Let the process keep what is freed again. Answers to 32 prompts at once took 5 to 26 % longer while freed memory
    was given back (starter model, prompts of 37 to 298 tokens, two cores)."""
    _set_malloc({M_MMAP_THRESHOLD: MOST_ON_HEAP, M_TRIM_THRESHOLD: 2 * MOST_ON_HEAP})


def _set_malloc(options: dict[int, int]) -> None:
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        for option, value in options.items():
            libc.mallopt(option, value)


class GivesFreedMemoryBack(TrainerCallback):
    """Freed memory is given back while it learns, and no longer."""

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        give_freed_memory_back()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        keep_freed_memory()


def fuse_adapters(model: nn.Module) -> int:
    """Let every plain LoRA layer compute base and adapter in one autograd function. Returns how many do.

    Left alone: layers with dropout, DoRA and other variants, quantized or unusual base layers, and every call that
    trains nothing (generation) or asks for something special (merged, disabled, several adapters).
    """
    fused = 0
    for module in model.modules():
        if type(module) is LoraLinear and _is_plain(module):
            module.forward = MethodType(_forward, module)
            fused += 1
    return fused


def _is_plain(layer: LoraLinear) -> bool:
    return (
        type(layer.base_layer) is nn.Linear
        and not layer.fan_in_fan_out
        and not layer.lora_variant
        and len(layer.lora_A) == 1
        and all(isinstance(dropout, nn.Identity) for dropout in layer.lora_dropout.values())
        and not any(layer.lora_bias.values())
    )


def _forward(layer: LoraLinear, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    names = [name for name in layer.active_adapters if name in layer.lora_A]
    usual = (
        torch.is_grad_enabled()
        and len(names) == 1
        and not (args or kwargs or layer.merged or layer.disable_adapters)
        and not torch.is_autocast_enabled(x.device.type)
        and x.dtype == layer.base_layer.weight.dtype
    )
    if not usual:
        return type(layer).forward(layer, x, *args, **kwargs)
    name = names[0]
    base = layer.base_layer
    return _LowRank.apply(
        x, base.weight, base.bias, layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name]
    )


class _LowRank(torch.autograd.Function):
    """y = x Wᵀ + b + s (x Aᵀ) Bᵀ, W frozen (Hu et al. 2021, https://arxiv.org/abs/2106.09685).

    x (..., in), W (out, in), A (r, in), B (out, r). peft computes the two terms apart, scales and adds them at full
    width and adds both gradients of x again; here they are added inside the matrix products. A and B keep their own
    precision (float32 beside bfloat16 weights) and are rounded to that of x for the products alone.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        low, high = a.to(x.dtype), b.to(x.dtype)
        inner = rows @ low.t()
        inner *= scale
        out = rows @ weight.t() if bias is None else torch.addmm(bias, rows, weight.t())
        out.addmm_(inner, high.t())
        ctx.save_for_backward(rows, inner, weight, a, b)
        ctx.scale, ctx.shape = scale, x.shape
        return out.view(*x.shape[:-1], out.shape[-1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, inner, weight, a, b = ctx.saved_tensors
        gradient = gradients[0].reshape(-1, gradients[0].shape[-1])
        low, high = a.to(rows.dtype), b.to(rows.dtype)
        through = gradient @ high  # (tokens, r)
        through *= ctx.scale
        for_a = (through.t() @ rows).to(a.dtype)
        for_b = (gradient.t() @ inner).to(b.dtype)
        for_x = None
        if ctx.needs_input_grad[0]:
            for_x = (gradient @ weight).addmm_(through, low).view(ctx.shape)
        return for_x, None, None, for_a, for_b, None
