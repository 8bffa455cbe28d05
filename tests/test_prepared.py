"""Prepared rows: repaired as asked, counted by reason, read back as they were, and told in the data card."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from make_bad_inputs import chat, chats, lines, sentence
from prepared_rows import all_rows, prepared_from, said

from finetune_core.data import prepare, write_splits
from finetune_core.recipe import Recipe

REPAIRS = [
    ("drop-duplicates", [*chats(40), *chats(10)], "duplicates", 10),
    ("drop-near-duplicates", [chat(sentence(i, 40) + end, "x") for i in range(20) for end in ("", " now")],
     "near-duplicates", 20),
    ("drop-conflicts", [*chats(40), chat("same", "good"), chat("Same.", "bad")], "conflicting-labels", 2),
]  # fmt: skip


@pytest.mark.parametrize(("fix", "rows", "reason", "count"), REPAIRS)
def test_a_repair_is_counted_by_its_reason(fix, rows, reason, count, tmp_path):
    (tmp_path / "x.jsonl").write_text(lines(rows))
    before, after = prepared_from(tmp_path / "x.jsonl"), prepared_from(tmp_path / "x.jsonl", fixes=[fix])
    assert reason in {finding.code for finding in before.findings}
    assert reason not in {finding.code for finding in after.findings}
    assert after.dropped == {reason: count}
    assert after.card()["dropped"] == {reason: count}
    assert len(all_rows(after)) == len(rows) - count


def test_leaks_are_taken_out_of_the_training_rows(tmp_path):
    (tmp_path / "train.jsonl").write_text(lines(chats(60)))
    (tmp_path / "test.jsonl").write_text(lines(chats(20, 50)))
    prepared = prepared_from(tmp_path, fixes=["drop-leaks"], validation_size=0)
    assert (len(prepared.train), len(prepared.test), prepared.dropped) == (50, 20, {"leaks": 10})


def test_labels_get_one_spelling(tmp_path):
    rows = [[f"{sentence(i)}", ["good", " Good", "good.", "bad", "BAD "][i % 5]] for i in range(50)]
    (tmp_path / "x.jsonl").write_text(lines([{"text": text, "label": label} for text, label in rows]))
    prepared = prepared_from(tmp_path / "x.jsonl", fixes=["trim-labels"])
    answers = Counter(said(row)[-1][1] for row in all_rows(prepared))
    assert answers == {"good": 30, "bad": 20}
    assert prepared.repaired == {"trim-labels": 30}
    assert prepared.card()["labels"] == {"good": 30, "bad": 20}


def test_turns_in_a_row_are_merged_when_asked(tmp_path):
    row = {"messages": [{"role": "user", "content": "One."}, *chat("Two.", "Three.")["messages"]]}
    (tmp_path / "x.jsonl").write_text(lines([row]))
    prepared = prepared_from(tmp_path / "x.jsonl", fixes=["merge-consecutive"])
    assert said(prepared.train[0]) == [("user", "One.\n\nTwo."), ("assistant", "Three.")]


def test_the_cleaned_data_reads_back_as_it_was(tmp_path):
    (tmp_path / "x.jsonl").write_text(lines([*chats(60), *chats(10)]))
    prepared = prepared_from(tmp_path / "x.jsonl", fixes=["drop-duplicates"])
    paths = write_splits(prepared, tmp_path / "clean")
    assert [path.name for path in paths] == ["train.jsonl", "validation.jsonl", "test.jsonl"]
    again = prepared_from(tmp_path / "clean")
    for name, rows in prepared.splits().items():
        assert [said(row) for row in rows] == [said(row) for row in again.splits()[name]]
    assert again.findings == ()


def test_progress_goes_up_and_cancelling_ends_it(tmp_path):
    (tmp_path / "x.jsonl").write_text(lines(chats(5000)))
    heard = []
    prepare(Recipe(dataset_name=str(tmp_path / "x.jsonl")), on_progress=lambda *told: heard.append(told))
    assert [fraction for fraction, _ in heard] == sorted(fraction for fraction, _ in heard)
    assert heard[-1] == (1.0, "rows are read")  # not "ready": the check goes on after it

    def cancel(fraction, words):
        if fraction > 0.2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(Recipe(dataset_name=str(tmp_path / "x.jsonl")), on_progress=cancel)


def test_the_data_card_says_where_rows_came_from_and_went(tmp_path):
    (tmp_path / "x.jsonl").write_text(lines([*chats(30), {"messages": [{"role": "user", "content": "?"}]}]))
    card = prepared_from(tmp_path / "x.jsonl", fixes=["drop-missing-answers"]).card()
    assert card["rows_read"] == 31
    assert card["dropped"] == {"missing-answers": 1}
    assert card["rows"] == {"train": 24, "validation": 3, "test": 3}
    assert card["source"]["sha256"]
    assert card["shapes"] == {"chat messages (OpenAI)": 30 + 1}
    json.dumps(card, allow_nan=False)
