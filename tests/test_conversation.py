"""Many conversations, rendered the quick way, are those rendered one by one."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from conversations import CONVERSATIONS, assistant, user
from trl_templates import PLAIN

from finetune_core.errors import FinetuneError
from finetune_core.render import render, render_many
from finetune_core.templates import conversation


@pytest.mark.parametrize("name", PLAIN)
def test_the_quick_way_gives_what_rendering_gives(name, ours, monkeypatch):
    """Rows whose contents are only put into a known shape, against each row rendered and analysed by itself."""
    monkeypatch.setattr(conversation, "OFTEN", 5)
    tokenizer = replace(ours(name))
    chance = random.Random(name)
    bits = [
        "hello",
        "cat.",
        "(x)",
        '"q"',
        "it's",
        "3.5%",
        "<b>",
        "é",
        "🎉",
        "{j}",
        "```py\n\nline:",
        "text,",
        "user",
        " ",
    ]
    bits += ["think", "</think>", "<think>", "", "\n", "JSON", "/"]
    rows = [
        {"messages": [user(" ".join(chance.choices(bits, k=chance.randint(0, 5)))), assistant(chance.choice(bits))]}
        for _ in range(30)
    ]
    by_itself = replace(tokenizer)
    by_itself.conversations._look_up = lambda row: None
    assert render_many(rows, tokenizer) == render_many(rows, by_itself)
    known = next(iter(tokenizer.conversations._known.values()))
    assert known.is_see_through


LOOKS_AT_CONTENTS = {
    "upper case": "{{ m.content | upper }}",
    "length": "{{ m.content if m.content | length < 2000 else '...' }}",
    "first letter": "{{ m.content if m.content[0] != '/' else 'a command' }}",
    "a word": "{{ m.content if 'secret' not in m.content else '...' }}",
    "JSON": "{{ m.content | tojson }}",
    "repetition": "{{ '...' if loop.previtem is defined and loop.previtem.content == m.content else m.content }}",
}


@pytest.mark.parametrize("look", LOOKS_AT_CONTENTS)
def test_a_template_that_looks_at_contents_is_rendered_for_each(look, tiny_tokenizer, monkeypatch):
    monkeypatch.setattr(conversation, "OFTEN", 1)
    source = "{% for m in messages %}<|im_start|>{{ m.role }}\n" + LOOKS_AT_CONTENTS[look] + "<|im_end|>\n{% endfor %}"
    tokenizer = replace(tiny_tokenizer, chat_template=source)
    contents = ["hello", "Hello", "/go", "my secret", 'a "b"', "x" * 3000]
    rows = [{"messages": [user(a), assistant(b)]} for a in contents for b in contents]
    by_itself = replace(tokenizer)
    by_itself.conversations._look_up = lambda row: None
    assert render_many(rows, tokenizer) == render_many(rows, by_itself)


def test_many_rows_are_rendered_like_each_alone(tiny_tokenizer):
    rows = [{"messages": messages} for messages in CONVERSATIONS.values()] + [{"text": "The cat."}, {"text": ""}]
    rows = rows * 300  # more than one batch
    assert (
        render_many(rows, tiny_tokenizer, max_length=20)
        == [render(row, tiny_tokenizer, max_length=20) for row in rows[:9]] * 300
    )


def test_a_refused_row_stops_everything_or_is_told_apart(ours):
    rows = [{"messages": [user("a"), assistant("b")]}, {"messages": [user("a"), user("b"), assistant("c")]}]
    with pytest.raises(FinetuneError, match="must alternate") as caught:
        render_many(rows, ours("gemma"))
    assert caught.value.code == "template-refused"
    refused: dict[int, FinetuneError] = {}
    rendered = render_many(rows, ours("gemma"), refused=refused)
    assert list(refused) == [1]
    assert [row.trained for row in rendered] == [2, 0]
