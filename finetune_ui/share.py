"""Share: take what was learned along as a file, or use it from other programs."""

from __future__ import annotations

import shutil
import zipfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from finetune_core import launch
from finetune_core.errors import FinetuneError
from finetune_core.run import Run

from . import look, serving, words, words_run, words_share
from .downloads import download
from .held import held_run, told

if TYPE_CHECKING:
    from .frame import Page

LARGEST_ZIP = 4 * 2**30  # bytes; what is larger is better copied from its folder
SPARE_DISK = 500 * 2**20  # bytes that stay free


@dataclass(frozen=True)
class Share:
    panel: gr.Column
    outputs: tuple[Any, ...]


def build(page: Page) -> Share:
    card = partial(look.html, js_on_load=words_share.COPY_JS)
    with gr.Column(visible=False, elem_classes=["panel", "share"]) as panel:
        problem = look.html(visible=False, js_on_load=None)
        nothing = look.html(words_share.nothing_yet(), js_on_load=None)
        with gr.Column(visible=False, elem_classes="share-cards") as cards:
            with gr.Column(elem_classes=["card", "share-card"]):
                file = card()
                zipped = download(
                    "Download as zip",
                    partial(write_zip, page.runs_dir),
                    [page.held],
                    problem,
                    name="adapter",
                    busy="Making the zip…",
                    variant="primary",
                    size="md",
                )
            with gr.Column(elem_classes=["card", "share-card"]):
                terminal = card()
            with gr.Column(elem_classes=["card", "share-card", "wide"]):
                endpoint = card()
                with gr.Row(elem_classes="share-buttons"):
                    on = gr.Button("Start the server", size="md")
                    off = gr.Button("Stop the server", size="md", visible=False)
    watch = gr.Timer(4, active=False)

    quick = {"api_visibility": "private", "show_progress": "hidden", "concurrency_limit": None}
    served = [endpoint, on, off]
    on.click(lambda: gr.update(value="Loading the model…", interactive=False), None, on, queue=False, **quick).then(
        partial(start_server, page.runs_dir),
        page.held,
        [*served, problem],
        api_visibility="private",
        show_progress="hidden",
        concurrency_limit=4,
    )
    off.click(partial(stop_server, page.runs_dir), page.held, served, **quick)
    watch.tick(partial(server_now, page.runs_dir), page.held, served, **quick)
    return Share(panel=panel, outputs=(problem, nothing, cards, file, zipped, *served, terminal, watch))


def show(run: Run) -> tuple[Any, ...]:
    hidden = gr.update(visible=False)
    if not run.has_result():
        return hidden, gr.update(visible=True), hidden, *[gr.skip()] * 6, gr.Timer(active=False)
    size = folder_size(run.result_dir)
    text = launch.as_text
    return (
        hidden,
        hidden,
        gr.update(visible=True),
        words_share.file_card(run.recipe, size, str(run.result_dir)),
        gr.update(visible=size <= LARGEST_ZIP),
        *served(run),
        words_share.terminal_card(
            text(launch.command(run, "chat")),
            text(launch.command(run, "predict", "--input", "questions.jsonl", "--output", "answers.jsonl")),
            text(launch.command(run, "serve", "--port", "8080")),
        ),
        gr.Timer(active=True),
    )


def served(run: Run) -> tuple[Any, Any, Any]:
    """The endpoint's card, and which of its two buttons there is."""
    server = launch.serving(run.path.parent)
    mine = server is not None and server.run_id == run.id
    asked = serving.a_question(run)
    card = words_share.endpoint_card(
        server.url if server and mine else "", server.models if server and mine else (), asked.question, asked.system
    )
    return (
        card,
        gr.update(visible=not mine, interactive=True, value="Start the server"),
        gr.update(visible=mine),
    )


def folder_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


# --- handlers ---


def start_server(runs_dir: Path, run_id: str) -> tuple[Any, ...]:
    try:
        run = held_run(runs_dir, run_id)
        launch.start_serving(run)
        return *served(run), gr.update(visible=False)
    except Exception as error:
        card = gr.update(value=words.error_card(told(error)), visible=True)
        return gr.skip(), gr.update(interactive=True, value="Start the server"), gr.skip(), card


def stop_server(runs_dir: Path, run_id: str) -> tuple[Any, ...]:
    """End the server, if it is this run's."""
    try:
        run = held_run(runs_dir, run_id)
    except FinetuneError:
        return gr.skip(), gr.skip(), gr.skip()
    server = launch.serving(runs_dir)
    if server and server.run_id == run.id:
        launch.stop_serving(runs_dir)
    return served(run)


def server_now(runs_dir: Path, run_id: str) -> tuple[Any, ...]:
    """The truth about the server, which others may start and stop; nothing while it is being started."""
    try:
        run = held_run(runs_dir, run_id)
    except FinetuneError:
        return gr.skip(), gr.skip(), gr.skip()
    if serving.is_starting(runs_dir):
        return gr.skip(), gr.skip(), gr.skip()
    return served(run)


def write_zip(runs_dir: Path, run_id: str, folder: Path) -> Path:
    """The result with a README and its recipe, in one file. Weights do not compress, so they are only put together."""
    run = held_run(runs_dir, run_id)
    if not run.has_result():
        raise FinetuneError("This run has saved nothing yet.", "Train it first, or resume it.", code="no-result")
    size = folder_size(run.result_dir)
    if size > LARGEST_ZIP:
        raise FinetuneError("It is too large for a zip.", f"Copy the folder {run.result_dir}.", code="too-large")
    if shutil.disk_usage(folder).free < size + SPARE_DISK:
        raise FinetuneError(
            "There is no room on the disk for the zip.", "Delete runs that you no longer need.", code="disk-full"
        )
    path = folder / f"{run.id}.zip"
    verdict = words_run.proved_line(run.report())
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as target:
        target.writestr(f"{run.id}/README.md", words_share.readme(run.recipe, run.id, verdict))
        target.write(run.path / "recipe.yaml", f"{run.id}/recipe.yaml")
        for file in sorted(run.result_dir.rglob("*")):
            if file.is_file() and file.name not in ("README.md", "recipe.yaml"):
                target.write(file, f"{run.id}/{file.relative_to(run.result_dir)}")
    return path
