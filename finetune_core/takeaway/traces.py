"""Held-out prompts of a run, and what a model in memory answers to them. The torch half of parity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..answers.chatter import Chatter
from ..answers.generate import _arguments
from ..data.rows import open_rows
from ..errors import FinetuneError
from ..proof.contest import held_out, prompt_ids, sample
from ..proof.rivals import can_be_asked, question
from ..render import ChatTokenizer, render
from ..run import Run
from .parity import MOST_PROMPTS, MOST_TOKENS, Trace

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FALLBACK = ("Hello!", "What can you do for me?", "What is the capital of France?", "Schrijf een korte groet.")


def held_rows(run: Run) -> tuple[str, list[dict[str, Any]]]:
    """Up to 20 rows that training never saw, and their split; training rows or plain questions where there are none."""
    split, rows = held_out(run.path / "data")
    if not rows:
        split, rows = "train", open_rows(run.path / "data" / "train.jsonl")[:200]
    if rows:
        chosen = sample(list(range(len(rows))), MOST_PROMPTS, run.recipe.seed)
        return split, [rows[place] for place in chosen]
    system = [{"role": "system", "content": run.recipe.system_prompt}] if run.recipe.system_prompt else []
    return "plain questions", [{"messages": [*system, {"role": "user", "content": text}]} for text in FALLBACK]


def prompts_of(rows: Sequence[dict[str, Any]], tokenizer: ChatTokenizer) -> list[list[int]]:
    """Each row as the tokens that ask for its answer: its conversation without the last answer, or half of its text."""
    prompts = []
    for row in rows:
        try:
            if "messages" in row:
                ids = prompt_ids(question(row) if can_be_asked(row) else row["messages"], tokenizer, row)
            else:
                ids = render(row, tokenizer).input_ids
                ids = ids[: max(1, len(ids) // 2)]
        except FinetuneError:  # one odd row is no reason to give nothing away
            continue
        if 0 < len(ids) < tokenizer.model_max_length - 2:
            prompts.append(ids)
    return prompts


def trace(
    chatter: Chatter,
    name: str,
    prompts: Sequence[list[int]],
    *,
    given: Sequence[Trace] | None = None,
    max_new_tokens: int = MOST_TOKENS,
    on_fraction: Callable[[float], None] | None = None,
) -> list[Trace]:
    """Greedy answers, and the log-probabilities of the `given` answers (of its own, without)."""
    answers = chatter.generate(name, prompts, max_new_tokens=max_new_tokens)
    if on_fraction:
        on_fraction(0.7)
    traces = []
    with chatter.borrow(name) as model:
        for place, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            scored = given[place].answer if given else answer.token_ids
            logprobs, margins = token_scores(model, prompt, scored)
            traces.append(Trace(answer.token_ids, answer.finish_reason == "stop", logprobs, margins))
            if on_fraction:
                on_fraction(0.7 + 0.3 * (place + 1) / len(prompts))
    return traces


@torch.inference_mode()
def token_scores(
    model: PreTrainedModel, prompt: Sequence[int], answer: Sequence[int]
) -> tuple[list[float], list[float]]:
    """(log-probability of each token of the answer; lead of the first choice at each of them and behind the last)."""
    ids = torch.tensor([[*prompt, *answer]], device=model.device)
    keep = {"logits_to_keep": len(answer) + 1} if "logits_to_keep" in _arguments(type(model)) else {}
    logits = model(input_ids=ids, use_cache=False, **keep).logits[0, -len(answer) - 1 :].float()
    scores = torch.log_softmax(logits, -1)
    best = scores.topk(2, dim=-1).values
    wanted = torch.tensor(list(answer), device=scores.device, dtype=torch.long)
    picked = scores[: len(answer)].gather(-1, wanted[:, None])[:, 0]
    return picked.tolist(), (best[:, 0] - best[:, 1]).tolist()


def chatter_of(folder: Path, dtype: str, attention: str) -> Chatter:
    """A whole model in a folder, with the tokenizer and template that lie beside it: what a stranger would load."""
    from ..answers.chatter import FullModels
    from ..model import load_base
    from ..render import load_tokenizer

    models = FullModels(lambda path: load_base(path, dtype=dtype, attn_implementation=attention), {"tuned": folder})
    return Chatter(models, load_tokenizer(folder), ["tuned"])
