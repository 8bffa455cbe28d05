"""What LLaMA-Factory's page chooses, on rows of a run of ours: the other side of `throughput.py --llama-factory`.

PYTHON benchmarks/llama_factory.py '{"rows": train.jsonl, "model": folder, "out": folder, "steps": 3, "template": name}'

PYTHON is that of an environment of its own, in which `pip install llamafactory` was run; torchvision and torchaudio,
which it asks for, may be missing (beside a torch for processors theirs do not load). Nothing of Fijn is imported here.
Prints {"tokens", "seconds", "version"} of the steps after the first: real tokens, without padding.
"""

from __future__ import annotations

import json
import os
import sys
import time
import types
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("DISABLE_VERSION_CHECK", "1")

if find_spec("torchaudio") is None:  # imported by name, used for sound only
    sys.modules["torchaudio"] = types.ModuleType("torchaudio")
    sys.modules["torchaudio"].__spec__ = ModuleSpec("torchaudio", None)

from llamafactory.train.tuner import run_exp
from transformers import TrainerCallback


class Clock(TrainerCallback):
    seconds, tokens, steps = 0.0, 0, 0

    def on_step_begin(self, *_, **__):
        self.mark = time.monotonic()

    def on_step_end(self, args, state, *_, **__):
        self.steps += 1
        if self.steps == 1:  # warms up
            self.first = state.num_input_tokens_seen
            return
        self.seconds += time.monotonic() - self.mark
        self.tokens = state.num_input_tokens_seen - self.first


def main() -> None:
    given = json.loads(sys.argv[1])
    out = Path(given["out"])
    out.mkdir(parents=True, exist_ok=True)
    columns = {"messages": "messages"}
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant",
            "system_tag": "system"}  # fmt: skip
    about = {"rows": {"file_name": given["rows"], "formatting": "sharegpt", "columns": columns, "tags": tags}}
    (out / "dataset_info.json").write_text(json.dumps(about))
    clock = Clock()
    run_exp(
        {
            "stage": "sft", "do_train": True, "finetuning_type": "lora", "lora_target": "all", "lora_rank": 8,
            "lora_alpha": 16, "model_name_or_path": given["model"], "trust_remote_code": False,
            "dataset_dir": str(out), "dataset": "rows", "template": given["template"], "cutoff_len": 2048,
            "learning_rate": 5e-5, "lr_scheduler_type": "cosine", "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 8, "bf16": True, "max_steps": given["steps"], "logging_steps": 1,
            "save_strategy": "no", "report_to": "none", "output_dir": str(out / "result"), "disable_tqdm": True,
            "overwrite_cache": True, "include_num_input_tokens_seen": "non_padding", "use_cpu": given["use_cpu"],
        },
        callbacks=[clock],
    )  # fmt: skip
    print(json.dumps({"tokens": int(clock.tokens), "seconds": clock.seconds, "version": version("llamafactory")}))


if __name__ == "__main__":
    main()
