"""What the buttons of Share's jobs have in common: each starts its job, and cancels it while it goes on."""

from __future__ import annotations

import time
from typing import Any

import gradio as gr

from finetune_core import launch
from finetune_core.errors import FinetuneError
from finetune_core.job import Said, goes_on
from finetune_core.run import Run
from finetune_core.takeaway import account

from . import words_take

CANCEL = "Cancel"
DOUBLE_CLICK = 2.0  # seconds in which a second press is the same press


def token_box() -> gr.Textbox:
    """Shown to who is not signed in; the browser is asked not to remember it."""
    return gr.Textbox(
        label="Token", type="password", max_lines=1, placeholder="hf_…", visible=False, max_length=400,
        html_attributes=gr.InputHTMLAttributes(autocomplete="off"),
    )  # fmt: skip


def button_of(label: str, said: Said | None, busy: bool, can: bool = True, visible: bool = True) -> Any:
    """A button that starts its job, and cancels it while it is going on; one job of a run at a time."""
    mine = goes_on(said)
    return gr.update(value=CANCEL if mine else label, interactive=mine or (can and not busy), visible=visible)


def state_of(said: Said | None, made: str) -> str:
    if goes_on(said):
        return words_take.working(said.stage, said.fraction, said.says)
    return made or (words_take.failed(said.error) if said and said.error else "")


def starting() -> Any:
    return gr.update(value="Starting…", interactive=False)


def cancelled(run: Run, what: str) -> bool:
    """The press was on a button that says Cancel (or was the second half of a double click): true if so."""
    job = launch.taking(run, what)
    said = job.said()
    if not goes_on(said):
        return False
    if time.time() - said.began > DOUBLE_CLICK:
        launch.end_job(job)
    return True


def start_push(run: Run, verb: str, repo_id: object, options: list[str], typed: object, own: str | None) -> None:
    """Start `push` or `push-data` with the token that was typed, else the asker's own, else this machine's.

    The token goes into the child's environment and nowhere else. Raises FinetuneError (bad-name, no-token).
    """
    name, token = str(repo_id or "").strip(), str(typed or "").strip() or own
    account.require_name(name)
    if not token and not account.find_token():
        raise FinetuneError("You are not signed in to the Hub.", "Paste a token with the role “write”.", "no-token")
    line = launch.command(run, verb, name, *options)
    launch.start_job(launch.taking(run, verb), line, {"HF_TOKEN": token} if token else None)
