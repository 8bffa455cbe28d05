"""Rows that are nearly alike are found, and those that only look alike are not."""

from __future__ import annotations

import random

import numpy as np
from make_bad_inputs import chat, lines, sentence
from prepared_rows import prepared_from

from finetune_core.data.duplicates import KeyMaker, near_pairs, shingles
from finetune_core.data.rows import RowWriter


def test_near_pairs_agree_with_comparing_all_pairs():
    draw = random.Random(3)
    texts = [sentence(i, 30) for i in range(1500)]
    for i in range(0, 300, 3):
        words = texts[i].split()
        for _ in range(draw.randint(0, 4)):
            words[draw.randrange(len(words))] = "changed"
        texts[i + 1] = " ".join(words)
    writer, maker = RowWriter(), KeyMaker()
    for text in texts:
        writer.append({"text": text})
        maker.add({"text": text})
    rows = writer.finish()
    found = {tuple(pair) for pair in near_pairs(rows, np.zeros(len(rows), dtype=bool)).tolist()}
    sets = [shingles(text) for text in texts]
    expected = {
        (i, i + 1) for i in range(len(texts) - 1) if len(sets[i] & sets[i + 1]) >= 0.8 * len(sets[i] | sets[i + 1])
    }
    assert len(expected) > 20
    assert found <= expected
    assert len(found) >= 0.97 * len(expected)


def test_a_form_letter_does_not_make_rows_near(tmp_path):
    form = "Please read the following message of a customer and say which of the five kinds it is, in one word: "
    rows = [chat(form + sentence(i, 6), sentence(i + 500, 3)) for i in range(100)]
    (tmp_path / "x.jsonl").write_text(lines(rows))
    assert prepared_from(tmp_path / "x.jsonl").findings == ()


def test_sums_that_differ_in_a_sign_are_no_duplicates(tmp_path):
    rows = [{"prompt": f"{i} {sign} 3 =", "completion": str(i)} for i in range(20) for sign in "+-*/"]
    (tmp_path / "x.jsonl").write_text(lines(rows))
    assert not {"duplicates", "conflicting-labels"} & {f.code for f in prepared_from(tmp_path / "x.jsonl").findings}


def test_runs_of_words_are_the_same_numbers_in_every_process():
    assert shingles("the cat sat") == {3046709398}
    assert shingles("the cat sat") != shingles("sat cat the")
