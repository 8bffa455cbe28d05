"""Write answers: a batch of prompts continued token by token, each row until its own end.

The loop is our own because transformers' `generate` keeps computing rows that have ended, reads a beginning that all
prompts share once per row, and cannot be paused between two tokens to let another model of the same base speak.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypedDict

import torch

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel

SHARED_MINIMUM = 16  # tokens; a shorter common beginning is not worth a pass of its own


MOST_LOGITS = 64_000_000  # numbers in memory at once: rows x tokens x vocabulary


@dataclass(frozen=True)
class Likelihood:
    """How likely a model finds one answer after its prompt."""

    loss: float  # nats, summed over the answer's tokens
    tokens: int
    likeliest: int  # tokens that the model would have chosen itself

    @property
    def per_token(self) -> float:
        return self.loss / max(1, self.tokens)


@dataclass(frozen=True)
class Answer:
    """What a model wrote to one prompt."""

    token_ids: list[int]  # without the token that ended it
    text: str
    finish_reason: str  # "stop": it ended by itself; "length": max_new_tokens; "cancelled"
    seconds: float
    reference: Likelihood | None = None  # of the reference, where one was given and read


class Sampling(TypedDict, total=False):
    """How a token is chosen. Temperature 0, the default: always the likeliest."""

    temperature: float
    top_p: float
    seed: int | None


class Decoding:
    """A batch of prompts on their way: `step` gives the next token of each row that is still going."""

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        pad_id: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        memory: Memory | None = None,
    ):
        self.prompts = [list(prompt) for prompt in prompts]
        self.rows = list(range(len(prompts)))  # those still going, in the order of the batch
        self.pad_id, self.temperature, self.top_p, self.seed = pad_id, temperature, top_p, seed
        self._cache: Any = memory.cache if memory else None
        self._known = len(memory.token_ids) if memory else 0  # tokens of a single prompt that the cache holds
        self._generator: torch.Generator | None = None
        self._last: torch.Tensor | None = None  # [rows] tokens chosen, not yet read by the model
        self._mask: torch.Tensor | None = None  # [rows, tokens so far], None where nothing is padded
        self._position: torch.Tensor | None = None  # [rows, 1]

    @torch.inference_mode()
    def step(self, model: PreTrainedModel) -> list[tuple[int, int]]:
        """[(row, token id)] for every row still going. The first step reads the prompts."""
        if self._last is None:
            logits = self._read_prompts(model)
        else:
            if self._mask is not None:
                self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._mask), 1)], dim=1)
                self._position = self._position + 1
            logits = self._forward(model, self._last[:, None], self._mask, self._position)
        self._last = self._pick(logits)
        return list(zip(self.rows, self._last.tolist(), strict=True))

    @torch.inference_mode()
    def read_references(
        self, model: PreTrainedModel, references: Sequence[Sequence[int]]
    ) -> list[tuple[list[int], Likelihood | None]] | None:
        """Instead of the first step: (tokens known, likelihood of the reference) of each row. References may be empty.

        The reference is read after the prompt in one pass. As far as the model would have written the same, it has
        written it (speculative decoding with the reference as the draft: Leviathan et al. 2023), so the answers are
        those of `step` alone. None where that cannot be done; then nothing has been read.
        """
        width = max(map(len, references))
        vocabulary = model.config.get_text_config().vocab_size
        if self.temperature > 0 or width < 1 or len(references) * width * vocabulary > MOST_LOGITS:
            return None
        if getattr(model, "_is_stateful", False) or "past_key_values" not in _arguments(type(model)):
            return None
        first = self._read_prompts(model)
        if not _can_be_cut(self._cache):
            self._cache, self._mask, self._position = None, None, None
            return None
        read = self._cache.get_seq_length()
        before = first.new_ones(len(references), read, dtype=torch.long) if self._mask is None else self._mask
        logits = first[:, None]
        if width > 1:
            fed = [[*reference[:-1], *[self.pad_id] * (width - max(1, len(reference)))] for reference in references]
            after = torch.tensor(
                [[1] * max(0, len(reference) - 1) + [0] * (width - max(1, len(reference))) for reference in references],
                device=model.device,
            )
            whole = torch.cat([before, after], dim=1)
            out = model(
                input_ids=torch.tensor(fed, device=model.device),
                attention_mask=whole,
                position_ids=(whole.cumsum(1) - 1).clamp(min=0)[:, read:],
                past_key_values=self._cache,
                use_cache=True,
            )
            self._cache = out.past_key_values
            logits = torch.cat([logits, out.logits], dim=1)
        chosen = logits.argmax(-1).tolist()
        found: list[tuple[list[int], Likelihood | None]] = []
        places = torch.arange(width - 1, device=model.device)
        valid = []
        for row, reference in enumerate(references):
            same = next((at for at, token in enumerate(reference) if chosen[row][at] != token), len(reference))
            ended = 0 < len(reference) == same
            known = list(reference) if ended else [*reference[:same], chosen[row][same]]
            found.append((known, measure(logits[row], reference) if len(reference) else None))
            valid.append(len(known) - 1)
        # what was read beyond the last token that counts stays in memory, unseen
        counted = places[None] < torch.tensor(valid, device=model.device)[:, None]
        self._mask = torch.cat([before, counted.long()], dim=1)
        self._position = (self._mask.cumsum(1) - 1).clamp(min=0)[:, -1:]
        self._last = torch.tensor([known[-1] for known, _ in found], device=model.device)
        return found

    @torch.inference_mode()
    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only; the others' memory is given back."""
        if len(rows) == len(self.rows) or not rows:
            return
        places = torch.tensor([self.rows.index(row) for row in rows], device=self._last.device)
        self._cache.batch_select_indices(places)
        self._last = self._last[places]
        if self._mask is not None:
            self._mask, self._position = self._mask[places], self._position[places]
        self.rows = list(rows)

    def memory(self, token_ids: Sequence[int]) -> Memory | None:
        """What the model has read of a single conversation, to be continued without reading it again."""
        if len(self.prompts) != 1 or not _can_be_cut(self._cache):
            return None
        return Memory(list(token_ids)[: self._cache.get_seq_length()], self._cache)

    def _read_prompts(self, model: PreTrainedModel) -> torch.Tensor:
        device = model.device
        if self.temperature > 0:
            self._generator = torch.Generator(device)
            self._generator.manual_seed(random.getrandbits(63) if self.seed is None else self.seed)
        if len(self.prompts) == 1:
            return self._forward(model, torch.tensor([self.prompts[0][self._known :]], device=device))
        shared = shared_beginning(self.prompts)
        if shared >= SHARED_MINIMUM and not getattr(model, "_is_stateful", False):
            self._forward(model, torch.tensor([self.prompts[0][:shared]], device=device))
            if _can_be_cut(self._cache):
                self._cache.batch_repeat_interleave(len(self.prompts))
            else:  # a sliding window counts places, so padding must stay in front of everything
                self._cache, shared = None, 0
        else:
            shared = 0
        longest = max(len(prompt) for prompt in self.prompts) - shared
        padding = [longest + shared - len(prompt) for prompt in self.prompts]
        ids = [[self.pad_id] * pad + prompt[shared:] for pad, prompt in zip(padding, self.prompts, strict=True)]
        mask = torch.tensor([[1] * shared + [0] * pad + [1] * (longest - pad) for pad in padding], device=device)
        position = (mask.cumsum(1) - 1).clamp(min=0)[:, shared:]
        if not any(padding):
            return self._forward(model, torch.tensor(ids, device=device))
        self._mask, self._position = mask, position[:, -1:]
        return self._forward(model, torch.tensor(ids, device=device), mask, position)

    def _forward(
        self,
        model: PreTrainedModel,
        ids: torch.Tensor,
        mask: torch.Tensor | None = None,
        position: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """[rows, vocabulary] logits after the last token of `ids` [rows, tokens]."""
        options: dict[str, Any] = {"attention_mask": mask, "position_ids": position, "logits_to_keep": 1}
        takes = _arguments(type(model))
        options = {name: value for name, value in options.items() if value is not None and name in takes}
        name = "past_key_values" if "past_key_values" in takes else "cache_params"
        out = model(input_ids=ids, use_cache=True, **{name: self._cache}, **options)
        self._cache = out[name]
        return out.logits[:, -1]

    def _pick(self, logits: torch.Tensor) -> torch.Tensor:
        if self._generator is None:
            return logits.argmax(-1)
        probabilities = torch.softmax(logits.float() / self.temperature, -1)
        if self.top_p < 1.0:
            ordered, order = probabilities.sort(dim=-1, descending=True)
            over = ordered.cumsum(-1) - ordered >= self.top_p
            ordered[:, 1:][over[:, 1:]] = 0.0  # the first always stays
            probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered)
        return torch.multinomial(probabilities, 1, generator=self._generator)[:, 0]


@dataclass(frozen=True)
class Memory:
    """A conversation that a model has read: its tokens and their keys and values."""

    token_ids: list[int]
    cache: Any

    @torch.inference_mode()
    def cut_to(self, prompt: Sequence[int]) -> Memory | None:
        """The part that a new prompt begins with (all but its last token at most), or None if that is too little."""
        shared = min(shared_beginning([self.token_ids, prompt]), len(prompt) - 1)
        if shared < SHARED_MINIMUM:
            return None
        self.cache.crop(shared - len(self.token_ids))  # negative: how many to remove
        return Memory(self.token_ids[:shared], self.cache)


class TextPieces:
    """Tokens to text as they come, holding back what is not a whole character yet."""

    def __init__(self, backend: Tokenizer):
        self._backend = backend
        self._ids: list[int] = []
        self._from = self._shown = 0  # decoded from, shown up to; some tokenizers need the token before

    def add(self, token_id: int) -> str:
        self._ids.append(token_id)
        before = self._decode(self._ids[self._from : self._shown])
        after = self._decode(self._ids[self._from :])
        if after.endswith("\ufffd") or len(after) <= len(before):
            return ""
        self._from, self._shown = self._shown, len(self._ids)
        return after[len(before) :]

    def rest(self) -> str:
        """What was held back, also if it is no whole character."""
        before = self._decode(self._ids[self._from : self._shown])
        return self._decode(self._ids[self._from :])[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        return self._backend.decode(ids, skip_special_tokens=True)


def shared_beginning(sequences: Sequence[Sequence[int]]) -> int:
    """How many tokens all sequences begin with in common, leaving each its last one.

    >>> shared_beginning([[1, 2, 3, 4], [1, 2, 5]])
    2
    """
    first, last = min(sequences), max(sequences)
    limit = min(len(sequence) for sequence in sequences) - 1
    return next((place for place in range(limit) if first[place] != last[place]), max(0, limit))


def measure(logits: torch.Tensor, answer: Sequence[int]) -> Likelihood:
    """The likelihood of an answer by logits [at least len(answer), vocabulary]; their first row predicts the answer's
    first token."""
    wanted = torch.tensor(answer, device=logits.device)
    loss, likeliest = 0.0, 0
    for start in range(0, len(answer), 256):  # in float32, a few tokens at a time
        some, right = logits[start : start + 256][: len(answer) - start].float(), wanted[start : start + 256]
        loss += float(torch.nn.functional.cross_entropy(some, right, reduction="sum"))
        likeliest += int((some.argmax(-1) == right).sum())
    return Likelihood(loss, len(answer), likeliest)


def _can_be_cut(cache: Any) -> bool:
    """True for a plain cache of keys and values: no sliding window, no recurrent state."""
    layers = getattr(cache, "layers", None)
    return bool(layers) and all(type(layer).__name__ == "DynamicLayer" for layer in layers)


@cache
def _arguments(model_class: type) -> frozenset[str]:
    return frozenset(inspect.signature(model_class.forward).parameters)
