"""Share's card for the rows: as a data set on the Hub. What a press does is in taking.py, beside the other jobs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from finetune_core import launch
from finetune_core.files import read_json
from finetune_core.job import Said
from finetune_core.run import Run
from finetune_core.takeaway import PERSONAL, PERSONAL_PUBLIC
from finetune_core.takeaway.kept import rows_name

from . import look, words_take
from .pressing import button_of, state_of, token_box
from .signed_in import Known
from .words_share import COPY_JS

PUSH, AGREE = "Put the rows on the Hub", "They may go there"
OUTPUTS = 4  # values that show() gives


@dataclass(frozen=True)
class RowsCard:
    repo: gr.Textbox
    private: gr.Checkbox
    token: gr.Textbox
    push: gr.Button
    outputs: tuple[Any, ...]  # what show() fills
    states: tuple[Any, ...]  # what states_of() fills


def build() -> RowsCard:
    card = partial(look.html, js_on_load=COPY_JS)
    with gr.Column(elem_classes=["card", "share-card"]) as whole:
        head = card()
        with gr.Column(elem_classes="take-form"):
            repo = gr.Textbox(label="Name", max_lines=1, placeholder="owner/name", max_length=140)
            private = gr.Checkbox(True, label="Private", elem_classes="take-private")
            who = card()
            token = token_box()
        push = gr.Button(PUSH, size="md")
        state = card()
    return RowsCard(repo, private, token, push, (whole, head, repo, private), (who, token, push, state))


def show(run: Run) -> tuple[Any, ...]:
    """Nothing for a run from the Hub: its rows stayed where it was trained."""
    data = read_json(run.path / "data" / "card.json") or {}
    has_rows = (run.path / "data" / "train.jsonl").is_file()
    rows = {split: count for split, count in (data.get("rows") or {}).items() if count}
    return gr.update(visible=bool(has_rows and rows)), words_take.rows_card(rows), rows_name(run), True


def states_of(run: Run, said: Said | None, busy: bool, me: Known | None) -> tuple[Any, ...]:
    made = said.made if said else {}
    asks = refused_for(run, said) in (PERSONAL, PERSONAL_PUBLIC)
    shown = words_take.may_they(said.error or {}) if said and asks else words_take.made_rows(made) if made else ""
    return (
        words_take.account(me.name, me.is_away, me.ends_in, me.problem) if me else words_take.asking(),
        gr.update(visible=bool(me and not me.name and not me.is_away)),
        button_of(AGREE if asks else PUSH, said, busy, bool(me and not me.is_away)),
        state_of(said, shown),
    )


def refused_for(run: Run, said: Said | None = None) -> str:
    """The code of what the last push of the rows failed with, or ""."""
    said = said or launch.taking(run, "push-data").said()
    return ((said.error if said else None) or {}).get("code", "")
