"""What the base model said before, so that a later comparison asks only what is new.

It lies in the run whose rows were asked (base_answers.jsonl: token ids and numbers, no text), is deleted with that run
and never leaves with its result. It is found again only where everything is the same that could change it: the tokens
of the prompt, how long an answer may be, the model's files, the number format, the machine, the libraries, and the code
that writes answers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..answers import chatter as chatter_code
from ..answers import generate as generate_code
from ..answers.generate import Answer, Likelihood
from ..machine import this_machine

if TYPE_CHECKING:
    from ..answers.chatter import Chatter

FILE = "base_answers.jsonl"
MOST_BYTES = 32 * 2**20  # of one file; a larger one begins anew
MOST_FILES = 50  # the newest are looked into
LIBRARIES = ("torch", "transformers", "tokenizers", "peft", "bitsandbytes", "flash-attn")


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

    def answer(self, prompt: Sequence[int], most: int, tokenizer: Any) -> Answer | None:
        """The answer of at most so many tokens; its seconds are its share of the time that a whole batch took."""
        found = self._known.get(self._key("answer", prompt, most))
        if found is None:
            return None
        ids, reason, seconds = found
        return Answer(ids, tokenizer.backend.decode(ids, skip_special_tokens=True), reason, seconds)

    def keep_answer(self, prompt: Sequence[int], most: int, answer: Answer, seconds: float) -> None:
        self._new[self._key("answer", prompt, most)] = [answer.token_ids, answer.finish_reason, round(seconds, 4)]

    def likelihood(self, prompt: Sequence[int], reference: list[int]) -> Likelihood | None:
        found = self._known.get(self._key("likelihood", prompt, reference))
        return None if found is None else Likelihood(*found)

    def keep_likelihood(self, prompt: Sequence[int], reference: list[int], likelihood: Likelihood) -> None:
        self._new[self._key("likelihood", prompt, reference)] = list(astuple(likelihood))

    def write(self) -> None:
        """Put what is new on disk."""
        new = {key: value for key, value in self._new.items() if key not in self._known}
        self._known |= new
        self._new = {}
        if not new:
            return
        if self._file.exists() and self._file.stat().st_size > MOST_BYTES:
            self._file.unlink()
        with self._file.open("a", encoding="utf-8") as file:
            file.write("\n")  # an earlier line that was cut off stays alone
            file.writelines(json.dumps([key, *value]) + "\n" for key, value in new.items())

    def _key(self, kind: str, prompt: Sequence[int], rest: Any) -> str:
        asked = json.dumps([kind, list(prompt), rest, self._about])
        return hashlib.sha256(asked.encode()).hexdigest()


def kept_answers(folder: Path, runs_dir: Path, chatter: Chatter) -> KeptAnswers | None:
    """What this chatter's base model said in any run here; None where its files are not known."""
    about = describe_base(chatter)
    places = [*runs_dir.glob(f"*/{FILE}"), *runs_dir.glob(f".should-i/*/{FILE}")]
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
        "machine": (device, this_machine().title),
        "tokens": (sorted(tokenizer.stop_ids), tokenizer.pad_id, tokenizer.model_max_length),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "code": [Path(code.__file__).read_text(encoding="utf-8") for code in (generate_code, chatter_code)],
    }


def _read(place: Path) -> dict[str, list[Any]]:
    """What a file has, by key; a line that is none (its writer was killed) is left out."""
    try:
        text = place.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return {}
    found = {}
    for line in text.splitlines():
        try:
            key, *value = json.loads(line)
        except (ValueError, TypeError):
            continue
        if isinstance(key, str) and len(value) == 3:
            found[key] = value
    return found


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
