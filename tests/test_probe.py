"""The probe of what tuning cost: 150 questions that can be scored, and what their answers mean."""

import pytest

from finetune_core.proof.forgetting import kept_and_lost
from finetune_core.proof.probe import AREAS, follows, load_probe


def test_the_probe_has_150_questions_of_five_kinds():
    items = [item for item in load_probe() if item.area != "open"]
    assert len(items) == 150 and {item.area for item in items} == set(AREAS)
    assert len({item.id for item in load_probe()}) == len(load_probe())
    assert sum(item.language == "nl" for item in items) >= 25


def test_every_probe_question_can_be_scored():
    for item in load_probe():
        if item.area == "open":
            assert not item.right and item.rule is None
        else:
            assert bool(item.right) != bool(item.rule), item.id
            assert not item.right or (item.wrong and item.right not in item.wrong), item.id


@pytest.mark.parametrize(
    ("rule", "answer", "keeps"),
    [
        ({"contains": ["sea"]}, "The SEA is blue", True),
        ({"contains": ["sea", "sky"]}, "The sea", False),
        ({"any": ["red", "blue", "green"], "at_least": 2}, "Red and blue", True),
        ({"any": ["red", "blue", "green"], "at_least": 2}, "red", False),
        ({"regex": r"1\D+2\D+3"}, "1, 2, 3", True),
        ({"regex": r"1\D+2\D+3"}, "123", False),
        ({"contains": ["a"], "max_words": 3}, "a b c d", False),
    ],
)
def test_rules_look_at_what_was_written(rule, answer, keeps):
    assert follows(rule, answer) is keeps


@pytest.mark.parametrize(
    ("before", "after", "state", "words"),
    [
        (110, 70, "lost", "tuning cost 20 to 34 points"),
        (110, 108, "kept", "no loss that 150 questions can show"),
        (70, 110, "gained", "even gained"),
        (150, 150, "kept", "2 points at most"),
    ],
)
def test_forgetting_is_told_as_kept_or_lost(before, after, state, words):
    found = kept_and_lost([i < before for i in range(150)], [i < after for i in range(150)])
    assert found["state"] == state and words in found["sentence"]
    assert found["won"] - found["lost"] == after - before
