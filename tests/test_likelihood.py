"""How likely a model finds a given answer: in batches, while it writes its own, and in a small memory."""

import pytest
from tuned import logprob


def test_likelihoods_in_batches_are_those_of_single_answers(proof_chatter):
    import random

    from finetune_core.proof.likelihood import Asked, likelihoods

    drawn = random.Random(0)

    def ids(longest):
        return [drawn.randrange(3, 500) for _ in range(drawn.randint(1, longest))]

    shared = ids(30) + ids(30)
    asked = [Asked([*shared, *ids(20)], [ids(6) for _ in range(drawn.randint(1, 4))]) for _ in range(20)]
    asked += [Asked(ids(9), [ids(5)]) for _ in range(10)] + [Asked([7], [ids(5)])]
    with proof_chatter.borrow("tuned") as model:
        found = likelihoods(model, asked, pad_id=0)
        for item, results in zip(asked, found, strict=True):
            for answer, result in zip(item.answers, results, strict=True):
                assert -result.loss == pytest.approx(logprob(model, item.prompt, answer), rel=1e-4)
                assert result.tokens == len(answer)


def _answered(chatter, name, prompts, **more):
    return chatter.generate(name, prompts, max_new_tokens=12, **more)


@pytest.mark.parametrize("name", ["base", "tuned"])
def test_answers_are_the_same_whatever_references_are_read_along(proof_chatter, name):
    import random

    drawn = random.Random(3)
    prompts = [[drawn.randrange(3, 500) for _ in range(drawn.randint(2, 25))] for _ in range(14)]
    plain = _answered(proof_chatter, name, prompts)
    own = [answer.token_ids for answer in plain]
    stop = min(proof_chatter.tokenizer.stop_ids)
    references = [
        # none, its own answer, the first part of it and then another word, and something else altogether
        [[], [*ids, stop], [*ids[: len(ids) // 2], 7, 8, stop], [9, 10, stop]][place % 4]
        for place, ids in enumerate(own)
    ]
    along = _answered(proof_chatter, name, prompts, references=references)
    assert [answer.token_ids for answer in along] == own
    assert [answer.finish_reason for answer in along] == [answer.finish_reason for answer in plain]
    with proof_chatter.borrow(name) as model:
        for prompt, reference, answer in zip(prompts, references, along, strict=True):
            assert (answer.reference is None) == (not reference)
            if reference:
                assert -answer.reference.loss == pytest.approx(logprob(model, prompt, reference), rel=1e-4)


def test_a_single_prompt_reads_its_reference_too(proof_chatter):
    [plain] = _answered(proof_chatter, "tuned", [[5, 6, 7]])
    [along] = _answered(proof_chatter, "tuned", [[5, 6, 7]], references=[[*plain.token_ids[:3], 11]])
    assert along.token_ids == plain.token_ids and along.reference.tokens == 4


def test_references_too_large_for_the_memory_are_left_for_later(proof_chatter, monkeypatch):
    from finetune_core.answers import generate

    monkeypatch.setattr(generate, "MOST_LOGITS", 10)
    [answer] = _answered(proof_chatter, "tuned", [[5, 6, 7]], references=[[9, 10]])
    assert answer.reference is None and answer.token_ids == _answered(proof_chatter, "tuned", [[5, 6, 7]])[0].token_ids


def test_a_smaller_memory_gives_the_same_likelihoods(proof_chatter, monkeypatch):
    from finetune_core.proof import likelihood

    asked = [likelihood.Asked([5, 6, 7 + i], [[9, 10], [11], [12, 13, 14]]) for i in range(9)]
    with proof_chatter.borrow("base") as model:
        whole = likelihood.likelihoods(model, asked, pad_id=0)
        monkeypatch.setattr(likelihood, "MOST_LOGITS", 512 * 3 * 4)
        parts = likelihood.likelihoods(model, asked, pad_id=0)
    assert [[one.loss for one in item] for item in parts] == [
        [pytest.approx(one.loss, rel=1e-4) for one in item] for item in whole
    ]


def test_likelihoods_that_do_not_fit_into_memory_are_read_in_halves(proof_chatter, monkeypatch):
    import torch

    from finetune_core.proof import likelihood

    asked = [likelihood.Asked([5, 6, 7 + i], [[9, 10], [11]]) for i in range(9)]
    batch, sizes, done = likelihood._batch, [], []

    def small_memory(model, items, *rest):
        sizes.append(len(items))
        if len(items) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return batch(model, items, *rest)

    with proof_chatter.borrow("base") as model:
        whole = likelihood.likelihoods(model, asked, pad_id=0)
        monkeypatch.setattr(likelihood, "_batch", small_memory)
        halved = likelihood.likelihoods(model, asked, pad_id=0, on_done=done.append)
    assert sizes == [9, 4, 2, 2, 2, 2, 1] and done[-1] == 9
    assert [[one.loss for one in item] for item in halved] == [
        [pytest.approx(one.loss, rel=1e-4) for one in item] for item in whole
    ]
