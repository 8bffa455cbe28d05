"""Who answers: a run's base model, its tuned model and its checkpoints, by name, sharing what memory they can."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Unpack

from ..errors import FinetuneError
from ..render import ChatTokenizer
from .batches import in_batches
from .generate import Answer, Decoding, Likelihood, Memory, Sampling, TextPieces

if TYPE_CHECKING:
    from transformers import PreTrainedModel

OnTokens = Callable[[int, int], None]  # (answers that have ended, tokens written so far)
ShouldStop = Callable[[], bool]

# rows and tokens (with padding) in one pass. Two cores take 150 ms for one token of 16 rows and 207 ms for one of 50
# (SmolLM2-135M): reading the weights costs more than the rows do
MOST_ON_CPU = (64, 8_192)
MOST_ON_GPU = (64, 65_536)


class Models(Protocol):
    """Models by name. `activate` may unload or switch, so one is used at a time."""

    def activate(self, name: str) -> PreTrainedModel: ...


class AdapterModels:
    """One base model in memory, with adapters laid over it: "base" is all of them off."""

    def __init__(self, base: PreTrainedModel, places: Mapping[str, Path]):
        self._base, self._places = base, dict(places)
        self._with_adapters: Any = None
        self._layers: list[Any] = []
        self._loaded: set[str] = set()
        self._active = "base"
        if "tuned" in places:
            self._load("tuned")

    def activate(self, name: str) -> PreTrainedModel:
        if name != "base" and name not in self._loaded:
            self._load(name)
        if name != self._active:
            self._switch(name)
        return self._base

    def _load(self, name: str) -> None:
        from peft import PeftModel
        from peft.tuners.tuners_utils import BaseTunerLayer

        folder = self._places[name]
        if not (folder / "adapter_model.safetensors").is_file():  # peft would fall back to a pickle
            raise FinetuneError(
                f"{folder} holds no adapter_model.safetensors.", "Choose another checkpoint.", code="no-result"
            )
        # where the base is: peft would take the GPU of a machine that has one
        options = {"adapter_name": name, "low_cpu_mem_usage": True, "torch_device": str(self._base.device)}
        if self._with_adapters is None:
            self._with_adapters = PeftModel.from_pretrained(self._base, folder, **options)
        else:
            self._with_adapters.load_adapter(folder, **options)
        self._with_adapters.eval().requires_grad_(False)
        self._layers = [layer for layer in self._base.modules() if isinstance(layer, BaseTunerLayer)]
        self._loaded.add(name)
        self._switch(name)

    def _switch(self, name: str) -> None:
        """What peft's set_adapter and disable_adapter_layers do, without their walk over every weight's requires_grad:
        0.3 ms instead of 55, between two tokens of answers that are written side by side."""
        for layer in self._layers:
            layer._disable_adapters = name == "base"
            if name != "base":
                layer._active_adapter = [name]
        self._active = name


class FullModels:
    """Fully tuned models, each with weights of its own: base, tuned, and at most one checkpoint in memory."""

    def __init__(self, load: Callable[[Path], PreTrainedModel], places: Mapping[str, Path]):
        self._load, self._places = load, dict(places)
        self._models: dict[str, PreTrainedModel] = {}

    def activate(self, name: str) -> PreTrainedModel:
        if name not in self._models:
            for other in set(self._models) - {"base", "tuned", name} if name not in ("base", "tuned") else ():
                del self._models[other]
            self._models[name] = self._load(self._places[name])
        return self._models[name]


class Chatter:
    """Answers of a run's models. Safe to use from several threads: their answers are then written in turns, by token.

    chatter = load_for_chat(run)
    ids = render_prompt([{"role": "user", "content": "Hello"}], chatter.tokenizer)
    for piece in chatter.stream("tuned", ids, max_new_tokens=100):
        print(piece, end="")
    """

    def __init__(
        self, models: Models, tokenizer: ChatTokenizer, names: Sequence[str], system_prompt: str | None = None
    ):
        self.tokenizer = tokenizer
        self.system_prompt = system_prompt  # that the rows were given which had none
        self._models, self._names = models, list(names)
        self._lock = threading.Lock()  # held for one step, not for one answer
        self._memories: dict[str, Memory] = {}  # of each model's last conversation

    def names(self) -> list[str]:
        """ "tuned" (if it is done), "base", "checkpoint-20", …"""
        return list(self._names)

    def generate(
        self,
        name: str,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        on_tokens: OnTokens | None = None,
        should_stop: ShouldStop | None = None,
        references: Sequence[Sequence[int]] | None = None,
        **sampling: Unpack[Sampling],
    ) -> list[Answer]:
        """Answers to prompts (token ids), in their order, written in batches of like length that fit into memory.

        references: token ids (or none) for each prompt; their likelihood comes with the answers, and what the model
        writes just like them costs no step.
        Raises FinetuneError (too-long) before anything is written.
        """
        for prompt in prompts:
            self._room(prompt, max_new_tokens)
        ids: list[list[int]] = [[] for _ in prompts]
        reasons = ["cancelled"] * len(prompts)
        seconds = [0.0] * len(prompts)
        likelihoods: list[Likelihood | None] = [None] * len(prompts)

        def write(group: list[int]) -> None:
            for row in group:  # what memory cut off is written anew
                ids[row], reasons[row] = [], "cancelled"
            ended = sum(reason != "cancelled" for reason in reasons)
            written = sum(map(len, ids)) + reasons.count("stop")
            began = time.monotonic()
            decoding = Decoding([prompts[row] for row in group], pad_id=self.tokenizer.pad_id, **sampling)
            going = set(range(len(group)))
            new: Iterable[tuple[int, int]] = ()
            if references is not None and not (should_stop and should_stop()):
                with self.borrow(name) as model:
                    read = decoding.read_references(model, [references[row] for row in group])
                for place, (known, likelihood) in enumerate(read or ()):
                    likelihoods[group[place]] = likelihood
                    new = (*new, *((place, token) for token in known))
            while going and not (should_stop and should_stop()):
                for place, token in new or self._step(name, decoding):
                    if place not in going:
                        continue
                    row = group[place]
                    reason = self._end(token, ids[row], self._room(prompts[row], max_new_tokens))
                    written += 1
                    if reason:
                        going.discard(place)
                        reasons[row], seconds[row] = reason, time.monotonic() - began
                        ended += 1
                new = ()
                if len(going) <= 0.75 * len(decoding.rows):
                    with self._lock:
                        decoding.keep([place for place in decoding.rows if place in going])
                if on_tokens:
                    on_tokens(ended, written)
            for place in going:
                seconds[group[place]] = time.monotonic() - began

        in_batches([len(prompt) for prompt in prompts], *self._most(name), write)
        texts = [self.tokenizer.backend.decode(answer, skip_special_tokens=True) for answer in ids]
        return [Answer(*parts) for parts in zip(ids, texts, reasons, seconds, likelihoods, strict=True)]

    def stream(
        self,
        name: str,
        prompt_ids: Sequence[int],
        *,
        max_new_tokens: int,
        on_tokens: OnTokens | None = None,
        should_stop: ShouldStop | None = None,
        **sampling: Unpack[Sampling],
    ) -> Stream:
        """One answer, in pieces of text as they are written; when they end, `.answer` has the whole.

        A token is computed when its piece is asked for, so whoever stops asking stops the model.
        """
        room = self._room(prompt_ids, max_new_tokens)
        if name not in self._names:
            raise _no_such_model(name, self._names)
        return Stream(self, name, list(prompt_ids), room, sampling, on_tokens, should_stop)

    @contextlib.contextmanager
    def borrow(self, name: str) -> Iterator[PreTrainedModel]:
        """One of the models itself, for as long as the block lasts; nobody else switches it meanwhile."""
        with self._lock:
            yield self._model(name)

    def warm_up(self) -> None:
        """Read all weights once, so that the first question is answered as fast as the second."""
        for name in ("base", "tuned"):
            if name in self._names:
                list(self.stream(name, [self.tokenizer.pad_id] * 32, max_new_tokens=2))

    def _step(self, name: str, decoding: Decoding) -> list[tuple[int, int]]:
        with self.borrow(name) as model:
            return decoding.step(model)

    def _model(self, name: str) -> PreTrainedModel:
        if name not in self._names:
            raise _no_such_model(name, self._names)
        return self._models.activate(name)

    def _most(self, name: str) -> tuple[int, int]:
        """Rows and tokens in one pass."""
        with self.borrow(name) as model:
            rows, tokens = MOST_ON_GPU if model.device.type == "cuda" else MOST_ON_CPU
            return (1 if model._is_stateful else rows), tokens  # padding would become part of a state

    def _room(self, prompt: Sequence[int], max_new_tokens: int) -> int:
        """How many tokens may follow the prompt."""
        limit = self.tokenizer.model_max_length
        if not prompt or len(prompt) >= limit:
            raise FinetuneError(
                f"The conversation has {len(prompt)} tokens, and this model reads at most {limit - 1}."
                if prompt
                else "There is no question.",
                "Shorten it, or begin a new conversation.",
                code="too-long",
            )
        return min(max_new_tokens, limit - len(prompt))

    def _end(self, token: int, ids: list[int], room: int) -> str:
        """Take a token into the answer; "stop" or "length" if it ends there, else ""."""
        if token in self.tokenizer.stop_ids:
            return "stop"
        ids.append(token)
        return "length" if len(ids) >= room else ""


class Stream:
    """An answer that is being written. Iterate over its pieces of text once; then `.answer` is the whole of it."""

    def __init__(
        self,
        chatter: Chatter,
        name: str,
        prompt: list[int],
        room: int,
        sampling: Sampling,
        on_tokens: OnTokens | None,
        should_stop: ShouldStop | None,
    ):
        self._chatter, self._name, self._prompt, self._room = chatter, name, prompt, room
        self._sampling, self._on_tokens, self._should_stop = sampling, on_tokens, should_stop
        self._ids: list[int] = []
        self._text = self._reason = ""
        self._began = self._until = time.monotonic()
        self._pieces = self._write()

    @property
    def answer(self) -> Answer:
        """The answer so far; "cancelled" as long as it has not ended."""
        return Answer(list(self._ids), self._text, self._reason or "cancelled", self._until - self._began)

    def __iter__(self) -> Iterator[str]:
        return self._pieces

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        """Stop here; what is written stays in `.answer`."""
        self._pieces.close()

    def _write(self) -> Iterator[str]:
        chatter, held = self._chatter, TextPieces(self._chatter.tokenizer.backend)
        earlier = chatter._memories.pop(self._name, None)
        memory = earlier.cut_to(self._prompt) if earlier else None
        decoding = Decoding([self._prompt], pad_id=chatter.tokenizer.pad_id, memory=memory, **self._sampling)
        try:
            while not self._reason and not (self._should_stop and self._should_stop()):
                [(_, token)] = chatter._step(self._name, decoding)
                written = len(self._ids)
                self._reason = chatter._end(token, self._ids, self._room)
                piece = held.add(token) if len(self._ids) > written else ""
                if self._reason:
                    piece += held.rest()
                self._text += piece
                self._until = time.monotonic()
                if self._on_tokens:
                    self._on_tokens(int(bool(self._reason)), len(self._ids))
                if piece:
                    yield piece
        finally:
            if memory := decoding.memory(self._prompt + self._ids):
                chatter._memories[self._name] = memory


def _no_such_model(name: str, names: Sequence[str]) -> FinetuneError:
    return FinetuneError(f"There is no model {name!r} here.", f"Models: {', '.join(names)}.", code="no-model")
