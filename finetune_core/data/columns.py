"""Which column plays which role: by exact names, else a proposal from what is in the columns, else nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..recipe import ROLES

# Names that columns have in practice, in lower case; compared whole, never as a part of a longer name.
MESSAGES = ("messages", "conversations", "conversation", "berichten", "gesprek")
QUESTIONS = ("question", "vraag", "query")
PROMPTS = ("prompt", *QUESTIONS, "instruction", "instructie", "opdracht", "input", "invoer", "user", "human")
ANSWERS = ("answer", "antwoord")
COMPLETIONS = ("completion", *ANSWERS, "response", "reply", "output", "uitvoer", "assistant", "summary",
               "samenvatting", "translation", "vertaling", "target")  # fmt: skip
TEXTS = ("text", "tekst", "sentence", "zin", "review", "message", "bericht", "document", "comment", "tweet")
LABELS = ("label", "class", "klasse", "category", "categorie", "sentiment", "intent", "topic", "onderwerp")
SYSTEMS = ("system", "system_prompt", "systeem")
CONTEXTS = ("context", "passage")
TOOLS = ("tools", "functions")
# Words of a longer name ("vraag_leerling") that say what is in the column; enough to propose it, not to take it.
ASKS, REPLIES = frozenset((*QUESTIONS, "prompt", "instruction", "opdracht")), frozenset((*ANSWERS, "response", "reply"))
CHOSEN, REJECTED = ("chosen",), ("rejected",)
COLUMN_NAMES = frozenset((*MESSAGES, *PROMPTS, *COMPLETIONS, *TEXTS, *LABELS, *SYSTEMS, *CONTEXTS, *TOOLS, "chosen",
                          "rejected", "id"))  # fmt: skip
# Expected beside the rows, or part of OpenAI's format: not worth a word when it is not used.
QUIET = frozenset(("id", "row", "language", "weight"))
SHAPES = {
    "messages": "chat messages (OpenAI)",
    "sharegpt": "ShareGPT conversations",
    "alpaca": "Alpaca (instruction, input, output)",
    "prompt-completion": "prompt and completion",
    "question-answer": "question and answer",
    "labels": "text and label",
    "preference": "preference pairs (chosen, rejected)",
    "kto": "answers with a verdict (KTO)",
    "text": "plain text",
    "mapped": "columns that you mapped",
    "guessed": "columns that were guessed",
}


@dataclass(frozen=True)
class ColumnMap:
    """A shape, and the column of each of its roles."""

    shape: str
    roles: Mapping[str, str] = field(default_factory=dict)

    @property
    def columns(self) -> frozenset[str]:
        return frozenset(self.roles.values())


def recognise(row: Mapping[str, Any]) -> ColumnMap | None:
    """What a row is, by the names of its columns and the kind of what is in them. None: not one of the known.

    >>> recognise({"Vraag": "Hoe?", "Antwoord": "Zo."}).roles
    {'prompt': 'Vraag', 'completion': 'Antwoord'}
    """
    names = {key.casefold().strip(): key for key, value in row.items() if value is not None}

    def pick(choices: Sequence[str]) -> str | None:
        found = [names[name] for name in choices if name in names]
        return found[0] if len(found) == 1 else None

    extra = {role: column for role, column in (("system", pick(SYSTEMS)), ("tools", pick(TOOLS))) if column}
    if (column := pick(MESSAGES)) and (shape := _conversation_shape(row[column])):
        return ColumnMap(shape, {"messages": column} | extra)
    chosen, rejected, prompt = pick(CHOSEN), pick(REJECTED), pick(("prompt", *QUESTIONS))
    if chosen and rejected:
        return ColumnMap("preference", _roles(prompt=prompt, chosen=chosen, rejected=rejected) | extra)
    if "prompt" in names and "completion" in names and "label" in names and _is_verdict(row[names["label"]]):
        roles = {"prompt": names["prompt"], "completion": names["completion"], "desired": names["label"]}
        return ColumnMap("kto", roles | extra)
    if "instruction" in names and (answer := pick(COMPLETIONS)):
        context = pick(("input", *CONTEXTS))
        return ColumnMap("alpaca", _roles(prompt=names["instruction"], context=context, completion=answer) | extra)
    prompt, answer, label, text = pick(PROMPTS), pick(COMPLETIONS), pick(LABELS), pick(TEXTS)
    if answer and (prompt or text):
        column = prompt or text
        is_question = column.casefold().strip() in QUESTIONS and answer.casefold().strip() in ANSWERS
        shape = "question-answer" if is_question else "prompt-completion"
        return ColumnMap(shape, _roles(prompt=column, context=pick(CONTEXTS), completion=answer) | extra)
    if label and (text or prompt):
        if any(_is_reply(key) for key, value in row.items() if value is None or isinstance(value, str)):
            return None  # a topic beside a "Modelantwoord": a person says which of them is the answer
        return ColumnMap("labels", _roles(prompt=text or prompt, completion=label) | extra)
    if text and not prompt and isinstance(row[text], str):
        return ColumnMap("text", {"text": text})
    return None


def propose(rows: Sequence[Mapping[str, Any]]) -> ColumnMap | None:
    """A mapping for columns without known names: by words in the names, else from what is in them. The answer is the
    column with few different short values, else the last of the texts; the prompt is the longest other text. None if
    no column holds text.

    >>> row = {"vraag_leerling": "Hoe laat is het?", "antwoord_docent": "Drie uur.", "klas": "3B"}
    >>> propose([row]).roles
    {'prompt': 'vraag_leerling', 'completion': 'antwoord_docent'}
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    texts: dict[str, list[str]] = {}
    for column in columns:
        cells = [row.get(column) for row in rows]
        words = [cell.strip() for cell in cells if isinstance(cell, str) and cell.strip()]
        if len(words) >= 0.5 * len(rows) and not all(_looks_like_number(word) for word in words[:50]):
            texts[column] = words
    if not texts:
        return None
    if len(texts) == 1 and len(columns) == 1:
        return ColumnMap("text", {"text": next(iter(texts))})
    classes = [column for column in columns if _has_few_values(rows, column)]
    lengths = {column: sum(map(len, words)) / len(words) for column, words in texts.items()}
    replies = [column for column in texts if _is_reply(column)]
    answer = next((column for column in (*replies, *reversed(columns)) if column in (*replies, *classes)), None)
    answer = answer or list(texts)[-1]
    prompts = [column for column in texts if column != answer]
    prompts = [column for column in prompts if _has_word(column, ASKS)] or prompts
    if not prompts:
        return ColumnMap("text", {"text": answer}) if answer not in classes else None
    return ColumnMap("guessed", {"prompt": max(prompts, key=lambda column: lengths[column]), "completion": answer})


def likely_answers(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[str]:
    """Those of the columns beside a text that may be what to answer: few different short values, or the only other
    one."""
    found = [column for column in columns if _has_few_values(rows, column)]
    texts = [column for column in columns if any(isinstance(row.get(column), str) for row in rows)]
    return found or (texts if len(columns) == 1 else [])


def _has_few_values(rows: Sequence[Mapping[str, Any]], column: str) -> bool:
    cells = [cell for row in rows if (cell := as_label(row.get(column)))]
    return bool(cells) and max(map(len, cells)) <= 60 and len(set(cells)) <= max(2, len(cells) // 5)


def _is_reply(column: str) -> bool:
    return _has_word(column, REPLIES) and not _has_word(column, ASKS)


def _has_word(column: str, words: Iterable[str]) -> bool:
    """Whether one of the words of a column's name is one of these, or ends in it, as Dutch compounds do.

    >>> _has_word("antwoord_docent", ANSWERS), _has_word("Modelantwoord", ANSWERS), _has_word("Onderwerp", ANSWERS)
    (True, True, False)
    """
    return any(word.endswith(tuple(words)) for word in re.split(r"[\W_]+", column.casefold()))


def is_weak(mapping: ColumnMap, rows: Sequence[Mapping[str, Any]]) -> bool:
    """More than two columns could have been meant, so a person has to say."""
    columns = {key for row in rows for key, value in row.items() if isinstance(value, str) and value.strip()}
    return len(columns - QUIET) > 2 and mapping.shape == "guessed"


def as_wished(columns: Mapping[str, str], template: str | None, row: Mapping[str, Any]) -> ColumnMap | None:
    """The recipe's columns over what is recognised. None if no answer, text or messages can be found."""
    known = recognise(row)
    if not columns and not template:
        return known
    if "messages" in columns:
        shape = _conversation_shape(row.get(columns["messages"])) or "messages"
        return ColumnMap(shape, dict(columns))
    if "chosen" in columns or "desired" in columns:
        return _as_preferred(known, columns)
    if "text" in columns and not columns.keys() & {"completion", "label"}:
        return ColumnMap("text", {"text": columns["text"]})
    roles = {role: column for role, column in (known.roles if known else {}).items() if role in ROLES}
    roles |= dict(columns)
    if "label" in columns:
        roles["completion"] = roles.pop("label")
    text = roles.pop("text", None)
    if text and "prompt" not in roles:
        roles["prompt"] = text
    if known and known.shape in ("messages", "sharegpt", "preference", "kto") and set(columns) <= {"system"}:
        return ColumnMap(known.shape, dict(known.roles) | dict(columns))
    if "completion" not in roles or not ("prompt" in roles or template):
        return None
    roles.pop("messages", None)
    return ColumnMap("mapped" if columns else known.shape if known else "mapped", roles)


def _as_preferred(known: ColumnMap | None, columns: Mapping[str, str]) -> ColumnMap | None:
    """Preference pairs or verdicts, as the recipe names their columns; None while one is missing."""
    roles = dict(known.roles if known else {}) | dict(columns)
    shape, wanted = (
        ("preference", ("prompt", "context", "system", "chosen", "rejected"))
        if "chosen" in columns
        else ("kto", ("prompt", "context", "system", "completion", "desired"))
    )
    missing = shape == "kto" and not {"prompt", "completion"} <= roles.keys()
    return None if missing else ColumnMap(shape, {role: roles[role] for role in wanted if role in roles})


def as_label(value: Any) -> str:
    """
    >>> as_label(" positive "), as_label(1), as_label([1])
    ('positive', '1', '')
    """
    if isinstance(value, bool | int | float):
        return str(value)
    return value.strip() if isinstance(value, str) else ""


def unused(mapping: ColumnMap, columns: Iterable[str], template: str | None) -> list[str]:
    """Columns that no role reads."""
    named = set(mapping.columns) | QUIET
    return [
        column
        for column in columns
        if column not in named and column.casefold() not in QUIET and f"{{{column}}}" not in (template or "")
    ]


def _roles(**columns: str | None) -> dict[str, str]:
    return {role: column for role, column in columns.items() if column}


def _conversation_shape(value: Any) -> str | None:
    if isinstance(value, str) and value.lstrip().startswith("[{"):
        return "messages" if '"role"' in value else "sharegpt" if '"from"' in value else None
    if not isinstance(value, list):
        return None
    is_sharegpt = any(isinstance(turn, Mapping) and "from" in turn and "value" in turn for turn in value)
    return "sharegpt" if is_sharegpt else "messages"


def _is_verdict(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, str) and value.strip().casefold() in ("true", "false"))


def _looks_like_number(word: str) -> bool:
    return word.replace(".", "", 1).replace(",", "", 1).lstrip("-").isdigit()
