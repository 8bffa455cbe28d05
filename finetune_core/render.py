"""One row → token ids, and which of them are trained. The page, the trainer and the chat all use this; never torch.

- {"messages": [...]}: every assistant turn whose weight is not 0 is trained through its end-of-turn token, and nothing
  else: no header, no default system prompt, no newline behind the end-of-turn token. Where the template does not close
  the last answer, the model's end token is appended.
- {"text": ...}: every token is trained; bos as the tokenizer adds it, eos once at the end. Special tokens written in
  the text are tokens (that is how ready-made prompts are written).
- A message that contains the text of a control token, such as `<|im_end|>`, does not get the token: it is encoded as
  the text that it is, and reported in `special_in_content`. In user, system and tool messages this holds for every
  special token; in answers only for those that open or end a turn, because a model may be meant to write `<think>`.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

from .errors import FinetuneError
from .garbage import fewer_collections
from .templates.control import marked_tokens, without_marks
from .templates.conversation import Conversation
from .templates.tokenizer import NOWHERE, ChatTokenizer, Encoded, default_template, load_tokenizer

__all__ = [
    "ChatTokenizer",
    "Piece",
    "Rendered",
    "default_template",
    "load_tokenizer",
    "render",
    "render_each",
    "render_many",
    "render_prompt",
]

IGNORED = -100  # the label of a token that is not trained (torch's ignore_index)
ROLES = ("system", "user", "assistant", "tool")
BATCH, BATCH_CHARACTERS = 500, 2_000_000  # encoded at a time
AHEAD = 2  # batches that wait for the tokenizer


@dataclass(frozen=True)
class Piece:
    """One token, as the token view shows it."""

    text: str  # its characters; "" for the further tokens of a character that takes several
    id: int
    kind: Literal["trained", "context", "cut"]
    is_special: bool
    is_stop: bool


@dataclass(frozen=True)
class Rendered:
    """A row as the model reads it."""

    input_ids: list[int]
    labels: list[int]  # as long as input_ids; -100 where not trained
    cut_ids: list[int] = field(default_factory=list)  # what max_length cut off at the end
    trained: int = 0  # tokens with a label
    stop_trained: bool = False  # the last trained answer (or the text) ends with a trained end token
    left_out: bool = False  # the template does not write all of a trained answer (thinking, words beside a tool call)
    special_in_content: tuple[str, ...] = ()  # control tokens written in messages, encoded as text
    text: str = field(default="", repr=False)  # as rendered, control tokens in contents still marked
    is_chat: bool = field(default=True, repr=False)
    tokenizer: ChatTokenizer | None = field(default=None, repr=False, compare=False)

    @property
    def dropped(self) -> int:
        """Tokens that were cut off."""
        return len(self.cut_ids)

    def pieces(self) -> list[Piece]:
        """Every token with its own characters. Together they are the text that was encoded, each character once."""
        if self.tokenizer is None:
            return []
        ids = self.input_ids + self.cut_ids
        code = (
            self.tokenizer.encode_chat([self.text])[0] if self.is_chat else self.tokenizer.encode_text([self.text])[0]
        )
        offsets = code.offsets + [NOWHERE] * (len(ids) - len(code.ids))  # an end token that the template did not write
        special, ends = self.tokenizer.special_ids, self.tokenizer.turn_end_ids
        pieces, position = [], 0
        for index, (id, offset) in enumerate(zip(ids, offsets, strict=True)):
            if offset == NOWHERE:
                text = self.tokenizer.backend.id_to_token(id) or ""
            else:
                text = code.text[position : offset[1]]
                position = max(position, offset[1])
            cut = index >= len(self.input_ids)
            kind = "cut" if cut else "context" if self.labels[index] == IGNORED else "trained"
            pieces.append(Piece(text, id, kind, id in special, id in ends))
        return pieces


def render(row: Mapping[str, Any], tokenizer: ChatTokenizer, max_length: int | None = None) -> Rendered:
    """One canonical row. Raises FinetuneError (bad-row, template-refused, template-unclear).

    >>> row = {"messages": [{"role": "user", "content": "1+1"}, {"role": "assistant", "content": "2"}]}
    >>> [piece.text for piece in render(row, tokenizer).pieces() if piece.kind == "trained"]
    ['2', '<|im_end|>']
    """
    return render_many([row], tokenizer, max_length)[0]


def render_many(
    rows: Iterable[Mapping[str, Any]],
    tokenizer: ChatTokenizer,
    max_length: int | None = None,
    refused: dict[int, FinetuneError] | None = None,
) -> list[Rendered]:
    """Many rows, encoded in batches; the same result as `render` for each.

    With `refused`, a row that cannot be rendered does not end it all: its error is put there under its index, and the
    row comes back empty.
    """
    return list(render_each(rows, tokenizer, max_length, refused))


def render_each(
    rows: Iterable[Mapping[str, Any]],
    tokenizer: ChatTokenizer,
    max_length: int | None = None,
    refused: dict[int, FinetuneError] | None = None,
) -> Iterator[Rendered]:
    """render_many for any number of rows: they come out as they go in, and only three batches are held at a time."""
    with ThreadPoolExecutor(1) as pool, fewer_collections():
        # the tokenizer works outside Python's lock while the next batches are rendered and the last one is looked at
        waiting: deque[tuple[list[Any], Future[Any]]] = deque()
        first = 0
        for batch in _batches(rows):
            written = _written(batch, tokenizer)
            for index, item in enumerate(written, start=first):
                if isinstance(item, FinetuneError):
                    if refused is None:
                        raise item
                    refused[index] = item
            first += len(batch)
            waiting.append((written, pool.submit(_encode, written, tokenizer)))
            if len(waiting) > AHEAD:
                yield from _finish(*waiting.popleft(), tokenizer, max_length)
        while waiting:
            yield from _finish(*waiting.popleft(), tokenizer, max_length)


def _batches(rows: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    """Some rows at a time: few where they are long, so that a batch stays small."""
    batch: list[Mapping[str, Any]] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += _size(row)
        if len(batch) >= BATCH or size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _size(row: Mapping[str, Any]) -> int:
    """Characters, roughly; whatever is no row is looked at later."""
    messages = row.get("messages")
    if not isinstance(messages, list | tuple):
        return len(row["text"]) if isinstance(row.get("text"), str) else 0
    contents = [turn.get("content") for turn in messages if isinstance(turn, dict)]
    return sum(len(content) for content in contents if isinstance(content, str))


def render_prompt(
    messages: Sequence[Mapping[str, Any]], tokenizer: ChatTokenizer, tools: Sequence[Any] | None = None
) -> list[int]:
    """The conversation so far and the header of an answer: what the model is given to write the answer.

    Raises FinetuneError (bad-row) if the last message is an answer already.
    """
    _check_messages(messages)
    if messages[-1]["role"] == "assistant":
        raise FinetuneError(
            "The conversation ends with an answer, so there is nothing to ask.",
            "Leave out the last assistant message, or add a user message.",
            code="bad-row",
        )
    template = tokenizer.template
    return tokenizer.encode_chat([template.prompt(template.adapt(messages), template.adapt_tools(tools))])[0].ids


def _written(rows: Sequence[Mapping[str, Any]], tokenizer: ChatTokenizer) -> list[Conversation | str | FinetuneError]:
    """Each row as a rendered conversation, as its plain text, or as the error that it is."""
    written: list[Any] = []
    for row in rows:
        try:
            written.append(_checked(row))
        except FinetuneError as error:
            written.append(error)
    chats = [number for number, item in enumerate(written) if isinstance(item, tuple)]
    for number, conversation in zip(chats, tokenizer.conversations.render([written[n] for n in chats]), strict=True):
        written[number] = conversation
    return written


def _checked(row: Mapping[str, Any]) -> tuple[Any, Any] | str:
    if "messages" in row:
        _check_messages(row["messages"], row.get("row"))
        return row["messages"], row.get("tools")
    if isinstance(row.get("text"), str):
        return row["text"]
    raise _bad_row("has neither messages nor text", row.get("row"))


def _encode(written: Sequence[Any], tokenizer: ChatTokenizer) -> tuple[list[Encoded], list[Encoded]]:
    chats = tokenizer.encode_chat([item.text for item in written if isinstance(item, Conversation)])
    return chats, tokenizer.encode_text([item for item in written if isinstance(item, str)])


def _finish(
    written: Sequence[Any], encoding: Future[Any], tokenizer: ChatTokenizer, max_length: int | None
) -> Iterator[Rendered]:
    chats, texts = map(iter, encoding.result())
    for item in written:
        if isinstance(item, Conversation):
            yield _rendered_chat(item, next(chats), tokenizer, max_length)
        elif isinstance(item, str):
            yield _rendered_text(item, next(texts), tokenizer, max_length)
        else:
            yield Rendered([], [])


def _rendered_chat(
    conversation: Conversation, code: Encoded, tokenizer: ChatTokenizer, max_length: int | None
) -> Rendered:
    ids, labels, trained = code.ids, [IGNORED] * len(code.ids), 0
    starts, ends = [start for start, _ in code.offsets], [end for _, end in code.offsets]
    length = len(ids) + 1 if max_length is None else max_length
    last = -1  # the last trained token
    for spans in conversation.turns:
        for span in spans:
            start, end = without_marks(conversation.text, span) if code.text is not conversation.text else span
            # a token that straddles a border belongs to the answer, unless it is a header token that swallowed spaces
            first, behind = bisect_right(ends, start), bisect_left(starts, end)
            if first < behind and starts[first] < start and ids[first] in tokenizer.added_ids:
                first += 1
            labels[first:behind] = ids[first:behind]
            trained += max(0, min(behind, length) - first)
            last = behind - 1
    closed = conversation.closed
    if conversation.closing is not None:
        closing = tokenizer.backend.token_to_id(conversation.closing) if conversation.closing else tokenizer.eos_id
        if closing is not None:
            ids, labels, closed, last = [*ids, closing], [*labels, closing], True, len(ids)
            trained += last < length
    return Rendered(
        input_ids=ids[:length],
        labels=labels[:length],
        cut_ids=ids[length:],
        trained=trained,
        stop_trained=closed and 0 <= last < length,
        left_out=conversation.left_out,
        special_in_content=marked_tokens(conversation.text),
        text=conversation.text,
        tokenizer=tokenizer,
    )


def _rendered_text(text: str, code: Encoded, tokenizer: ChatTokenizer, max_length: int | None) -> Rendered:
    length = len(code.ids) if max_length is None else max_length
    return Rendered(
        input_ids=code.ids[:length],
        labels=code.ids[:length],
        cut_ids=code.ids[length:],
        trained=min(length, len(code.ids)),
        stop_trained=tokenizer.eos_id is not None and len(code.ids) <= length,
        text=text,
        is_chat=False,
        tokenizer=tokenizer,
    )


def _check_messages(messages: Any, row: int | None = None) -> None:
    if not isinstance(messages, list | tuple) or not messages:
        raise _bad_row("has no messages", row)
    for message in messages:
        if not isinstance(message, Mapping) or message.get("role") not in ROLES:
            raise _bad_row(f"has a message whose role is not one of {', '.join(ROLES)}", row)
        if not isinstance(message.get("content"), str):
            raise _bad_row("has a message whose content is not text", row)


def _bad_row(what: str, row: int | None) -> FinetuneError:
    return FinetuneError(
        f"Row {row} {what}." if row is not None else f"A row {what}.",
        'Write {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]} '
        'or {"text": "..."}.',
        code="bad-row",
    )
