"""What the base model said before, so that a later comparison asks only what is new.

It lies in the run whose rows were asked (base_answers.jsonl: token ids and numbers, no text), is deleted with that run
and never leaves with its result. It is found again only where everything is the same that could change it: the tokens
of the prompt, how long an answer may be, the model's files, the number format, the machine, the libraries, and the code
that writes answers.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..answers import chatter as chatter_code
from ..answers import generate as generate_code
from ..answers.generate import Answer, Likelihood
from ..files import append, read_json_lines
from ..machine import Machine, this_machine
from ..space import this_space
from . import likelihood as likelihood_code

if TYPE_CHECKING:
    from ..answers.chatter import Chatter, OnTokens
    from .likelihood import Asked as Target

FILE = "base_answers.jsonl"
MOST_BYTES = 32 * 2**20  # of one file; a larger one begins anew
MOST_FILES = 50  # the newest are looked into
LIBRARIES = ("torch", "transformers", "tokenizers", "peft", "bitsandbytes", "flash-attn")

CODE = (generate_code, chatter_code, likelihood_code)  # what writes and measures


class KeptAnswers:
    """Answers and likelihoods of one base model on this machine.

    folder: what is new goes into its FILE. places: further files to look into.
    """

    def __init__(self, folder: Path, places: Iterable[Path], about: Mapping[str, Any]):
        self._file = folder / FILE
        self._about = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()
        self._known: dict[str, list[Any]] = {}
        for place in dict.fromkeys((*places, self._file)):
            self._known |= _read(place)
        self._new: dict[str, list[Any]] = {}

    def generate(
        self,
        chatter: Chatter,
        prompts: Sequence[list[int]],
        *,
        max_new_tokens: int,
        references: Sequence[list[int]] | None = None,
        on_tokens: OnTokens | None = None,
        **more: Any,
    ) -> tuple[list[Answer], frozenset[int]]:
        """What the base model answers, as Chatter.generate, and the places of what was known; its seconds are then its
        share of the time that all of its batch took."""
        began = time.monotonic()
        found = {place: self._answer(prompt, max_new_tokens, chatter) for place, prompt in enumerate(prompts)}
        known = {place: answer for place, answer in found.items() if answer is not None}
        left = [place for place in range(len(prompts)) if place not in known]
        new = chatter.generate(
            "base",
            [prompts[place] for place in left],
            max_new_tokens=max_new_tokens,
            references=[references[place] for place in left] if references else None,
            on_tokens=(lambda ended, written: on_tokens(len(known) + ended, written)) if on_tokens else None,
            **more,
        )
        share = round((time.monotonic() - began) / max(1, len(left)), 4)
        for place, answer in zip(left, new, strict=True):
            if answer.finish_reason != "cancelled":
                said = [answer.token_ids, answer.finish_reason, share]
                self._new[self._key("answer", prompts[place], max_new_tokens)] = said
            if references and answer.reference is not None:
                self._keep_likelihood(prompts[place], references[place], answer.reference)
        self._write()
        for place in known if references else ():
            likelihood = self._likelihood(prompts[place], references[place])
            known[place] = replace(known[place], reference=likelihood)
        answers = {**known, **dict(zip(left, new, strict=True))}
        return [answers[place] for place in range(len(prompts))], frozenset(known)

    def likelihoods(self, chatter: Chatter, asked: Sequence[Target]) -> list[list[Likelihood]]:
        """The base model's likelihoods, as likelihood.likelihoods."""
        found = [[self._likelihood(item.prompt, answer) for answer in item.answers] for item in asked]
        left = [place for place, some in enumerate(found) if None in some]
        if left:
            for place, some in zip(left, _measure(chatter, "base", [asked[place] for place in left]), strict=True):
                found[place] = some
                for answer, likelihood in zip(asked[place].answers, some, strict=True):
                    self._keep_likelihood(asked[place].prompt, answer, likelihood)
            self._write()
        return found

    def _answer(self, prompt: Sequence[int], most: int, chatter: Chatter) -> Answer | None:
        found = self._known.get(self._key("answer", prompt, most))
        if found is None:
            return None
        ids, reason, seconds = found
        return Answer(ids, chatter.tokenizer.backend.decode(ids, skip_special_tokens=True), reason, seconds)

    def _likelihood(self, prompt: Sequence[int], answer: list[int]) -> Likelihood | None:
        found = self._known.get(self._key("likelihood", prompt, answer))
        return None if found is None else Likelihood(*found)

    def _keep_likelihood(self, prompt: Sequence[int], answer: list[int], likelihood: Likelihood) -> None:
        self._new[self._key("likelihood", prompt, answer)] = list(astuple(likelihood))

    def _write(self) -> None:
        """Put what is new on disk."""
        new = {key: value for key, value in self._new.items() if key not in self._known}
        self._known |= new
        self._new = {}
        if not new:
            return
        if self._file.exists() and self._file.stat().st_size > MOST_BYTES:
            self._file.unlink()
        append(self._file, "\n".join(json.dumps([key, *value]) for key, value in new.items()).encode())

    def _key(self, kind: str, prompt: Sequence[int], rest: Any) -> str:
        asked = json.dumps([kind, list(prompt), rest, self._about])
        return hashlib.sha256(asked.encode()).hexdigest()


def answers_of(
    chatter: Chatter, name: str, kept: KeptAnswers | None, prompts: Sequence[list[int]], **more: Any
) -> tuple[list[Answer], frozenset[int]]:
    """(What a model answers, the places of it that were known): Chatter.generate, with what is kept of the base."""
    if kept is not None and name == "base":
        return kept.generate(chatter, prompts, **more)
    return chatter.generate(name, prompts, **more), frozenset()


def likelihoods_of(
    chatter: Chatter, name: str, kept: KeptAnswers | None, asked: Sequence[Target]
) -> list[list[Likelihood]]:
    """likelihood.likelihoods of one of the models, with what is kept of the base."""
    if kept is not None and name == "base":
        return kept.likelihoods(chatter, asked)
    return _measure(chatter, name, asked) if asked else []


def _measure(chatter: Chatter, name: str, asked: Sequence[Target]) -> list[list[Likelihood]]:
    with chatter.borrow(name) as model:
        return likelihood_code.likelihoods(model, asked, pad_id=chatter.tokenizer.pad_id)


def kept_answers(folder: Path, runs_dir: Path, chatter: Chatter) -> KeptAnswers | None:
    """What this chatter's base model said in any run here; None where its files are not known.

    On a Space only in this run: what a visitor's rows are must not show in another visitor's comparison.
    """
    about = describe_base(chatter)
    everywhere = [*runs_dir.glob(f"*/{FILE}"), *runs_dir.glob(f".should-i/*/{FILE}")]
    places = [] if this_space() else everywhere
    newest = sorted(places, key=lambda place: place.stat().st_mtime)[-MOST_FILES:]
    return KeptAnswers(folder, newest, about) if about else None


def describe_base(chatter: Chatter) -> dict[str, Any] | None:
    """Everything but the prompt that an answer of the base model follows from; None where that cannot be said."""
    with chatter.borrow("base") as model:
        config, dtype, device = model.config, str(model.dtype), str(model.device)
    folder = Path(config.name_or_path)
    files = [file for file in sorted(folder.glob("*")) if file.suffix in (".safetensors", ".json")]
    if not any(file.suffix == ".safetensors" for file in files):
        return None
    tokenizer = chatter.tokenizer
    return {
        # of a model in the Hub's cache, the resolved name is the hash of its content
        "files": [(str(file.resolve()), (facts := file.stat()).st_size, facts.st_mtime_ns) for file in files],
        "config": config.to_json_string(use_diff=False),  # with its quantization
        "attention": config._attn_implementation,
        "dtype": dtype,
        "machine": (device, _hardware(this_machine())),
        "tokens": (sorted(tokenizer.stop_ids), tokenizer.pad_id, tokenizer.model_max_length),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "code": [Path(code.__file__).read_text(encoding="utf-8") for code in CODE],
    }


def _read(place: Path) -> dict[str, list[Any]]:
    """What a file has, by key."""
    lines = [line for line in read_json_lines(place) if isinstance(line, list) and len(line) == 4]
    return {key: value for key, *value in lines if isinstance(key, str)}


def _hardware(machine: Machine) -> tuple[Any, ...]:
    """What does not change from one minute to the next, as free memory does."""
    gpu = machine.gpus[0] if machine.gpus else None
    return machine.kind, machine.cores, round(machine.memory_gb), gpu and (gpu.name, gpu.capability)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
