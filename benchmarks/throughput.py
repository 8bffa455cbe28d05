"""Real tokens a second on short chats: TRL's defaults, the same settings by hand in TRL, and Fijn, one process each.

python benchmarks/throughput.py [--steps 12] [--repeats 3] [--uneven | --prompted] [--llama-factory PYTHON]

Each learns from 8 rows a step: of the starter rows, which are of much the same length; with --uneven of rows that are
one to four of those in one, as chats are short and long: half of the slots of a batch of 8 are padding then; or with
--prompted of the starter rows under one system prompt of 150 tokens, which Fijn computes once for the rows that are
packed together. Without that (share_prefix=false) it is measured as well, and those settings are the ones by hand. With
--llama-factory also what LLaMA-Factory's page chooses (16 rows a step, 2 at a time; an adapter of rank 8, others have
16), by the PYTHON of an environment that has it (`llama_factory.py`).

Padding counts for nothing: only tokens of rows. The last line says which share of the matrix-product limit Fijn
reaches: the rate at which this machine multiplies the matrices of one layer, over the products that a token needs.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

from trainer import by_hand, ours, printed

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

PROMPT = (
    "You work for a shop that sells things for the house. Sort each message that comes in. Answer with JSON that "
    "has three fields and nothing else. The category is one of delivery, return, defect, payment or question. The "
    "urgency is low, normal or high: high where somebody is angry, waits for more than a week or may be hurt; low "
    "where they say that it can wait. The product is one word in English, in lower case, without a brand. "
    "Messages come in English and in Dutch; the fields are always English. Do not explain, do not greet, and do "
    "not ask anything back. If a message holds several things, take the one that has to be done first."
)
DEFAULTS = """
import json, sys, time
import torch
from datasets import load_dataset
from peft import LoraConfig
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

given = json.loads(sys.argv[1])
rows = load_dataset("json", data_files=given["rows"], split="train")
rows = rows.map(lambda row: {"prompt": row["messages"][:-1], "completion": row["messages"][-1:]},
                remove_columns=rows.column_names)

class Clock(TrainerCallback):
    seconds, tokens, steps = 0.0, 0, 0
    def on_step_begin(self, *_, **__): self.mark = time.monotonic()
    def on_step_end(self, *_, **__):
        if torch.accelerator.is_available(): torch.accelerator.synchronize()
        self.steps += 1
        if self.steps > 1: self.seconds += time.monotonic() - self.mark  # the first one warms up
    def on_log(self, args, state, control, logs=None, **_):
        if "num_tokens" in logs:
            self.first = getattr(self, "first", logs["num_tokens"])
            self.tokens = logs["num_tokens"]

clock = Clock()
SFTTrainer(
    model=given["model"],
    args=SFTConfig(output_dir=given["out"], max_steps=given["steps"], logging_steps=1, report_to="none",
                   disable_tqdm=True, save_strategy="no", use_cpu=given["use_cpu"]),
    train_dataset=rows,
    peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    callbacks=[clock],
).train()
print(json.dumps({"tokens": clock.tokens - clock.first, "seconds": clock.seconds}))
"""


def uneven_rows(path: Path, rows: int = 400) -> Path:
    """Rows of one question and one answer, most of one shop message and some of up to four: at most 205 tokens."""
    from finetune_core.presets import DATA_DIR
    from finetune_core.recipe import STARTER_DATA

    known = [json.loads(line) for line in (DATA_DIR / STARTER_DATA / "train.jsonl").read_text().splitlines()]
    draw = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(rows):
            chosen = draw.choices(known, k=draw.choices((1, 2, 3, 4), (12, 4, 2, 2))[0])
            asked, said = ("\n".join(row["messages"][turn]["content"] for row in chosen) for turn in (1, 2))
            turns = [chosen[0]["messages"][0], {"role": "user", "content": asked}]
            file.write(json.dumps({"messages": [*turns, {"role": "assistant", "content": said}]}) + "\n")
    return path


def prompted_rows(path: Path) -> Path:
    """The starter rows, each under the same long system prompt."""
    from finetune_core.presets import DATA_DIR
    from finetune_core.recipe import STARTER_DATA

    with path.open("w", encoding="utf-8") as file:
        for line in (DATA_DIR / STARTER_DATA / "train.jsonl").read_text().splitlines():
            said = json.loads(line)["messages"][1:]
            file.write(json.dumps({"messages": [{"role": "system", "content": PROMPT}, *said]}) + "\n")
    return path


def trl_defaults(folder: Path, run: Path, steps: int) -> float:
    """Real tokens a second of SFTTrainer with nothing chosen but model, rows and adapter."""
    from finetune_core.hub import local_model
    from finetune_core.machine import this_machine
    from finetune_core.run import Run

    script = folder / "defaults.py"
    script.write_text(DEFAULTS)
    given = {
        "rows": str(run / "data" / "train.jsonl"),
        "model": str(local_model(Run(run).recipe.model_name_or_path)),
        "out": str(folder / "defaults"),
        "steps": steps,
        "use_cpu": this_machine().kind == "cpu",
    }
    said = json.loads(printed([sys.executable, script, json.dumps(given)])[-1])
    return said["tokens"] / said["seconds"]


def llama_factory(python: str, folder: Path, run: Path, steps: int) -> float:
    """Real tokens a second of LLaMA-Factory with its page's defaults."""
    from finetune_core.hub import local_model
    from finetune_core.machine import this_machine
    from finetune_core.run import Run

    given = {
        "rows": str(run / "data" / "train.jsonl"),
        "model": str(local_model(Run(run).recipe.model_name_or_path)),
        "out": tempfile.mkdtemp(dir=folder),  # it refuses one that holds anything
        "steps": steps,
        "template": "smollm2",
        "use_cpu": this_machine().kind == "cpu",
    }
    script = Path(__file__).with_name("llama_factory.py")
    said = json.loads(printed([python, script, json.dumps(given)])[-1])
    return said["tokens"] / said["seconds"]


def product_rate(tokens: int, hidden: int, wide: int, dtype: str, seconds: float = 3.0) -> float:
    """FLOP/s of the matrix products of one layer's MLP, forward shapes, on this machine."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    kind = getattr(torch, dtype)
    x, up = torch.randn(tokens, hidden, dtype=kind, device=device), torch.randn(wide, hidden, dtype=kind, device=device)
    down = torch.randn(hidden, wide, dtype=kind, device=device)
    rounds, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        for _ in range(10):
            (x @ up.t()) @ down.t()
        if device == "cuda":
            torch.cuda.synchronize()
        rounds += 10
    return rounds * 4 * tokens * hidden * wide / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--default-steps", type=int, default=3, help="of TRL's defaults, which are slow; 0: none")
    parser.add_argument("--repeats", type=int, default=3)
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--uneven", action="store_true", help="rows of very different length")
    kinds.add_argument("--prompted", action="store_true", help="rows under one long system prompt")
    parser.add_argument("--llama-factory", metavar="PYTHON", help="of an environment that has llamafactory")
    given = parser.parse_args()
    rates: dict[str, list[float]] = {"trl_defaults": [], "same_settings_by_hand": [], "fijn_each_row": [], "fijn": []}
    if given.llama_factory:
        rates["llama_factory"] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options = ["per_device_train_batch_size=8"]  # rows a step, as TRL's defaults
        if given.uneven:
            options.append(f"dataset_name={uneven_rows(folder / 'uneven.jsonl')}")
        if given.prompted:
            options.append(f"dataset_name={prompted_rows(folder / 'prompted.jsonl')}")
        for _ in range(given.repeats):
            mine, shared = ours(folder, given.steps, *options)
            alone, run = ours(folder, given.steps, *options, "share_prefix=false")
            other = by_hand(folder, run)
            rates["fijn"].append(mine["tokens"] / mine["seconds"])
            rates["fijn_each_row"].append(alone["tokens"] / alone["seconds"])
            rates["same_settings_by_hand"].append(other["tokens"] / other["seconds"])
            if given.default_steps:
                rates["trl_defaults"].append(trl_defaults(folder, run, given.default_steps))
            if given.llama_factory:
                rates["llama_factory"].append(llama_factory(given.llama_factory, folder, run, given.default_steps or 3))
        plan = json.loads((shared / "plan.json").read_text())
        from finetune_core.facts import read_facts
        from finetune_core.hub import local_model
        from finetune_core.machine import this_machine
        from finetune_core.run import Run

        recipe = Run(shared).recipe
        facts = read_facts(local_model(recipe.model_name_or_path))
        limit = product_rate(recipe.packing_length or 256, facts.hidden_size, facts.intermediate_size, recipe.dtype)
    median = {name: round(statistics.median(values), 1) for name, values in rates.items() if values}
    print(
        json.dumps(
            {
                "machine": this_machine().title,
                "tokens_per_second": median,
                **{
                    f"times_{name}": round(median["fijn"] / other, 2)
                    for name, other in median.items()
                    if name != "fijn"
                },
                "share_of_product_limit": round(median["fijn"] * plan["flops_per_token"] / limit, 3),
                "rows": "uneven" if given.uneven else "prompted" if given.prompted else "starter",
                "repeats": given.repeats,
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
