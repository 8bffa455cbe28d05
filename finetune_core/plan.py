"""What a training will cost in memory and minutes, and the fastest settings that fit. Arithmetic only."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .machine import GIB, Machine
from .recipe import Recipe, Suggestion

# Dense matrix rates in FLOP/s that training of small models was seen to reach, or a third of the data sheet where
# we have no measurement; replaced by this machine's own measured rate after its first run (see `measured_rate`).
CPU_RATE_PER_CORE = {"float32": 30e9, "bfloat16": 120e9}
GPU_RATE = {"T4": 20e12, "L4": 35e12, "A10G": 40e12, "L40S": 110e12, "A100": 120e12, "H100": 300e12, "H200": 300e12}
UNKNOWN_GPU_RATE = 30e12
CONTEXT_GB = {"cuda": 0.6, "mps": 0.3, "cpu": 0.55}  # runtime and libraries before any weight is loaded
LOGIT_CHUNK = 256  # rows of logits that TRL's fused head keeps at once


@dataclass(frozen=True)
class ModelFacts:
    """What config.json says about a decoder model, and the bytes of its safetensors."""

    parameters: int
    hidden_size: int
    layers: int
    vocab_size: int
    intermediate_size: int
    heads: int
    kv_heads: int
    head_dim: int
    tied: bool
    context: int  # longest sequence it was made for
    weight_bytes: int
    name: str = ""

    @property
    def block_parameters(self) -> int:
        """Parameters of the layers, without embeddings."""
        embedding = self.vocab_size * self.hidden_size * (1 if self.tied else 2)
        return max(self.parameters - embedding, 1)


@dataclass(frozen=True)
class Plan:
    recipe: Recipe  # every None filled in
    steps: int
    seconds: float
    tokens: int  # real tokens of one epoch
    tokens_per_second: float
    memory_gb: dict[str, float]  # GiB by part, and "total"
    available_gb: float
    fits: str  # "fits" | "tight" | "no"
    reasons: tuple[str, ...]
    suggestions: tuple[Suggestion, ...] = ()
    rate_is_measured: bool = False
    settings: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The JSON of `plan --json`, and plan.json in the run."""
        return {
            "fits": self.fits,
            "memory_gb": self.memory_gb,
            "available_gb": round(self.available_gb, 2),
            "steps": self.steps,
            "seconds": round(self.seconds, 1),
            "tokens": self.tokens,
            "tokens_per_second": round(self.tokens_per_second, 1),
            "rate_is_measured": self.rate_is_measured,
            "settings": self.settings,
            "reasons": list(self.reasons),
            "suggestions": [asdict(suggestion) for suggestion in self.suggestions],
        }


def read_facts(folder: Path) -> ModelFacts:
    """From a model folder's config.json and the headers of its safetensors; no weights are read.

    Raises KeyError or FileNotFoundError where the folder is no decoder model (callers check first).
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text = config.get("text_config", config)
    hidden, layers = int(text["hidden_size"]), int(text["num_hidden_layers"])
    heads = int(text.get("num_attention_heads") or 1)
    kv_heads = int(text.get("num_key_value_heads") or heads)
    head_dim = int(text.get("head_dim") or hidden // heads)
    intermediate = int(text.get("intermediate_size") or 4 * hidden)
    vocab = int(text["vocab_size"])
    tied = bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", True)))
    counted = sum(safetensors_parameters(file) for file in folder.glob("*.safetensors"))
    attention = hidden * head_dim * (2 * heads + 2 * kv_heads)
    computed = layers * (attention + 3 * hidden * intermediate) + vocab * hidden * (1 if tied else 2)
    return ModelFacts(
        parameters=counted or computed,
        hidden_size=hidden,
        layers=layers,
        vocab_size=vocab,
        intermediate_size=intermediate,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        tied=tied,
        context=int(text.get("max_position_embeddings") or 2048),
        weight_bytes=sum(file.stat().st_size for file in folder.glob("*.safetensors")),
        name=folder.name,
    )


def safetensors_parameters(file: Path) -> int:
    """Number of values in a safetensors file, from its header (https://github.com/huggingface/safetensors#format)."""
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(size))
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")


def adapter_parameters(facts: ModelFacts, rank: int) -> int:
    """Values of a LoRA adapter of this rank on all linear layers (Hu et al. 2021: r * (inputs + outputs) each)."""
    h, i = facts.hidden_size, facts.intermediate_size
    q, kv = facts.heads * facts.head_dim, facts.kv_heads * facts.head_dim
    per_layer = (h + q) + 2 * (h + kv) + (q + h) + 3 * (h + i)
    return facts.layers * rank * per_layer


def make_plan(
    recipe: Recipe,
    facts: ModelFacts,
    lengths: Sequence[int],
    machine: Machine,
    measured_rate: float | None = None,
    validation_tokens: int = 0,
) -> Plan:
    """Fill in every setting that the person left open, and say what it costs.

    `lengths`: tokens of each training row as rendered. `measured_rate`: FLOP/s that earlier runs reached here.
    The effective batch (rows per step: per_device_train_batch_size x gradient_accumulation_steps) is kept.
    """
    reasons: list[str] = []
    kept = [min(length, recipe.max_length) for length in lengths] or [1]
    values: dict[str, Any] = {}

    values["dtype"] = recipe.dtype or ("bfloat16" if machine.has_bf16 and recipe.method != "full" else "float32")
    if recipe.dtype is None:
        reasons.append(
            "bfloat16 weights: this machine multiplies them fast."
            if values["dtype"] == "bfloat16"
            else "float32: "
            + ("all weights move, and small steps need its precision." if machine.has_bf16 else
               "this machine has no fast bfloat16.")
        )  # fmt: skip
    values["attn_implementation"] = recipe.attn_implementation or "sdpa"
    values["learning_rate"] = recipe.learning_rate or default_learning_rate(recipe.method, facts.parameters)

    rows_per_step = recipe.per_device_train_batch_size * recipe.gradient_accumulation_steps
    values |= _packing(recipe, kept, rows_per_step, machine, reasons)
    per_step = values["gradient_accumulation_steps"] * values["per_device_train_batch_size"]
    if values["packing"]:
        slots = values["packing_length"] * values["per_device_train_batch_size"]
        bins = len(pack_lengths(kept, values["packing_length"]))
        steps_per_epoch = math.ceil(bins / per_step)
    else:
        slots = max(kept) * values["per_device_train_batch_size"]
        steps_per_epoch = math.ceil(len(kept) / per_step)
    steps = math.ceil(steps_per_epoch * recipe.num_train_epochs) if recipe.max_steps < 0 else recipe.max_steps
    steps = max(steps, 1)

    available = machine.gpus[0].free_gb if machine.gpus else machine.available_gb
    checkpointing = recipe.gradient_checkpointing
    if checkpointing is None:
        without = memory_parts(recipe, values | {"gradient_checkpointing": False}, facts, slots, machine)
        checkpointing = without["total"] > 0.85 * available
        if checkpointing:
            reasons.append(
                "Gradient checkpointing: without it this would not fit in memory; it costs about a third more time."
            )
    values["gradient_checkpointing"] = checkpointing
    values |= _rhythm(recipe, steps)

    memory = memory_parts(recipe, values, facts, slots, machine)
    fits = "no" if memory["total"] > available else "tight" if memory["total"] > 0.85 * available else "fits"
    tokens = sum(kept)
    rate = measured_rate or default_rate(machine, values["dtype"])
    per_token = flops_per_token(facts, recipe.method, checkpointing)
    padding = (
        1.0
        if values["packing"]
        else slots * math.ceil(len(kept) / per_step) * values["gradient_accumulation_steps"] / tokens
    )
    tokens_per_second = rate / per_token / max(padding, 1.0)
    share_done = steps / max(steps_per_epoch, 1)
    looks = steps // values["eval_steps"]
    seconds = tokens * share_done / tokens_per_second + looks * validation_tokens / (3 * tokens_per_second)
    resolved = recipe.replace(**values)
    return Plan(
        recipe=resolved,
        steps=steps,
        seconds=seconds,
        tokens=tokens,
        tokens_per_second=tokens_per_second,
        memory_gb=memory,
        available_gb=available,
        fits=fits,
        reasons=tuple(reasons),
        suggestions=_suggestions(recipe, resolved, fits),
        rate_is_measured=measured_rate is not None,
        settings=values,
    )


def default_learning_rate(method: str, parameters: int) -> float:
    """Small models want larger steps; adapters want about ten times those of all weights (Schulman et al. 2025,
    "LoRA Without Regret"). A rule of thumb; no benchmark of ours backs it yet.
    """
    small, large = (1e-3, 2e-4) if method != "full" else (1e-4, 2e-5)
    return small if parameters < 5e8 else large


def flops_per_token(facts: ModelFacts, method: str, checkpointing: bool) -> float:
    """Forward 2N, backward to the activations 2N, to the weights 2N (full only); once more forward if checkpointed."""
    n = facts.block_parameters + facts.vocab_size * facts.hidden_size
    return 2.0 * n * (2 + (1 if method == "full" else 0) + (1 if checkpointing else 0))


def default_rate(machine: Machine, dtype: str) -> float:
    """FLOP/s to expect in training on this machine, before anything was measured."""
    if machine.gpus:
        rate = next((r for name, r in GPU_RATE.items() if name in machine.gpus[0].name), UNKNOWN_GPU_RATE)
        return rate if dtype != "float32" else rate / 4
    fast = machine.cpu_bf16 and dtype == "bfloat16"
    return (
        machine.cores
        * CPU_RATE_PER_CORE["bfloat16" if fast else "float32"]
        * (0.1 if dtype != "float32" and not fast else 1)
    )


def memory_parts(
    recipe: Recipe, values: dict[str, Any], facts: ModelFacts, slots: int, machine: Machine
) -> dict[str, float]:
    """GiB by part for one pass of `slots` tokens.

    Activations of a Llama-like block kept for backward: about 8 vectors of hidden_size and 4 of intermediate_size a
    token (inputs of the seven linear layers, norms, gate), in the weights' format; with checkpointing one hidden
    vector a layer and one whole block. Adapters add their rank-sized inputs, in float32.
    """
    size = {"float32": 4, "bfloat16": 2, "float16": 2}[values["dtype"]]
    h, i = facts.hidden_size, facts.intermediate_size
    base_bytes = facts.parameters * (0.55 if recipe.method == "qlora" else size)
    trained = facts.parameters if recipe.method == "full" else adapter_parameters(facts, recipe.lora_r)
    adapter = 0 if recipe.method == "full" else trained * 4
    block = slots * (8 * h + 4 * i + 2 * facts.heads * facts.head_dim) * size
    if recipe.method != "full":
        block += slots * 7 * recipe.lora_r * 4
    activations = (
        (slots * h * size * facts.layers + block) if values["gradient_checkpointing"] else block * facts.layers
    )
    logits = min(slots, LOGIT_CHUNK) * facts.vocab_size * 4 * 2
    parts = {
        "weights": base_bytes / GIB,
        "adapter": adapter / GIB,
        "gradients": trained * (size if recipe.method == "full" else 4) / GIB,
        "optimizer": trained * 8 / GIB,
        "activations": activations / GIB,
        "logits": logits / GIB,
        "runtime": CONTEXT_GB[machine.kind],
    }
    parts = {name: round(value, 3) for name, value in parts.items() if value > 0}
    return parts | {"total": round(sum(parts.values()), 3)}


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


def _packing(
    recipe: Recipe, lengths: Sequence[int], rows_per_step: int, machine: Machine, reasons: list[str]
) -> dict[str, Any]:
    """Packing with as many rows a step as the person asked for, or plain batches where packing gains nothing."""
    mean, longest = sum(lengths) / len(lengths), max(lengths)
    plain = {
        "packing": False,
        "packing_length": None,
        "per_device_train_batch_size": recipe.per_device_train_batch_size,
        "gradient_accumulation_steps": recipe.gradient_accumulation_steps,
    }
    if recipe.packing is False or (recipe.packing is None and (len(lengths) < 2 or rows_per_step == 1)):
        return plain
    cap = 8192 if machine.gpus else 1024
    wanted = rows_per_step * mean
    length = recipe.packing_length or max(longest, min(cap, math.ceil(wanted / 64) * 64))
    length = max(length, longest)
    if recipe.packing is None and mean > 0.8 * longest and longest >= 512:
        return plain  # rows of one length: nothing to gain
    filled = sum(lengths) / (len(pack_lengths(lengths, length)) * length)
    padded = mean / longest
    reasons.append(
        f"Packing: {filled:.0%} of the slots are real tokens instead of about {padded:.0%}; rows do not see each other."
    )
    return {
        "packing": True,
        "packing_length": length,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": max(1, round(wanted / (length * filled))),
    }


def _rhythm(recipe: Recipe, steps: int) -> dict[str, int]:
    """How often to log, look at the validation rows and save: enough to see, few enough to stay cheap."""
    looks = 2 if steps < 100 else 5 if steps < 500 else 10
    eval_steps = recipe.eval_steps or max(1, math.ceil(steps / looks))
    return {
        "logging_steps": recipe.logging_steps or max(1, steps // 300),
        "eval_steps": eval_steps,
        # the best checkpoint can only be kept if one is saved at each look
        "save_steps": eval_steps if recipe.early_stopping else recipe.save_steps or eval_steps,
    }


def _suggestions(asked: Recipe, resolved: Recipe, fits: str) -> tuple[Suggestion, ...]:
    """The ladder for what does not fit, effective batch kept."""
    if fits == "fits":
        return ()
    steps = []
    if resolved.per_device_train_batch_size > 1:
        steps.append(
            Suggestion(
                "Half the batch, twice the accumulation",
                {
                    "per_device_train_batch_size": max(1, asked.per_device_train_batch_size // 2),
                    "gradient_accumulation_steps": asked.gradient_accumulation_steps * 2,
                },
            )
        )
    if not resolved.gradient_checkpointing:
        steps.append(Suggestion("Gradient checkpointing: slower, less memory", {"gradient_checkpointing": True}))
    if resolved.packing and resolved.packing_length and resolved.packing_length > 512:
        steps.append(Suggestion("Shorter packed rows", {"packing_length": resolved.packing_length // 2}))
    if resolved.max_length > 512:
        steps.append(Suggestion("Half the longest row", {"max_length": resolved.max_length // 2}))
    if resolved.method == "full":
        steps.append(Suggestion("An adapter instead of all weights", {"method": "lora"}))
    return tuple(steps)
