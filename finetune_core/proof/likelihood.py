"""How likely a model finds given answers: many at once, each prompt read only once. For loss, probe and drift."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..answers.batches import in_batches
from ..answers.generate import (
    MOST_LOGITS,
    SHARED_MINIMUM,
    Likelihood,
    _arguments,
    _can_be_cut,
    measure,
    shared_beginning,
)
from ..render import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..render import Rendered

MOST_ROWS, MOST_TOKENS = 32, 8_192


@dataclass(frozen=True)
class Asked:
    """A prompt with the answers whose likelihood is wanted, as token ids; none of them empty."""

    prompt: list[int]
    answers: list[list[int]]


def split_answer(rendered: Rendered) -> Asked | None:
    """A rendered row as the tokens before its last trained turn, and that turn; None if nothing is trained.

    A row of plain text is trained whole: all of it but its first token is the answer.
    """
    labels = rendered.labels
    end = next((place for place in range(len(labels), 0, -1) if labels[place - 1] != IGNORED), 0)
    start = end
    while start > 1 and labels[start - 1] != IGNORED:
        start -= 1
    answer = rendered.input_ids[start:end]
    return Asked(rendered.input_ids[:start], [answer]) if answer and start else None


@torch.inference_mode()
def likelihoods(
    model: PreTrainedModel, asked: Sequence[Asked], *, pad_id: int, on_done: Callable[[int], None] | None = None
) -> list[list[Likelihood]]:
    """For each prompt, the likelihood of each of its answers. `on_done` hears how many prompts are finished.

    The prompts of a batch are read first, padded on the left, their common beginning once for all; then every answer
    continues the memory of its prompt.
    """
    found: list[list[Likelihood]] = [[] for _ in asked]
    done = 0
    alone = bool(getattr(model, "_is_stateful", False))  # padding would become part of a recurrent state

    def read(group: list[int]) -> None:
        nonlocal done
        for place, results in zip(group, _batch(model, [asked[place] for place in group], pad_id, alone), strict=True):
            found[place] = results
        done += len(group)
        if on_done:
            on_done(done)

    lengths = [len(item.prompt) + max(map(len, item.answers)) * len(item.answers) for item in asked]
    in_batches(lengths, 1 if alone else MOST_ROWS, MOST_TOKENS, read)
    return found


def _batch(model: PreTrainedModel, items: Sequence[Asked], pad_id: int, alone: bool) -> list[list[Likelihood]]:
    owners = [number for number, item in enumerate(items) for _ in item.answers]
    answers = [answer for item in items for answer in item.answers]
    cache, mask = (None, None) if alone else _read(model, [item.prompt[:-1] for item in items], pad_id)
    if cache is None:  # a memory that cannot be shared: read everything anew for each answer
        results = [_alone(model, items[owner].prompt, answer) for owner, answer in zip(owners, answers, strict=True)]
    else:
        results = _continue(model, cache, mask, items, owners, answers, pad_id)
    grouped: list[list[Likelihood]] = [[] for _ in items]
    for owner, result in zip(owners, results, strict=True):
        grouped[owner].append(result)
    return grouped


def _read(model: PreTrainedModel, prompts: Sequence[Sequence[int]], pad_id: int) -> tuple[Any, Any]:
    """Keys and values of all prompts, and which places of them are real [prompts, places]; (None, None): impossible."""
    if not any(prompts) or "past_key_values" not in _arguments(type(model)):
        return None, None
    device, shared, cache = model.device, shared_beginning(prompts), None
    if len(prompts) > 1 and shared >= SHARED_MINIMUM:
        cache = model(input_ids=torch.tensor([prompts[0][:shared]], device=device), use_cache=True).past_key_values
        if not _can_be_cut(cache):
            return None, None
        cache.batch_repeat_interleave(len(prompts))
    else:
        shared = 0
    longest = max(len(prompt) for prompt in prompts) - shared
    pads = [longest + shared - len(prompt) for prompt in prompts]
    ids = [[pad_id] * pad + list(prompt[shared:]) for pad, prompt in zip(pads, prompts, strict=True)]
    mask = torch.tensor([[1] * shared + [0] * pad + [1] * (longest - pad) for pad in pads], device=device)
    out = model(
        input_ids=torch.tensor(ids, device=device),
        attention_mask=mask,
        position_ids=_positions(mask)[:, shared:],
        past_key_values=cache,
        use_cache=True,
        **_keep(model, 1),
    )
    return (out.past_key_values, mask) if _can_be_cut(out.past_key_values) else (None, None)


def _continue(
    model: PreTrainedModel,
    cache: Any,
    mask: torch.Tensor,
    items: Sequence[Asked],
    owners: Sequence[int],
    answers: Sequence[list[int]],
    pad_id: int,
) -> list[Likelihood]:
    """Every answer after the memory of its prompt, in parts that fit into memory."""
    device, longest = model.device, max(map(len, answers))
    rows = max(1, MOST_LOGITS // (longest * model.config.get_text_config().vocab_size))
    results: list[Likelihood] = []
    for start in range(0, len(answers), rows):
        part = range(start, min(start + rows, len(answers)))
        last_part = part.stop == len(answers)
        memory = _selected(cache, torch.tensor([owners[row] for row in part], device=device), copy=not last_part)
        width = max(len(answers[row]) for row in part)
        # the last token of the prompt goes in front: what it predicts is the answer's first token
        ids = torch.tensor(
            [
                [items[owners[row]].prompt[-1], *answers[row][:-1]] + [pad_id] * (width - len(answers[row]))
                for row in part
            ],
            device=device,
        )
        before = mask[torch.tensor([owners[row] for row in part], device=device)]
        whole = torch.cat([before, before.new_ones(len(part), width)], dim=1)
        positions = _positions(whole)[:, -width:]
        logits = model(
            input_ids=ids, attention_mask=whole, position_ids=positions, past_key_values=memory, use_cache=True
        ).logits
        results += [measure(logits[at], answers[row]) for at, row in enumerate(part)]
    return results


def _selected(cache: Any, rows: torch.Tensor, copy: bool) -> Any:
    """The memory of these rows (one may come several times); a copy where the whole is still needed."""
    if copy:
        import copy as copying

        cache = copying.deepcopy(cache)
    cache.batch_select_indices(rows)
    return cache


def _alone(model: PreTrainedModel, prompt: Sequence[int], answer: Sequence[int]) -> Likelihood:
    ids = torch.tensor([[*prompt, *answer]], device=model.device)
    logits = model(input_ids=ids, use_cache=False, **_keep(model, len(answer) + 1)).logits
    return measure(logits[0, -len(answer) - 1 : -1], answer)


def _positions(mask: torch.Tensor) -> torch.Tensor:
    return (mask.cumsum(1) - 1).clamp(min=0)


def _keep(model: PreTrainedModel, tokens: int) -> dict[str, int]:
    return {"logits_to_keep": tokens} if "logits_to_keep" in _arguments(type(model)) else {}
