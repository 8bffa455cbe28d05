"""What benchmarks/gpu.md says was planned is what the plan says of those trainings now."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import gpu
from finetune_core.facts import read_facts
from finetune_core.machine import Gpu, Machine
from finetune_core.plan import make_plan
from finetune_core.recipe import Recipe

TABLE = Path(gpu.__file__).with_name("gpu.md").read_text(encoding="utf-8")
BF16 = {"method": "full", "dtype": "bfloat16", "optim": "adamw_8bit"}
ASKED = {  # the rows of the table
    "LoRA, without Liger": {"use_liger_kernel": False},
    "LoRA": {},
    "QLoRA": {"method": "qlora"},
    "all weights in bfloat16, 8-bit AdamW": BF16,
}
H100 = Machine(
    cores=16, memory_gb=128, available_gb=120, gpus=(Gpu("NVIDIA H100 80GB HBM3", 79.6, 79.0, 9.0),), kind="cuda",
    bitsandbytes=True, liger=True,
)  # fmt: skip


@pytest.fixture(scope="module")
def rows():
    """(tokens of each row, trained ones)."""
    made = gpu.make_rows(1000, 49_000)
    return [len(ids) for ids in made["input_ids"]], sum(sum(label != -100 for label in row) for row in made["labels"])


@pytest.mark.parametrize("line", [line for line in TABLE.splitlines() if re.match(r"\| [\d.]+B \|", line)])
def test_the_planned_columns_are_the_plan_s(line, rows, tmp_path):
    shape, method, *_, planned_gb, planned_speed = (cell.strip() for cell in line.strip("| ").split("|"))
    config = gpu.SHAPES[shape.lower()] | {"model_type": "llama", "max_position_embeddings": 8192}
    (tmp_path / "config.json").write_text(json.dumps(config))
    facts, (lengths, trained) = read_facts(tmp_path), rows
    norms = (2 * facts.layers + 1) * facts.hidden_size  # without weights to count they are left out
    recipe = Recipe(per_device_train_batch_size=32, **ASKED[method])
    plan = make_plan(recipe, replace(facts, parameters=facts.parameters + norms), lengths, H100, trained_tokens=trained)
    assert (f"{plan.memory_gb['total']:.1f}", f"{plan.tokens_per_second:,.0f}") == (planned_gb, planned_speed)
