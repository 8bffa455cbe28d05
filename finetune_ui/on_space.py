"""The line under the header of a page on a Hugging Face Space: sign in, duplicate, and what is true here."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from finetune_core.space import Space, survives_restart

from . import visitor, words_space
from .held import QUICK
from .look import html

LOOK_AGAIN = 30.0  # seconds until a page notices that its sign-in has ended
BUTTON: dict[str, Any] = {"size": "sm", "scale": 0, "min_width": 100, "variant": "secondary"}


def build(demo: gr.Blocks, space: Space, runs_dir: Path) -> None:
    """Only on a Space. Gradio's sign-in button asks for a token and for the Hub wherever else it is built."""
    is_kept = survives_restart(runs_dir)
    with gr.Row(elem_id="space"):
        says = html(words_space.strip(space, is_kept=is_kept), js_on_load=None)
        with gr.Row(elem_classes="space-buttons"):
            if space.can_sign_in:
                gr.LoginButton(words_space.SIGN_IN, words_space.SIGN_OUT, icon=None, **BUTTON)
            gr.DuplicateButton(words_space.DUPLICATE, **BUTTON)
    gr.on([demo.load, gr.Timer(LOOK_AGAIN).tick], partial(now, is_kept), None, says, **QUICK)


def now(is_kept: bool) -> str:
    """What the line says to who is asking."""
    asker = visitor.now()
    if asker.space is None:
        return ""
    ends = words_space.Ends(asker.seconds_left(), asker.has_ended)
    return words_space.strip(asker.space, asker.name, asker.may_use_machine, asker.problem, is_kept, ends)
