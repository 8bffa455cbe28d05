"""Rows from the Hub, and a Hub that is away."""

from __future__ import annotations

import time

import pytest
from prepared_rows import PAIRS

from finetune_core.data import choices, prepare
from finetune_core.errors import FinetuneError
from finetune_core.recipe import Recipe


@pytest.mark.parametrize("name", ["acme/faq", "squad", "https://huggingface.co/datasets/acme/faq"])
def test_a_hub_that_is_away_is_said_at_once(name):
    began = time.monotonic()
    with pytest.raises(FinetuneError) as caught:
        prepare(Recipe(dataset_name=name))
    assert caught.value.code == "hub-away"
    with pytest.raises(FinetuneError):
        choices("acme/faq")
    assert time.monotonic() - began < 5


def test_hub_splits_become_readings(tmp_path):
    import datasets

    from finetune_core.data.hubdata import _reading, _wanted

    rows = datasets.Dataset.from_list(PAIRS)
    reading = _reading("train", rows, "train")
    assert [record.value for record in reading.records] == PAIRS
    assert reading.columns == {"question": "text", "answer": "text"}
    assert reading.fraction() == 1.0
    assert _wanted(["train", "validation", "test"], "train", "x") == {
        "train": "train", "validation": "validation", "test": "test"
    }  # fmt: skip
    with pytest.raises(FinetuneError, match="it has a, b"):
        _wanted(["a", "b"], "train", "x")
