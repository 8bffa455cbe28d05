"""The tuned model as whole weights: the adapter worked into the full-precision base, in the dtype of the training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from ..errors import FinetuneError
from ..facts import safetensors_parameters
from ..run import Run

BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
LICENCE_FILES = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")
SHARD = "4GB"


def merged_dtype(run: Run) -> str:
    """The recorded number format; a 4-bit training computed in it too, and its base is loaded in it whole."""
    return run.recipe.dtype or "float32"


def merge(run: Run, base: Path, folder: Path) -> None:
    """Write the merged model with tokenizer, trained chat template and the base's licence files into a new folder.

    Raises FinetuneError if a merged weight is not a number.
    """
    if run.recipe.method == "full":
        shutil.copytree(run.result_dir, folder)
        return
    from peft import PeftModel

    from ..model import load_base, save_tokenizer
    from ..render import load_tokenizer

    model = load_base(base, dtype=merged_dtype(run), device="cpu")
    # "cpu" said twice: peft would lay the adapter on the GPU of a machine that has one
    tuned = PeftModel.from_pretrained(model, run.result_dir, low_cpu_mem_usage=True, torch_device="cpu")
    try:
        merged = tuned.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise FinetuneError(
            f"The adapter cannot be merged: {str(error)[:200]}", "Take the adapter itself.", code="cannot-merge"
        ) from error
    merged.save_pretrained(folder, safe_serialization=True, max_shard_size=SHARD)
    save_tokenizer(load_tokenizer(run.result_dir), base, folder)
    copy_licence(base, folder)
    _without_our_paths(folder / "config.json")


def copy_licence(base: Path, folder: Path) -> None:
    """Whoever passes weights on passes their licence on."""
    for pattern in LICENCE_FILES:
        for file in base.glob(pattern):
            if file.is_file():
                shutil.copyfile(file, folder / file.name)


def count_weights(folder: Path) -> int:
    """Numbers in a folder's safetensors files, read from their headers."""
    return sum(safetensors_parameters(file) for file in folder.glob("*.safetensors"))


def _without_our_paths(path: Path) -> None:
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop("_name_or_path", None)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
