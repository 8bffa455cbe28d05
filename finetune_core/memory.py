"""How much memory a training takes, part by part. Arithmetic only."""

from __future__ import annotations

from typing import Any

from .facts import ModelFacts
from .machine import GIB, Machine
from .recipe import Recipe

CONTEXT_GB = {"cuda": 0.6, "mps": 0.3, "cpu": 0.65}  # runtime and libraries before any weight is loaded
LOGIT_TILE = 4096 * 4096  # scores that TRL's fused head holds at once: tokens x vocabulary of one tile
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def adapter_parameters(facts: ModelFacts, rank: int) -> int:
    """Values of a LoRA adapter of this rank on all linear layers (Hu et al. 2021: r * (inputs + outputs) each)."""
    h, i = facts.hidden_size, facts.intermediate_size
    q, kv = facts.heads * facts.head_dim, facts.kv_heads * facts.head_dim
    per_layer = (h + q) + 2 * (h + kv) + (q + h) + 3 * (h + i)
    return facts.layers * rank * per_layer


def memory_parts(
    recipe: Recipe, values: dict[str, Any], facts: ModelFacts, slots: int, machine: Machine
) -> dict[str, float]:
    """GiB by part for one pass of `slots` tokens; "total" is their sum.

    Activations of a Llama-like block that wait for the backward pass, in vectors a token: two residuals, two norms
    with their float32 copies, queries, keys and values before and after the rotary embedding, the attention's output
    twice, and of the gated MLP the gate, its activation, the other half and their product. With checkpointing one
    hidden vector a layer, and one whole block. Adapters add their rank-sized inputs. Everything moved (`full`) keeps
    gradients and two moments; float32 weights multiplied in bfloat16 are held in both. In 4 bits are the layers alone:
    embeddings and head keep their number format. With `fsdp` a process holds its share of the weights and, where all
    move, of their gradients and moments; embeddings, head and two layers (one at work, one on its way) are whole, in
    the number format of the products, and so are their gradients before they are shared. An adapter is whole in each.
    Not counted: scores of an attention without a flash kernel.
    """
    size = BYTES[values["dtype"]]
    autocast = machine.autocasts(recipe.method, values["dtype"])
    width = 2 if autocast else size  # bytes of a value on its way
    h, i = facts.hidden_size, facts.intermediate_size
    q, kv = facts.heads * facts.head_dim, facts.kv_heads * facts.head_dim
    base_bytes = facts.parameters * (size + 2 if autocast else size)
    if recipe.method == "qlora":
        base_bytes = facts.block_parameters * 0.55 + (facts.parameters - facts.block_parameters) * size
    trained = facts.parameters if recipe.method == "full" else adapter_parameters(facts, recipe.lora_r)
    block = slots * (6 * h + 3 * q + 4 * kv + 4 * i) * width
    if recipe.method != "full":
        block += slots * 7 * recipe.lora_r * width
    layers = facts.layers
    activations = (slots * h * width * layers + block) if values["gradient_checkpointing"] else block * layers
    logits = min(slots * facts.vocab_size, LOGIT_TILE) * 4 * 3
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
        "adapter": 0 if recipe.method == "full" else trained * 4,
        "gradients": trained * (size if recipe.method == "full" else 4) / shares_trained,
        "optimizer": trained * 8 / shares_trained,
        "activations": activations,
        "logits": logits,
        "runtime": CONTEXT_GB[machine.kind] * GIB,
    }
    rounded = {name: round(value / GIB, 3) for name, value in parts.items() if value > 0}
    return rounded | {"total": round(sum(rounded.values()), 3)}


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
