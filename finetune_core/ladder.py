"""The ladder for what does not fit in memory: each rung needs less, and keeps the rows of a step. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from typing import Any

from .events import Event
from .machine import Machine
from .precision import FUSED, IN_8_BITS, PAGED
from .recipe import STARTER_MODEL, Recipe, Suggestion
from .sharing import can_share_weights, share

SHORTEST_PACK = 128  # tokens; below this packing stops to pay
SHORTEST_ROW = 256  # tokens; a max_length that is not lowered further
STARTER_PARAMETERS = 134_515_008
FAMILIES = (  # on the Hub, smallest first
    (STARTER_MODEL, "HuggingFaceTB/SmolLM2-360M-Instruct", "HuggingFaceTB/SmolLM2-1.7B-Instruct"),
    ("Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen2.5-1.5B-Instruct", "Qwen/Qwen2.5-3B-Instruct", "Qwen/Qwen2.5-7B-Instruct",
     "Qwen/Qwen2.5-14B-Instruct", "Qwen/Qwen2.5-32B-Instruct", "Qwen/Qwen2.5-72B-Instruct"),
    ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-1.7B", "Qwen/Qwen3-4B", "Qwen/Qwen3-8B", "Qwen/Qwen3-14B", "Qwen/Qwen3-32B"),
    ("Qwen/Qwen3-1.7B", "Qwen/Qwen3-4B-Instruct-2507"),
    ("meta-llama/Llama-3.2-1B-Instruct", "meta-llama/Llama-3.2-3B-Instruct", "meta-llama/Llama-3.1-8B-Instruct"),
)  # fmt: skip


def rungs_of(
    resolved: Recipe, longest: int, machine: Machine, uncut: int | None = None, parameters: int | None = None
) -> tuple[Suggestion, ...]:
    """The whole ladder of a plan, for a new run. `uncut`, `parameters`: as `harder_rungs` has them."""
    gentle = gentle_rungs(resolved, longest, machine)
    shares = any(rung.changes.get("fsdp") for rung in gentle)
    wider = [] if shares else wider_rungs(resolved, len(machine.gpus))
    return (*wider, *gentle, *harder_rungs(resolved, uncut, parameters))


def gentle_rungs(
    resolved: Recipe, longest: int, machine: Machine, learned: bool = False, can_share: bool = True
) -> list[Suggestion]:
    """What may be done without asking, in this order: the rows and tokens that are learned stay the same.

    `longest`: tokens of the longest training row, which a pack has to hold. `learned`: there is a checkpoint to go on
    from, which has its moments in the format of its optimizer, and where all weights move on one process.
    `can_share`: False if the model is known to be none whose weights processes can share.
    """
    rungs = []
    rows = share(resolved).recipe.per_device_train_batch_size  # in one process
    if rows > 1:
        step = resolved.per_device_train_batch_size * resolved.gradient_accumulation_steps
        fewer = next(size for size in range(rows // 2, 0, -1) if step % size == 0)
        rungs.append(
            Suggestion(
                "Half the batch, twice the accumulation" if fewer * 2 == resolved.per_device_train_batch_size else
                "Smaller batches, more of them in a step",
                {"per_device_train_batch_size": fewer, "gradient_accumulation_steps": step // fewer},
            )
        )  # fmt: skip
    can_share = can_share and can_share_weights(resolved) and not (learned and resolved.method == "full")
    if can_share and not resolved.fsdp:
        rungs.append(_shared_weights(resolved.num_processes, {"fsdp": True}))
    pack = resolved.packing_length or 0
    if resolved.packing and pack // 2 >= max(longest, SHORTEST_PACK):
        rungs.append(
            Suggestion(
                "Half the packed length, twice the accumulation",
                _packs(pack // 2, resolved.gradient_accumulation_steps * 2),
            )
        )
    if not resolved.gradient_checkpointing:
        rungs.append(Suggestion("Gradient checkpointing: slower, less memory", {"gradient_checkpointing": True}))
    if resolved.method == "lora" and machine.has_low_bits and not resolved.fsdp:
        anew = {"method": "qlora", "autocast_adapter_dtype": None}
        rungs.append(Suggestion("Weights in 4 bits (QLoRA)", anew))
    if resolved.load_in_8bit:
        rungs.append(Suggestion("Weights in 4 bits instead of 8", {"load_in_8bit": False}))
    if resolved.method == "full" and machine.has_low_bits and not learned and not resolved.fsdp:
        rungs += _lighter_formats(resolved, machine)
    return rungs


def _packs(length: int, a_step: int) -> dict[str, Any]:
    """Changes for `a_step` packs of this length in a step, which a plan leaves as they are."""
    return {
        "packing": True,
        "packing_length": length,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": a_step,
    }


def _lighter_formats(resolved: Recipe, machine: Machine) -> list[Suggestion]:
    """For all weights: what is kept of each in fewer bits."""
    rungs = []
    if resolved.optim == FUSED:
        rungs.append(Suggestion("Moments of the optimizer in 8 bits", {"optim": IN_8_BITS}))
    if resolved.dtype == "float32" and machine.has_bf16:
        rungs.append(Suggestion("Weights in bfloat16: very small steps are rounded away", {"dtype": "bfloat16"}))
    if resolved.optim != PAGED:
        rungs.append(Suggestion("Moments in 8 bits, in the machine's own memory: slower", {"optim": PAGED}))
    return rungs


def wider_rungs(resolved: Recipe, gpus: int) -> list[Suggestion]:
    """More room by sharing the weights among the processes that there are, or among all GPUs; for a new run only."""
    processes = max(resolved.num_processes if resolved.num_processes > 1 else gpus, 1)
    light = {} if resolved.optim in (None, FUSED) else {"optim": None}
    if resolved.fsdp or not can_share_weights(resolved.replace(num_processes=processes, **light)):
        return []
    return [_shared_weights(processes, {"num_processes": processes, "fsdp": True} | light)]


def _shared_weights(processes: int, changes: dict[str, Any]) -> Suggestion:
    return Suggestion(f"The weights shared among {processes} processes (FSDP)", changes)


def harder_rungs(resolved: Recipe, longest: int | None = None, parameters: int | None = None) -> list[Suggestion]:
    """What changes the result, so that a person has to choose it; the plan chooses anew what goes with the old way.

    `longest`: tokens of the longest row as it is read, `parameters`: of the model, where they are known.
    """
    rungs = []
    if resolved.method == "full":
        anew = {"method": "lora", "learning_rate": None, "optim": None}
        anew |= {"dtype": None} if resolved.dtype == "float32" else {}  # fewer bits stay fewer
        rungs.append(Suggestion("An adapter instead of all weights", anew))
    read = min(resolved.max_length, longest or resolved.max_length)
    if read > SHORTEST_ROW:
        half, pack = max(SHORTEST_ROW, read // 2), resolved.packing_length or 0
        shorter = max(half, pack // 2)
        a_step = round(resolved.gradient_accumulation_steps * pack / shorter)
        fewer = _packs(shorter, a_step) if pack > half else {}
        rungs.append(Suggestion("Half the longest row; longer ones are cut", {"max_length": half} | fewer))
    if smaller := smaller_model(resolved.model_name_or_path, parameters):
        changes = {"model_name_or_path": smaller, "model_revision": None, "learning_rate": None}
        rungs.append(Suggestion(f"A smaller model: {smaller.rpartition('/')[2]}", changes))
    return rungs


def smaller_model(name: str, parameters: int | None = None) -> str | None:
    """The next smaller one of its family; of a family that is not known here the starter model; None below that.

    `parameters`: its own, where they are known.

    >>> smaller_model("Qwen/Qwen3-4B"), smaller_model("owner/name"), smaller_model("/data/mine")
    ('Qwen/Qwen3-1.7B', 'HuggingFaceTB/SmolLM2-135M-Instruct', None)
    """
    for family in FAMILIES:
        if name in family[1:]:
            return family[family.index(name) - 1]
    on_hub = re.fullmatch(r"\w[\w.-]*/[\w.-]+", name)
    larger = name != STARTER_MODEL and (parameters is None or parameters > STARTER_PARAMETERS)
    return STARTER_MODEL if on_hub and larger else None


def as_overrides(changes: dict[str, Any]) -> str:
    """Settings as they are typed behind a command; nothing behind the sign: the plan is to choose anew.

    >>> as_overrides({"gradient_checkpointing": True, "learning_rate": None})
    'gradient_checkpointing=true learning_rate='
    >>> as_overrides({"fixes": ["drop-leaks", "drop-duplicates"], "columns": {"prompt": "My question"}})
    "fixes=drop-leaks,drop-duplicates 'columns.prompt=My question'"
    """
    return shlex.join(word for name, value in changes.items() for word in _typed(name, value))


def _typed(name: str, value: Any) -> list[str]:
    match value:
        case dict():
            return [word for inner, text in value.items() for word in _typed(f"{name}.{inner}", text)]
        case list():
            return [f"{name}={','.join(map(str, value))}"]
        case bool():
            return [f"{name}={str(value).lower()}"]
    return [f"{name}={'' if value is None else value}"]


def as_typed(rung: Suggestion) -> str:
    """A rung in words, and as the command line takes it.

    >>> as_typed(Suggestion("Gradient checkpointing", {"gradient_checkpointing": True}))
    'Gradient checkpointing (gradient_checkpointing=true).'
    """
    return f"{rung.says} ({as_overrides(rung.changes)})."


def walked_down(recipe: Recipe, events: Iterable[Event]) -> Recipe:
    """A run's recipe with the rungs that its workers went down: its checkpoints are of that one."""
    return recipe.replace(**steps_of(events))


def steps_of(events: Iterable[Event]) -> dict[str, Any]:
    """What these rungs changed."""
    changes = [event.data["changes"] for event in events if event.data.get("code") == "stepped-down"]
    return {name: value for each in changes for name, value in each.items()}


def step_down(
    resolved: Recipe, longest: int, machine: Machine, learned: bool = False, can_share: bool = True
) -> tuple[Recipe, Suggestion] | None:
    """The recipe one rung down, and what was changed; None at the foot of the ladder."""
    rungs = gentle_rungs(resolved, longest, machine, learned, can_share)
    return (resolved.replace(**rungs[0].changes), rungs[0]) if rungs else None
