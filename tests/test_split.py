"""Training, validation and test rows: the shares, the groups that stay together, and splits of one's own."""

from __future__ import annotations

import random

import numpy as np
import pytest
from make_bad_inputs import chat, chats, lines, sentence
from prepared_rows import all_rows, prepared_from

from finetune_core.data.split import split


def test_a_split_is_80_10_10_and_loses_nothing():
    parts = split(np.arange(1000), None, 0.1, 0.1, seed=1)
    assert [len(part) for part in parts.values()] == [800, 100, 100]
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(1000))


def test_a_split_is_the_same_for_a_seed_and_another_for_another():
    first, again, other = (split(np.arange(100), None, 0.1, 0.1, seed)["test"].tolist() for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("seed", range(20))
def test_no_group_straddles_a_split(seed):
    draw = np.random.default_rng(seed)
    group = draw.integers(0, 80, 200)
    parts = split(group, draw.integers(0, 3, 200), 0.1, 0.1, seed)
    sets = [set(group[part].tolist()) for part in parts.values()]
    assert not (sets[0] & sets[1] or sets[0] & sets[2] or sets[1] & sets[2])
    assert all(len(part) for part in parts.values())


def test_labels_keep_their_shares():
    labels = np.array([0] * 700 + [1] * 250 + [2] * 50)
    for name, part in split(np.arange(1000), labels, 0.1, 0.1, seed=3).items():
        shares = np.bincount(labels[part]) / len(part)
        assert shares == pytest.approx([0.7, 0.25, 0.05], abs=0.011), name


@pytest.mark.parametrize(("count", "expected"), [(1, [1, 0, 0]), (9, [9, 0, 0]), (10, [8, 1, 1]), (60, [48, 6, 6])])
def test_small_sets_get_sensible_splits(count, expected):
    assert [len(part) for part in split(np.arange(count), None, 0.1, 0.1, 0).values()] == expected


def test_no_share_no_split():
    assert [len(part) for part in split(np.arange(100), None, 0.0, 0.0, 0).values()] == [100, 0, 0]


def test_few_large_groups_still_leave_something_to_test_with():
    parts = split(np.arange(60) % 5, None, 0.1, 0.1, 0)
    assert [len(part) for part in parts.values()] == [36, 12, 12]


def test_rows_that_are_alike_stay_together(tmp_path):
    draw = random.Random(5)
    rows = []
    for i in range(120):
        first = chat(sentence(i, 20), sentence(i + 300, 12))["messages"]
        longer = [*first, {"role": "user", "content": "More?"}, {"role": "assistant", "content": sentence(i + 700)}]
        near = [{"role": "user", "content": sentence(i, 20) + " please"}, first[1]]
        loud = [{"role": "user", "content": sentence(i, 20).upper()}, first[1]]
        pair = draw.choice([(first, longer), (first, near), (first, loud), (longer, loud)])
        rows += [{"messages": turns, "id": i} for turns in pair]
    (tmp_path / "x.jsonl").write_text(lines(rows))
    prepared = prepared_from(tmp_path / "x.jsonl")
    where = {name: {row["id"] for row in part} for name, part in prepared.splits().items()}
    assert not (where["train"] & where["validation"] or where["train"] & where["test"])
    assert not where["validation"] & where["test"]
    assert len(prepared.test) == pytest.approx(24, abs=2)


def test_a_fixed_greeting_does_not_tie_all_rows_together(tmp_path):
    rows = [
        {"messages": [*chat("Hello", "How can I help?")["messages"], *chat(sentence(i), sentence(i + 99))["messages"]]}
        for i in range(100)
    ]
    (tmp_path / "x.jsonl").write_text(lines(rows))
    prepared = prepared_from(tmp_path / "x.jsonl")
    assert [len(part) for part in prepared.splits().values()] == [80, 10, 10]


def test_own_splits_are_kept(tmp_path):
    for name, part in (("train", chats(30)), ("dev", chats(10, 50)), ("test-00000-of-00001", chats(5, 80))):
        (tmp_path / f"{name}.jsonl").write_text(lines(part))
    prepared = prepared_from(tmp_path)
    assert [len(part) for part in prepared.splits().values()] == [30, 10, 5]
    assert prepared.own_splits == ("train", "validation", "test")


def test_a_missing_own_split_is_taken_from_the_training_rows(tmp_path):
    (tmp_path / "train.jsonl").write_text(lines(chats(50)))
    (tmp_path / "test.jsonl").write_text(lines(chats(10, 60)))
    assert [len(part) for part in prepared_from(tmp_path).splits().values()] == [45, 5, 10]


def test_max_rows_are_drawn_with_the_seed(tmp_path):
    (tmp_path / "x.jsonl").write_text(lines(chats(100)))
    first, again = (all_rows(prepared_from(tmp_path / "x.jsonl", max_rows=30)) for _ in range(2))
    assert first == again
    assert len(first) == 30
    assert [row["row"] for row in first] != list(range(1, 31))
