"""A run's models behind the OpenAI chat-completions protocol, on this machine only. The page's chat is a client."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from .answers import protocol
from .answers.guard import OnlyFromHere
from .answers.protocol import Question, Refusal, StopStrings
from .errors import FinetuneError, explain
from .files import write_json
from .locks import hold
from .run import Run

if TYPE_CHECKING:
    from .answers.chatter import Chatter, Stream

MOST_BYTES = 4 << 20  # of a request
DEFAULT_TOKENS = 1024  # where the client sets no limit


def serve(
    run: Run,
    port: int = 0,
    idle_seconds: float | None = None,
    announce: Callable[[dict[str, Any]], None] | None = None,
    chatter: Chatter | None = None,
) -> None:
    """Answer on http://127.0.0.1:port/v1 (0: any free port) until SIGTERM, Ctrl-C, or `idle_seconds` without a request.

    chatter: the run's models, if they are loaded already.
    `announce` gets {"url", "models"} once it answers. While it lives, runs_dir/.serve.json says where and
    runs_dir/.serve.lock is held. Raises FinetuneError: nothing to chat with, port taken, another chat being served.
    """
    runs_dir = run.path.parent
    busy = FinetuneError(
        f"A chat is being served for {runs_dir} already.", "End it first; models share this memory.", code="busy"
    )
    with hold(runs_dir / ".serve.lock", busy, wait_seconds=2), _sigterm_is_exit(), _listening(port) as listening:
        from .model import load_for_chat

        chatter = chatter or load_for_chat(run)
        room = ChatRoom(chatter)
        room.warm_up()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        said = {"url": url, "models": chatter.names()}

        @contextlib.asynccontextmanager
        async def lifespan(_app: Starlette) -> AsyncIterator[None]:
            watcher = asyncio.create_task(room.end_when_idle(idle_seconds, server))
            write_json(runs_dir / ".serve.json", said | {"run": str(run.path), "pid": os.getpid()})
            if announce:
                announce(said)
            yield
            watcher.cancel()

        options = {"log_level": "warning", "access_log": False, "ws": "none", "lifespan": "on"}
        server = uvicorn.Server(uvicorn.Config(room.app(lifespan), timeout_graceful_shutdown=1, **options))
        try:
            server.run(sockets=[listening])
        except KeyboardInterrupt:
            return
        finally:
            (runs_dir / ".serve.json").unlink(missing_ok=True)
            room.close()


class ChatRoom:
    """The web application around a Chatter. All computing happens in one thread, so the event loop stays free and
    answers that are written at the same time take turns, token by token."""

    def __init__(self, chatter: Chatter):
        self.chatter = chatter
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self._busy = 0
        self._last = time.monotonic()

    def app(self, lifespan: Any = None) -> Starlette:
        routes = [
            Route("/health", _health),
            Route("/v1/models", self._models),
            Route("/v1/models/{name}", self._model),
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
        ]
        handlers: Any = {Refusal: _refused, HTTPException: _refused, FinetuneError: _failed, Exception: _failed}
        application = Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)
        application.add_middleware(OnlyFromHere)
        return application

    def warm_up(self) -> None:
        """Pay now for what only the first question would: page faults, the template's compilation."""
        self._worker.submit(self.chatter.warm_up).result()
        with contextlib.suppress(FinetuneError):
            self._prompt(Question("base", [{"role": "user", "content": "Hello"}]))

    def close(self) -> None:
        self._worker.shutdown(wait=False, cancel_futures=True)

    async def end_when_idle(self, seconds: float | None, server: uvicorn.Server) -> None:
        while seconds is not None and not server.should_exit:
            await asyncio.sleep(min(5.0, seconds / 4))
            if not self._busy and time.monotonic() - self._last > seconds:
                server.should_exit = True

    async def _models(self, _request: Request) -> Response:
        self._last = time.monotonic()
        return JSONResponse(protocol.model_list(self.chatter.names()))

    async def _model(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self.chatter.names():
            raise Refusal(404, f"There is no model {name!r}.", param="model", code="model_not_found")
        return JSONResponse(protocol.model_list([name])["data"][0])

    async def _chat(self, request: Request) -> Response:
        self._last = time.monotonic()
        question = protocol.read_question(await _body(request), self.chatter.names())
        prompt = await self._in_worker(lambda: self._prompt(question))
        stream = self.chatter.stream(
            question.model,
            prompt,
            max_new_tokens=question.max_tokens or DEFAULT_TOKENS,
            temperature=question.temperature,
            top_p=question.top_p,
            seed=question.seed,
        )
        id = f"chatcmpl-{secrets.token_hex(12)}"
        if question.stream:
            lines = self._lines(id, question, stream, len(prompt))
            return StreamingResponse(lines, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        watch = StopStrings(question.stop)
        text = ""
        async with contextlib.aclosing(self._pieces(stream, watch)) as pieces:
            async for piece in pieces:
                text += piece
                if await request.is_disconnected():
                    return Response(status_code=499)
        answer = stream.answer
        used = protocol.usage(len(prompt), len(answer.token_ids))
        reason = "stop" if watch.hit else answer.finish_reason
        return JSONResponse(protocol.completion(id, question.model, text, reason, used))

    async def _lines(self, id: str, question: Question, stream: Stream, prompt_tokens: int) -> AsyncIterator[str]:
        """The server-sent events of one answer."""
        watch = StopStrings(question.stop)
        yield _event(protocol.chunk(id, question.model, {"role": "assistant", "content": ""}))
        try:
            async with contextlib.aclosing(self._pieces(stream, watch)) as pieces:
                async for piece in pieces:
                    yield _event(protocol.chunk(id, question.model, {"content": piece}))
        except Exception as error:  # the status line is out already, so the stream itself must say it
            yield _event(Refusal(500, str(explain(error)), code=explain(error).code).body)
            return
        reason = "stop" if watch.hit else stream.answer.finish_reason
        yield _event(protocol.chunk(id, question.model, {}, reason))
        if question.include_usage:
            used = protocol.usage(prompt_tokens, len(stream.answer.token_ids))
            yield _event(protocol.usage_chunk(id, question.model, used))
        yield "data: [DONE]\n\n"

    async def _pieces(self, stream: Stream, watch: StopStrings) -> AsyncIterator[str]:
        """The answer as it is written. Whoever stops reading stops the model after the token it is at."""
        self._busy += 1
        try:
            while not watch.hit and (piece := await self._in_worker(lambda: next(stream, None))) is not None:
                if shown := watch.add(piece):
                    yield shown
            if rest := watch.rest():
                yield rest
        finally:
            self._busy -= 1
            self._last = time.monotonic()
            with contextlib.suppress(RuntimeError):  # the worker has gone home
                self._worker.submit(stream.close)

    def _prompt(self, question: Question) -> list[int]:
        from .render import render_prompt

        return render_prompt(question.messages, self.chatter.tokenizer, question.tools)

    def _in_worker(self, work: Callable[[], Any]) -> Awaitable[Any]:
        return asyncio.get_running_loop().run_in_executor(self._worker, work)


async def _health(_request: Request) -> Response:
    return JSONResponse({"status": "ok"})


def _refused(_request: Request, error: Refusal | HTTPException) -> Response:
    refusal = error if isinstance(error, Refusal) else Refusal(error.status_code, f"{error.detail}.")
    return JSONResponse(refusal.body, refusal.status)


def _failed(_request: Request, error: Exception) -> Response:
    told = explain(error)
    status = 500 if told.code in ("bug", "out-of-memory") else 400
    code = "context_length_exceeded" if told.code == "too-long" else told.code
    return JSONResponse(Refusal(status, str(told), code=code).body, status)


async def _body(request: Request) -> bytes:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MOST_BYTES:
            raise Refusal(413, f"A request may have at most {MOST_BYTES >> 20} MB.")
    return body


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


@contextlib.contextmanager
def _sigterm_is_exit() -> Iterator[None]:
    """SIGTERM as SystemExit, so that what must be cleaned up is (uvicorn raises the signal again at its end)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(_signal: int, _frame: Any) -> None:
        raise SystemExit(0)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    except SystemExit:
        sys.stdout.flush()
        os._exit(0)  # a training waits for this memory, and with torch Python's own farewell takes seconds
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _listening(port: int) -> Iterator[socket.socket]:
    """A socket, bound before the model is loaded: a port that is taken is known at once."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            raise FinetuneError(
                f"Port {port} is not free.", "Choose another with --port, or 0 for any.", code="port-taken"
            ) from None
        yield listening
