"""Answer the rows of a file: conversations in, one prediction each out, batched by length and in the rows' order."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import FinetuneError, first_line
from .files import replacing
from .render import render_prompt

if TYPE_CHECKING:
    from .answers.chatter import Chatter

OnProgress = Callable[[float, str], None]
ROWS_AT_ONCE = 256  # sorted by length among themselves, and written when they are done


def predict_file(
    load_chatter: Callable[[], Chatter],
    source: Path,
    target: Path,
    *,
    base: bool = False,
    max_new_tokens: int,
    on_progress: OnProgress | None = None,
) -> int:
    """Read JSONL rows, write {"id", "prediction"} lines; how many. The rows are read before the model is loaded.

    The target appears when it is complete. Raises FinetuneError for a file or row that cannot be used.
    """
    rows = read_rows(source)
    conversations = [conversation(row, number) for number, row in enumerate(rows, 1)]
    if not target.parent.is_dir():
        raise FinetuneError(
            f"There is no folder {target.parent}.", "Make it, or choose another --output.", code="usage"
        )
    predictions = predict(
        load_chatter(), conversations, base=base, max_new_tokens=max_new_tokens, on_progress=on_progress
    )
    with replacing(target) as beside, beside.open("w", encoding="utf-8") as file:
        for prediction in predictions:
            file.write(json.dumps(prediction, ensure_ascii=False) + "\n")
            file.flush()
    return len(rows)


def predict(
    chatter: Chatter,
    rows: Sequence[dict[str, Any]],
    *,
    base: bool = False,
    max_new_tokens: int,
    on_progress: OnProgress | None = None,
) -> Iterator[dict[str, Any]]:
    """{"id", "prediction"} for each row, in order. A last answer in a row is not read.

    Rows without a system prompt get the one that the run was trained with. Greedy, so the same rows give the same.
    """
    conversations = [conversation(row, number) for number, row in enumerate(rows, 1)]
    prompts = [_prompt(each, number, chatter) for number, each in enumerate(conversations, 1)]
    name = "base" if base else "tuned"
    for start in range(0, len(prompts), ROWS_AT_ONCE):
        group = prompts[start : start + ROWS_AT_ONCE]

        def tell(ended: int, _tokens: int, start: int = start) -> None:
            if on_progress:
                on_progress((start + ended) / len(prompts), f"{start + ended} of {len(prompts)} rows")

        answers = chatter.generate(name, group, max_new_tokens=max_new_tokens, on_tokens=tell)
        for each, answer in zip(conversations[start:], answers, strict=False):
            yield {"id": each["id"], "prediction": answer.text}


def conversation(row: dict[str, Any], number: int) -> dict[str, Any]:
    """{"id", "messages", "tools"}: what is to be answered in a row; its number where it has no id.

    >>> conversation({"prompt": "Hello", "completion": "Hi"}, 7)
    {'id': 7, 'messages': [{'role': 'user', 'content': 'Hello'}], 'tools': None}
    """
    messages = row.get("messages") if row.get("messages") is not None else row.get("prompt")
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    well_formed = isinstance(messages, list) and all(
        isinstance(message, dict) and isinstance(message.get("role"), str) and "content" in message
        for message in messages
    )
    if not well_formed:
        raise _bad_row(number, "needs `messages` (role and content) or `prompt` (a text)")
    while messages and messages[-1]["role"] == "assistant":
        messages = messages[:-1]
    if not messages:
        raise _bad_row(number, "has no question")
    return {"id": row.get("id", number), "messages": messages, "tools": row.get("tools")}


def read_rows(path: Path) -> list[dict[str, Any]]:
    """One JSON object a line. Raises FinetuneError that names the line."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # splitlines would cut at U+2028 inside a text
    except FileNotFoundError:
        raise FinetuneError(f"There is no file {path}.", "Check the path.", code="unreadable-file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise FinetuneError(
            f"{path} cannot be read: {first_line(error)}", "Give a JSONL file in UTF-8.", code="unreadable-file"
        ) from None
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise FinetuneError(
                f"Line {number} of {path.name} is not a JSON object.",
                'Write one row a line, such as {"prompt": "Hello"}.',
                code="unreadable-file",
            )
        rows.append(row)
    return rows


def _prompt(each: dict[str, Any], number: int, chatter: Chatter) -> list[int]:
    messages = each["messages"]
    if chatter.system_prompt and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": chatter.system_prompt}, *messages]
    ids = render_prompt(messages, chatter.tokenizer, each["tools"])
    if len(ids) >= chatter.tokenizer.model_max_length:
        raise _bad_row(
            number, f"has {len(ids)} tokens, and this model reads at most {chatter.tokenizer.model_max_length - 1}"
        )
    return ids


def _bad_row(number: int, says: str) -> FinetuneError:
    return FinetuneError(f"Row {number} {says}.", "Correct it, or leave it out.", code="bad-row")
