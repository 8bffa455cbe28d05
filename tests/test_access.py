"""What the Hub is asked about a visitor of a Space: once, and not by every tick."""

from __future__ import annotations

import pytest

from finetune_core import access
from finetune_core.errors import FinetuneError
from finetune_core.space import Identity


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(access, "time", type("time", (), {"monotonic": staticmethod(lambda: now[0])}))
    return now


@pytest.fixture
def asked_hub(monkeypatch):
    """The questions that the Hub got, and what it answers to a token."""
    calls, answers = [], {}

    def ask(path, token):
        calls.append(path)
        if isinstance(answers[token], FinetuneError):
            raise answers[token]
        return answers[token]

    access.forget()
    monkeypatch.setattr(access.account, "ask_hub", ask)
    yield calls, answers
    access.forget()


AWAY = FinetuneError("Away.", "Wait.", "hub-away")


@pytest.mark.parametrize("token", ["hf_made", "hf_oauth_made"])
def test_a_token_that_the_hub_refuses_is_nobody_s_at_once(asked_hub, clock, token):
    _, answers = asked_hub
    answers[token] = {"type": "user", "name": "ann"}
    assert access.who_has(token) == Identity("ann")
    clock[0] += access.KEPT + 1
    refused = RuntimeError("401")
    refused.response = type("Answer", (), {"status_code": 401})
    answers[token] = access.account.told(refused, token)
    assert access.who_has(token) == Identity()


def test_the_hub_is_asked_once_in_two_minutes(asked_hub, clock):
    calls, answers = asked_hub
    answers["t"] = {"type": "user", "name": "ann"}
    assert access.who_has("t") == access.who_has("t") == Identity("ann") and len(calls) == 1
    clock[0] += access.KEPT + 1
    answers["t"] = FinetuneError("Unknown.", "", "bad-token")
    assert access.who_has("t") == Identity() and len(calls) == 2


def test_a_known_visitor_stays_known_for_ten_minutes_without_the_hub(asked_hub, clock):
    _, answers = asked_hub
    answers["t"] = {"type": "user", "name": "ann"}
    access.who_has("t")
    answers["t"] = AWAY
    clock[0] += access.KEPT + 1
    assert access.who_has("t") == Identity("ann")
    clock[0] += access.GRACE
    with pytest.raises(FinetuneError, match="Away"):
        access.who_has("t")


def test_a_hub_that_is_away_is_not_asked_by_every_tick(asked_hub, clock):
    calls, answers = asked_hub
    answers["t"] = AWAY
    for _ in range(3):
        with pytest.raises(FinetuneError):
            access.who_has("t")
    assert len(calls) == 1
