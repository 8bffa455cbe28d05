"""The plan against the truth: promised memory and speed beside what the worker really took.

python benchmarks/estimates.py [--steps 6] [--only 0 3]

Nine trainings of the real worker (models, lengths, batch, LoRA and all weights, checkpointing), each a process of its
own. Memory comes from arithmetic alone; speed from the rates that the trainings before it reached, as on a person's
machine: a first one, not in the table, measures it. For NVIDIA GPUs: gpu.py.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

SHAPES = {  # random weights made from a config: right for memory and speed, good for nothing else
    "40m": {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 6,
            "num_key_value_heads": 2},
    "260m": {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 16, "num_attention_heads": 16,
             "num_key_value_heads": 4},
}  # fmt: skip
COMBINATIONS = [
    # model, tokens of a row, changes to the recipe
    ("starter", 64, {}),
    ("starter", 500, {"per_device_train_batch_size": 2}),
    ("starter", 1000, {"per_device_train_batch_size": 1, "packing": False}),
    ("starter", 1000, {"per_device_train_batch_size": 2, "packing": False, "gradient_checkpointing": True}),
    ("starter", 250, {"method": "full", "per_device_train_batch_size": 4, "packing": False}),
    ("starter", 500, {"method": "full", "per_device_train_batch_size": 2, "gradient_checkpointing": True}),
    ("260m", 250, {"per_device_train_batch_size": 4}),
    ("40m", 500, {"method": "full", "per_device_train_batch_size": 8, "packing": False}),
    ("40m", 2000, {"per_device_train_batch_size": 2, "max_length": 2048, "packing": False}),
]


def make_model(name: str, folder: Path, tokenizer_folder: Path) -> Path:
    """A Llama of this shape with random weights and the starter model's tokenizer."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder, trust_remote_code=False)
    config = LlamaConfig(
        vocab_size=49152, max_position_embeddings=8192, tie_word_embeddings=True, eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None, pad_token_id=tokenizer.pad_token_id, **SHAPES[name],
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder / name)
    tokenizer.save_pretrained(folder / name)
    return folder / name


def make_rows(path: Path, tokens: int, rows: int = 120) -> Path:
    """Chat rows of about `tokens` tokens, from 70 % to 100 %, a third of them the answer."""
    picked = random.Random(0)
    words = ["order", "lamp", "kettle", "please", "return", "today", "the", "broken", "chair", "money"]

    def text(count: int) -> str:
        return " ".join(picked.choice(words) for _ in range(max(1, count)))

    with path.open("w", encoding="utf-8") as file:
        for _ in range(rows):
            size = int(picked.uniform(0.7, 1.0) * max(tokens - 45, 8))
            messages = [
                {"role": "user", "content": text(size * 2 // 3)},
                {"role": "assistant", "content": text(size // 3)},
            ]
            file.write(json.dumps({"messages": messages}) + "\n")
    return path


def train(recipe: dict, steps: int, runs_dir: Path, cache: Path) -> dict:
    """What was promised and what was taken, of one training in a process of its own."""
    values = {
        "max_steps": steps, "validation_size": 0, "test_size": 0, "evaluate": False, "logging_steps": 1,
        "save_steps": 10_000, "accept_warnings": True, "sample_prompt": "hello",
    } | recipe  # fmt: skip
    said = [f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in values.items()]
    line = [sys.executable, "-m", "finetune_core", "train", "follow-instructions", *said]
    line += ["--json", "--runs-dir", str(runs_dir)]
    env = os.environ | {"FIJN_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, env=env)
    events = [json.loads(text) for text in done.stdout.splitlines()]
    if done.returncode:
        raise SystemExit(f"{recipe}: {events[-1] if events else done.stderr[-2000:]}")
    plan = json.loads((runs_dir / events[-1]["run"] / "plan.json").read_text())
    speeds = [event["tokens_per_second"] for event in events if event["kind"] == "step"][1:]
    return {
        "promised_gb": plan["estimate_gb"],
        "parts": plan["memory_gb"],
        "peak_gb": events[-1]["peak_gb"],
        "promised_tokens_per_second": plan["tokens_per_second"],
        "rate_is_measured": plan["rate_is_measured"],
        "tokens_per_second": statistics.median(speeds),
        "flops": round(statistics.median(speeds) * plan["flops_per_token"]),  # a second, as the plan counts them
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--steps", type=int, default=5)
    options.add_argument("--only", type=int, nargs="*", help="numbers of the combinations, from 0")
    given = options.parse_args()
    from finetune_core.hub import local_model
    from finetune_core.machine import this_machine
    from finetune_core.recipe import STARTER_MODEL

    starter = local_model(STARTER_MODEL)
    if starter is None:
        raise SystemExit("The starter model is not here: python -m finetune_core fetch")
    wanted = [case for number, case in enumerate(COMBINATIONS) if given.only is None or number in given.only]
    results = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cache = folder / "cache"  # a machine that has measured nothing yet
        cache.mkdir()
        models = {"starter": str(starter)}
        for shape in {model for model, _, _ in wanted} - {"starter"}:
            models[shape] = str(make_model(shape, folder, starter))
        first = {"model_name_or_path": str(starter), "dataset_name": str(make_rows(folder / "rows-60.jsonl", 60))}
        train(first, 20, folder / "runs", cache)  # measures this machine's rate, as a first run would
        for model, tokens, changes in wanted:
            rows = make_rows(folder / f"rows-{tokens}.jsonl", tokens)
            recipe = {"model_name_or_path": models[model], "dataset_name": str(rows)} | changes
            result = train(recipe, given.steps, folder / "runs", cache)
            result |= {"model": model, "tokens": tokens, "changes": changes}
            result["memory_ratio"] = round(result["promised_gb"] / result["peak_gb"], 3)
            result["speed_ratio"] = round(result["promised_tokens_per_second"] / result["tokens_per_second"], 3)
            results.append(result)
            print(json.dumps(result), flush=True)
    within = {
        "machine": this_machine().title,
        "memory_within_15_percent": sum(abs(r["memory_ratio"] - 1) <= 0.15 for r in results),
        "speed_within_25_percent": sum(abs(r["speed_ratio"] - 1) <= 0.25 for r in results),
        "of": len(results),
    }
    print(json.dumps(within))


if __name__ == "__main__":
    main()
