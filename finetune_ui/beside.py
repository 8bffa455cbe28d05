"""Other runs beside the one that is open: scores, curves, cost, and the settings that differ. A part of Prove."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from finetune_core.errors import FinetuneError
from finetune_core.proof.side_by_side import look_at, side_by_side
from finetune_core.run import Run

from . import charts, look, visitor, words, words_beside, words_run
from .held import QUICK, held_run, settings_of, told

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

    fold.expand(partial(offer, page.runs_dir), page.held, which, **QUICK)
    which.change(partial(compare, page.runs_dir), [page.held, which], shown, **QUICK)

    # gradio hands over what was clicked only to a function that names it itself, which a partial does not
    def on_settings(event: gr.EventData) -> tuple[Any, Any]:
        return settings_of(page.runs_dir, str(event.run))

    shown.settings(on_settings, None, [page.held, page.step], **QUICK)
    return Beside(outputs=(fold, which, shown))


def show(run: Run) -> tuple[Any, ...]:
    """Which runs there are to choose from; hidden while there is none."""
    offered = any(
        other.id != run.id and _can_be_compared(other) for other in visitor.own_runs(run.path.parent)[:LISTED]
    )
    return gr.update(visible=offered, open=False), gr.update(value=[]), ""


def offer(runs_dir: Path, run_id: str) -> Any:
    """The runs to choose from, looked up when the fold is opened: sixty reports are not read to redraw a proof."""
    others = [other for other in visitor.own_runs(runs_dir)[:LISTED] if other.id != run_id and _can_be_compared(other)]
    choices = []
    for other in others:
        with suppress(FinetuneError):  # one whose recipe cannot be read
            choices.append((_choice(other.path, other.version()), other.id))
    return gr.update(choices=choices)


@lru_cache(maxsize=256)
def _choice(path: Path, _version: tuple) -> str:
    """A run in the list; a report is large, so it is read once for each version of the run."""
    run = Run(path)
    return words_beside.choice(run.id, run.recipe, words_run.verdict_short(run.report()))


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
