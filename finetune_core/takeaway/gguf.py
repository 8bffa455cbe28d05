"""GGUF files of a tuned model, and what llama.cpp itself answers with them."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from ..children import run_tool
from ..errors import FinetuneError
from .converter import convert
from .parity import MOST_TOKENS, Trace

# bytes a weight takes; for the disk check and the size told before
BYTES = {"f16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}
CHILD = Path(__file__).with_name("llama_child.py")
ENGINE = "llama.cpp"


def write_gguf(merged: Path, folder: Path, name: str, kinds: Sequence[str], tell: Callable[[str], None]) -> list[Path]:
    """One file for each kind, `name`-kind.gguf. Four bits are rounded from the f16 file by the gguf library."""
    written = []
    for kind in kinds:
        tell(kind)
        target = folder / f"{name}-{kind}.gguf"
        if kind == "q4_0":
            whole = next((path for path in written if path.name.endswith("-f16.gguf")), None)
            if whole is None:
                whole = folder / ".whole.gguf"
                convert(merged, whole, "f16")
            quantize(whole, target)
            (folder / ".whole.gguf").unlink(missing_ok=True)
        else:
            convert(merged, target, kind)
        written.append(target)
    return written


def quantize(source: Path, target: Path) -> None:
    """Q4_0 for the matrices, Q8_0 for the two that read and write tokens, as llama.cpp's own quantizer rounds them."""
    import numpy as np
    from gguf import GGUFReader, GGUFValueType, GGUFWriter, LlamaFileType
    from gguf.constants import GGMLQuantizationType as Kind
    from gguf.quants import dequantize
    from gguf.quants import quantize as rounded

    reader = GGUFReader(source)
    writer = GGUFWriter(target, reader.get_field("general.architecture").contents())
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in ("general.architecture", "general.file_type"):
            continue
        inner = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), field.types[0], inner)
    writer.add_file_type(LlamaFileType.MOSTLY_Q4_0)
    planned = []
    for tensor in reader.tensors:
        shape = [int(length) for length in reversed(tensor.shape)]
        tokens = tensor.name in ("token_embd.weight", "output.weight")
        kind = Kind.Q8_0 if tokens else Kind.Q4_0
        if len(shape) < 2 or shape[-1] % 32 or "norm" in tensor.name:
            kind = Kind.F32
        planned.append((tensor, kind))
    for tensor, kind in planned:
        values = dequantize(np.asarray(tensor.data), tensor.tensor_type).astype(np.float32)
        data = values if kind is Kind.F32 else rounded(values, kind)
        writer.add_tensor(tensor.name, data, raw_dtype=None if kind is Kind.F32 else kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def adds_bos(path: Path) -> bool:
    """Whether programs that read this file put the bos token in front by themselves."""
    from gguf import GGUFReader

    field = GGUFReader(path).get_field("tokenizer.ggml.add_bos_token")
    return bool(field and field.contents())


def run_llama(
    path: Path,
    prompts: Sequence[list[int]],
    conversations: Sequence[Sequence[dict[str, Any]]],
    stops: Collection[int],
    max_new_tokens: int = MOST_TOKENS,
) -> tuple[list[Trace], list[str]]:
    """Greedy answers of llama.cpp to prompts (token ids), with the log-probability of each of their tokens; and how it
    writes conversations with the template in the file. Raises FinetuneError if it does not run."""
    job = {
        "model": str(path),
        "prompts": list(prompts),
        "conversations": list(conversations),
        "max_new_tokens": max_new_tokens,
        "context": max(map(len, prompts)) + max_new_tokens + 8,
    }
    with tempfile.TemporaryDirectory(prefix="fijn-llama-") as folder:
        asked, answered = Path(folder) / "job.json", Path(folder) / "answers.json"
        asked.write_text(json.dumps(job), encoding="utf-8")
        code, said = run_tool([sys.executable, "-P", str(CHILD), str(asked), str(answered)], {})
        if code != 0 or not answered.is_file():
            last = (said.strip().splitlines() or ["it ended without a word"])[-1]
            raise FinetuneError(
                f"llama.cpp cannot run the GGUF file: {last[:240]}",
                "Take the merged weights instead; if xllamacpp is missing, run pip install -r requirements.txt.",
                code="no-gguf",
            )
        found = json.loads(answered.read_text(encoding="utf-8"))
    traces = []
    for ids, logprobs in zip(found["tokens"], found["logprobs"], strict=True):
        ended = bool(ids) and ids[-1] in stops
        answer = ids[:-1] if ended else ids
        traces.append(Trace(answer, ended, logprobs[: len(answer)], []))
    return traces, found["texts"]


def shared_logprobs(reference: Sequence[Trace], export: Sequence[Trace]) -> list[Trace]:
    """The export's traces with log-probabilities only as far as both answers are the same: llama.cpp scores what it
    writes itself."""
    cut = []
    for ours, theirs in zip(reference, export, strict=True):
        pairs = zip(ours.answer, theirs.answer, strict=False)
        same = next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(ours.answer), len(theirs.answer)))
        cut.append(Trace(theirs.answer, theirs.ended, theirs.logprobs[:same], []))
    return cut
