"""A plain TRL script, as an engineer would write it: the other side of `recipe.py`. Nothing of Fijn is imported here.

One training a line on stdin, as JSON: {"model": folder, "rows": train.jsonl, "out": folder for the adapter,
"learning_rate", "lora_r", "num_train_epochs", "max_steps"}. Each ends with a line on stdout: {"steps", "seconds",
"loss"}. One process for all of them: loading the libraries takes longer than a short training.
"""

from __future__ import annotations

import json
import os
import sys
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
answers, sys.stdout = sys.stdout, sys.stderr  # what the libraries print is no answer

import torch  # noqa: E402
from datasets import load_dataset  # noqa: E402
from peft import LoraConfig  # noqa: E402
from trl import SFTConfig, SFTTrainer  # noqa: E402


def train(job: dict) -> dict:
    rows = load_dataset("json", data_files=job["rows"], split="train")
    rows = rows.map(
        lambda row: {"prompt": row["messages"][:-1], "completion": row["messages"][-1:]},
        remove_columns=rows.column_names,
    )
    trainer = SFTTrainer(
        model=job["model"],
        args=SFTConfig(
            output_dir=job["out"],
            learning_rate=job["learning_rate"],
            num_train_epochs=job["num_train_epochs"],
            max_steps=job["max_steps"],
            gradient_checkpointing=False,
            use_cpu=not torch.cuda.is_available(),
            bf16=torch.cuda.is_available(),
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        ),
        train_dataset=rows,
        peft_config=LoraConfig(
            r=job["lora_r"], lora_alpha=2 * job["lora_r"], target_modules="all-linear", task_type="CAUSAL_LM"
        ),
    )
    began = time.monotonic()
    done = trainer.train()
    seconds = time.monotonic() - began
    trainer.save_model(job["out"])
    return {"steps": done.global_step, "seconds": round(seconds, 2), "loss": round(done.training_loss, 4)}


for line in sys.stdin:
    print(json.dumps(train(json.loads(line))), file=answers, flush=True)
