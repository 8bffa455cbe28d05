"""Answer the rows of a file: questions in, one prediction each out, batched by length and in the rows' order."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import FinetuneError
from .files import replacing
from .questions import Questions, bad_row, conversation, read_questions
from .recipe import Recipe
from .render import render_prompt
from .sheets import MOST_COLUMNS, MOST_IN_CELL, MOST_ROWS, fits_cell, text_of, write_text_table, write_workbook

if TYPE_CHECKING:
    from .answers.chatter import Chatter

OnProgress = Callable[[float, str], None]
TABLES = (".csv", ".tsv", ".tab", ".xlsx")
NOT_WRITTEN = (".xls", ".xlsm", ".ods", ".parquet", ".arrow", ".feather")
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

    A target that ends in .csv, .tsv or .xlsx is a table: the file's own columns and `prediction` beside them. A .csv
    has the delimiter that the questions came with, a comma where they were no such table. Another target gets
    {"id", "prediction"} lines. It appears when it is complete. `recipe`, `trained` and `question` say what is asked in
    a row (see read_questions); `on_read` hears in words which columns that is.

    Raises FinetuneError for a file or row that cannot be used.
    """
    kind = target.suffix.casefold()
    _require_target(target, source)
    questions = read_questions(source, recipe, trained, question)
    if kind == ".xlsx":
        _require_sheet(questions, target)
    if on_read and questions.says:
        on_read(questions.says)
    predictions = predict(
        load_chatter(), questions.conversations, base=base, max_new_tokens=max_new_tokens, on_progress=on_progress
    )
    with replacing(target) as beside:
        if kind == ".xlsx":
            write_workbook(beside, table_of(questions, predictions))
        elif kind in TABLES:
            delimiter = (questions.delimiter or ",") if kind == ".csv" else "\t"
            write_text_table(beside, table_of(questions, predictions), delimiter)
        else:
            with beside.open("w", encoding="utf-8") as file:
                for prediction in predictions:
                    file.write(json.dumps(prediction, ensure_ascii=False) + "\n")
                    file.flush()
    return len(questions.rows)


def _require_target(target: Path, source: Path) -> None:
    """Raises FinetuneError (usage) for a place where no answers can be written, before anything is read."""
    if target.suffix.casefold() in NOT_WRITTEN:
        raise FinetuneError(
            f"Answers are not written as {target.suffix}.",
            f"Give --output {target.stem}.xlsx, {target.stem}.csv or {target.stem}.jsonl.",
            code="usage",
        )
    if target.is_dir():
        raise FinetuneError(f"{target} is a folder.", "Give --output a file in it.", code="usage")
    if not target.parent.is_dir():
        raise FinetuneError(
            f"There is no folder {target.parent}.", "Make it, or choose another --output.", code="usage"
        )
    if target.resolve() == source.resolve():
        raise FinetuneError(
            "The answers would take the place of the questions.", "Choose another --output.", code="usage"
        )


def _require_sheet(questions: Questions, target: Path) -> None:
    """Raises FinetuneError (usage) for rows that a workbook's sheet does not hold."""
    other = f"Give --output {target.stem}.csv, which holds them."
    if len(questions.rows) >= MOST_ROWS or len(questions.columns) >= MOST_COLUMNS:
        size = f"{len(questions.rows):,} rows and {len(questions.columns):,} columns"
        limits = f"{MOST_ROWS - 1:,} rows and {MOST_COLUMNS - 1:,} columns of questions"
        raise FinetuneError(f"The file has {size}, and a workbook holds {limits}.", other, code="usage")
    for number, row in enumerate(questions.rows, 1):
        if not all(fits_cell(text_of(row.get(column))) for column in questions.columns):
            says = f"Row {number} has a cell with more characters than a workbook's holds ({MOST_IN_CELL:,})."
            raise FinetuneError(says, other, code="usage")


def table_of(questions: Questions, predictions: Iterable[Mapping[str, Any]]) -> Iterator[list[Any]]:
    """The names of the columns, then the rows: those of the questions in their order, and `prediction` (`prediction 2`
    where that is taken)."""
    yield [*questions.columns, free_name("prediction", questions.columns)]
    for row, prediction in zip(questions.rows, predictions, strict=True):
        yield [*(row.get(column) for column in questions.columns), prediction["prediction"]]


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
    try:
        ids = render_prompt(messages, chatter.tokenizer, each["tools"])
    except FinetuneError as error:
        raise FinetuneError(f"Row {number}: {error.problem}", error.fix, code=error.code) from None
    if len(ids) >= chatter.tokenizer.model_max_length:
        raise bad_row(
            number, f"has {len(ids)} tokens, and this model reads at most {chatter.tokenizer.model_max_length - 1}"
        )
    return ids
