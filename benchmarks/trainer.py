"""Fijn's worker against a hand-written TRL script: same model, rows, packing and settings, in turns, one process each.

python benchmarks/trainer.py [--steps 20] [--repeats 3]

Prints tokens per second of both (median of the repeats), their ratio, and the largest difference of the loss curves.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

BY_HAND = """
import json, sys, time
import torch
from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer

given = json.loads(sys.argv[1])

class Clock(TrainerCallback):
    def __init__(self): self.seconds, self.curve, self.tokens = 0.0, [], 0
    def on_step_begin(self, *_, **__): self.mark = time.monotonic()
    def on_step_end(self, *_, **__):
        if torch.accelerator.is_available(): torch.accelerator.synchronize()
        self.seconds += time.monotonic() - self.mark
    def on_log(self, args, state, control, logs=None, **_):
        if "loss" in logs: self.curve.append(logs["loss"]); self.tokens = logs["num_tokens"]

rows = load_dataset("json", data_files=given["rows"], split="train")
model = AutoModelForCausalLM.from_pretrained(
    given["model"], dtype=given["dtype"], attn_implementation="sdpa", trust_remote_code=False
)
clock = Clock()
SFTTrainer(
    model=model,
    args=SFTConfig(
        output_dir=given["out"], report_to="none", disable_tqdm=True, save_strategy="no", logging_first_step=True,
        use_cpu=given["use_cpu"], bf16=False, dataloader_pin_memory=False, **given["settings"],
    ),
    train_dataset=rows,
    processing_class=AutoTokenizer.from_pretrained(given["model"], trust_remote_code=False),
    peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    callbacks=[clock],
).train()
print(json.dumps({"tokens": clock.tokens, "seconds": clock.seconds, "curve": clock.curve}))
"""


def printed(line: list[str | Path]) -> list[str]:
    """The lines that a program printed, run from the project's folder without the Hub; it ends here if that failed."""
    env = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run([str(word) for word in line], cwd=ROOT, capture_output=True, text=True, env=env)
    if done.returncode:
        sys.exit(f"{line[1]} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return done.stdout.splitlines()


def ours(folder: Path, steps: int, *options: str) -> tuple[dict, Path]:
    """One run of our worker; its diary's numbers and its folder. `options`: of the recipe, field=value."""
    line = [sys.executable, "-m", "finetune_core", "train", "quick-look", f"max_steps={steps}", "evaluate=false",
            "logging_steps=1", "validation_size=0", "sample_prompt=hello", "eval_steps=1000", "save_steps=1000",
            *options, "--json", "--runs-dir", str(folder / "runs")]  # fmt: skip
    events = [json.loads(text) for text in printed(line)]
    told = [event for event in events if event["kind"] == "step"]
    spent = [  # tokens_per_second is of the steps since the line before
        (event["tokens"] - before) / event["tokens_per_second"]
        for before, event in zip([0, *(event["tokens"] for event in told)], told, strict=False)
    ]
    run = folder / "runs" / events[-1]["run"]
    return {"tokens": told[-1]["tokens"], "seconds": sum(spent), "curve": [event["loss"] for event in told]}, run


def by_hand(folder: Path, run: Path) -> dict:
    """The same training, as an engineer would write it, with the settings that the run chose."""
    from finetune_core.data.rows import open_rows
    from finetune_core.encoded import encode
    from finetune_core.hub import local_model
    from finetune_core.machine import this_machine
    from finetune_core.render import load_tokenizer
    from finetune_core.run import Run

    recipe = Run(run).recipe
    folder_of_model = local_model(recipe.model_name_or_path)
    rows = open_rows(run / "data" / "train.jsonl")
    tokens = folder / "tokens.jsonl"  # the same ids and labels: TRL alone would also train the newline after an answer
    encoded = encode(rows, load_tokenizer(folder_of_model), recipe.max_length, folder / "rows.arrow")
    encoded.to_json(tokens)
    same = ("learning_rate", "lr_scheduler_type", "warmup_steps", "num_train_epochs", "max_steps", "weight_decay",
            "per_device_train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing", "max_grad_norm",
            "seed", "logging_steps", "packing")  # fmt: skip
    given = {
        "rows": str(tokens),
        "model": str(folder_of_model),
        "dtype": recipe.dtype,
        "out": str(folder / "by-hand"),
        "use_cpu": this_machine().kind == "cpu",
        "settings": recipe.model_dump(include=set(same)) | {"max_length": recipe.packing_length or recipe.max_length},
    }
    script = folder / "by_hand.py"
    script.write_text(BY_HAND)
    return json.loads(printed([sys.executable, script, json.dumps(given)])[-1])


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--steps", type=int, default=20)
    options.add_argument("--repeats", type=int, default=3)
    given = options.parse_args()
    sys.path.insert(0, str(ROOT))
    rates: dict[str, list[float]] = {"fijn": [], "by_hand": []}
    apart = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(given.repeats):
            mine, run = ours(Path(folder), given.steps, "share_prefix=false")  # TRL has nothing like it
            other = by_hand(Path(folder), run)
            rates["fijn"].append(mine["tokens"] / mine["seconds"])
            rates["by_hand"].append(other["tokens"] / other["seconds"])
            apart = max(apart, *(abs(a - b) for a, b in zip(mine["curve"], other["curve"], strict=True)))
    median = {name: statistics.median(values) for name, values in rates.items()}
    print(
        json.dumps(
            {
                "fijn_tokens_per_second": round(median["fijn"], 1),
                "by_hand_tokens_per_second": round(median["by_hand"], 1),
                "ratio": round(median["fijn"] / median["by_hand"], 3),
                "largest_loss_difference": round(apart, 6),
                "steps": given.steps,
                "repeats": given.repeats,
            }
        )
    )


if __name__ == "__main__":
    main()
