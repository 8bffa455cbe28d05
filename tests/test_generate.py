"""Tokens, one after the other: the same answer alone, in a batch and from transformers, and it ends where it should."""

import dataclasses

import pytest
from tuned import QUESTIONS, ids, prompts

from finetune_core.answers.generate import Decoding, TextPieces
from finetune_core.errors import FinetuneError


@pytest.mark.parametrize("name", ["tuned", "base", "checkpoint-20"])
def test_a_batch_answers_as_each_prompt_alone(tuned_chatter, name):
    asked = prompts(tuned_chatter)
    alone = [tuned_chatter.generate(name, [prompt], max_new_tokens=24)[0] for prompt in asked]
    assert ids(tuned_chatter.generate(name, asked, max_new_tokens=24)) == ids(alone)
    assert name == "base" or len({token for answer in alone for token in answer.token_ids}) > 8  # no dull proof


@pytest.mark.parametrize("beginning", [0, 3, 40])
def test_a_beginning_that_all_prompts_share_is_read_once_and_changes_nothing(tuned_chatter, beginning):
    asked = [[5] * beginning + list(range(20, 20 + length)) for length in (4, 9, 2)]
    alone = [tuned_chatter.generate("tuned", [prompt], max_new_tokens=12)[0] for prompt in asked]
    assert ids(tuned_chatter.generate("tuned", asked, max_new_tokens=12)) == ids(alone)


FAMILIES = [  # what differs between them: sliding windows, learned positions, alibi, a recurrent state
    ("mistral", {"sliding_window": 8, "num_key_value_heads": 2}),
    ("gpt2", {}),
    ("bloom", {"n_layer": 2, "n_head": 4}),
    ("mamba", {"state_size": 4}),
]


@pytest.mark.parametrize(("family", "extra"), FAMILIES, ids=[family for family, _ in FAMILIES])
def test_other_families_answer_in_a_batch_as_alone(family, extra):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    sizes = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    plain = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes | extra), dtype=torch.float32).eval()
    asked = [[5, 6, 7] * 7 + list(range(8, 8 + length)) for length in (3, 9, 1)]

    def greedy(rows):
        decoding = Decoding(rows, pad_id=0)
        return [list(tokens) for tokens in zip(*([t for _, t in decoding.step(plain)] for _ in range(8)), strict=True)]

    alone = [greedy([row])[0] for row in asked]
    for row, answer in zip(asked, alone, strict=True):
        theirs = plain.generate(
            torch.tensor([row]), max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        assert theirs[0, len(row) :].tolist() == answer
    assert plain._is_stateful or greedy(asked) == alone  # those are asked one by one


def test_greedy_answers_are_those_of_transformers(tuned_chatter, tuned_run):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(tuned_run.recipe.model_name_or_path, trust_remote_code=False)
    theirs = PeftModel.from_pretrained(theirs, tuned_run.result_dir)
    [prompt] = prompts(tuned_chatter, QUESTIONS[:1])
    asked = torch.tensor([prompt])
    stops = sorted(tuned_chatter.tokenizer.stop_ids)
    out = theirs.generate(
        input_ids=asked, attention_mask=torch.ones_like(asked), max_new_tokens=24, do_sample=False, eos_token_id=stops
    )
    [answer] = tuned_chatter.generate("tuned", [prompt], max_new_tokens=24)
    assert answer.token_ids == [token for token in out[0, len(prompt) :].tolist() if token not in stops]


@pytest.mark.parametrize("name", ["generate", "stream"])
def test_an_answer_ends_at_a_stop_token_that_is_not_part_of_it(tuned_chatter, name, monkeypatch):
    [prompt] = prompts(tuned_chatter, QUESTIONS[:1])
    drawn = {"max_new_tokens": 24, "temperature": 1.5, "seed": 1}
    whole = tuned_chatter.generate("base", [prompt], **drawn)[0].token_ids
    stop = next(token for place, token in enumerate(whole) if token not in whole[:place] and place > 2)
    monkeypatch.setattr(
        tuned_chatter, "tokenizer", dataclasses.replace(tuned_chatter.tokenizer, stop_ids=frozenset({stop}))
    )
    if name == "stream":
        list(stream := tuned_chatter.stream("base", prompt, **drawn))
        answer = stream.answer
    else:
        [answer] = tuned_chatter.generate("base", [prompt], **drawn)
    assert (answer.token_ids, answer.finish_reason) == (whole[: whole.index(stop)], "stop")


def test_an_answer_is_as_long_as_allowed(tuned_chatter):
    answers = tuned_chatter.generate("base", prompts(tuned_chatter), max_new_tokens=3)
    assert {(len(a.token_ids), a.finish_reason) for a in answers if a.finish_reason != "stop"} == {(3, "length")}


def test_an_answer_never_leaves_the_context(tuned_chatter):
    [answer] = tuned_chatter.generate("base", [[5] * 505], max_new_tokens=100)
    assert len(answer.token_ids) <= 7


@pytest.mark.parametrize("length", [0, 512, 600])
def test_a_prompt_that_does_not_fit_is_refused(tuned_chatter, length):
    with pytest.raises(FinetuneError) as caught:
        tuned_chatter.generate("base", [[5] * length], max_new_tokens=1)
    assert caught.value.code == "too-long"


def test_should_stop_is_asked_before_each_token(tuned_chatter):
    [prompt] = prompts(tuned_chatter, QUESTIONS[:1])
    asked = []
    answers = tuned_chatter.generate(
        "base", [prompt], max_new_tokens=50, should_stop=lambda: asked.append(1) or len(asked) > 4
    )
    assert (len(answers[0].token_ids), answers[0].finish_reason) == (4, "cancelled")
    stream = tuned_chatter.stream("base", prompt, max_new_tokens=50, should_stop=lambda: len(asked) > 4)
    assert (list(stream), stream.answer.finish_reason) == ([], "cancelled")


def test_progress_counts_answers_and_tokens(tuned_chatter):
    told = []
    tuned_chatter.generate(
        "base", prompts(tuned_chatter), max_new_tokens=5, on_tokens=lambda ended, tokens: told.append((ended, tokens))
    )
    assert told[-1][0] == len(QUESTIONS) and told[-1][1] <= 5 * len(QUESTIONS)


def test_a_seed_draws_the_same_answer_again(tuned_chatter):
    [prompt] = prompts(tuned_chatter, QUESTIONS[:1])
    drawn = [
        tuple(tuned_chatter.generate("base", [prompt], max_new_tokens=12, temperature=1.5, seed=seed)[0].token_ids)
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize("top_p", [1e-6, 0.0])
def test_a_tiny_top_p_leaves_only_the_likeliest(tuned_chatter, top_p):
    [prompt] = prompts(tuned_chatter, QUESTIONS[:1])
    drawn = tuned_chatter.generate("base", [prompt], max_new_tokens=12, temperature=2.0, top_p=top_p, seed=3)
    assert ids(drawn) == ids(tuned_chatter.generate("base", [prompt], max_new_tokens=12))


TEXTS = ["plain words", "één ☕ kost €3,50", "👩‍👩‍👧 family", "中文和日本語", " leading and trailing ", "a\n\n\tb"]


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_are_whole_characters_and_add_up(tuned_chatter, text):
    pieces = TextPieces(tuned_chatter.tokenizer.backend)
    shown = [pieces.add(token) for token in tuned_chatter.tokenizer.backend.encode(text).ids]
    assert "".join(shown) + pieces.rest() == text
    assert not any("\ufffd" in piece for piece in shown)


def test_a_character_cut_off_by_the_end_is_shown_as_such(tuned_chatter):
    pieces = TextPieces(tuned_chatter.tokenizer.backend)
    coffee = tuned_chatter.tokenizer.backend.encode("☕").ids
    assert (pieces.add(coffee[0]), pieces.rest()) == ("", "\ufffd")


@pytest.mark.parametrize("after", [0, 3])
def test_a_batch_that_does_not_fit_into_memory_is_asked_in_halves(tuned_chatter, monkeypatch, after):
    import torch

    asked = prompts(tuned_chatter)
    whole = tuned_chatter.generate("tuned", asked, max_new_tokens=12, references=[[5, 6]] * len(asked))
    forward, sizes, told = Decoding._forward, [], []

    def small_memory(self, model, tokens, *rest):
        sizes.append(len(tokens))
        if len(tokens) > 2 and len(sizes) > after:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(self, model, tokens, *rest)

    monkeypatch.setattr(Decoding, "_forward", small_memory)
    halved = tuned_chatter.generate(
        "tuned", asked, max_new_tokens=12, references=[[5, 6]] * len(asked), on_tokens=lambda *now: told.append(now)
    )
    assert max(sizes) == 5 and ids(halved) == ids(whole)
    assert [answer.finish_reason for answer in halved] == [answer.finish_reason for answer in whole]
    assert [answer.reference.loss for answer in halved] == [pytest.approx(a.reference.loss, rel=1e-4) for a in whole]
    assert told[-1][0] == len(asked)


def test_a_single_prompt_that_does_not_fit_into_memory_is_told(tuned_chatter, monkeypatch):
    import torch

    def no_memory(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(Decoding, "_forward", no_memory)
    with pytest.raises(torch.OutOfMemoryError):
        tuned_chatter.generate("tuned", prompts(tuned_chatter), max_new_tokens=4)
