"""New rows to answer, of any file that training reads; what is asked in each is found the way its training found it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .data.columns import CHOSEN, COMPLETIONS, LABELS, REJECTED, ColumnMap, as_wished, recognise
from .data.json_rows import Record, parse_json
from .data.readers import Reading, read_file
from .data.rewriting import rewriting
from .data.shapes import PLACEHOLDER, Converter, open_turns
from .data.unpack import unpack
from .errors import FinetuneError, first_line
from .recipe import Recipe

ASKING = ("messages", "prompt", "text", "context", "system")  # roles of what is asked
NAMES_OF_ANSWERS = frozenset((*COMPLETIONS, *LABELS, *CHOSEN, *REJECTED))
HEADER_FIXES = ("first-row-is-header", "first-row-is-data")  # of the recipe's; encoding and delimiter are found anew
STAND_IN = "\0answer"  # a column that no file has: what is read is a row to learn, and this is its answer
REFUSALS = {  # codes of data.problems
    "missing-prompts": "has no question",
    "missing-answers": "has no question",
    "not-text": "has something else than text where the question belongs",
    "unknown-roles": "has a role that is not system, user, assistant or tool",
    "image-parts": "has an image or sound, which a text model cannot read",
    "bad-messages": "has messages that are not as they should be",
    "ragged-rows": "has too many cells",
    "broken-lines": "is no JSON",
    "broken-json": "is damaged, or the file breaks off there",
    "unknown-shape": "is no object",
}


@dataclass(frozen=True)
class Questions:
    """The rows of a file as they are, the columns they have, and what is asked in each."""

    columns: tuple[str, ...]  # in the file's order
    rows: Sequence[Mapping[str, Any]]
    conversations: list[dict[str, Any]]  # {"id", "messages", "tools"}, one a row
    says: str = ""  # how the file was read; nothing where each row is a conversation of its own
    delimiter: str | None = None  # of a text table


def read_questions(
    path: Path, recipe: Recipe | None = None, trained: Mapping[str, str] | None = None, question: str | None = None
) -> Questions:
    """What a file asks. An answer that stands in a row is not read.

    JSONL with `messages` or `prompt` is taken as it is. Elsewhere the recipe's columns and template say what is asked,
    else the columns that the training read, else names that are known.

    Args:
        trained: role → column of the training's rows (`mapping` in its card), where that is known.
        question: the column that is asked, by a person who says so.

    Raises FinetuneError for a file or row that cannot be used, and where no column is known as the question.
    """
    recipe = recipe or Recipe()
    if path.suffix.casefold() in (".jsonl", ".ndjson") or not path.is_file():
        records = [Record(number, number, row) for number, row in enumerate(read_rows(path), 1)]
        kind, how, delimiter = "jsonl", "", None
    else:
        reading, records = _read(path, recipe)
        kind, how, delimiter = reading.kind, _how(reading), reading.delimiter
    rows = [record.value or {} for record in records]
    columns = tuple(dict.fromkeys(column for row in rows for column in row))
    first = rows[0] if rows else {}
    if question is None and kind == "jsonl" and any(first.get(key) is not None for key in ("messages", "prompt")):
        return Questions(columns, rows, [conversation(row, number) for number, row in enumerate(rows, 1)])
    if not rows:
        return Questions(columns, rows, [], delimiter=delimiter)
    finder = _Finder(path.name, columns, recipe, trained or {}, question)
    usual = next((found for row in rows if (found := finder.mapping(row))), None)
    if usual is None:
        raise finder.unknown()
    conversations = [finder.conversation(record, usual) for record in records]
    says = f"What is asked stands in {finder.asked(usual)}.{how}"
    return Questions(columns, rows, conversations, says, delimiter)


class _Finder:
    """What is asked in a row, as a recipe wants it. Raises FinetuneError for columns that are not there."""

    def __init__(
        self, name: str, columns: Sequence[str], recipe: Recipe, trained: Mapping[str, str], question: str | None
    ):
        self.name, self.columns, self.question = name, columns, question
        self.converter, self.rewrite = Converter(recipe), rewriting(recipe.fixes)
        self.template = recipe.template
        self.placeholders = list(dict.fromkeys(PLACEHOLDER.findall(recipe.template or "")))
        wished = {role: column for role, column in recipe.columns.items() if role in ASKING}
        known = {role: column for role, column in trained.items() if role in ASKING and column in columns}
        self.roles = known | wished
        if question is not None:
            if question not in columns:
                raise self._absent([question])
            beside = {role: column for role, column in self.roles.items() if role in ("context", "system")}
            self.roles = {role: column for role, column in beside.items() if column in columns} | {"prompt": question}
            if len(self.placeholders) > 1:
                raise FinetuneError(
                    f"This run's questions are made from several columns: {_listed(self.placeholders)}.",
                    f"Give the columns of {name} these names, and leave --question out.",
                    code="no-question",
                )

    def mapping(self, row: Mapping[str, Any]) -> ColumnMap | None:
        """Which columns of a row ask; None where none is known."""
        if self.question is not None:
            return ColumnMap("mapped", self.roles | {"completion": STAND_IN})
        names = {column: cell for column, cell in row.items() if column.casefold().strip() not in NAMES_OF_ANSWERS}
        names["completion"] = "-"
        found = recognise(names)
        if not (found and "messages" in found.roles and self.roles.keys() <= {"system"}):
            found = as_wished(self.roles | {"completion": "completion"}, self.template, names)
        if found is None:
            return None
        roles = {role: column for role, column in found.roles.items() if role in (*ASKING, "tools")}
        needed = self.placeholders if self.template and "messages" not in roles else roles.values()
        if missing := [column for column in needed if column not in self.columns]:
            raise self._absent(missing)
        return ColumnMap(found.shape, roles | {"completion": STAND_IN})

    def conversation(self, record: Record, usual: ColumnMap) -> dict[str, Any]:
        """{"id", "messages", "tools"} of a row; by the mapping of the others where its own cells say nothing."""
        row = record.value or {}
        roles = (self.mapping(row) or usual).roles
        raw: dict[str, Any] = row | {STAND_IN: "-"}
        if self.question is not None:
            raw |= dict.fromkeys(self.placeholders, row.get(self.question))
        if "messages" in roles:
            raw[roles["messages"]] = [*open_turns(raw.get(roles["messages"])), {"role": "assistant", "content": "-"}]
        converted = self.converter.convert(raw, ColumnMap("mapped", roles))
        if converted.row is None:
            raise _refused(record, converted.problem, converted.detail)
        made = self.rewrite(converted.row) if self.rewrite else converted.row
        messages = made["messages"][:-1]
        if not any(message["role"] in ("user", "tool") and message["content"].strip() for message in messages):
            raise _refused(record, "missing-prompts")
        return {"id": row.get("id", record.row), "messages": messages, "tools": made.get("tools")}

    def asked(self, mapping: ColumnMap) -> str:
        """The columns that are read for a question, in words."""
        if self.template and "messages" not in mapping.roles and self.question is None:
            return _listed(self.placeholders)
        return _listed([mapping.roles[role] for role in ("messages", "prompt", "context") if role in mapping.roles])

    def unknown(self) -> FinetuneError:
        return FinetuneError(
            f"No column of {self.name} is known as the question. It has: {_listed(self.columns)}.",
            "Name the one to answer with --question COLUMN.",
            code="no-question",
        )

    def _absent(self, missing: Sequence[str]) -> FinetuneError:
        word, name = ("column", "name") if len(missing) == 1 else ("columns", "names")
        fix = f"Give the {word} of {self.name} this run's {name}"
        fix += ", or name the question with --question COLUMN." if len(self.placeholders) < 2 else "."
        if self.question is not None:
            fix = "Name one of these with --question."
        return FinetuneError(
            f"{self.name} has no {word} {_listed(missing)}. It has: {_listed(self.columns)}.", fix, code="no-question"
        )


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
        raise bad_row(number, "needs `messages` (role and content) or `prompt` (a text)")
    messages = [message | {"content": _joined(message["content"])} for message in messages]
    while messages and messages[-1]["role"] == "assistant":
        messages = messages[:-1]
    if not messages:
        raise bad_row(number, "has no question")
    return {"id": row.get("id", number), "messages": messages, "tools": row.get("tools")}


def _joined(content: Any) -> Any:
    """The text of parts, a line each, as training joins them; anything else as it is."""
    is_parts = isinstance(content, list) and content and all(isinstance(part, dict) for part in content)
    texts = [part.get("text") for part in content] if is_parts else []
    return "\n".join(texts) if texts and all(isinstance(text, str) for text in texts) else content


def read_rows(path: Path) -> list[dict[str, Any]]:
    """One JSON object a line. Raises FinetuneError that names the line."""
    if path.is_dir():
        raise FinetuneError(f"{path} is a folder.", "Give one file with rows.", code="unreadable-file")
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
            row, _ = parse_json(line.encode("utf-8"))
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise FinetuneError(
                f"Line {number} of {path.name} is not a JSON object.",
                'Write one row a line, such as {"prompt": "Hello"}.',
                code="unreadable-file",
            )
        rows.append(row)
    return rows


def bad_row(number: int, says: str, line: int | None = None) -> FinetuneError:
    """The error for a row that cannot be asked, by its number and, where that differs, its line."""
    where = f" (line {line})" if line not in (None, number) else ""
    return FinetuneError(f"Row {number}{where} {says}.", "Correct it, or leave it out.", code="bad-row")


def _read(path: Path, recipe: Recipe) -> tuple[Reading, list[Record]]:
    """A file that is no JSONL by its name, also a packed one, and its rows."""
    try:
        with tempfile.TemporaryDirectory(prefix="fijn-") as folder:
            files, _ = unpack(path, Path(folder))
            if len(files) > 1:
                raise FinetuneError(
                    f"{path.name} holds {len(files)} files with rows.", "Give one of them.", code="unreadable-file"
                )
            reading = read_file(files[0], [fix for fix in recipe.fixes if fix in HEADER_FIXES])
            records = _usable(reading)
    except OSError as error:
        raise FinetuneError(
            f"{path} cannot be read: {first_line(error)}", "Check its permissions.", code="unreadable-file"
        ) from None
    return reading, records


def _usable(reading: Reading) -> list[Record]:
    if reading.kind == "text":
        raise FinetuneError(
            f"{reading.name} is plain text, in which nothing says where a question begins.",
            "Put one question a row in a table (.csv or .xlsx) with a column named question.",
            code="unreadable-file",
        )
    records = list(reading.records)
    for record in records:
        if record.value is None:
            raise _refused(record, record.problem, record.detail)
    return records


def _how(reading: Reading) -> str:
    """What a person may want to correct: a guess at the encoding, and sheets that were left."""
    words = ""
    if reading.encoding and not reading.encoding.certain:
        words += f" The file was read as {reading.encoding.name}; if letters are wrong, save it as UTF-8."
    if reading.other_sheets:
        words += f" Only the sheet “{reading.sheet}” was read, not {_listed(reading.other_sheets)}."
    return words


def _refused(record: Record, code: str, detail: str = "") -> FinetuneError:
    says = REFUSALS.get(code, f"cannot be asked ({code})")
    shown = f" ({detail})" if detail and code != "missing-prompts" else ""
    return bad_row(record.row, says + shown, record.line)


def _listed(columns: Sequence[str], most: int = 12) -> str:
    """
    >>> _listed(["a", "b", "c"], 2)
    '“a”, “b” and 1 more'
    """
    names = ", ".join(f"“{column[:60]}”" for column in columns[:most])
    return f"{names} and {len(columns) - most} more" if len(columns) > most else names or "none"
