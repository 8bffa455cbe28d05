"""How full batches are: several rows in one (packing), or rows of like length side by side. Arithmetic only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .machine import Machine
from .recipe import Recipe

LEAST_SHARED = 0.05  # of the tokens, to be worth it
SAMPLE = 20_000  # rows whose batches are worked out; the rest is taken to be alike
GROUPED_STEPS = 50  # most steps that transformers' LengthGroupedSampler sorts together
SPILLS = 0.15  # of a pack, by which the packs of a step may hold more than its rows
MOST_MORE = 4 / 3  # times the rows that were asked for in a step; packs that hold more are not chosen

# Architectures whose packed rows give the logits of the rows alone, from position_ids (tests/test_packing.py asks
# each). Not so, in transformers 5.23: Qwen 3.5 and Qwen3-Next (a linear attention runs on through the pack), Falcon-H1,
# OPT, gpt-oss, and everything with a state or ALiBi.
EXACT = frozenset({
    "apertus", "arcee", "cohere", "cohere2", "ernie4_5", "exaone4", "gemma", "gemma2", "gemma3_text", "gemma4_text",
    "glm", "glm4", "gpt2", "gpt_bigcode", "gpt_neox", "granite", "granitemoe", "helium", "hunyuan_v1_dense", "llama",
    "ministral", "ministral3", "mistral", "mixtral", "nemotron", "olmo", "olmo2", "olmo3", "olmoe", "phi", "phi3",
    "qwen2", "qwen3", "qwen3_moe", "seed_oss", "smollm3", "solar_open", "stablelm", "starcoder2", "vaultgemma",
})  # fmt: skip
BY_MASK_ONLY = frozenset({"nemotron", "olmoe", "stablelm"})  # their layers do not learn where the rows begin


def packs_exactly(model_type: str) -> bool:
    """Whether packed rows are known not to see each other. `model_type`: of the text model, from config.json."""
    return model_type in EXACT


def attends_by_row(model_type: str) -> bool:
    """Whether packed rows can be computed one by one (attention.py), without a mask of all tokens against all."""
    return model_type in EXACT and model_type not in BY_MASK_ONLY


def shares_prefix(recipe: Recipe, machine: Machine, model_type: str, lengths: Sequence[int], shared: int) -> bool:
    """Whether the `shared` tokens with which all rows begin are to be computed once a pack: where it is exact and known
    to pay, or as the person asked. The trainer looks at the model itself once more (`trainer.beginning_of`)."""
    exact = attends_by_row(model_type) and not recipe.lora_dropout and recipe.num_processes == 1
    exact = exact and 0 < shared < max(lengths)  # a row that is cut before it ends trains nothing
    if recipe.share_prefix is not None:
        return exact and recipe.share_prefix
    return exact and machine.kind == "cpu" and shared * len(lengths) >= LEAST_SHARED * sum(lengths)


def without_first(shared: int, lengths: Sequence[int]) -> Sequence[int]:
    """Tokens of each row behind those that it shares with all; a row may be cut, or refused, before that.

    >>> without_first(3, [10, 3, 0])
    [7, 0, 0]
    """
    return [max(0, length - shared) for length in lengths] if shared else lengths


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
    sample = lengths[:: math.ceil(len(lengths) / SAMPLE)]
    return sum(min(n, capacity) for n in sample) / (len(pack_lengths(sample, capacity)) * capacity)


def padded_share(lengths: Sequence[int], batch: int, accumulation: int = 1, grouped: bool = True) -> float:
    """Share of the slots of an epoch that hold real tokens where rows of like length share a batch, or any rows.

    As transformers' LengthGroupedSampler draws them: rows fall at random into groups of some steps, each group is
    sorted by length, and each batch is padded to its longest row.

    >>> padded_share([10, 10, 40, 40], batch=4), padded_share([10, 10, 40, 40] * 100, batch=2)
    (0.625, 1.0)
    """
    sample = sorted(lengths[:: math.ceil(len(lengths) / SAMPLE)])
    step = batch * accumulation
    size = step * max(1, min(len(sample) // (4 * step), GROUPED_STEPS)) if grouped else batch
    groups = math.ceil(len(sample) / size)
    slots = 0
    for first in range(groups):
        group = sample[first::groups]  # every so-many-th of the sorted rows stands for a random draw
        slots += sum(len(rows) * rows[-1] for rows in (group[at : at + batch] for at in range(0, len(group), batch)))
    return sum(sample) / slots


def packed(
    recipe: Recipe,
    model_type: str,
    whole: Sequence[int],
    shared: int,
    room: int,
    most: int,
    reasons: list[str],
) -> dict[str, Any]:
    """Packing with as many rows a step as the person asked for, or plain batches where packing gains nothing.

    A recipe that says how long its packs are and has one in a batch was planned before: its accumulation counts packs.
    `whole`: tokens of each row; `shared`: those of its beginning that a pack holds once for all, beside its length.
    `room`: tokens of the longest training or validation row without them, which a pack has to hold: TRL would cut it.
    `most`: tokens that a pack holds otherwise; what a step has more is dealt out evenly. No packs are chosen that would
    put many more rows into a step than were asked for, as one very long row would.
    """
    lengths = without_first(shared, whole)
    rows_per_step = recipe.per_device_train_batch_size * recipe.gradient_accumulation_steps
    mean, longest = sum(lengths) / len(lengths), max(lengths)
    plain = {
        "packing": False,
        "packing_length": None,
        "per_device_train_batch_size": recipe.per_device_train_batch_size,
        "gradient_accumulation_steps": recipe.gradient_accumulation_steps,
    }
    if recipe.packing is False or (recipe.packing is None and (len(lengths) < 2 or rows_per_step == 1)):
        return plain
    if recipe.packing is None and recipe.train_sampling_strategy == "group_by_length":
        return plain  # rows of like length are to share a batch, as the person asked
    exact = packs_exactly(model_type)
    if recipe.packing is None and not exact:
        reasons.append(
            f"No packing: in the architecture {model_type or 'of this model'} packed rows are not known to be "
            "kept apart. Rows of like length share a batch instead."
        )
        return plain
    wanted, processes = rows_per_step * mean, recipe.num_processes
    passes = math.ceil(wanted / processes / most)  # of each process in a step
    if wanted / processes / passes < room:
        passes = max(1, int(wanted / processes / room + SPILLS))
    even = wanted / processes / passes
    size = 64 if even > 256 else 8  # rounded up to whole ones
    length = max(recipe.packing_length or math.ceil(even / size) * size, room)
    if recipe.packing is None and mean > 0.8 * longest and longest >= 512:
        return plain  # rows of one length: nothing to gain
    filled = filled_share(lengths, length)
    packs = max(1, round(wanted / (length * filled * processes))) * processes
    if recipe.packing_length and recipe.per_device_train_batch_size == 1:
        packs = recipe.gradient_accumulation_steps
    elif recipe.packing is None and packs * length * filled > MOST_MORE * wanted and len(lengths) > rows_per_step:
        reasons.append(
            f"No packing: a pack has to hold the longest row, {room:,} tokens, and a step would have "
            f"{packs * length * filled / mean:.0f} rows instead of {rows_per_step:,}."
        )
        return plain
    if recipe.packing_length and recipe.packing_length < length:
        reasons.append(
            f"Packs of {length:,} tokens instead of {recipe.packing_length:,}: they have to hold the longest row."
        )
    padded = padded_share(whole, recipe.per_device_train_batch_size, recipe.gradient_accumulation_steps)
    gain = f"{filled:.0%} of the slots are real tokens instead of about {padded:.0%}"
    if filled <= padded:
        gain = f"rows share passes of {length:,} tokens"
    reasons.append(
        f"Packing: {gain}; "
        + ("rows do not see each other." if exact else
           f"as you asked, though in the architecture {model_type or 'of this model'} rows may see each other.")
    )  # fmt: skip
    return {
        "packing": True,
        "packing_length": length,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": packs,
    }
