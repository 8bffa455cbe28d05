"""A Space of the organisation acme and its visitors: Alice and Carol write for acme, Bob is signed in, one is not."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from pathlib import Path

import gradio as gr
import starlette.requests
from gradio.context import LocalContext
from hub_store import ALICE, BOB, CAROL
from test_prove import make_report

from finetune_core.recipe import Recipe
from finetune_core.run import Run
from finetune_core.space import Identity

SPACE = {
    "SPACE_ID": "acme/fijn",
    "SYSTEM": "spaces",
    "OAUTH_CLIENT_ID": "id",
    "OAUTH_CLIENT_SECRET": "a secret of the Space",
    "OAUTH_SCOPES": "openid profile",
    "OPENID_PROVIDER_URL": "http://127.0.0.1:9",
}
HOST = "acme-fijn.hf.space"
PEOPLE = {
    ALICE: Identity("alice", {"acme": "write"}),
    CAROL: Identity("carol", {"acme": "admin"}),
    BOB: Identity("bob"),
}
SECRET = "Xylophone-of-Alice"  # in everything that her run holds


def session(token: str | None, seconds: float = 3600.0) -> dict:
    """What the cookie of somebody who signed in holds."""
    if token is None:
        return {}
    info = {"access_token": token, "scope": "openid", "expires_at": int(time.time() + seconds)}
    return {"oauth_info": info | {"userinfo": {"preferred_username": "whoever"}}}


def request(token: str | None = None, seconds: float = 3600.0, **headers: str) -> gr.Request:
    """A request of a visitor with this token in the cookie."""
    said = {"host": HOST, "origin": f"https://{HOST}"} | headers
    scope = {
        "type": "http", "method": "POST", "path": "/", "query_string": b"", "session": session(token, seconds),
        "headers": [(name.encode(), value.encode()) for name, value in said.items()], "client": ("10.0.0.9", 1),
    }  # fmt: skip
    return gr.Request(request=starlette.requests.Request(scope), session_hash="a page")


@contextmanager
def asked_by(token: str | None, **more):
    """As in a handler that answers this visitor."""
    before = LocalContext.request.set(request(token, **more))
    try:
        yield
    finally:
        LocalContext.request.reset(before)


def make_run(runs_dir: Path, owner: str, secret: str = SECRET) -> Run:
    """A finished run with a proof and a checkpoint, whose every file holds the secret."""
    recipe = Recipe(dataset_name=f"acme/{secret}", model_name_or_path=f"acme/{secret}", system_prompt=secret)
    run = Run.create(runs_dir, recipe, {"steps": 2, "warnings": [secret]}, owner=owner)
    run.tell("start", command=secret, pid=0)
    for step in (1, 2):
        run.tell("step", step=step, total_steps=2, loss=3.0 / step)
        run.tell("eval", step=step, loss=3.1 / step)
        run.tell("sample", step=step, prompt=secret, answer=secret)
    run.result_dir.mkdir()
    (run.result_dir / "adapter_model.safetensors").write_bytes(b"weights")
    (run.result_dir / "adapter_config.json").write_text("{}")
    checkpoint = run.path / "checkpoints" / "checkpoint-2"
    checkpoint.mkdir(parents=True)
    (checkpoint / "trainer_state.json").write_text("{}")
    report = make_report()
    for rival in report["rivals"]:
        rival |= {"prompt_tokens": 40.0, "answer_tokens": 4.0}
    for row in report["rows"]:
        row["prompt"] = secret
    run.write_report(report | {"settings": {"said": secret}})
    data = run.path / "data"
    data.mkdir()
    turns = [{"role": role, "content": secret} for role in ("user", "assistant")]
    for split in ("train", "validation", "test"):
        (data / f"{split}.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    run.log_path.write_text(f"{secret}\n")
    run.tell("done", outcome="finished", seconds=3.0)
    return run
