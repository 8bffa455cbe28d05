"""A run's rows as token ids on disk: the same whoever opens them, and gone when the training is over."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from conftest import chat_rows

from finetune_core.data.rows import open_rows
from finetune_core.encoded import encode, encode_run, forget_encoded, open_encoded, token_lengths
from finetune_core.errors import FinetuneError
from finetune_core.preflight import create_run
from finetune_core.render import render


@pytest.fixture
def run(recipe, runs_dir):
    return create_run(recipe, runs_dir)


def test_encoded_rows_are_the_rendered_rows_in_their_order(tiny_tokenizer, tmp_path):
    rows = [*chat_rows(1100), {"messages": [*chat_rows(1)[0]["messages"][:-1], {"role": "assistant", "content": "x",
                                                                              "weight": 0}]}]  # fmt: skip
    encoded = encode(rows, tiny_tokenizer, 40, tmp_path / "rows.arrow")
    expected = [render(row, tiny_tokenizer, 40) for row in rows[:-1]]
    assert encoded["input_ids"][:] == [row.input_ids for row in expected if row.trained]
    assert encoded["labels"][:] == [row.labels for row in expected if row.trained]
    assert token_lengths(encoded) == [len(row.input_ids) for row in expected if row.trained]


def test_what_is_encoded_is_not_held_in_memory(tiny_tokenizer, tmp_path, monkeypatch):
    import tracemalloc

    import pyarrow

    from finetune_core import encoded, render

    monkeypatch.setattr(encoded, "AT_ONCE", 5000)
    monkeypatch.setattr(render, "BATCH", 50)
    long = [{"role": "user", "content": "kettle"}, {"role": "assistant", "content": "good " * 60}]
    path = tmp_path / "rows.arrow"

    def peak(count):
        tracemalloc.start()
        try:
            assert len(encode(({"messages": long} for _ in range(count)), tiny_tokenizer, 256, path)) == count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(500)  # what is loaded once
    before = pyarrow.total_allocated_bytes()
    assert peak(2500) < 1.5 * peak(500)
    assert pyarrow.total_allocated_bytes() - before < path.stat().st_size / 2


def test_another_max_length_is_encoded_anew_and_all_of_it_forgotten(run, tiny_tokenizer):
    long = encode_run(run, tiny_tokenizer, 128)[0]
    longest = max(token_lengths(long))
    assert max(token_lengths(encode_run(run, tiny_tokenizer, longest - 1)[0])) == longest - 1
    assert open_encoded(run, 128)[0]["labels"][:] == long["labels"][:]
    forget_encoded(run)
    assert not (run.path / ".rows").exists()


def test_rows_that_teach_nothing_are_refused(run, tiny_tokenizer):
    with pytest.raises(FinetuneError, match="nothing to learn"):
        encode_run(run, tiny_tokenizer, 2)


def test_rows_are_grouped_by_length_as_transformers_groups_them(tiny_tokenizer, tmp_path):
    import torch
    from transformers.trainer_pt_utils import LengthGroupedSampler

    from finetune_core.trainer import RowsTrainer

    rows = encode(chat_rows(60), tiny_tokenizer, 64, tmp_path / "rows.arrow")
    args = SimpleNamespace(train_sampling_strategy="group_by_length", train_batch_size=2, eval_batch_size=2, seed=7,
                           gradient_accumulation_steps=3, world_size=1)  # fmt: skip
    trainer = SimpleNamespace(args=args, train_dataset=rows)
    torch.manual_seed(0)
    ours = list(RowsTrainer._get_train_sampler(trainer)), list(RowsTrainer._get_eval_sampler(trainer, rows))
    torch.manual_seed(0)
    seeded = torch.Generator().manual_seed(7)
    theirs = list(LengthGroupedSampler(6, rows)), list(LengthGroupedSampler(2, rows, generator=seeded))
    assert ours == theirs


@pytest.mark.parametrize("text", ["", '{"a": 1}\n{"a": 2}', '\n{"a": 1}\n\r\n{"a": 2}\n\n'])
def test_a_file_of_rows_opens_with_blank_lines_and_without_an_end(text, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(text.encode())
    assert list(open_rows(path)) == [json.loads(line) for line in text.split("\n") if line.strip()]


def test_a_file_of_rows_that_is_not_there_has_none(tmp_path):
    assert len(open_rows(tmp_path / "none.jsonl")) == 0
