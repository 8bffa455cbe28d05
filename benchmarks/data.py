"""Chat rows read, recognised, rendered, checked and split: seconds by step, and the memory it takes at most.

python benchmarks/data.py [--rows 100000 1000000] [--json FILE]     (one size after the other, each in its own process)

The rows are made from the words of the starter data with a fixed seed: a system prompt, one to three exchanges,
155 tokens a row on average (608 bytes); 1 % repeat an earlier row and 1 % nearly do. Promised on 2 cores: 100,000
rows in 60 s and 1 GB; 1,000,000 rows in 2 GB. Measured on 2 shared cores (x86, no GPU) with SmolLM2's tokenizer:

    rows        file     read, convert,           render     write     all      most memory
                         duplicates, split        and check  splits
    100,000      61 MB    12.5 s                   33.2 s     0.4 s     46.1 s   0.27 GB
    1,000,000   608 MB   186.5 s                  273.7 s     4.6 s    464.8 s   1.19 GB

Two thirds of the second step are the tokenizer, in Rust on both cores; before batches were encoded beside the
rendering of the next ones, 100,000 rows took 61.9 s. Rows wait in a file, and a row costs about 1 kB of memory.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def make_rows(path: Path, count: int, seed: int = 0) -> None:
    """Write `count` chat rows as JSON lines."""
    draw = random.Random(seed)
    starter = [json.loads(line) for line in (ROOT / "presets/data/shop-messages/train.jsonl").open(encoding="utf-8")]
    words = sorted({word for row in starter for word in row["messages"][1]["content"].split()})

    def say(low: int, high: int) -> str:
        return " ".join(draw.choices(words, k=draw.randint(low, high)))

    recent: list[list[dict[str, str]]] = []
    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            chance = draw.random()
            if recent and chance < 0.02:
                messages = [dict(message) for message in draw.choice(recent)]
                if chance < 0.01:
                    messages[-1]["content"] += f" {draw.choice(words)}"
            else:
                messages = [{"role": "system", "content": "You answer for a small household shop."}]
                for _ in range(draw.choice((1, 1, 1, 2, 3))):
                    messages += [
                        {"role": "user", "content": say(8, 30)},
                        {"role": "assistant", "content": say(5, 35)},
                    ]
                recent = [*recent[-200:], messages]
            file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")


def measure(path: Path) -> dict:
    """Prepare and check one file in this process."""
    from finetune_core.check import check
    from finetune_core.data import prepare, write_splits
    from finetune_core.recipe import Recipe
    from finetune_core.render import load_tokenizer
    from finetune_core.starter import ensure_starter

    tokenizer = load_tokenizer(ensure_starter()[0])
    recipe = Recipe(dataset_name=str(path))
    steps: list[tuple[str, float]] = [("start", time.perf_counter())]

    def note(name: str) -> None:
        steps.append((name, time.perf_counter()))

    prepared = prepare(recipe)
    note("read, recognise, convert, find duplicates, split")
    diagnosis = check(prepared, tokenizer, recipe)
    note("render and check")
    with tempfile.TemporaryDirectory() as folder:
        write_splits(prepared, Path(folder))
    note("write train, validation and test")
    seconds = {name: round(end - begin, 1) for (_, begin), (name, end) in itertools.pairwise(steps)}
    answer = diagnosis.as_dict()
    return {
        "rows": answer["rows"],
        "megabytes": round(path.stat().st_size / 1e6),
        "seconds": round(steps[-1][1] - steps[0][1], 1),
        "seconds_by_step": seconds,
        "cpu_seconds": round(sum(os.times()[:2]), 1),  # of all cores: what it costs whatever else is running
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "splits": [answer["train_rows"], answer["validation_rows"], answer["test_rows"]],
        "lengths": answer["lengths"],
        "findings": {finding["code"]: finding["count"] for finding in answer["findings"]},
        "torch_loaded": "torch" in sys.modules,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.file:
        print(json.dumps(measure(options.file)))
        return
    results = []
    for count in options.rows:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rows.jsonl"
            make_rows(path, count)
            command = [sys.executable, __file__, "--file", str(path)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            results.append(json.loads(done.stdout))
            print(json.dumps(results[-1], indent=1), flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
