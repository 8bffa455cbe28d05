"""Shares of an optimizer are read without running what is in them: torch itself would unpickle whatever a file names.

A run is a folder that people hand on, and all else in one is read as tensors and JSON.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.api import CheckpointException

from .errors import FinetuneError

CONTENTS = ".metadata"  # torch.distributed.checkpoint's name for its list of what lies where
FORCED = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # torch's own switch, for the shares that are no tensors
REFUSED = "Weights only load failed"  # what torch then says of anything else
OF_METADATA = ("BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta",
               "TensorProperties", "TensorStorageMetadata", "_MEM_FORMAT_ENCODING")  # fmt: skip
EXPECTED = frozenset({
    *(f"torch.distributed.checkpoint.metadata.{name}" for name in OF_METADATA),
    "torch.distributed.checkpoint.filesystem._StorageInfo", "torch.serialization._get_layout", "torch.Size",
    *(f"{module}.{name}" for module in ("pathlib", "pathlib._local") for name in ("PosixPath", "WindowsPath")),
})  # fmt: skip


@contextmanager
def weights_only(folder: Path) -> Iterator[None]:
    """Let torch load only tensors in the block, which reads what `save_optimizer_distributed` wrote. Raises
    FinetuneError (unsafe-checkpoint)."""
    try:
        with (folder / CONTENTS).open("rb") as file:
            _Expected(file).load()
    except pickle.UnpicklingError as error:
        raise _unsafe(folder) from error
    before = os.environ.get(FORCED)
    os.environ[FORCED] = "1"
    try:
        yield
    except CheckpointException as error:
        if REFUSED not in str(error):
            raise
        raise _unsafe(folder) from error
    finally:
        if before is None:
            del os.environ[FORCED]
        else:
            os.environ[FORCED] = before


def _unsafe(folder: Path) -> FinetuneError:
    return FinetuneError(
        f"{folder.parent.name} is not as a training leaves a checkpoint: it may hold a program, so it was not read.",
        "Do not go on with this run: start a new one with its recipe.",
        code="unsafe-checkpoint",
    )


class _Expected(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if is_dtype or f"{module}.{name}" in EXPECTED:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name}")
