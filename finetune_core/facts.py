"""What is known of a model before its weights are read: its shape, and how many numbers it holds."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

# as GPT-2, StarCoder, BLOOM and CodeGen call them; transformers itself reads them under either name
OLDER_NAMES = (
    ("hidden_size", "n_embd"),
    ("num_hidden_layers", "n_layer"),
    ("num_attention_heads", "n_head"),
    ("intermediate_size", "n_inner"),
    ("max_position_embeddings", "n_positions"),
)


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

    @property
    def block_parameters(self) -> int:
        """Parameters of the layers, without embeddings."""
        embedding = self.vocab_size * self.hidden_size * (1 if self.tied else 2)
        return max(self.parameters - embedding, 1)


def read_facts(folder: Path) -> ModelFacts:
    """From a model folder's config.json and the headers of its safetensors; no weights are read.

    Raises KeyError or FileNotFoundError where the folder is no decoder model (callers check first).
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text = config.get("text_config", config)
    text = text | {name: text[older] for name, older in OLDER_NAMES if name not in text and older in text}
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
        name=folder.name,
        model_type=str(text.get("model_type") or config.get("model_type") or ""),
    )


def safetensors_parameters(file: Path) -> int:
    """Number of values in a safetensors file, from its header (https://github.com/huggingface/safetensors#format)."""
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(size))
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
