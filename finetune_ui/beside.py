"""Other runs beside the one that is open: scores, curves, cost, and the settings that differ. A part of Prove."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from finetune_core.errors import FinetuneError
from finetune_core.proof.side_by_side import look_at, side_by_side
from finetune_core.run import Run, list_runs

from . import charts, look, words, words_beside, words_run
from .held import held_run, told

if TYPE_CHECKING:
    from .frame import Page

LISTED = 60  # newest runs that are offered

USE_JS = (
    charts.HOVER_JS
    + """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-settings]');
  if (button) trigger('settings', { run: button.dataset.settings });
});
"""
)


@dataclass(frozen=True)
class Beside:
    outputs: tuple[Any, ...]  # what show() fills


def build(page: Page) -> Beside:
    with gr.Accordion(words_beside.TITLE, open=False, elem_classes=["settings", "beside"], visible=False) as fold:
        which = gr.Dropdown(
            [],
            multiselect=True,
            max_choices=words_beside.MOST,
            label=words_beside.WHICH,
            elem_classes="field",
        )
        shown = look.html(js_on_load=USE_JS)

    quick = {"api_visibility": "private", "show_progress": "hidden", "concurrency_limit": None}
    which.change(partial(compare, page.runs_dir), [page.held, which], shown, **quick)

    # gradio hands over what was clicked only to a function that names it itself, which a partial does not
    def on_settings(event: gr.EventData) -> tuple[Any, Any]:
        return take_settings(page.runs_dir, str(event.run))

    shown.settings(on_settings, None, [page.held, page.step], **quick)
    return Beside(outputs=(fold, which, shown))


def show(run: Run) -> tuple[Any, ...]:
    """Which runs there are to choose from; hidden while there is none."""
    others = [other for other in list_runs(run.path.parent)[:LISTED] if other.id != run.id and _can_be_compared(other)]
    choices = [
        (words_beside.choice(other.id, other.recipe, words_run.verdict_short(other.report())), other.id)
        for other in others
    ]
    return gr.update(visible=bool(choices)), gr.update(choices=choices, value=[]), ""


def _can_be_compared(run: Run) -> bool:
    return (run.path / "report.json").is_file() or bool(run.checkpoints())


# --- handlers: ids come from a page and are looked up anew each time ---


def compare(runs_dir: Path, run_id: str, others: Sequence[str] | None) -> str:
    """This run and the chosen ones."""
    if not others:
        return ""
    try:
        names = list(dict.fromkeys([run_id, *others]))[: words_beside.MOST + 1]
        return words_beside.compared(side_by_side([look_at(held_run(runs_dir, name)) for name in names]), run_id)
    except Exception as error:
        return words.error_card(told(error))


def take_settings(runs_dir: Path, run_id: str) -> tuple[Any, Any]:
    """Choose opens with this run's recipe in its boxes: opening Choose for a run fills them."""
    try:
        return held_run(runs_dir, run_id).id, "choose"
    except FinetuneError:
        return gr.skip(), gr.skip()
