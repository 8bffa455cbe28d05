"""How fast is the proof, and are its answers those of a plain loop of `generate`?

python benchmarks/evaluation.py RUN [--rows 50] [--dtype float32|bfloat16]     some minutes on two cores

The same rows and prompts, answered (a) one by one with transformers' own `generate`, greedy, and (b) as `evaluate` does
it: in batches of like length, the beginning that prompts share read once, rows leaving the batch as they end, and for
base and tuned the reference read along (which also measures the loss). Rows per second of each, and how many answers
are identical. In bfloat16 a different batch rounds differently, so now and then
two near-equal tokens swap; in float32 all must be the same.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from finetune_core.data.rows import open_rows
from finetune_core.proof.contest import RIVALS, enter_rivals, held_out, prepare_contest, prompt_ids
from finetune_core.run import Run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--rows", type=int, default=50)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rivals", nargs="+", default=["base", "tuned", "examples", "retrieved"], choices=RIVALS)
    arguments = parser.parse_args()
    run = Run(arguments.run)
    recipe = run.recipe

    import torch

    from finetune_core.answers.chatter import AdapterModels, Chatter
    from finetune_core.model import fetch_model, load_base
    from finetune_core.proof.answering import QUICK, find_targets, references_for
    from finetune_core.render import load_tokenizer

    base = load_base(fetch_model(recipe.model_name_or_path, recipe.model_revision), dtype=arguments.dtype)
    tokenizer = load_tokenizer(run.result_dir)
    chatter = Chatter(AdapterModels(base, {"tuned": run.result_dir}), tokenizer, ["tuned", "base"])
    split, rows = held_out(run.path / "data")
    train = open_rows(run.path / "data" / "train.jsonl")
    contest = prepare_contest(rows, split, recipe, tokenizer, max_rows=arguments.rows, known=train[:500])
    line_up = enter_rivals(arguments.rivals, contest, recipe, lambda: train, tokenizer)
    print(f"{len(contest.rows)} rows, at most {contest.max_new_tokens} new tokens, {arguments.dtype}, CPU threads: "
          f"{torch.get_num_threads()}")  # fmt: skip
    print(f"{'rival':10} {'tokens':>7} {'loop':>8} {'ours':>8} {'times':>6}  same")
    targets = find_targets(chatter, contest, recipe.max_length)
    good, totals = True, [0.0, 0.0]
    for rival in line_up:
        prompts = [prompt_ids(rival.messages(row), tokenizer, row) for row in contest.rows]
        chatter.generate(rival.model, prompts[:1], max_new_tokens=2)  # both start warm
        began = time.perf_counter()
        references = references_for(targets, prompts) if rival.name in QUICK else None
        ours = [answer.token_ids for answer in chatter.generate(
            rival.model, prompts, max_new_tokens=contest.max_new_tokens, references=references)]  # fmt: skip
        fast = time.perf_counter() - began
        began = time.perf_counter()
        with chatter.borrow(rival.model) as model:
            plain = [one_by_one(model, prompt, tokenizer, contest.max_new_tokens) for prompt in prompts]
        slow = time.perf_counter() - began
        same = sum(a == b for a, b in zip(ours, plain, strict=True))
        good &= same == len(prompts) or arguments.dtype != "float32"
        totals[0] += slow
        totals[1] += fast
        mean = sum(map(len, prompts)) / len(prompts)
        print(f"{rival.name:10} {mean:7.0f} {len(prompts) / slow:6.2f}/s {len(prompts) / fast:6.2f}/s "
              f"{slow / fast:5.1f}x  {same} of {len(prompts)}", flush=True)  # fmt: skip
    print(f"together: {totals[0]:.0f} s in a loop, {totals[1]:.0f} s here: {totals[0] / totals[1]:.1f}x")
    return 0 if good else 1


def one_by_one(model, prompt: list[int], tokenizer, max_new_tokens: int) -> list[int]:
    """What a script would write: transformers' generate, greedy, without the token that ended it."""
    import torch

    ids = torch.tensor([prompt])
    with torch.inference_mode():
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            max_new_tokens=max_new_tokens,
            eos_token_id=sorted(tokenizer.stop_ids),
            pad_token_id=tokenizer.pad_id,
        )
    answer = out[0, len(prompt) :].tolist()
    return answer[:-1] if answer and answer[-1] in tokenizer.stop_ids else answer


if __name__ == "__main__":
    sys.exit(main())
