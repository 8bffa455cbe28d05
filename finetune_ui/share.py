"""Share: take what was learned along, to the Hub, as files, into Ollama, or use it from other programs."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from finetune_core import hub, launch
from finetune_core.errors import FinetuneError
from finetune_core.run import Run
from finetune_core.takeaway.card import card
from finetune_core.takeaway.facts import gather
from finetune_core.takeaway.kept import kept, result_files, shareable_recipe

from . import look, serving, taking, words_share, words_take
from .held import QUICK, SLOW, held_run, problem_card, run_to_work_on

if TYPE_CHECKING:
    from .frame import Page


@dataclass(frozen=True)
class Share:
    panel: gr.Column
    outputs: tuple[Any, ...]


def build(page: Page) -> Share:
    piece = partial(look.html, js_on_load=words_share.COPY_JS)
    with gr.Column(visible=False, elem_classes=["panel", "share"]) as panel:
        problem = look.html(visible=False, js_on_load=None)
        nothing = look.html(words_share.nothing_yet(), js_on_load=None)
        with gr.Column(visible=False, elem_classes="share-cards") as cards:
            taken = taking.build(page, problem, partial(write_zip, page.runs_dir))
            with gr.Column(elem_classes=["card", "share-card"]):
                endpoint = piece()
                with gr.Row(elem_classes="share-buttons"):
                    on = gr.Button("Start the server", size="md")
                    off = gr.Button("Stop the server", size="md", visible=False)
            with gr.Column(elem_classes=["card", "share-card"]):
                elsewhere = piece()
            with gr.Column(elem_classes=["card", "share-card"]):
                terminal = piece()
    watch = gr.Timer(4, active=False)

    served = [endpoint, on, off]
    on.click(lambda: gr.update(value="Loading the model…", interactive=False), None, on, queue=False, **QUICK).then(
        partial(start_server, page.runs_dir), page.held, [*served, problem], **SLOW
    )
    off.click(partial(stop_server, page.runs_dir), page.held, served, **QUICK)
    watch.tick(partial(server_now, page.runs_dir), [page.held, page.step], [*served, watch], **QUICK)
    outputs = (problem, nothing, cards, *served, elsewhere, terminal, watch, *taken.outputs)
    return Share(panel=panel, outputs=outputs)


def show(run: Run) -> tuple[Any, ...]:
    hidden = gr.update(visible=False)
    if not run.has_result():
        return hidden, gr.update(visible=True), hidden, *[gr.skip()] * 5, gr.Timer(active=False), *taking.nothing()
    text = launch.as_text
    merged = kept(run, "merged")
    adapter = None if run.recipe.method == "full" else str(run.result_dir)
    return (
        hidden,
        hidden,
        gr.update(visible=True),
        *served(run),
        words_take.elsewhere(run.recipe, adapter, merged["path"] if merged else None),
        words_share.terminal_card(
            text(launch.command(run, "chat")),
            text(launch.command(run, "predict", "--input", "questions.csv", "--output", "answers.csv")),
            text(launch.command(run, "serve", "--port", "8080")),
        ),
        gr.Timer(active=True),
        *taking.show(run),
    )


def served(run: Run) -> tuple[Any, Any, Any]:
    """The endpoint's card, and which of its two buttons there is."""
    server = launch.serving(run.path.parent)
    mine = server is not None and server.run_id == run.id
    asked = serving.a_question(run)
    shown = words_share.endpoint_card(
        server.url if server and mine else "", server.models if server and mine else (), asked.question, asked.system
    )
    return (
        shown,
        gr.update(visible=not mine, interactive=True, value="Start the server"),
        gr.update(visible=mine),
    )


# --- handlers ---


def start_server(runs_dir: Path, run_id: str) -> tuple[Any, ...]:
    try:
        run, token = run_to_work_on(runs_dir, run_id)
        launch.start_serving(run, token)
        return *served(run), gr.update(visible=False)
    except Exception as error:
        shown = problem_card(error)
        return gr.skip(), gr.update(interactive=True, value="Start the server"), gr.skip(), shown


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


def server_now(runs_dir: Path, run_id: str, step: str) -> tuple[Any, ...]:
    """The truth about the server, which others may start and stop; nothing while it is being started.

    The clock rests while another step is open; `show` wakes it.
    """
    skip = gr.skip()
    try:
        run = held_run(runs_dir, run_id)
    except FinetuneError:
        return skip, skip, skip, gr.Timer(active=False)
    if step != "share":
        return skip, skip, skip, gr.Timer(active=False)
    if serving.is_starting(runs_dir):
        return skip, skip, skip, skip
    return *served(run), skip


def write_zip(runs_dir: Path, run_id: str, folder: Path) -> Path:
    """The result with its model card and recipe, in one file. Weights do not compress: they are only put together."""
    run = held_run(runs_dir, run_id)
    if not run.has_result():
        raise FinetuneError("This run has saved nothing yet.", "Train it first, or resume it.", code="no-result")
    files = result_files(run)
    taking.require_room(folder, sum(file.stat().st_size for file in files), str(run.result_dir))
    recipe = run.recipe
    base = hub.local_model(recipe.model_name_or_path, recipe.model_revision)
    path = folder / f"{run.id}.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as target:
        target.writestr(f"{run.id}/README.md", card(gather(run, base, None), "adapter"))
        target.writestr(f"{run.id}/recipe.yaml", shareable_recipe(recipe).as_yaml())
        for file in files:
            target.write(file, f"{run.id}/{file.name}")
    return path
