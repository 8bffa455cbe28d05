"""The OpenAI protocol: asked by the openai client in a process of its own, and by hand for what clients do not send."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from tuned import float32, make_tuned_run

from finetune_core import launch
from finetune_core.answers import protocol
from finetune_core.errors import FinetuneError
from finetune_core.render import render_prompt
from finetune_core.serve import MOST_BYTES, ChatRoom, serve

ROOT = Path(__file__).resolve().parent.parent
HELLO = [{"role": "user", "content": "my kettle is broken"}]


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_model_dir):
    return make_tuned_run(tmp_path_factory.mktemp("runs"), tiny_model_dir)


@pytest.fixture(scope="module")
def chatter(run):
    return float32(run)


@pytest.fixture(scope="module")
def web(chatter):
    from starlette.testclient import TestClient

    room = ChatRoom(chatter)
    yield TestClient(room.app(), base_url="http://127.0.0.1:8000", raise_server_exceptions=False)
    room.close()


def ask(web, headers=None, **fields):
    body = {"model": "tuned", "messages": HELLO, "max_tokens": 8} | fields
    return web.post("/v1/chat/completions", json=body, headers=headers)


# --- a server in a process of its own, as the page starts it ---


@pytest.fixture(scope="module")
def served(run):
    process = subprocess.Popen(
        [sys.executable, "-m", "finetune_core", "serve", str(run.path), "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT,
    )  # fmt: skip
    said = json.loads(process.stdout.readline())
    yield SimpleNamespace(process=process, **said)
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def client(served):
    import openai

    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=60)


def test_the_openai_client_lists_the_models(client, served):
    names = [model.id for model in client.models.list()]
    assert names == served.models == ["tuned", "base", "checkpoint-20"]
    assert client.models.retrieve("base").id == "base"


def test_the_openai_client_gets_an_answer(client):
    said = client.chat.completions.create(model="tuned", messages=HELLO, max_tokens=12, temperature=0)
    choice = said.choices[0]
    assert choice.message.role == "assistant" and choice.finish_reason in ("stop", "length")
    assert said.usage.total_tokens == said.usage.prompt_tokens + said.usage.completion_tokens


def test_streamed_and_whole_answers_are_the_same(client):
    options = {"model": "tuned", "messages": HELLO, "max_tokens": 12, "temperature": 0}
    whole = client.chat.completions.create(**options)
    chunks = list(client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == whole.choices[0].message.content
    assert [c.finish_reason for chunk in chunks for c in chunk.choices][-1] == whole.choices[0].finish_reason
    assert chunks[-1].usage == whole.usage


def test_an_unknown_model_is_not_found_by_the_client(client):
    import openai

    with pytest.raises(openai.NotFoundError, match="base"):
        client.chat.completions.create(model="gpt-4", messages=HELLO)


def test_hanging_up_stops_the_model(client, served):
    stream = client.chat.completions.create(model="base", messages=HELLO, max_tokens=470, stream=True)
    next(iter(stream))
    stream.close()
    began = time.monotonic()
    client.chat.completions.create(model="tuned", messages=HELLO, max_tokens=1)
    assert time.monotonic() - began < 2  # not behind 470 tokens


def test_the_page_finds_the_server(run, served):
    server = launch.serving(run.path.parent)
    assert (server.url, server.run_id, server.pid) == (served.url, run.id, served.process.pid)
    assert server.models == tuple(served.models)


def test_a_second_server_for_the_same_runs_is_refused(run, served):
    with pytest.raises(FinetuneError) as caught:
        serve(run)
    assert caught.value.code == "busy"


def test_sigterm_ends_it_at_once_and_leaves_nothing(run, served, client):
    """The last of the tests with this process: even while it writes an answer."""
    stream = client.chat.completions.create(model="base", messages=HELLO, max_tokens=470, stream=True)
    next(iter(stream))
    began = time.monotonic()
    os.kill(served.process.pid, signal.SIGTERM)
    assert served.process.wait(10) == 0 and time.monotonic() - began < 5
    assert not (run.path.parent / ".serve.json").exists() and launch.serving(run.path.parent) is None


# --- the protocol, by hand ---


def test_the_answer_is_the_chatters(web, chatter):
    [expected] = chatter.generate("tuned", [render_prompt(HELLO, chatter.tokenizer)], max_new_tokens=8)
    said = ask(web).json()
    assert said["choices"][0]["message"]["content"] == expected.text
    assert said["choices"][0]["finish_reason"] == expected.finish_reason
    assert said["usage"]["completion_tokens"] == len(expected.token_ids)


def test_a_stream_ends_with_done(web):
    lines = [line for line in ask(web, stream=True).text.split("\n") if line]
    assert all(line.startswith("data: ") for line in lines) and lines[-1] == "data: [DONE]"
    assert json.loads(lines[0][6:])["choices"][0]["delta"]["role"] == "assistant"


def test_text_parts_are_text(web):
    parts = [
        {"role": "user", "content": [{"type": "text", "text": "my kettle"}, {"type": "text", "text": " is broken"}]}
    ]
    assert ask(web, messages=parts).json()["choices"] == ask(web).json()["choices"]


def test_half_a_character_is_read_as_the_sign_for_one(web):
    said = []
    for text in ("kettle \ud83d", "kettle \ufffd"):
        asked = {"model": "tuned", "max_tokens": 8, "messages": [{"role": "user", "content": text}]}
        headers = {"Content-Type": "application/json"}
        said.append(web.post("/v1/chat/completions", content=json.dumps(asked), headers=headers))
    assert [each.status_code for each in said] == [200, 200] and said[0].json()["choices"] == said[1].json()["choices"]


def test_the_system_prompt_is_read_as_sent(web):
    prompted = ask(web, messages=[{"role": "system", "content": "Answer in Dutch."}, *HELLO]).json()
    assert prompted["usage"]["prompt_tokens"] > ask(web).json()["usage"]["prompt_tokens"]


def test_base_and_tuned_answer_differently(web):
    said = {name: ask(web, model=name).json()["choices"][0]["message"]["content"] for name in ("tuned", "base")}
    assert said["tuned"] != said["base"]


def test_a_stop_string_ends_the_answer_before_it(web):
    whole = ask(web, max_tokens=24).json()["choices"][0]["message"]["content"]
    stop = whole[5:7]
    choice = ask(web, max_tokens=24, stop=stop).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (whole[: whole.index(stop)], "stop")


def test_a_seed_gives_the_same_answer_again(web):
    drawn = [ask(web, temperature=1.5, seed=seed, max_tokens=12).json()["choices"] for seed in (5, 5, 6)]
    assert drawn[0] == drawn[1] != drawn[2]


REFUSED = [  # (fields, status, param)
    ({"model": "gpt-4"}, 404, "model"),
    ({"messages": []}, 400, "messages"),
    ({"messages": [{"role": "robot", "content": "x"}]}, 400, "messages[0]"),
    ({"messages": [{"role": "user", "content": 5}]}, 400, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages[0].content"),
    ({"messages": [*HELLO, {"role": "assistant", "content": "x"}]}, 400, None),
    ({"n": 2}, 400, "n"),
    ({"temperature": "hot"}, 400, "temperature"),
    ({"top_p": 2}, 400, "top_p"),
    ({"max_tokens": 0}, 400, "max_tokens"),
    ({"max_completion_tokens": 1.5}, 400, "max_completion_tokens"),
    ({"stop": 7}, 400, "stop"),
    ({"seed": True}, 400, "seed"),
    ({"messages": [{"role": ["user"], "content": "x"}]}, 400, "messages[0]"),
    ({"stream_options": "include_usage"}, 400, "stream_options"),
    ({"logprobs": True}, 400, "logprobs"),
    ({"response_format": {"type": "json_object"}}, 400, "response_format"),
    ({"messages": [{"role": "user", "content": "kettle " * 600}]}, 400, None),
]


@pytest.mark.parametrize(("fields", "status", "param"), REFUSED)
def test_what_cannot_be_done_is_refused_in_the_protocols_words(web, fields, status, param):
    said = ask(web, **fields)
    error = said.json()["error"]
    assert (said.status_code, error["type"], error["param"]) == (status, "invalid_request_error", param)
    assert error["message"]


def test_a_conversation_that_is_too_long_has_the_clients_code(web):
    said = ask(web, messages=[{"role": "user", "content": "kettle " * 600}]).json()
    assert said["error"]["code"] == "context_length_exceeded"


def test_a_path_that_is_not_there_is_an_error_of_the_protocol(web):
    assert web.get("/v1/embeddings").json()["error"]["type"] == "invalid_request_error"


def test_a_model_that_fails_says_so_inside_the_stream(web, chatter, monkeypatch):
    def failing(*_):
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(chatter, "_step", failing)
    lines = [line for line in ask(web, stream=True).text.split("\n") if line]
    assert json.loads(lines[-1][6:])["error"]["code"] == "out-of-memory"
    assert ask(web).status_code == 500


FOREIGN = [
    ({"host": "evil.example"}, 403),
    ({"host": "127.0.0.1.evil.example"}, 403),
    ({"origin": "https://evil.example"}, 403),
    ({"origin": "null"}, 403),
    ({"content-type": "text/plain"}, 415),
    ({"host": "localhost:9"}, 200),
    ({"origin": "http://localhost:7860"}, 200),
]


@pytest.mark.parametrize(("headers", "status"), FOREIGN)
def test_only_this_machine_is_answered(web, headers, status):
    assert ask(web, headers=headers).status_code == status


def test_other_sites_get_no_cors_permission(web):
    assert not [name for name in ask(web).headers if name.startswith("access-control")]


def test_a_huge_request_is_not_read(web):
    assert ask(web, messages=[{"role": "user", "content": "x" * MOST_BYTES}]).status_code == 413


def test_health_is_answered_while_the_model_works(chatter):
    """The event loop is free: the models and another answer come between the tokens of a long one."""
    import httpx

    room = ChatRoom(chatter)
    seen = []

    async def walk():
        transport = httpx.ASGITransport(app=room.app())
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as web:

            async def long():
                body = {"model": "base", "messages": HELLO, "max_tokens": 200}
                await web.post("/v1/chat/completions", json=body, timeout=60)
                seen.append("long")

            task = asyncio.create_task(long())
            while not room._busy:  # a fixed wait is longer than the whole answer of a tiny model on a fast machine
                await asyncio.sleep(0.001)
            body = {"model": "tuned", "messages": HELLO, "max_tokens": 2}
            assert (await web.get("/v1/models")).status_code == (await web.get("/health")).status_code == 200
            assert (await web.post("/v1/chat/completions", json=body, timeout=60)).status_code == 200
            seen.append("short")
            await task

    asyncio.run(walk())
    room.close()
    assert seen == ["short", "long"]


def test_it_ends_by_itself_when_nobody_asks(chatter):
    room, server = ChatRoom(chatter), SimpleNamespace(should_exit=False)
    asyncio.run(asyncio.wait_for(room.end_when_idle(0.2, server), 5))
    assert server.should_exit


def test_a_port_that_is_taken_is_refused_before_the_model_is_loaded(tmp_path, tiny_model_dir):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(FinetuneError) as caught:
            serve(make_tuned_run(tmp_path, tiny_model_dir, result=False), port=taken.getsockname()[1])
    assert caught.value.code == "port-taken"


@pytest.mark.parametrize(
    ("stops", "pieces", "shown"),
    [
        (("END",), ["one EN", "D two"], "one "),
        (("END",), ["one E", "ight"], "one Eight"),
        (("\n\n", "User:"), ["a\n", "b Us", "er: c"], "a\nb "),
        (("abab",), ["aba", "cabab"], "abac"),
        ((), ["all", " of it"], "all of it"),
        (("END",), ["at the E"], "at the E"),
    ],
)
def test_stop_strings_are_found_across_pieces(stops, pieces, shown):
    watch = protocol.StopStrings(stops)
    assert "".join(watch.add(piece) for piece in pieces) + watch.rest() == shown
