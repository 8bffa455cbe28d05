"""The real page as a Space, over HTTP, with a Hub on this machine: what two visitors get, and how it is off a Space."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import socket
import subprocess
import sys
import time
from base64 import b64encode
from pathlib import Path

import httpx
import itsdangerous
import pytest
from hub_store import ALICE, BOB
from space_people import SECRET, SPACE, make_run, session

from finetune_ui import looking, words_space

ROOT = Path(__file__).resolve().parent.parent
OWN_TOKEN = "hf_ofthespaceitself0123456789"
PROGRAM = "import app; app.bring_starter = lambda *_: None; app.main()"


def cookie(token: str) -> str:
    """As gradio signs it."""
    key = hashlib.sha256((SPACE["OAUTH_CLIENT_SECRET"] + "-v4").encode()).hexdigest()
    return itsdangerous.TimestampSigner(key).sign(b64encode(json.dumps(session(token)).encode())).decode()


class Program:
    """app.py in a process of its own."""

    def __init__(self, runs_dir: Path, environment: dict[str, str]):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url, self.log = f"http://127.0.0.1:{port}", runs_dir.parent / "app.log"
        line = [sys.executable, "-c", PROGRAM, "--host", "127.0.0.1", "--port", str(port), "--runs-dir", str(runs_dir)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(line, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env=environment)
        deadline = time.monotonic() + 90
        while True:
            try:
                self.config = httpx.get(self.url + "/config", timeout=10).json()
                return
            except (httpx.HTTPError, ValueError):
                assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()
                time.sleep(0.2)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()

    def labels(self) -> set[str]:
        """What stands on its buttons."""
        return {each["props"].get("value") for each in self.config["components"] if each["type"] == "button"}


class Visit:
    """One visitor's open page."""

    def __init__(self, program: Program, token: str | None = None, **headers: str):
        cookies = {"session": cookie(token)} if token else {}
        self.client = httpx.Client(base_url=program.url + "/gradio_api", cookies=cookies, headers=headers, timeout=90)
        self.program, self.hash = program, secrets.token_hex(6)
        self.values = {each["id"]: each["props"].get("value") for each in program.config["components"]}

    def call(self, handler: dict, clicked: dict, **more: str) -> str:
        """Everything that the page is told by one handler."""
        data = [self.values[each] for each in handler["inputs"]]
        body = {"fn_index": handler["id"], "data": data, "session_hash": self.hash, "event_data": clicked, **more}
        joined = self.client.post("/queue/join", json=body)
        if joined.status_code != 200:
            return ""
        told = []
        with self.client.stream("GET", "/queue/data", params={"session_hash": self.hash}) as lines:
            for line in lines.iter_lines():
                told.append(line)
                if '"process_completed"' in line or '"close_stream"' in line:
                    break
        return "\n".join(told)

    def handlers(self, *events: str) -> list[dict]:
        """Those with a function in the program; of these events if there are any."""
        found = [each for each in self.program.config["dependencies"] if each["backend_fn"]]
        return [each for each in found if not events or {event for _, event in each["targets"]} & set(events)]

    def open(self, run_id: str, **more: str) -> str:
        """Load the page, pick a run in the rail, and let the clock tick."""
        clicked = {"run": run_id, "to": "prove", "row": 0}
        return "".join(self.call(each, clicked, **more) for each in
                       (*self.handlers("load"), *self.handlers("pick"), *self.handlers("tick", "change")))  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("space")


@pytest.fixture(scope="module")
def run(home):
    return make_run(home / "runs", "alice")


@pytest.fixture(scope="module")
def program(home, hub, run):
    program = Program(run.path.parent, hub.environment(home / "hf", OWN_TOKEN) | SPACE)
    yield program
    program.end()


def files(folder: Path) -> dict[str, bytes]:
    found = [file for file in folder.rglob("*") if file.is_file() and file.suffix != ".lock"]
    return {str(file.relative_to(folder)): file.read_bytes() for file in found}


def test_a_space_has_a_button_to_sign_in_and_one_to_duplicate(program):
    assert {words_space.SIGN_IN, words_space.DUPLICATE} <= program.labels()


def test_the_owner_of_a_run_sees_it(program, run):
    told = Visit(program, ALICE).open(run.id)
    assert run.id in told and SECRET in told and "yours to use" in told


@pytest.mark.slow
@pytest.mark.parametrize("token", [BOB, None, "hf_unknown0123456789"], ids=["signed in", "nobody", "unknown token"])
def test_no_handler_shows_or_changes_anothers_run(program, run, token):
    visit, before = Visit(program, token), files(run.path)
    told = visit.open(run.id)
    for handler in visit.handlers():
        told += visit.call(handler, {"run": run.id, "to": "prove", "row": 0, "text": "a,b\n1,2"})
    assert run.id not in told and SECRET not in told
    assert files(run.path) == before
    assert not (run.path.parent / ".should-i").exists() and not (run.path.parent / ".serve.json").exists()


def test_a_token_that_a_caller_sends_along_is_no_sign_in(program, run):
    assert SECRET not in Visit(program, BOB).open(run.id, oauth_token=ALICE)


@pytest.mark.slow
def test_a_page_of_another_site_does_not_get_what_the_cookie_would_open(program, run):
    assert SECRET not in Visit(program, ALICE, origin="https://evil.example").open(run.id)
    assert SECRET in Visit(program, ALICE, origin=program.url).open(run.id)


def look_at(visit: Visit, model: str) -> str:
    """What the page says when this model is in its box, once it has looked."""
    visit.open("")
    box = next(each for each in visit.program.config["components"] if each["props"].get("label") == "Model")
    visit.values[box["id"]] = model
    review = next(each for each in visit.handlers() if [box["id"], "change"] in each["targets"] and each["inputs"])
    deadline = time.monotonic() + 60
    while "Checking the rows" in (told := visit.call(review, {})) and time.monotonic() < deadline:
        time.sleep(0.3)
    return told


@pytest.mark.slow
def test_a_private_model_is_not_given_from_the_cache_to_who_may_not_read_it(program, hub, tiny_model_dir):
    hub.add("alice/tiny", tiny_model_dir, private=True)
    assert "Ready" in look_at(Visit(program, ALICE), "alice/tiny")
    for token in (BOB, None):
        told = look_at(Visit(program, token), "alice/tiny")
        assert "The Hub knows no model alice/tiny that you may read here" in told and "Ready" not in told
    hub.repos["alice/tiny"].private = False
    time.sleep(looking.ERROR_SECONDS)  # so long a refusal stands
    assert "Ready" in look_at(Visit(program, "hf_unknown0123456789"), "alice/tiny")


def test_no_run_is_served_as_a_file(program, run):
    for path in (run.path / "recipe.yaml", run.path / "owner", run.path / "adapter" / "adapter_model.safetensors"):
        assert Visit(program, ALICE).client.get(f"/file={path}").status_code == 403


def test_the_spaces_own_token_asks_nothing_and_stands_nowhere(program, hub, run):
    Visit(program, BOB).open(run.id)
    assert OWN_TOKEN not in program.log.read_text() + json.dumps(program.config)
    assert ALICE not in program.log.read_text() and BOB not in program.log.read_text()
    assert OWN_TOKEN not in hub.tokens and {ALICE, BOB} <= hub.tokens


def test_off_a_space_the_page_starts_offline_without_any_of_it(tmp_path, run):
    plain = {name: value for name, value in os.environ.items() if name not in SPACE}
    shown = make_run(tmp_path / "runs", "")
    program = Program(tmp_path / "runs", plain | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")})
    try:
        assert not {words_space.SIGN_IN, words_space.DUPLICATE} & program.labels()
        assert SECRET in Visit(program).open(shown.id)
    finally:
        program.end()
