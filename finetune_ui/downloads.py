"""A button that makes a file when it is clicked and hands over a copy. Nothing of the runs folder is ever served."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from .held import QUICK, problem_card


def download(
    label: str,
    make: Callable[..., Path],
    inputs: list[Any],
    problem: gr.HTML,
    *,
    name: str,
    busy: str = "Making the file…",
    **button: Any,
) -> gr.Button:
    """`make(*inputs, folder)` writes one file into the new folder and returns it; errors go to `problem`.

    A gradio DownloadButton gives what it already holds, so a hidden one is filled first and pressed then.
    `name` is the hidden button's own, for the script that presses it.
    """
    shown = gr.Button(label, **button)
    hidden = gr.DownloadButton(visible="hidden", elem_id=f"download-{name}", elem_classes="gone")

    def fill(*values: Any) -> tuple[Any, Any]:
        folder = Path(hidden.GRADIO_CACHE) / secrets.token_urlsafe(16)
        try:
            folder.mkdir(parents=True)
            return str(make(*values, folder)), gr.update(visible=False)
        except Exception as error:
            return None, problem_card(error)

    shown.click(lambda: gr.update(value=busy, interactive=False), None, shown, queue=False, **QUICK).then(
        fill, inputs, [hidden, problem], **QUICK | {"concurrency_limit": 2}
    ).then(lambda: gr.update(value=label, interactive=True), None, shown, queue=False, **QUICK).then(
        None, None, None, js=_press(name), api_visibility="private"
    )
    return shown


def _press(name: str) -> str:
    return f"""() => {{
      const found = document.querySelector('#download-{name}');
      const link = found && (found.closest('a[href]') || found.querySelector('a[href]'));
      if (link) link.click(); else if (found) found.click();
    }}"""
