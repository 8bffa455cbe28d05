"""Words on the page: text of data stays text, and no state is told by color alone."""

from __future__ import annotations

from html.parser import HTMLParser
from types import SimpleNamespace

import pytest

from finetune_core import Recipe
from finetune_core.data.findings import Finding
from finetune_core.data.source import Source, SourceFile
from finetune_core.errors import FinetuneError
from finetune_core.job import Said
from finetune_core.recipe import Suggestion
from finetune_ui import (
    words,
    words_beforehand,
    words_check,
    words_comparing,
    words_frame,
    words_hub,
    words_plan,
    words_source,
    words_take,
    words_tokens,
)

EVIL = """<script>alert(1)</script><img src=x onerror="alert('1')">"""


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.attributes = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attributes]


def parse(text):
    tags = Tags()
    tags.feed(text)
    return tags


def evil_pieces():
    piece = SimpleNamespace(text=EVIL, id=1, kind="trained", is_special=False, is_stop=False)
    finding = Finding(EVIL, "error", EVIL, (1,), 1, EVIL, Suggestion(EVIL, {}), examples=(EVIL,))
    run = words_frame.RailRun(EVIL, EVIL, EVIL, "running", verdict=EVIL)
    error = FinetuneError(EVIL, EVIL)
    parity = {"compared": 2, "same": 1, "ties": 1, "logprob_mean": 0.5, "engine": EVIL, "split": EVIL}
    source = Source(
        EVIL, "file", (SourceFile(EVIL, "csv", encoding=EVIL, delimiter=EVIL, sheet=EVIL),), 9, licence=EVIL
    )
    return {
        "tokens": words_tokens.tokens([piece], 0, 1, 1, "train", EVIL),
        "findings": words_check.findings([finding], [EVIL], {EVIL: EVIL}),
        "rows": words_source.rows_card(
            source, EVIL, {EVIL: ("ready", EVIL)}, [EVIL], {"prompt": EVIL}, ["prompt"], Recipe(system_prompt=EVIL)
        ),
        "rail": words_frame.rail([run], EVIL),
        "folds": words_frame.folds({"choose": EVIL}),
        "header": words_frame.header(EVIL, True),
        "error": words.error_card(error),
        "failed": words_check.failed(error),
        "bar": words_plan.bar(EVIL, EVIL),
        "fetching": words_plan.bar_fetching({"says": EVIL, "fraction": 0.5}),
        "looking": words_check.looking(EVIL),
        "reading": words_source.reading_card([f"encoding-{EVIL}"]),
        "unreadable": words_frame.rail([words_frame.unreadable(EVIL, EVIL, EVIL)], ""),
        "hub": words_hub.pickers({"dataset_config": (EVIL, "b")}, {"dataset_config": EVIL, "dataset_revision": EVIL}),
        "judge": words_comparing.sends(f"https://{EVIL}/v1"),
        "no command": words_comparing.no_command(error),
        "trying": words_beforehand.prompts(Said(1, 0.0, 0.5, EVIL), None, EVIL, 9.0),
        "taking": words_take.working(EVIL, 0.5, EVIL) + words_take.failed({"problem": EVIL, "fix": EVIL}),
        "account": words_take.account(EVIL, False) + words_take.account("", False, None, (EVIL, EVIL)),
        "rows pushed": words_take.made_rows({"url": f"https://{EVIL}", "repo_id": EVIL}),
        "rows refused": words_take.may_they({"problem": EVIL}) + words_take.rows_card({EVIL: 1}),
        "elsewhere": words_take.elsewhere(Recipe(model_name_or_path=EVIL), EVIL, EVIL),
        "file card": words_take.file_card(Recipe(model_name_or_path=EVIL), {"adapter": 1}, EVIL),
        "pushed": words_take.made_push({"url": f"https://{EVIL}", "parity": parity}),
        "gguf": words_take.made_gguf({"path": EVIL, "parity": {**parity, "by_file": {EVIL: parity}}}, EVIL),
    }


@pytest.mark.parametrize("name", evil_pieces())
def test_text_of_data_and_people_stays_text(name):
    tags = parse(evil_pieces()[name])
    assert "script" not in tags.tags and "img" not in tags.tags
    assert not [attribute for attribute in tags.attributes if attribute.startswith("on")]


def test_states_are_told_by_shape_and_word_not_by_color_alone():
    for status in words.STATUS_TONES:
        run = words_frame.RailRun("id", "data", "model", status)
        assert words.status_word(status) in words_frame.rail([run], "")


def test_a_finished_step_says_what_was_decided():
    assert words_frame.chosen_line(Recipe()) == "SmolLM2-135M-Instruct · shop-messages · LoRA"
