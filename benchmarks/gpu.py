"""On an NVIDIA GPU: tokens a second, peak memory and share of the matrix rate, against TRL's defaults and the plan.

python benchmarks/gpu.py --tokenizer DIR [--shapes 0.5b 1.5b 8b] [--methods lora qlora full] [--rows 32 64 128]
    [--seconds 8]

Models of these shapes with random weights (right for speed and memory, good for nothing else), chat rows of 20 to 1,000
tokens, a third of them trained, 32 rows a step: passes of 7,744 tokens. With 64 and 128 rows the plan may choose passes
of about 16,000 and 32,000; `--set packing_length=8192` holds them to the usual one, to compare. One line of JSON a
training as it ends, and a table last. On a machine without a GPU it trains the shape `tiny`, so that the script itself
can be tried there. DIR: a model folder with a tokenizer of at most 128,000 entries, such as the starter model's
(`python -m finetune_core env` says where it lies).
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, LlamaConfig, PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from finetune_core.errors import explain  # noqa: E402
from finetune_core.facts import read_facts  # noqa: E402
from finetune_core.liger import liger_kept_apart  # noqa: E402
from finetune_core.machine import Machine, this_machine  # noqa: E402
from finetune_core.model import free_memory  # noqa: E402
from finetune_core.pace import flops_per_token  # noqa: E402
from finetune_core.plan import make_plan  # noqa: E402
from finetune_core.recipe import Recipe  # noqa: E402
from finetune_core.trainer import build_trainer, dry_run  # noqa: E402
from finetune_core.watching import peak_memory_gb  # noqa: E402

SHAPES = {  # of Qwen 2.5 0.5B and 1.5B and of Llama 3.1 8B
    "tiny": {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "vocab_size": 49152, "tie_word_embeddings": True},
    "0.5b": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
             "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True},
    "1.5b": {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
             "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True},
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
           "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": False},
}  # fmt: skip
WARM_UP = 8 if torch.cuda.is_available() else 1  # steps
CUDA = torch.cuda.is_available()


class Clock(TrainerCallback):
    """Real tokens a second: the median over the steps of `seconds`, after those in which kernels are chosen."""

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.spent: list[float] = []
        self.tokens: list[int] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        if CUDA:
            torch.cuda.synchronize()
        self.mark = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if CUDA:
            torch.cuda.synchronize()
        self.spent.append(time.perf_counter() - self.mark)
        control.should_log = True
        control.should_training_stop = len(self.spent) >= WARM_UP + 5 and sum(self.spent[WARM_UP:]) > self.seconds

    def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **_: Any) -> None:
        if "num_tokens" in (logs or {}):
            self.tokens.append(int(logs["num_tokens"]))

    def rate(self) -> float:
        """Tokens counted at each log line are those so far."""
        each = [after - before for before, after in zip(self.tokens, self.tokens[1:], strict=False)]
        pairs = list(zip(each, self.spent[1:], strict=False))[WARM_UP:]
        return statistics.median(tokens / seconds for tokens, seconds in pairs)


def make_rows(count: int, vocabulary: int) -> Dataset:
    """Token ids and labels of chats: 20 to 1,000 tokens, log-normal around 180, the last third trained."""
    picked = random.Random(0)
    ids, labels = [], []
    for _ in range(count):
        length = int(min(max(picked.lognormvariate(5.2, 0.8), 20), 1000))
        row = [picked.randrange(5, vocabulary) for _ in range(length)]
        ids.append(row)
        labels.append([-100] * (length - length // 3) + row[length - length // 3 :])
    return Dataset.from_dict({"input_ids": ids, "labels": labels})


def make_model(shape: str, folder: Path, tokenizer: Path) -> Path:
    """A Llama of this shape with random bfloat16 weights, and a tokenizer beside it."""
    place = folder / shape
    config = LlamaConfig(
        **SHAPES[shape], max_position_embeddings=8192, eos_token_id=2, bos_token_id=1, pad_token_id=0, dtype="bfloat16"
    )
    with torch.device("cuda" if CUDA else "cpu"):
        torch.set_default_dtype(torch.bfloat16)
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        torch.set_default_dtype(torch.float32)
    model.save_pretrained(place, max_shard_size="4GB")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(tokenizer / name, place / name)
    del model
    free_memory()
    return place


def matrix_rate() -> float:
    """FLOP/s of a large bfloat16 product on random data: the ceiling that a training is compared with."""
    size = 8192 if CUDA else 512
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device="cuda" if CUDA else "cpu") for _ in range(2))
    spent = []
    for _ in range(12):
        began = time.perf_counter()
        a @ b
        if CUDA:
            torch.cuda.synchronize()
        spent.append(time.perf_counter() - began)
    return 2 * size**3 / statistics.median(spent[2:])


@liger_kept_apart()
def fijn(recipe: Recipe, folder: Path, rows: Dataset, machine: Machine, seconds: float, scratch: Path) -> dict:
    """One training as the worker does it, with what the plan promised beside what it took.

    What Liger replaces in transformers is put back, so that TRL's defaults after it meet transformers' own classes.
    """
    facts = read_facts(folder)
    lengths = [len(ids) for ids in rows["input_ids"]]
    trained = sum(sum(label != -100 for label in labels) for labels in rows["labels"])
    plan = make_plan(recipe, facts, lengths, machine, trained_tokens=trained)
    clock = Clock(seconds)
    resolved = plan.recipe.replace(max_steps=10_000, eval_steps=20_000, save_steps=20_000)
    trainer = build_trainer(resolved, folder, scratch, (rows, None), [clock], machine)
    if CUDA:
        dry_run(trainer)
    trainer.train()
    needed = flops_per_token(facts, resolved.method, False, trained / sum(lengths), sum(lengths) / len(lengths))
    chosen = {name: getattr(resolved, name) for name in ("dtype", "packing_length", "per_device_train_batch_size",
              "gradient_accumulation_steps", "gradient_checkpointing")}  # fmt: skip
    return {
        "tokens_per_second": clock.rate(), "promised_gb": plan.memory_gb["total"],
        "promised_tokens_per_second": plan.tokens_per_second, "parts": plan.memory_gb, "needed_flops": needed,
        "settings": chosen, "steps": len(clock.spent),
    }  # fmt: skip


def trl_defaults(method: str, folder: Path, rows: Dataset, seconds: float, scratch: Path) -> dict:
    """SFTTrainer with nothing chosen but model, rows and adapter (4 bits for QLoRA, as its documentation shows)."""
    options: dict[str, Any] = {}
    if method == "qlora":
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
        )
    clock = Clock(seconds)
    config = SFTConfig(
        output_dir=str(scratch), max_steps=10_000, report_to="none", disable_tqdm=True, save_strategy="no",
        use_cpu=not CUDA, model_init_kwargs=options or None,
    )  # fmt: skip
    config._n_gpu = min(config.n_gpu, 1)
    adapter = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = SFTTrainer(
        model=str(folder), args=config, train_dataset=rows, callbacks=[clock],
        peft_config=None if method == "full" else adapter,
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return {"tokens_per_second": clock.rate(), "steps": len(clock.spent)}


def measured(work: Any) -> dict:
    """What a training gives, and its peak of GPU memory in GiB; or why it could not be."""
    free_memory()
    if CUDA:
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    try:
        found = work()
    except Exception as error:
        return {"failed": f"{explain(error).code}: {str(error)[:200]}"}
    if CUDA:
        found["peak_gb"] = peak_memory_gb()
        found["allocated_gb"] = torch.cuda.max_memory_allocated() / 1024**3
    found["wall_seconds"] = time.perf_counter() - began
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--tokenizer", type=Path, required=True)
    options.add_argument("--shapes", nargs="+", choices=SHAPES, default=["0.5b", "1.5b", "8b"] if CUDA else ["tiny"])
    options.add_argument("--methods", nargs="+", choices=["lora", "qlora", "full"], default=["lora"])
    options.add_argument("--rows", nargs="+", type=int, default=[32], metavar="N", help="rows a step, each tried")
    options.add_argument("--seconds", type=float, default=8.0)
    options.add_argument("--without-defaults", nargs="*", default=[], metavar="SHAPE", help="leave TRL's defaults out")
    options.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE", help="values of Fijn's recipe")
    given = options.parse_args()
    machine, limit = this_machine(), matrix_rate()
    print(json.dumps({"machine": machine.title, "torch": torch.__version__, "matrix_tflops": limit / 1e12}), flush=True)
    pinned = dict(text.split("=", 1) for text in given.set)
    table = []
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        scratch = Path(name)
        for shape in given.shapes:
            folder = make_model(shape, scratch, given.tokenizer)
            rows = make_rows(1000 if CUDA else 64, 49_000)
            for method in given.methods:
                theirs = {}
                if shape not in given.without_defaults:
                    theirs = measured(lambda: trl_defaults(method, folder, rows, given.seconds, scratch / "out"))  # noqa: B023
                    print(json.dumps({"shape": shape, "method": method, "trl_defaults": theirs}), flush=True)
                for a_step in given.rows:
                    recipe = Recipe.make(
                        {"model_name_or_path": str(folder), "dataset_name": "rows", "method": method,
                         "per_device_train_batch_size": a_step, **pinned}
                    )  # fmt: skip
                    ours = measured(lambda: fijn(recipe, folder, rows, machine, given.seconds, scratch / "out"))  # noqa: B023
                    if "needed_flops" in ours:
                        ours["utilisation"] = ours["tokens_per_second"] * ours.pop("needed_flops") / limit
                    print(json.dumps({"shape": shape, "method": method, "rows": a_step, "fijn": ours}), flush=True)
                    table.append((shape, method, a_step, ours, theirs))
            shutil.rmtree(folder)
    heads = ["model", "method", "rows", "pass", "tokens/s", "× TRL's defaults", "utilisation", "peak GiB",
             "planned GiB", "planned tokens/s"]  # fmt: skip
    print(f"\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for shape, method, a_step, ours, theirs in table:
        if "failed" in ours:
            print(f"| {shape} | {method} | {a_step} | {ours['failed']} |")
            continue
        times = ours["tokens_per_second"] / theirs["tokens_per_second"] if "tokens_per_second" in theirs else None
        print(
            f"| {shape} | {method} | {a_step} | {ours['settings']['packing_length'] or '–'} | "
            f"{ours['tokens_per_second']:,.0f} | {f'{times:.2f}' if times else '–'} | "
            f"{ours['utilisation']:.0%} | {ours.get('peak_gb', 0):.1f} | {ours['promised_gb']:.1f} | "
            f"{ours['promised_tokens_per_second']:,.0f} |"
        )


if __name__ == "__main__":
    main()
