"""Packing: several rows in one, without one seeing the other. Arithmetic only."""

from __future__ import annotations

import math
from collections.abc import Sequence

PACKED_SAMPLE = 20_000  # rows whose packing is worked out; the rest is taken to pack alike

# Architectures whose packed rows give the logits of the rows alone, from position_ids (tests/test_packing.py asks
# each). Not so, in transformers 5.23: Qwen 3.5 and Qwen3-Next (a linear attention runs on through the pack), Falcon-H1,
# OPT, gpt-oss, and everything with a state or ALiBi.
EXACT = frozenset({
    "apertus", "arcee", "cohere", "cohere2", "ernie4_5", "exaone4", "gemma", "gemma2", "gemma3_text", "gemma4_text",
    "glm", "glm4", "gpt2", "gpt_bigcode", "gpt_neox", "granite", "granitemoe", "helium", "hunyuan_v1_dense", "llama",
    "ministral", "ministral3", "mistral", "mixtral", "nemotron", "olmo", "olmo2", "olmo3", "olmoe", "phi", "phi3",
    "qwen2", "qwen3", "qwen3_moe", "seed_oss", "smollm3", "solar_open", "stablelm", "starcoder2", "vaultgemma",
})  # fmt: skip


def packs_exactly(model_type: str) -> bool:
    """Whether packed rows are known not to see each other. `model_type`: of the text model, from config.json."""
    return model_type in EXACT


def pack_lengths(lengths: Sequence[int], capacity: int) -> list[int]:
    """Filled slots of each bin when rows of these lengths are packed best-fit decreasing, as TRL's bfd does."""
    room: dict[int, int] = {}  # free slots -> number of bins with that much room
    full = 0
    for length in sorted((min(n, capacity) for n in lengths), reverse=True):
        free = min((r for r in room if r >= length), default=None)
        if free is None:
            free, full = capacity, full + 1
        else:
            room[free] -= 1
            if not room[free]:
                del room[free]
        room[free - length] = room.get(free - length, 0) + 1
    return [capacity - free for free, count in room.items() for _ in range(count)]


def filled_share(lengths: Sequence[int], capacity: int) -> float:
    """Share of the packed slots that hold real tokens; of a sample where there are many rows."""
    sample = lengths[:: math.ceil(len(lengths) / PACKED_SAMPLE)]
    return sum(min(n, capacity) for n in sample) / (len(pack_lengths(sample, capacity)) * capacity)
