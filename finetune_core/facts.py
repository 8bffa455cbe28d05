"""What is known of a model before its weights are read: its shape, and how many numbers it holds."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .snapshot import INDEX, weight_files

# as GPT-2, StarCoder, BLOOM and CodeGen call them; transformers itself reads them under either name
OLDER_NAMES = (
    ("hidden_size", "n_embd"),
    ("num_hidden_layers", "n_layer"),
    ("num_attention_heads", "n_head"),
    ("intermediate_size", "n_inner"),
    ("max_position_embeddings", "n_positions"),
)
# what a config.json leaves to transformers' own defaults; Gemma 3 of 4 billion weights does
LEFT_OUT = {
    "gemma3_text": {
        "vocab_size": 262_208,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 131_072,
    }
}
# in a layer, and met by a token: as the architectures call them
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
EXPERTS_MET = ("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk")
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


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
    name: str = ""
    model_type: str = ""  # the architecture, as config.json names it
    experts: int = 0  # in a layer of a mixture
    experts_met: int = 0  # of them, by one token
    expert_size: int = 0  # intermediate size of one
    stored_as: str = ""  # how the weights are stored in few bits ("gptq", "fp8"), where they are

    @property
    def block_parameters(self) -> int:
        """Parameters of the layers, without embeddings."""
        embedding = self.vocab_size * self.hidden_size * (1 if self.tied else 2)
        return max(self.parameters - embedding, 1)

    @property
    def expert_parameters(self) -> int:
        """Of the layers: those of all experts, which transformers keeps in one tensor a layer and not as layers."""
        return min(self.layers * self.experts * 3 * self.hidden_size * self.expert_size, self.block_parameters)

    @property
    def met_parameters(self) -> int:
        """Of the layers: those that one token meets."""
        share = self.experts_met / self.experts if self.experts else 1.0
        return self.block_parameters - round(self.expert_parameters * (1 - share))

    @property
    def met_size(self) -> int:
        """Intermediate values of one token in a layer."""
        return self.experts_met * self.expert_size or self.intermediate_size


def read_facts(folder: Path, counted: int | None = None) -> ModelFacts:
    """What a model is, from its folder's config.json and the headers of its safetensors; no weights are read.

    counted: values in the weights as the Hub counts them, for a folder without them.

    Raises KeyError, TypeError, ValueError or FileNotFoundError where it is no decoder model (callers check first).
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text = config.get("text_config") or config
    text = text | {name: text[older] for name, older in OLDER_NAMES if name not in text and older in text}
    model_type = str(text.get("model_type") or config.get("model_type") or "")
    text = LEFT_OUT.get(model_type, {}) | {name: value for name, value in text.items() if value is not None}
    hidden, layers = int(text["hidden_size"]), int(text["num_hidden_layers"])
    heads = _most(text.get("num_attention_heads")) or 1
    kv_heads = _most(text.get("num_key_value_heads")) or heads
    head_dim = _most(text.get("head_dim")) or hidden // heads
    intermediate = _most(text.get("intermediate_size")) or 4 * hidden
    vocab = int(text["vocab_size"])
    tied = bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", True)))
    experts, met = (
        next((_most(text[name]) for name in names if text.get(name)), 0) for names in (EXPERTS, EXPERTS_MET)
    )
    met = min(met, experts) if text.get("is_moe", True) else 0
    size = _most(text.get("moe_intermediate_size")) or intermediate if met else 0
    stored = config.get("quantization_config") or text.get("quantization_config") or {}
    attention = hidden * head_dim * (2 * heads + 2 * kv_heads)
    between = 3 * hidden * (experts * size if met else intermediate)
    computed = layers * (attention + between) + vocab * hidden * (1 if tied else 2)
    return ModelFacts(
        parameters=(0 if stored else _counted(folder, config | text, counted)) or computed,
        hidden_size=hidden,
        layers=layers,
        vocab_size=vocab,
        intermediate_size=intermediate,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        tied=tied,
        context=int(text.get("max_position_embeddings") or 2048),
        name=folder.name,
        model_type=model_type,
        experts=experts if met else 0,
        experts_met=met,
        expert_size=size,
        stored_as=str(stored.get("quant_method") or "few bits") if stored else "",
    )


def _most(value: Any) -> int:
    """A number, or the largest of those of each layer; 0 for none."""
    return max(map(int, value), default=0) if isinstance(value, list) else int(value or 0)


def _counted(folder: Path, config: dict[str, Any], on_hub: int | None) -> int:
    """Values in the weights: from their headers where all are here, else as the Hub counts them, or from the list of a
    model in several files."""
    here = weight_files([file.name for file in folder.glob("*.safetensors")])
    path = folder / INDEX
    index = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if here and ("model.safetensors" in here or here >= set(index.get("weight_map", {}).values())):
        return sum(safetensors_parameters(folder / name) for name in here)
    if on_hub:
        return on_hub
    size = DTYPE_BYTES.get(config.get("dtype") or config.get("torch_dtype") or "", 0)
    return int(index.get("metadata", {}).get("total_size", 0)) // size if size else 0


def safetensors_parameters(file: Path) -> int:
    """Number of values in a safetensors file, from its header (https://github.com/huggingface/safetensors#format)."""
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(size))
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
