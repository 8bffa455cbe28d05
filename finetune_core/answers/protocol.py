"""The OpenAI chat-completions protocol as values: requests read and refused, answers written. Pure."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..data.json_rows import parse_json

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
PASSED_ON = ("name", "tool_calls", "tool_call_id")
MOST_MESSAGES = 2_000


class Refusal(Exception):
    """A request that is not answered, in the protocol's own error form."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.status = status
        kind = "server_error" if status >= 500 else "invalid_request_error"
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


@dataclass(frozen=True)
class Question:
    """What a client asks."""

    model: str
    messages: list[dict[str, Any]]
    tools: list[Any] | None = None
    max_tokens: int | None = None
    temperature: float = 0.0  # the protocol says 1; comparing models needs answers that come out the same twice
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stream: bool = False
    include_usage: bool = False


def read_question(body: bytes, models: Sequence[str]) -> Question:
    """Raises Refusal for anything that is wrong, or that cannot be done as asked."""
    try:
        value, _ = parse_json(body)  # with whole characters: half of a surrogate pair is no text
    except (ValueError, RecursionError):
        raise Refusal(400, "The body is not JSON.") from None
    if not isinstance(value, dict):
        raise Refusal(400, "The body is not a JSON object.")
    model = value.get("model")
    if model not in models:
        raise Refusal(
            404, f"There is no model {model!r}; there are {', '.join(models)}.", param="model", code="model_not_found"
        )
    if value.get("n") not in (None, 1):
        raise Refusal(400, "Only one answer at a time (n = 1).", param="n")
    for name in ("logprobs", "top_logprobs", "audio", "logit_bias"):
        if value.get(name):
            raise Refusal(400, f"{name} is not supported.", param=name)
    if (value.get("response_format") or {"type": "text"}) != {"type": "text"}:
        raise Refusal(400, "Only response_format text is supported.", param="response_format")
    limit = "max_completion_tokens" if value.get("max_completion_tokens") is not None else "max_tokens"
    stream_options = value.get("stream_options") or {}
    if not isinstance(stream_options, dict):
        raise Refusal(400, "stream_options must be an object.", param="stream_options")
    tools = value.get("tools") or None
    if tools is not None and not isinstance(tools, list):
        raise Refusal(400, "tools must be a list.", param="tools")
    return Question(
        model=model,
        messages=_messages(value.get("messages")),
        tools=tools,
        max_tokens=_number(value, limit, 1, 10**6, whole=True),
        temperature=_number(value, "temperature", 0, 5) or 0.0,
        top_p=_number(value, "top_p", 0, 1, default=1.0),
        seed=_number(value, "seed", -(2**63), 2**63 - 1, whole=True),
        stop=_stop(value.get("stop")),
        stream=value.get("stream") is True,
        include_usage=stream_options.get("include_usage") is True,
    )


class StopStrings:
    """Cut a text that comes in pieces before the first of some strings, holding back what may be the start of one.

    >>> watch = StopStrings(("END",))
    >>> watch.add("one E"), watch.add("ND two"), watch.hit
    ('one ', '', True)
    """

    def __init__(self, stops: Sequence[str]):
        self._stops = stops
        self._held = ""
        self.hit = False

    def add(self, piece: str) -> str:
        """The text that may be shown now."""
        if self.hit:
            return ""
        text = self._held + piece
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            self.hit, self._held = True, ""
            return text[: min(places)]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def rest(self) -> str:
        """What was held back, when no more comes."""
        held, self._held = self._held, ""
        return held


def model_list(models: Sequence[str]) -> dict[str, Any]:
    """The answer to GET /v1/models."""
    return {
        "object": "list",
        "data": [{"id": name, "object": "model", "created": 0, "owned_by": "fijn"} for name in models],
    }


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """The token counts of one answer."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def completion(id: str, model: str, text: str, finish_reason: str, used: dict[str, int]) -> dict[str, Any]:
    """A whole answer (object chat.completion)."""
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason, "logprobs": None}
    return _answer(id, model, "chat.completion") | {"choices": [choice], "usage": used}


def chunk(id: str, model: str, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    """A piece of a streamed answer (object chat.completion.chunk)."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
    return _answer(id, model, "chat.completion.chunk") | {"choices": [choice]}


def usage_chunk(id: str, model: str, used: dict[str, int]) -> dict[str, Any]:
    """The last piece of a stream, if include_usage was asked for: the token counts, and no choice."""
    return _answer(id, model, "chat.completion.chunk") | {"choices": [], "usage": used}


def _answer(id: str, model: str, kind: str) -> dict[str, Any]:
    return {"id": id, "object": kind, "created": int(time.time()), "model": model}


def _messages(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not value or len(value) > MOST_MESSAGES:
        raise Refusal(400, f"messages must be a list of 1 to {MOST_MESSAGES} messages.", param="messages")
    messages = []
    for number, item in enumerate(value):
        where = f"messages[{number}]"
        if not isinstance(item, dict) or not isinstance(item.get("role"), str) or item["role"] not in ROLES:
            raise Refusal(400, f"{where} needs a role: {', '.join(ROLES)}.", param=where)
        kept = {name: item[name] for name in PASSED_ON if item.get(name)}
        messages.append({"role": ROLES[item["role"]], "content": _content(item.get("content"), where, kept), **kept})
    return messages


def _content(value: Any, where: str, extras: dict[str, Any]) -> str:
    if isinstance(value, str):
        return value
    if value is None and "tool_calls" in extras:
        return ""
    if isinstance(value, list) and all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in value):
        return "".join(part["text"] for part in value)
    raise Refusal(400, f"{where}.content must be text, or a list of text parts.", param=f"{where}.content")


def _number(
    value: dict[str, Any], name: str, low: float, high: float, *, whole: bool = False, default: Any = None
) -> Any:
    number = value.get(name)
    if number is None:
        return default
    fits = isinstance(number, int if whole else int | float) and not isinstance(number, bool) and low <= number <= high
    if not fits:
        kind = "a whole number" if whole else "a number"
        raise Refusal(400, f"{name} must be {kind} from {low} to {high}.", param=name)
    return number


def _stop(value: Any) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else value or []
    if not isinstance(stops, list) or len(stops) > 16 or not all(isinstance(stop, str) and stop for stop in stops):
        raise Refusal(400, "stop must be a text, or a list of up to 16.", param="stop")
    return tuple(stops)


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` may be the beginning of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
