"""Answer the rows of a file: questions in, one prediction each out, batched by length and in the rows' order."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from .data.rows import without_formula
from .data.tables import as_cell
from .errors import FinetuneError
from .files import replacing
from .questions import Questions, bad_row, conversation, read_questions
from .recipe import Recipe
from .render import render_prompt

if TYPE_CHECKING:
    from .answers.chatter import Chatter

OnProgress = Callable[[float, str], None]
TABLES = (".xlsx", ".xls", ".xlsm", ".ods", ".tsv", ".tab", ".parquet", ".arrow", ".feather")  # not written
ROWS_AT_ONCE = 256  # sorted by length among themselves, and written when they are done


def predict_file(
    load_chatter: Callable[[], Chatter],
    source: Path,
    target: Path,
    *,
    recipe: Recipe | None = None,
    trained: Mapping[str, str] | None = None,
    question: str | None = None,
    base: bool = False,
    max_new_tokens: int,
    on_progress: OnProgress | None = None,
    on_read: Callable[[str], None] | None = None,
) -> int:
    """Answer the rows of a file; how many. The rows are read before the model is loaded.

    A target that ends in .csv gets the file's own columns and `prediction` beside them (see write_csv); another one
    {"id", "prediction"} lines. It appears when it is complete. `recipe`, `trained` and `question` say what is asked in
    a row (see read_questions); `on_read` hears in words which columns that are.

    Raises FinetuneError for a file or row that cannot be used.
    """
    as_csv = target.suffix.casefold() == ".csv"
    if target.suffix.casefold() in TABLES:
        raise FinetuneError(
            f"Answers are not written as {target.suffix}.",
            f"Give --output {target.stem}.csv, which Excel opens, or {target.stem}.jsonl.",
            code="usage",
        )
    if as_csv and target.resolve() == source.resolve():
        raise FinetuneError(
            "The answers would take the place of the questions.", "Choose another --output.", code="usage"
        )
    questions = read_questions(source, recipe, trained, question)
    if not target.parent.is_dir():
        raise FinetuneError(
            f"There is no folder {target.parent}.", "Make it, or choose another --output.", code="usage"
        )
    if on_read and questions.says:
        on_read(questions.says)
    predictions = predict(
        load_chatter(), questions.conversations, base=base, max_new_tokens=max_new_tokens, on_progress=on_progress
    )
    with replacing(target) as beside:
        if as_csv:
            with beside.open("w", encoding="utf-8-sig", errors="replace", newline="") as file:
                write_csv(file, questions, predictions)
        else:
            with beside.open("w", encoding="utf-8") as file:
                for prediction in predictions:
                    file.write(json.dumps(prediction, ensure_ascii=False) + "\n")
                    file.flush()
    return len(questions.rows)


def write_csv(file: IO[str], questions: Questions, predictions: Iterable[Mapping[str, Any]]) -> None:
    """The columns of the questions in their order, then `prediction` (`prediction 2` where that is taken).

    A spreadsheet runs nothing that is written, as OWASP advises against CSV injection: a cell, or the name of a
    column, that begins with = + - @, a tab or a new line gets an apostrophe before it, and every cell stands in
    quotation marks. A negative number stays the number it is.
    """
    writer = csv.writer(file, quoting=csv.QUOTE_ALL)
    writer.writerow([_cell(name) for name in (*questions.columns, free_name("prediction", questions.columns))])
    for row, prediction in zip(questions.rows, predictions, strict=True):
        cells = [row.get(column) for column in questions.columns]
        writer.writerow([_cell(cell) for cell in (*cells, prediction["prediction"])])
        file.flush()


def free_name(name: str, taken: Iterable[str]) -> str:
    """
    >>> free_name("prediction", ["text", "Prediction", "prediction 2"])
    'prediction 3'
    """
    names, found, number = {each.casefold() for each in taken}, name, 1
    while found.casefold() in names:
        number += 1
        found = f"{name} {number}"
    return found


def _cell(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict) else as_cell(value)
    return text if re.fullmatch(r"-[0-9]+([.,][0-9]+)?", text) else without_formula(text)


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


def _prompt(each: dict[str, Any], number: int, chatter: Chatter) -> list[int]:
    messages = each["messages"]
    if chatter.system_prompt and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": chatter.system_prompt}, *messages]
    ids = render_prompt(messages, chatter.tokenizer, each["tools"])
    if len(ids) >= chatter.tokenizer.model_max_length:
        raise bad_row(
            number, f"has {len(ids)} tokens, and this model reads at most {chatter.tokenizer.model_max_length - 1}"
        )
    return ids
