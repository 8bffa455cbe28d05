"""The ladder for what does not fit in memory: each rung needs less, and keeps the rows of a step. Pure."""

from __future__ import annotations

from .recipe import Recipe, Suggestion

SHORTEST_PACK = 128  # tokens; below this packing stops to pay


def gentle_rungs(resolved: Recipe, longest: int, has_4bit: bool) -> list[Suggestion]:
    """What may be done without asking, in this order: the rows and tokens that are learned stay the same.

    `longest`: tokens of the longest training row, which a pack has to hold.
    """
    rungs = []
    rows = resolved.per_device_train_batch_size
    if rows > 1:
        step = rows * resolved.gradient_accumulation_steps
        fewer = next(size for size in range(rows // 2, 0, -1) if step % size == 0)
        rungs.append(
            Suggestion(
                "Half the batch, twice the accumulation" if fewer * 2 == rows else
                "Smaller batches, more of them in a step",
                {"per_device_train_batch_size": fewer, "gradient_accumulation_steps": step // fewer},
            )
        )  # fmt: skip
    pack = resolved.packing_length or 0
    if resolved.packing and pack // 2 >= max(longest, SHORTEST_PACK):
        rungs.append(
            Suggestion(
                "Half the packed length, twice the accumulation",
                {
                    "packing_length": pack // 2,
                    "gradient_accumulation_steps": resolved.gradient_accumulation_steps * 2,
                },
            )
        )
    if not resolved.gradient_checkpointing:
        rungs.append(Suggestion("Gradient checkpointing: slower, less memory", {"gradient_checkpointing": True}))
    if resolved.method == "lora" and has_4bit and not resolved.fsdp:
        rungs.append(Suggestion("Weights in 4 bits (QLoRA)", {"method": "qlora"}))
    return rungs


def wider_rungs(resolved: Recipe, gpus: int) -> list[Suggestion]:
    """More room by sharing the weights among the processes that there are, or among all GPUs; for a new run only."""
    processes = resolved.num_processes if resolved.num_processes > 1 else gpus
    if processes < 2 or resolved.fsdp or resolved.method == "qlora" or resolved.use_dora:
        return []
    says = f"The weights shared among {processes} processes (FSDP)"
    return [Suggestion(says, {"num_processes": processes, "fsdp": True})]


def harder_rungs(resolved: Recipe) -> list[Suggestion]:
    """What changes the result, so that a person has to choose it."""
    rungs = []
    if resolved.method == "full":
        rungs.append(Suggestion("An adapter instead of all weights", {"method": "lora"}))
    if resolved.max_length > 256:
        rungs.append(Suggestion("Half the longest row; longer ones are cut", {"max_length": resolved.max_length // 2}))
    return rungs


def step_down(resolved: Recipe, longest: int, has_4bit: bool) -> tuple[Recipe, Suggestion] | None:
    """The recipe one rung down, and what was changed; None at the foot of the ladder."""
    rungs = gentle_rungs(resolved, longest, has_4bit)
    return (resolved.replace(**rungs[0].changes), rungs[0]) if rungs else None
