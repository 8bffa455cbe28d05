"""Any shape of row → one canonical row ({"messages"} or {"text"}), with what had to be said about it on the way."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from ..recipe import Recipe
from .columns import ColumnMap, as_label
from .rewriting import has_consecutive

ROLES = {  # exact names of OpenAI, ShareGPT and their descendants
    "system": "system", "developer": "system",
    "user": "user", "human": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "tool_response": "tool",
    "function_call": "assistant", "tool_call": "assistant",
}  # fmt: skip
GOOD = frozenset((  # verdicts of an answer to learn
    "true", "1", "1.0", "yes", "y", "good", "ok", "okay", "up", "thumbs up", "positive", "correct", "right", "like",
    "accepted", "ja", "goed", "juist", "positief", "prima", "voldoende", "👍",
))  # fmt: skip
BAD = frozenset((
    "false", "0", "0.0", "-1", "no", "n", "bad", "down", "thumbs down", "negative", "incorrect", "wrong", "dislike",
    "rejected", "nee", "slecht", "fout", "onjuist", "negatief", "onvoldoende", "👎",
))  # fmt: skip
CALL_ROLES = ("function_call", "tool_call")
IMAGE_PARTS = ("image_url", "image", "input_image", "input_audio", "audio", "video", "video_url", "file")
SPREADSHEET_ERRORS = frozenset(("#N/A", "#REF!", "#VALUE!", "#DIV/0!", "#NAME?", "#NUM!", "#NULL!",  # and in Dutch:
                                "#N/B", "#VERW!", "#WAARDE!", "#DEEL/0!", "#NAAM?", "#GETAL!", "#LEEG!"))  # fmt: skip
PLACEHOLDER = re.compile(r"(?<!\{)\{([^{}\n]+)\}(?!\})")  # {column}, and not {{anything}}


@dataclass(frozen=True)
class Converted:
    """A canonical row, or the problem that keeps it out; `notes` are about rows that stay."""

    row: dict[str, Any] | None
    problem: str = ""
    detail: str = ""
    notes: tuple[tuple[str, str], ...] = ()  # (code, detail)
    repairs: tuple[str, ...] = ()  # of recipe.fixes, those that changed this row


class Refused(Exception):
    """This row cannot be learned from: the code of the problem, and what it is."""

    def __init__(self, code: str, detail: str = ""):
        super().__init__(code)
        self.code = code
        self.detail = detail


@dataclass
class Converter:
    """Turns rows into canonical ones, as a recipe wants them."""

    recipe: Recipe
    notes: list[tuple[str, str]] = field(default_factory=list)
    repairs: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.as_text = "numbers-to-text" in self.recipe.fixes

    def convert(self, raw: Mapping[str, Any], mapping: ColumnMap) -> Converted:
        self.notes = []
        if self.repairs:
            self.repairs = set()
        try:
            row = self._convert(raw, mapping)
        except Refused as refused:
            return Converted(None, refused.code, refused.detail)
        for key in ("id", "language"):
            if isinstance(raw.get(key), str | int) and not isinstance(raw.get(key), bool):
                row[key] = raw[key]
        return Converted(row, notes=tuple(self.notes), repairs=tuple(sorted(self.repairs)))

    def _convert(self, raw: Mapping[str, Any], mapping: ColumnMap) -> dict[str, Any]:
        roles = mapping.roles
        if mapping.shape == "text":
            return {"text": self._filled(self._text(raw.get(roles["text"]), roles["text"]), "no-text", roles["text"])}
        if "messages" in roles:
            messages = self._messages(_parsed_turns(raw.get(roles["messages"])))
        elif mapping.shape == "preference":
            messages = self._preferred(raw, roles)
        else:
            if mapping.shape == "kto":
                _require_good(as_label(raw.get(roles["desired"])))
            messages = self._asked(raw, roles) + self._answered(raw.get(roles["completion"]), roles["completion"])
        system = self._system(raw, roles)
        if system and not any(message["role"] == "system" for message in messages):
            messages.insert(0, {"role": "system", "content": system})
        row: dict[str, Any] = {"messages": self._checked(messages)}
        tools = _parsed(raw.get(roles["tools"])) if "tools" in roles else None
        if isinstance(tools, list) and tools:
            row["tools"] = [tool if "function" in tool else {"type": "function", "function": tool} for tool in tools
                            if isinstance(tool, dict)]  # fmt: skip
        return row

    def _system(self, raw: Mapping[str, Any], roles: Mapping[str, str]) -> str | None:
        cell = raw.get(roles["system"]) if "system" in roles else None
        return cell.strip() if isinstance(cell, str) and cell.strip() else self.recipe.system_prompt

    def _asked(self, raw: Mapping[str, Any], roles: Mapping[str, str]) -> list[dict[str, Any]]:
        """The turns before the answer: by the template, from a list of messages, or the prompt with its context."""
        if self.recipe.template:
            return [{"role": "user", "content": self._by_template(raw, self.recipe.template)}]
        prompt = _parsed_turns(raw.get(roles["prompt"]))
        if _is_turns(prompt):
            return self._messages(prompt)
        parts = [self._filled(self._text(prompt, roles["prompt"]), "missing-prompts", roles["prompt"])]
        if "context" in roles and raw.get(roles["context"]) not in (None, ""):
            parts.append(self._text(raw[roles["context"]], roles["context"]).strip())
        return [{"role": "user", "content": "\n\n".join(part for part in parts if part)}]

    def _by_template(self, raw: Mapping[str, Any], template: str) -> str:
        def cell(match: re.Match[str]) -> str:
            return self._text(raw[match[1]], match[1]) if raw.get(match[1]) is not None else ""

        return self._filled(PLACEHOLDER.sub(cell, template), "missing-prompts", "template")

    def _answered(self, answer: Any, column: str) -> list[dict[str, Any]]:
        answer = _parsed_turns(answer)
        if _is_turns(answer):
            return self._messages(answer)
        if answer is None:
            raise Refused("missing-answers")
        return [{"role": "assistant", "content": self._text(answer, column)}]

    def _preferred(self, raw: Mapping[str, Any], roles: Mapping[str, str]) -> list[dict[str, Any]]:
        """The chosen answer is what supervised tuning can learn. `chosen` may hold the whole conversation."""
        chosen = self._answered(raw.get(roles["chosen"]), roles["chosen"])
        if "prompt" not in roles or any(message["role"] == "user" for message in chosen):
            return chosen
        return self._asked(raw, roles) + chosen

    def _text(self, value: Any, where: str) -> str:
        """A cell as text. Numbers of a table are what a person typed; lists and objects are not text."""
        if isinstance(value, str):
            return value
        if isinstance(value, list) and self.as_text and all(isinstance(item, str) for item in value):
            self.repairs.add("numbers-to-text")
            return "\n".join(value)
        if value is None:
            return ""
        if isinstance(value, bool | int | float):
            self.notes.append(("numbers-as-text", where))
            return _number(value)
        raise Refused("not-text", f"{where} is {_kind(value)}")

    def _filled(self, text: str, code: str, where: str) -> str:
        if not text.strip():
            raise Refused(code, f"{where} is empty")
        return text

    def _messages(self, turns: Any) -> list[dict[str, Any]]:
        if not isinstance(turns, list):
            raise Refused("bad-messages", f"messages is {_kind(turns)} instead of a list")
        return [self._message(turn) for turn in turns]

    def _message(self, turn: Any) -> dict[str, Any]:
        if not isinstance(turn, Mapping):
            raise Refused("bad-messages", f"a message is {_kind(turn)} instead of an object")
        name = turn.get("role", turn.get("from"))
        if name is None:
            raise Refused("bad-messages", "a message has no role")
        role = ROLES.get(name.strip().casefold()) if isinstance(name, str) else None
        if role is None:
            raise Refused("unknown-roles", str(name)[:60])
        message: dict[str, Any] = {"role": role}
        content = turn.get("content", turn.get("value"))
        calls = _tool_calls(turn, name, content)
        if calls:
            message["tool_calls"] = calls
            content = None if name in CALL_ROLES else content
        elif content is None and "content" not in turn and "value" not in turn:
            raise Refused("bad-messages", f"a message of {role} has no content")
        message["content"] = self._content(content, role)
        if isinstance(turn.get("name"), str):
            message["name"] = turn["name"]
        if isinstance(turn.get("tool_call_id"), str):
            message["tool_call_id"] = turn["tool_call_id"]
        if role == "assistant" and turn.get("weight") is not None:
            if turn["weight"] not in (0, 1):
                raise Refused("bad-messages", f"weight is {str(turn['weight'])[:20]}; it may be 0 or 1")
            message["weight"] = int(turn["weight"])
        return message

    def _content(self, content: Any, role: str) -> str:
        if isinstance(content, str):
            return content
        if content is None:
            return ""
        if isinstance(content, list) and content and all(isinstance(part, Mapping) for part in content):
            return self._joined(content)
        if self.as_text and isinstance(content, bool | int | float):
            self.repairs.add("numbers-to-text")
            return _number(content)
        if self.as_text and isinstance(content, list) and all(isinstance(item, str) for item in content):
            self.repairs.add("numbers-to-text")
            return "\n".join(content)
        raise Refused("not-text", f"content of {role} is {_kind(content)}")

    def _joined(self, parts: list[Mapping[str, Any]]) -> str:
        texts = []
        for part in parts:
            kind = part.get("type")
            if kind in IMAGE_PARTS or "image_url" in part:
                raise Refused("image-parts", "audio" if "audio" in str(kind) else "image")
            text = part.get("text", part.get("refusal"))
            if not isinstance(text, str):
                raise Refused("not-text", f"a part of type {str(kind)[:30]} is no text")
            texts.append(text)
        self.notes.append(("joined-parts", ""))
        return "\n".join(texts)

    def _checked(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Something to answer to, an answer, and turns in an order that templates take."""
        answers = [message for message in messages if message["role"] == "assistant"]
        if not answers:
            raise Refused("missing-answers")
        if messages[-1]["role"] != "assistant":
            self.notes.append(("unanswered-end", ""))
            while messages[-1]["role"] != "assistant":
                messages.pop()
        if any(not message["content"].strip() and not message.get("tool_calls") for message in answers):
            raise Refused("empty-answers")
        if error := next((text for each in answers if (text := each["content"].strip()) in SPREADSHEET_ERRORS), ""):
            raise Refused("spreadsheet-errors", error)
        if not any(message["role"] in ("user", "tool") for message in messages):
            self.notes.append(("missing-user", ""))
        if has_consecutive(messages):
            self.notes.append(("consecutive-turns", ""))
        if any(message["role"] == "system" for message in messages[1:]):
            self.notes.append(("late-system", ""))
        return messages


def _require_good(verdict: str) -> None:
    if verdict.casefold() in BAD:
        raise Refused("not-desired")
    if verdict.casefold() not in GOOD:
        raise Refused("unknown-verdict", repr(verdict[:40]) if verdict else "empty")


def _tool_calls(turn: Mapping[str, Any], name: str, content: Any) -> list[dict[str, Any]] | None:
    """OpenAI's tool_calls, its older function_call, or ShareGPT's function_call turn; arguments as they are."""
    calls = turn.get("tool_calls")
    if isinstance(calls, list) and calls:
        return [call for call in calls if isinstance(call, dict)]
    older = turn.get("function_call") or (_parsed(content) if name in CALL_ROLES else None)
    if isinstance(older, dict) and "name" in older:
        return [{"type": "function", "function": older}]
    return None


def _parsed_turns(value: Any) -> Any:
    """A list of messages that stands as JSON in a cell of a table; an answer that is JSON stays the text it is."""
    if isinstance(value, str) and value.lstrip().startswith("[{") and _is_turns(parsed := _parsed(value)):
        return parsed
    return value


def open_turns(value: Any) -> list[Any]:
    """The turns of a conversation up to its last question: without the answers at its end. None where it is none."""
    turns = _parsed_turns(value)
    turns = list(turns) if _is_turns(turns) else []
    while turns and ROLES.get(str(turns[-1].get("role", turns[-1].get("from"))).strip().casefold()) == "assistant":
        turns.pop()
    return turns


def _is_turns(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(turn, Mapping) and ("role" in turn or "from" in turn) for turn in value)
    )


def _parsed(value: Any) -> Any:
    if isinstance(value, str):
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError:
            return value
    return value


def _number(value: bool | int | float) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _kind(value: Any) -> str:
    """
    >>> _kind(12), _kind([1]), _kind(True)
    ('a number', 'a list', 'true or false')
    """
    match value:
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case list():
            return "a list"
        case dict():
            return "an object"
        case None:
            return "missing"
        case str():
            return "text"
    return type(value).__name__
