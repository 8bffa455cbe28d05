"""A model folder's tokenizer, chat template and end tokens, read without torch (and without transformers)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from tokenizers import AddedToken, Tokenizer

from ..errors import FinetuneError, first_line
from .control import MARKED, is_marked
from .conversation import ConversationRenderer
from .template import ChatTemplate

NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
LENGTH_NAMES = ("max_position_embeddings", "n_positions", "n_ctx", "seq_length", "max_sequence_length")
UNKNOWN_LENGTH = 2048  # tokens, where neither the tokenizer nor the model says how many it reads
NOWHERE = (-1, -1)  # the offset of a token that stands for no characters of the text
SANE_LENGTH = 100_000_000  # transformers writes 1e30 for "no limit"


@dataclass(frozen=True)
class Encoded:
    """A text's tokens. `offsets`: the characters of `text` that each stands for, or NOWHERE."""

    ids: list[int]
    offsets: list[tuple[int, int]]
    text: str


@dataclass(frozen=True, eq=False)
class ChatTokenizer:
    """Everything needed to turn a conversation into the tokens a model reads, and to know when its answer ends."""

    backend: Tokenizer  # without its post-processor: offsets are then exact; `text_prefix` is what it would add
    chat_template: str
    special_tokens: dict[str, str]  # bos_token, eos_token, ... as templates know them
    stop_ids: frozenset[int]  # any of them ends a reply
    pad_id: int
    model_max_length: int  # tokens
    template_origin: Literal["model", "fijn"]
    eos_id: int | None = None  # ends a {"text"} row
    text_prefix: tuple[int, ...] = ()  # what the tokenizer puts before a plain text (bos, for some models)

    @cached_property
    def template(self) -> ChatTemplate:
        return _template_of(self.backend, self.chat_template, self.special_tokens, self.stop_ids)

    @cached_property
    def conversations(self) -> ConversationRenderer:
        return ConversationRenderer(self.template)

    @cached_property
    def added_ids(self) -> frozenset[int]:
        return frozenset(self.backend.get_added_tokens_decoder())

    @cached_property
    def special_ids(self) -> frozenset[int]:
        return frozenset(id for id, token in self.backend.get_added_tokens_decoder().items() if token.special)

    @cached_property
    def turn_end_ids(self) -> frozenset[int]:
        """Tokens that end a turn in this template: those that stop a reply, and gpt-oss' <|end|> between turns."""
        named = (self.template.turn_end, self.template.inner_turn_end)
        return self.stop_ids | {id for token in named if token and (id := self.backend.token_to_id(token)) is not None}

    def encode_chat(self, texts: Sequence[str]) -> list[Encoded]:
        """Texts rendered by `template` as tokens. Marked control tokens become the plain text that they are."""
        codes = iter(
            self.backend.encode_batch([text for text in texts if not is_marked(text)], add_special_tokens=False)
        )
        return [
            self._unmark(text) if is_marked(text) else Encoded((code := next(codes)).ids, code.offsets, text)
            for text in texts
        ]

    def encode_text(self, texts: Sequence[str]) -> list[Encoded]:
        """Plain texts as tokens, with the bos that the tokenizer adds, and one eos. Special tokens stay tokens."""
        before, after = list(self.text_prefix), [] if self.eos_id is None else [self.eos_id]
        encoded = []
        for text, code in zip(texts, self.backend.encode_batch(list(texts), add_special_tokens=False), strict=True):
            ids, offsets = code.ids, code.offsets
            if before and ids[: len(before)] != before:
                ids, offsets = before + ids, [NOWHERE] * len(before) + offsets
            if ids[-1:] != after:
                ids, offsets = ids + after, offsets + [NOWHERE] * len(after)
            encoded.append(Encoded(ids, offsets, text))
        return encoded

    def _unmark(self, marked: str) -> Encoded:
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        text, position = "", 0
        for match in [*MARKED.finditer(marked), None]:
            piece = marked[position : match.start() if match else len(marked)]
            for as_text, part in ((False, piece), (True, (match[1] or "") if match else "")):
                for id, (start, end) in self._part(part, as_text, first=not text):
                    ids.append(id)
                    offsets.append((len(text) + start, len(text) + end))
                text += part
            position = match.end() if match else position
        return Encoded(ids, offsets, text)

    def _part(self, part: str, as_text: bool, first: bool) -> list[tuple[int, tuple[int, int]]]:
        """The tokens of one part of a text, with their offsets in it. Like transformers' `_encode_chat_piece`, a part
        that is not the first is encoded behind a newline, so that SentencePiece adds no space of its own."""
        if not part:
            return []
        encode = self._without_added_tokens if as_text else self._with_added_tokens
        tokens, newline = encode(part), [] if first else encode("\n")
        behind = encode("\n" + part) if newline else []
        if newline and [id for id, _ in behind[: len(newline)]] == [id for id, _ in newline]:
            tokens = [(id, (max(start - 1, 0), end - 1)) for id, (start, end) in behind[len(newline) :]]
        if as_text:  # its inner borders do not matter: the first token shows the whole of it
            tokens = [(id, (len(part) if n else 0, len(part))) for n, (id, _) in enumerate(tokens)]
        return tokens

    def _with_added_tokens(self, text: str) -> list[tuple[int, tuple[int, int]]]:
        code = self.backend.encode(text, add_special_tokens=False)
        return list(zip(code.ids, code.offsets, strict=True))

    def _without_added_tokens(self, text: str) -> list[tuple[int, tuple[int, int]]]:
        if self.backend.normalizer is not None:
            text = self.backend.normalizer.normalize_str(text)
        splitter = self.backend.pre_tokenizer
        words = [word for word, _ in splitter.pre_tokenize_str(text)] if splitter is not None else [text]
        return [(token.id, NOWHERE) for word in words for token in self.backend.model.tokenize(word)]


def load_tokenizer(folder: Path) -> ChatTokenizer:
    """Read tokenizer.json, tokenizer_config.json, chat_template.jinja, generation_config.json, config.json, ...

    Raises FinetuneError (no-tokenizer) if there is no tokenizer.json, or it cannot be read.
    """
    folder = Path(folder)
    config = _read(folder / "tokenizer_config.json")
    model_config = _read(folder / "config.json")
    backend = _load_backend(folder)
    named = _named_tokens(config, _read(folder / "special_tokens_map.json"))
    _add_missing(backend, config, named)
    prefix = _text_prefix(backend)
    backend.post_processor = None  # some trim spaces from offsets

    stops = {backend.token_to_id(named["eos_token"])} if "eos_token" in named else set()
    stops |= _end_ids(_read(folder / "generation_config.json")) | _end_ids(model_config)
    stops = {id for id in stops if id is not None and backend.id_to_token(id) is not None}
    eos = backend.token_to_id(named["eos_token"]) if "eos_token" in named else None
    if eos is None and stops:
        eos = min(_end_ids(model_config) & stops or stops)
        named["eos_token"] = backend.id_to_token(eos)

    ours = default_template(backend, has_bos=bool(prefix))
    source = _chat_template(folder, config) or ours
    template = _template_of(backend, source, named, stops)
    if template.turn_end:
        stops.add(backend.token_to_id(template.turn_end))
    pad = backend.token_to_id(named.get("pad_token", ""))
    if pad is None:
        pad = model_config.get("pad_token_id")
    tokenizer = ChatTokenizer(
        backend=backend,
        chat_template=source,
        special_tokens=named,
        stop_ids=frozenset(stops),
        pad_id=pad if isinstance(pad, int) and pad >= 0 else eos if eos is not None else 0,
        model_max_length=_max_length(config, model_config),
        template_origin="fijn" if source == ours else "model",
        eos_id=eos,
        text_prefix=prefix,
    )
    tokenizer.__dict__["template"] = template  # what it found out about itself is kept
    return tokenizer


def default_template(backend: Tokenizer, has_bos: bool) -> str:
    """The chat template for a base model that has none. No token is added, so no embedding is resized.

    Where <|im_start|> and <|im_end|> are special tokens already (SmolLM2, Qwen): ChatML. Otherwise plain-text headers,
    which every tokenizer can write, with the model's own eos at the end of each answer:

        ### User:
        What is the capital of France?

        ### Assistant:
        Paris.</s>

    Contents are stripped there, because a newline before or after them would melt into the header's. Tools are listed
    as JSON in front; tool calls are written as <tool_call>{"name": ..., "arguments": {...}}</tool_call>.
    """
    special = {token.content for token in backend.get_added_tokens_decoder().values() if token.special}
    chatml = {"<|im_start|>", "<|im_end|>"} <= special
    opening = "'<|im_start|>' + role + '\\n'" if chatml else "'### ' + role | capitalize + ':\\n'"
    closing = "'<|im_end|>\\n'" if chatml else "(eos_token if role == 'assistant' else '') + '\\n\\n'"
    content = "message['content']" if chatml else "message['content'] | trim"
    return "".join(
        (
            "{#- Fijn's template for base models -#}",
            "{{- bos_token }}" if has_bos else "",
            "{%- if tools %}{% set role = 'system' %}{{- " + opening + " + 'Functions you may call:' }}",
            "{%- for tool in tools %}{{- '\\n' + tool | tojson }}{% endfor %}{{- " + closing + " }}{% endif %}",
            "{%- for message in messages %}{% set role = message['role'] %}{{- " + opening + " + " + content + " }}",
            "{%- for call in message['tool_calls'] or [] %}",
            "{{- '<tool_call>' + (call['function'] or call) | tojson + '</tool_call>' }}{% endfor %}",
            "{{- " + closing + " }}{% endfor %}",
            "{%- if add_generation_prompt %}{% set role = 'assistant' %}{{- " + opening + " }}{% endif %}",
        )
    )


def _template_of(backend: Tokenizer, source: str, named: Mapping[str, str], stops: Any) -> ChatTemplate:
    added = backend.get_added_tokens_decoder()
    return ChatTemplate(
        source,
        variables=named,
        stops=sorted(token for id in stops if (token := backend.id_to_token(id))),
        added=[token.content for token in added.values()],
        special=[token.content for token in added.values() if token.special],
    )


def _load_backend(folder: Path) -> Tokenizer:
    try:
        backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # tokenizers raises bare Exception, also for a missing file
        missing = not (folder / "tokenizer.json").is_file()
        raise FinetuneError(
            f"{folder.name} has no tokenizer.json."
            if missing
            else f"The tokenizer.json of {folder.name} cannot be read: {first_line(error)}",
            "Choose a model with a fast tokenizer (a tokenizer.json file). If it is your own, load it with "
            "transformers' AutoTokenizer and write it again with save_pretrained.",
            code="no-tokenizer",
        ) from None
    backend.no_truncation()  # some files carry the settings of their last use
    backend.no_padding()
    return backend


def _named_tokens(config: Mapping[str, Any], older: Mapping[str, Any]) -> dict[str, str]:
    extra = config.get("extra_special_tokens")
    values = {**older, **config, **(extra if isinstance(extra, dict) else {})}
    named = {
        name: value["content"] if isinstance(value, dict) else value
        for name, value in values.items()
        if name.endswith("_token") and (isinstance(value, str) or (isinstance(value, dict) and "content" in value))
    }
    return {name: named[name] for name in (*NAMED_TOKENS, *sorted(named.keys() - set(NAMED_TOKENS))) if name in named}


def _add_missing(backend: Tokenizer, config: Mapping[str, Any], named: Mapping[str, str]) -> None:
    """Added tokens that only tokenizer_config.json knows (transformers adds them when it loads)."""
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    listed = sorted((config.get("added_tokens_decoder") or {}).items(), key=lambda item: int(item[0]))
    for _, entry in listed:
        if entry["content"] not in known:
            options = {key: entry[key] for key in ("single_word", "lstrip", "rstrip", "normalized") if key in entry}
            token = AddedToken(entry["content"], special=bool(entry.get("special")), **options)
            (backend.add_special_tokens if token.special else backend.add_tokens)([token])
            known.add(entry["content"])
    extra = [token for name, token in named.items() if name in NAMED_TOKENS and token and token not in known]
    backend.add_special_tokens([token for token in extra if backend.token_to_id(token) is not None])


def _text_prefix(backend: Tokenizer) -> tuple[int, ...]:
    """What the tokenizer puts before every text: usually nothing, or bos. (transformers 5 no longer reads
    `add_bos_token` where there is a tokenizer.json.)"""
    bare = backend.encode("a", add_special_tokens=False).ids
    full = backend.encode("a").ids
    return next((tuple(full[:n]) for n in range(len(full)) if full[n : n + len(bare)] == bare), ())


def _end_ids(config: Mapping[str, Any]) -> set[int]:
    value = config.get("eos_token_id", (config.get("text_config") or {}).get("eos_token_id"))
    return {id for id in (value if isinstance(value, list) else [value]) if isinstance(id, int)}


def _max_length(config: Mapping[str, Any], model_config: Mapping[str, Any]) -> int:
    text_config = model_config.get("text_config") or {}
    known = [
        config.get("model_max_length"),
        *(part.get(name) for part in (model_config, text_config) for name in LENGTH_NAMES),
    ]
    sane = [int(length) for length in known if isinstance(length, int | float) and 0 < length < SANE_LENGTH]
    return min(sane, default=UNKNOWN_LENGTH)


def _chat_template(folder: Path, config: Mapping[str, Any]) -> str | None:
    """The model's own template: a file of its own goes before the config; of several named ones, "default"."""
    try:
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    except FileNotFoundError:
        pass
    found = config.get("chat_template") or _read(folder / "chat_template.json").get("chat_template")
    if isinstance(found, list):
        found = {entry["name"]: entry["template"] for entry in found}
    if isinstance(found, dict):
        found = found.get("default") or next(iter(found.values()), None)
    return found or None


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, OSError) as error:
        raise FinetuneError(
            f"{path.name} of {path.parent.name} cannot be read: {first_line(error)}",
            "Download the model again, or repair the file.",
            code="no-tokenizer",
        ) from None
    return value if isinstance(value, dict) else {}
