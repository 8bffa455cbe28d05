"""Prove: was it worth it? The verdict, the rivals with their intervals, and the rows themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from finetune_core.amounts import count
from finetune_core.errors import FinetuneError
from finetune_core.progress import summarize
from finetune_core.run import Run

from . import beside, comparing, look, words, words_prove, words_rows, words_share
from .downloads import download
from .held import QUICK, held_run, told

if TYPE_CHECKING:
    from .frame import Page

USE_JS = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-use]');
  if (button) trigger('use', { row: Number(button.dataset.use) });
});
"""

ADVISED_JS = """
element.addEventListener('click', (event) => {
  if (event.target.closest('[data-advised]')) trigger('advised');
});
"""


@dataclass(frozen=True)
class Prove:
    panel: gr.Column
    outputs: tuple[Any, ...]
    use_row: Callable[..., Any]  # the event of a row's button; its gr.EventData has `row`, its place in the report
    advised: Callable[..., Any]  # the event of the button for a run as the curves advise


def build(page: Page) -> Prove:
    with gr.Column(visible=False, elem_classes=["panel", "prove"]) as panel:
        problem = look.html(visible=False)
        nothing = look.html(js_on_load=words_share.COPY_JS)
        verdict = look.html(js_on_load=ADVISED_JS)
        compared = comparing.build(page)
        with gr.Column(visible=False) as table:
            with gr.Row(elem_classes="proof-bar"):
                which = gr.Radio(
                    [(label, key) for key, label in words_rows.FILTERS.items()],
                    value="all",
                    show_label=False,
                    label="Which rows",
                    elem_classes="pills",
                )
                order = gr.Dropdown(
                    [(label, key) for key, label in words_rows.ORDERS.items()],
                    value="rows",
                    show_label=False,
                    label="Order of the rows",
                    elem_classes="proof-order",
                    filterable=False,
                )
            rows = look.html(js_on_load=USE_JS)
            with gr.Row(elem_classes="proof-foot"):
                more = gr.Button("Show more rows", visible=False, size="md")
                csv = partial(download, inputs=[page.held], problem=problem, size="md", elem_classes="quiet-button")
                csv("Download the report", partial(write_html, page.runs_dir), name="report-html")
                csv("Download CSV", partial(write_csv, page.runs_dir), name="rows-csv")
                csv("Download JSONL", partial(write_jsonl, page.runs_dir), name="rows-jsonl")
        others = beside.build(page)
    limit = gr.State(words_rows.PAGE)

    draw = partial(draw_rows, page.runs_dir)
    for choice in (which, order):
        choice.input(lambda: words_rows.PAGE, None, limit, queue=False, **QUICK).then(
            draw, [page.held, which, order, limit], [rows, more], **QUICK
        )
    more.click(lambda now: now + 2 * words_rows.PAGE, limit, limit, queue=False, **QUICK).then(
        draw, [page.held, which, order, limit], [rows, more], **QUICK
    )
    outputs = (problem, nothing, verdict, table, which, order, limit, rows, more, *compared.outputs, *others.outputs)
    return Prove(panel=panel, outputs=outputs, use_row=rows.use, advised=verdict.advised)


def show(run: Run) -> tuple[Any, ...]:
    """The whole proof when there is a report; else why there is none."""
    hidden = gr.update(value="", visible=False)
    report = run.report()
    again = (*comparing.show(run), *beside.show(run))
    if not report:
        why = hidden if comparing.is_going_on(run) else gr.update(value=_nothing(run), visible=True)
        return hidden, why, hidden, gr.update(visible=False), *[gr.skip()] * 5, *again
    whole = words_prove.verdict(report) + words_prove.bars(report) + words_prove.facts(report)
    found = bool(report.get("rows"))
    return (
        hidden,
        hidden,
        gr.update(value=whole, visible=True),
        gr.update(visible=found),
        gr.update(choices=words_rows.filter_choices(report), value="all"),
        "rows",
        words_rows.PAGE,
        words_rows.rows(report, seed=run.id),
        _more(report, "all", words_rows.PAGE),
        *again,
    )


def _nothing(run: Run) -> str:
    progress, status = summarize(run.events()), run.status()
    recipe = run.recipe
    test = run.path / "data" / "test.jsonl"
    test_rows = sum(1 for line in test.open("rb") if line.strip()) if test.is_file() else None
    return words_prove.nothing(
        status, asked=recipe.evaluate, test_rows=test_rows, stage=progress.stage, fraction=progress.stage_fraction
    )


def _more(report: words_rows.Report, which: str, limit: int) -> Any:
    left = len(words_rows.wanted(report, which)) - limit
    return gr.update(visible=left > 0, value=f"Show {count(min(left, 2 * words_rows.PAGE))} more")


def draw_rows(runs_dir: Path, run_id: str, which: str, order: str, limit: int) -> tuple[Any, Any]:
    """The rows of a filter, in an order. Raises nothing: a run that is gone shows its card."""
    try:
        report = _report(runs_dir, run_id)
    except Exception as error:
        return words.error_card(told(error)), gr.update(visible=False)
    return words_rows.rows(report, which, order, int(limit), seed=run_id), _more(report, which, int(limit))


def _report(runs_dir: Path, run_id: str) -> words_rows.Report:
    report = held_run(runs_dir, run_id).report()
    if not report:
        raise FinetuneError("This run has no report yet.", "Train it to the end first.", code="no-report")
    return report


def write_csv(runs_dir: Path, run_id: str, folder: Path) -> Path:
    return _write(runs_dir, run_id, folder, "csv", words_rows.as_csv)


def write_jsonl(runs_dir: Path, run_id: str, folder: Path) -> Path:
    return _write(runs_dir, run_id, folder, "jsonl", words_rows.as_jsonl)


def write_html(runs_dir: Path, run_id: str, folder: Path) -> Path:
    """The whole proof as one page that needs nothing else."""
    from finetune_core.proof.report_page import write_page

    run = held_run(runs_dir, run_id)
    _report(runs_dir, run_id)  # says what to do where there is none
    path = folder / f"{run.id}-report.html"
    path.write_text(write_page(run) or "", encoding="utf-8")
    return path


def _write(runs_dir: Path, run_id: str, folder: Path, ending: str, form: Callable[[Any], str]) -> Path:
    run = held_run(runs_dir, run_id)
    path = folder / f"{run.id}-answers.{ending}"
    path.write_text(form(_report(runs_dir, run_id)), encoding="utf-8", newline="")
    return path
