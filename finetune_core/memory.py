"""How much memory a training takes, part by part. Arithmetic only."""

from __future__ import annotations

from typing import Any

from .facts import ModelFacts
from .machine import GIB, Machine
from .packing import attends_by_row
from .precision import BITS_BYTES, BYTES, IN_8_BITS, PAGED, bits_of, moment_bytes
from .recipe import Recipe

CONTEXT_GB = {"cuda": 0.6, "mps": 0.3, "cpu": 0.65}  # runtime and libraries before any weight is loaded
TILE_TOKENS = 4096  # of a tile of TRL's fused head, which holds the scores of so many tokens at once
TILE_COLUMNS = {"cuda": 32768, "mps": 32768, "cpu": 2048}  # for so many words of the vocabulary; TRL's, but on a CPU
# Of a score: Triton works in the tile itself. Where TRL has PyTorch alone, as on Apple's GPUs, eight float32 copies lie
# beside it (31 to 34 bytes, counted as the same operations ran on a CPU); on a CPU as trainings were measured.
SCORE_BYTES = {"mps": 34, "cpu": 12}
HEAD_SCORES = 2**23  # of a frozen head on a CPU (head.py), whose scores are held for so many tokens x words at once


def adapter_parameters(facts: ModelFacts, rank: int) -> int:
    """Values of a LoRA adapter of this rank on all linear layers (Hu et al. 2021: r * (inputs + outputs) each).

    Experts get none: peft does not take them for layers.
    """
    h, i = facts.hidden_size, facts.intermediate_size
    q, kv = facts.heads * facts.head_dim, facts.kv_heads * facts.head_dim
    per_layer = (h + q) + 2 * (h + kv) + (q + h) + (0 if facts.experts else 3 * (h + i))
    return facts.layers * rank * per_layer


def kept_values(facts: ModelFacts, recipe: Recipe, liger: bool = False, flash: bool = False) -> float:
    """Values a token that wait for the backward pass in one Llama-like block.

    Two residuals, two norms with their float32 copies (Liger: without), queries, keys and values before and after the
    rotary embedding, the attention's output twice (each once where packed rows meet a flash kernel), and of the gated
    MLP the gate, its activation (Liger: made again), the other half and their product. Adapters add their rank-sized
    inputs. Each expert that a token meets has its input and its output besides (not measured).
    """
    h, i = facts.hidden_size, facts.met_size
    q, kv = facts.heads * facts.head_dim, facts.kv_heads * facts.head_dim
    attention = 2 * q + 2 * kv if flash else 3 * q + 4 * kv
    return (
        (4 if liger else 6) * h
        + 2 * facts.experts_met * h
        + attention
        + (3 if liger else 4) * i
        + (7 * recipe.lora_r if recipe.method != "full" else 0)
    )


def memory_parts(
    recipe: Recipe, values: dict[str, Any], facts: ModelFacts, slots: int, machine: Machine
) -> dict[str, float]:
    """GiB by part for one pass of `slots` tokens; "total" is their sum.

    Activations are what each block keeps (`kept_values`); with checkpointing one hidden vector a layer, and one whole
    block. Everything moved (`full`) keeps gradients and two moments; float32 weights multiplied in bfloat16 are held in
    both. Of a paged optimizer's moments only those count that the machine's own memory has no room for. In 4 or 8 bits
    are the layers alone: embeddings, head and experts keep their number format. With `fsdp` a process holds its share
    of the weights and, where all move, of their gradients and moments; embeddings, head and two layers (one at work,
    one on its way) are whole, in the number format of the products, and so are their gradients before they are shared.
    An adapter is whole in each.
    `logits`: a tile of scores, and where the head moves in bfloat16 its gradient, which is added up in float32.
    Not counted: scores of an attention without a flash kernel.
    """
    size = BYTES[values["dtype"]]
    moved = values["dtype"] if recipe.method == "full" or not values["autocast_adapter_dtype"] else "float32"
    autocast = machine.autocasts(recipe.method, values["dtype"])
    width = 2 if autocast else size  # bytes of a value on its way
    h = facts.hidden_size
    base_bytes = facts.parameters * (size + 2 if autocast else size)
    if bits := bits_of(recipe):
        in_bits = facts.block_parameters - facts.expert_parameters
        base_bytes = in_bits * BITS_BYTES[bits] + (facts.parameters - in_bits) * size
    trained = facts.parameters if recipe.method == "full" else adapter_parameters(facts, recipe.lora_r)
    embedding = facts.vocab_size * h if recipe.method == "full" else 0
    flash = machine.kind == "cuda" and machine.has_bf16 and width == 2
    flash = flash and values["packing"] and attends_by_row(facts.model_type)
    block = slots * kept_values(facts, recipe, values["use_liger_kernel"], flash) * width
    layers = facts.layers
    activations = (slots * h * width * layers + block) if values["gradient_checkpointing"] else block * layers
    scores = min(slots, TILE_TOKENS) * TILE_COLUMNS[machine.kind]
    if machine.kind == "cpu" and recipe.method != "full":
        scores = min(slots * facts.vocab_size, HEAD_SCORES)
    logits = scores * SCORE_BYTES.get(machine.kind, width)
    if recipe.method == "full" and size < 4:
        logits += facts.vocab_size * h * 4
    gathered, shares, shares_trained = 0.0, 1, 1
    if values.get("fsdp"):
        shares = recipe.num_processes
        shares_trained = shares if recipe.method == "full" else 1
        base_bytes = facts.parameters * size
        whole = 2 * facts.block_parameters / layers + facts.parameters - facts.block_parameters
        gathered = whole * width * (2 if recipe.method == "full" else 1)
    parts = {
        "weights": base_bytes / shares,
        "gathered": gathered,
        "adapter": 0 if recipe.method == "full" else trained * BYTES[moved],
        "gradients": trained * BYTES[moved] / shares_trained,
        "optimizer": _moments(values["optim"], moved, trained, embedding, machine) / shares_trained,
        "activations": activations,
        "logits": logits,
        "runtime": CONTEXT_GB[machine.kind] * GIB,
    }
    rounded = {name: round(value / GIB, 5) for name, value in parts.items() if value > 0}
    return rounded | {"total": round(sum(rounded.values()), 5)}


def _moments(optim: str, dtype: str, trained: int, embedding: int, machine: Machine) -> float:
    """GPU bytes of the two moments of `trained` values in this format, `embedding` of which are of embeddings."""

    def held(optim: str) -> int:
        rest = (trained - embedding) * moment_bytes(optim, dtype)
        return rest + embedding * moment_bytes(optim, dtype, embedding=True)

    return held(optim) if optim != PAGED else max(0.0, held(IN_8_BITS) - machine.available_gb * GIB)


def first_guess(parameters: int, machine: Machine) -> str:
    """ "fits", "tight" or "no", for an adapter of rank 16 on a model of which nothing is known but its size.

    With checkpointing, on short rows; in 4 bits where that is possible. The plan knows better once the model's shape
    and the rows are known.

    >>> [first_guess(int(n * 1e9), Machine(cores=2, memory_gb=16, available_gb=12)) for n in (0.135, 2.4, 8)]
    ['fits', 'tight', 'no']
    """
    available = (max(gpu.free_gb for gpu in machine.gpus) if machine.gpus else machine.available_gb) * GIB
    around = 1.5 * GIB + parameters * 0.02 * 16  # runtime, activations; the adapter with its gradients and moments
    needed = around + parameters * (2 if machine.has_bf16 else 4)
    if needed <= 0.85 * available:
        return "fits"
    in_4_bits = around + parameters * 0.6
    return "tight" if needed <= available or (machine.has_low_bits and in_4_bits <= 0.85 * available) else "no"


def corrected(parts: dict[str, float], factor: float | None) -> dict[str, float]:
    """The parts with what earlier runs here took: more of it as a part of its own, less off all but the weights.

    >>> corrected({"weights": 1.0, "total": 1.0}, 1.25)
    {'weights': 1.0, 'correction': 0.25, 'total': 1.25}
    >>> corrected({"weights": 1.0, "activations": 3.0, "total": 4.0}, 0.7)
    {'weights': 1.0, 'activations': 1.8, 'total': 2.8}
    """
    if factor is None or abs(factor - 1) < 0.01:
        return parts
    total = round(parts["total"] * min(max(factor, 0.5), 2.0), 3)
    others = {name: value for name, value in parts.items() if name != "total"}
    if total > parts["total"]:
        return others | {"correction": round(total - parts["total"], 3), "total": total}
    weights = others.get("weights", 0.0)
    kept = max(total - weights, 0.0) / max(parts["total"] - weights, 1e-9)
    scaled = {name: value if name == "weights" else round(value * kept, 3) for name, value in others.items()}
    return scaled | {"total": total}
