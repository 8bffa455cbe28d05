"""Several models answer at once: a client of the OpenAI chat-completions protocol that `serve` speaks on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from finetune_core.errors import FinetuneError, redact

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Request:
    model: str
    messages: Messages
    temperature: float = 0.0
    max_tokens: int = 256


@dataclass(frozen=True)
class Piece:
    """What came of one model's answer: some text, or its end."""

    index: int  # of the request
    text: str = ""
    finish: str = ""  # "stop", "length", "error" or empty while it goes on
    problem: str = ""  # of finish "error"
    tokens: int | None = None
    seconds: float = 0.0  # since the question


async def replies(url: str, requests: Sequence[Request], timeout: float = 300.0) -> AsyncIterator[Piece]:
    """Pieces of all answers as they come, until each has finished. Closing the iterator hangs up on the server."""
    queue: asyncio.Queue[Piece] = asyncio.Queue()
    # no proxy from the environment may stand between a page and its own machine
    limits = httpx.Timeout(timeout, connect=5.0)
    async with httpx.AsyncClient(base_url=url.rstrip("/"), timeout=limits, trust_env=False) as client:
        tasks = [asyncio.create_task(_one(client, index, request, queue)) for index, request in enumerate(requests)]
        try:
            going = len(tasks)
            while going:
                piece = await queue.get()
                going -= bool(piece.finish)
                yield piece
        finally:
            for task in tasks:
                task.cancel()
            with contextlib.suppress(Exception):
                await asyncio.gather(*tasks, return_exceptions=True)


async def _one(client: httpx.AsyncClient, index: int, request: Request, queue: asyncio.Queue[Piece]) -> None:
    began, finish, tokens, pieces = time.monotonic(), "", None, 0
    body: dict[str, Any] = {
        "model": request.model,
        "messages": request.messages,
        "temperature": request.temperature,
        "max_tokens": request.max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }

    def since() -> float:
        return time.monotonic() - began

    try:
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.status_code >= 400:
                raise FinetuneError(_said(await response.aread(), response.status_code), "", code="chat-refused")
            async for data in _events(response):
                if "error" in data:
                    raise FinetuneError(_message(data["error"]), "", code="chat-refused")
                tokens = (data.get("usage") or {}).get("completion_tokens", tokens)
                for choice in data.get("choices") or []:
                    text = (choice.get("delta") or {}).get("content") or ""
                    finish = choice.get("finish_reason") or finish
                    if text:
                        pieces += 1
                        await queue.put(Piece(index, text, seconds=since()))
        if not finish:
            raise FinetuneError("The answer broke off: the chat was closed.", "", code="chat-closed")
        await queue.put(Piece(index, finish=finish, tokens=tokens or pieces, seconds=since()))
    except FinetuneError as error:
        await queue.put(Piece(index, finish="error", problem=error.problem, seconds=since()))
    except httpx.HTTPError:
        problem = "The chat was closed, perhaps because a training began. Ask again to wake it."
        await queue.put(Piece(index, finish="error", problem=problem, seconds=since()))


async def _events(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """The JSON of each `data:` line of a server-sent stream, up to [DONE]."""
    async for line in response.aiter_lines():
        said = line.removeprefix("data:").strip() if line.startswith("data:") else ""
        if said == "[DONE]":
            return
        if said:
            with contextlib.suppress(ValueError):
                data = json.loads(said)
                if isinstance(data, dict):
                    yield data


def _said(body: bytes, status: int) -> str:
    with contextlib.suppress(ValueError, AttributeError):
        return _message(json.loads(body)["error"])
    return f"The chat's server refused (HTTP {status})."


def _message(error: Any) -> str:
    words = error.get("message", "") if isinstance(error, dict) else str(error)
    return redact(words[:500]) or "The chat's server refused."
