"""Liger's kernels for one training: what they replace in the whole process is put back when it is over."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .errors import FinetuneError, explain, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel

OURS_AND_THEIRS = ("liger_kernel", "transformers.integrations.liger")  # modules whose failures are Liger's
_replaced: list[tuple[Any, str, Any]] = []  # (module or class, name, what it was)


def use_liger_kernels(model: PreTrainedModel) -> None:
    """Norms, rotary embedding and gated MLP as one Triton kernel each (https://arxiv.org/abs/2410.10989).

    Leaves a model alone whose architecture Liger does not know. The loss stays with TRL's fused head. Only within
    `liger_kept_apart`: Liger binds its kernels to this model's layers, but it also replaces classes and the rotary
    embedding in transformers' own modules, which every other model of that architecture would meet.
    """
    from transformers.integrations.liger import apply_liger_kernel

    places = [(place, dict(vars(place))) for place in _modules_and_classes()]
    try:
        apply_liger_kernel(model, {"fused_linear_cross_entropy": False, "cross_entropy": False})
    finally:
        for place, before in places:
            now = vars(place)
            _replaced.extend((place, name, was) for name, was in before.items() if now.get(name) is not was)


@contextmanager
def liger_kept_apart() -> Iterator[None]:
    """After the block transformers is as before; in it Liger's own failures become a FinetuneError (liger-unusable)."""
    try:
        yield
    except Exception as error:
        if explain(error).code == "bug" and _is_ligers(error):
            raise FinetuneError(
                f"The installed liger-kernel does not work with this model here: {first_line(error, 160)}",
                "Run `pip install --upgrade liger-kernel`, or set use_liger_kernel to false.",
                code="liger-unusable",
            ) from error
        raise
    finally:
        while _replaced:
            setattr(*_replaced.pop())


def _modules_and_classes() -> Iterator[Any]:
    """transformers' modules of architectures that are loaded, and their own classes."""
    for name, module in list(sys.modules.items()):
        if name.startswith("transformers.models.") and ".modeling_" in name and module is not None:
            yield module
            yield from (each for each in vars(module).values() if isinstance(each, type) and each.__module__ == name)


def _is_ligers(error: BaseException) -> bool:
    """Whether it was raised in Liger, or in what it called."""
    frame = error.__traceback__
    while frame is not None:
        if frame.tb_frame.f_globals.get("__name__", "").startswith(OURS_AND_THEIRS):
            return True
        frame = frame.tb_next
    return False
