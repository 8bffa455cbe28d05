"""One row → token ids, labels and pieces to show: what is trained, what is context, what is cut."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conversations import assistant, system, trained_runs, user, whole_text

from finetune_core.errors import FinetuneError
from finetune_core.render import IGNORED, render, render_prompt


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"messages": []},
        {"messages": [{"role": "user"}]},
        {"messages": [{"role": "wizard", "content": "a"}]},
        {"messages": [user(None)]},  # type: ignore[arg-type]
        {"messages": "hello"},
        {"text": 3},
    ],
)
def test_a_row_that_is_no_row_is_refused_with_an_example(row, tiny_tokenizer):
    with pytest.raises(FinetuneError) as caught:
        render(row | {"row": 7}, tiny_tokenizer)
    assert caught.value.code == "bad-row"
    assert "Row 7" in caught.value.problem and '{"messages"' in caught.value.fix


def test_labels_are_the_ids_of_the_answer(tiny_tokenizer):
    rendered = render({"messages": [user("What?"), assistant("The cat.")]}, tiny_tokenizer)
    trained = [id for id, label in zip(rendered.input_ids, rendered.labels, strict=True) if label != IGNORED]
    assert [label for label in rendered.labels if label != IGNORED] == trained
    assert tiny_tokenizer.backend.decode(trained, skip_special_tokens=False) == "The cat.<|im_end|>"
    assert rendered.trained == len(trained)
    assert rendered.labels[-1] == IGNORED  # the newline behind it


def test_a_turn_of_weight_0_is_context(tiny_tokenizer):
    messages = [user("a"), assistant("b", weight=0), user("c"), assistant("d", weight=1)]
    assert trained_runs(render({"messages": messages}, tiny_tokenizer)) == ["d<|im_end|>"]


def test_a_row_without_answers_trains_nothing(tiny_tokenizer):
    rendered = render({"messages": [user("a"), assistant("b", weight=0)]}, tiny_tokenizer)
    assert (rendered.trained, rendered.stop_trained) == (0, False)


def test_generation_marks_narrow_what_is_trained_but_never_lose_the_end_token(tiny_tokenizer):
    source = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}Hm. {% generation %}"
        "{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer = replace(tiny_tokenizer, chat_template=source)
    assert trained_runs(render({"messages": [user("a"), assistant("b")]}, tokenizer)) == ["b<|im_end|>"]


def test_a_default_system_prompt_is_context(ours):
    rendered = render({"messages": [user("a"), assistant("b")]}, ours("qwen2_5"))
    assert "You are Qwen" in whole_text(rendered)
    assert trained_runs(rendered) == ["b<|im_end|>"]


def test_a_system_message_goes_before_the_question_where_the_template_has_no_place_for_it(ours):
    rendered = render({"messages": [system("Be short."), user("a"), assistant("b")]}, ours("gemma"))
    assert "user\nBe short.\n\na<end_of_turn>" in whole_text(rendered)


def test_a_prompt_that_ends_with_an_answer_is_refused(tiny_tokenizer):
    with pytest.raises(FinetuneError) as caught:
        render_prompt([user("a"), assistant("b")], tiny_tokenizer)
    assert caught.value.code == "bad-row"


def test_every_token_of_a_text_is_trained_and_eos_comes_once(tiny_tokenizer):
    once, twice = (
        render({"text": "The cat sat."}, tiny_tokenizer),
        render({"text": "The cat sat.<|im_end|>"}, tiny_tokenizer),
    )
    assert once.input_ids == once.labels == twice.input_ids
    assert once.input_ids[-1] == tiny_tokenizer.eos_id and once.input_ids.count(tiny_tokenizer.eos_id) == 1
    assert (once.trained, once.stop_trained) == (len(once.input_ids), True)
    assert whole_text(once) == "The cat sat.<|im_end|>"


def test_what_is_too_long_is_cut_at_the_end_and_kept_for_the_token_view(tiny_tokenizer):
    row = {"messages": [user("What?"), assistant("The cat sat on the mat.")]}
    whole = render(row, tiny_tokenizer)
    last = max(index for index, label in enumerate(whole.labels) if label != IGNORED)
    for length in (1, 8, last, last + 1, len(whole.input_ids), 1000):
        cut = render(row, tiny_tokenizer, max_length=length)
        assert cut.input_ids == whole.input_ids[:length]
        assert cut.labels == whole.labels[:length]
        assert cut.cut_ids == whole.input_ids[length:]
        assert cut.dropped == len(whole.input_ids[length:])
        assert cut.trained == sum(label != IGNORED for label in cut.labels)
        assert cut.stop_trained == (length > last)
        assert [piece.kind == "cut" for piece in cut.pieces()] == [i >= length for i in range(len(whole.input_ids))]
        assert whole_text(cut) == whole_text(whole)


def test_a_text_that_is_cut_loses_its_end(tiny_tokenizer):
    cut = render({"text": "The cat sat on the mat."}, tiny_tokenizer, max_length=3)
    assert (len(cut.input_ids), cut.trained, cut.stop_trained) == (3, 3, False)


def test_pieces_are_the_text_and_show_characters_whole(tiny_tokenizer):
    messages = [user("héé 🎉"), assistant("日本 👩‍👩‍👧 ok")]
    rendered = render({"messages": messages}, tiny_tokenizer)
    pieces = rendered.pieces()
    expected = "<|im_start|>user\nhéé 🎉<|im_end|>\n<|im_start|>assistant\n日本 👩‍👩‍👧 ok<|im_end|>\n"
    assert [piece.id for piece in pieces] == rendered.input_ids
    assert "".join(piece.text for piece in pieces) == expected
    assert "🎉" in [piece.text.strip() for piece in pieces]
    assert not any("�" in piece.text for piece in pieces)


def test_pieces_tell_special_and_end_tokens(tiny_tokenizer):
    pieces = render({"messages": [user("a"), assistant("b")]}, tiny_tokenizer).pieces()
    assert [(p.text, p.is_special, p.is_stop) for p in pieces if p.is_special] == [
        ("<|im_start|>", True, False),
        ("<|im_end|>", True, True),
        ("<|im_start|>", True, False),
        ("<|im_end|>", True, True),
    ]


def test_torch_stays_out(tiny_model_dir):
    code = (
        "import sys; from pathlib import Path; from finetune_core.render import load_tokenizer, render, render_prompt\n"
        "assert 'transformers' not in sys.modules\n"
        "tokenizer = load_tokenizer(Path(sys.argv[1]))\n"
        "messages = [{'role': 'user', 'content': 'a'}, {'role': 'assistant', 'content': 'b'}]\n"
        "assert render({'messages': messages}, tokenizer).pieces() and render_prompt(messages[:1], tokenizer)\n"
        "print('torch' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(tiny_model_dir)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        check=False,
    )
    assert result.stdout.strip() == "False", result.stderr
