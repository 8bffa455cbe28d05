"""Packed rows give the logits of the rows alone, in every architecture that Fijn packs."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.masking_utils import sdpa_mask

from finetune_core import attention, side_by_side
from finetune_core.attention import attend_rows_apart
from finetune_core.packing import BY_MASK_ONLY, EXACT, attends_by_row

WITHOUT_SDPA = {"gemma2", "vaultgemma"}  # their scores are bent (softcap), which no fast kernel of torch does


def tiny(model_type: str) -> torch.nn.Module:
    config = AutoConfig.for_model(
        model_type, vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=64, head_dim=8, max_position_embeddings=128, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        num_experts=4, num_local_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, sliding_window=16,
    )  # fmt: skip
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, trust_remote_code=False).float().eval()


def apart(model_type: str, row_by_row: bool = False) -> float:
    """Largest difference of the logits of packed and separate rows, relative to the largest logit; a tiny model.

    row_by_row: as a GPU or a CPU computes them in training, without a mask; else by sdpa with one.
    """
    model = tiny(model_type)
    rows = [torch.randint(3, 64, (length,)) for length in (20, 9, 30)]
    places = torch.cat([torch.arange(len(row)) for row in rows])[None]
    begins: dict = {}
    with torch.no_grad():
        alone = torch.cat([model(input_ids=row[None], use_cache=False).logits[0] for row in rows])
        if row_by_row:
            assert attend_rows_apart(model) == (model_type not in WITHOUT_SDPA)
            starts = torch.tensor([0, 20, 29, 59], dtype=torch.int32)  # as TRL's collator gives them
            begins = {"cu_seq_lens_q": starts, "cu_seq_lens_k": starts, "max_length_q": 30, "max_length_k": 30}
        packed = model(input_ids=torch.cat(rows)[None], position_ids=places, use_cache=False, **begins).logits[0]
    return float((packed - alone).abs().max() / alone.abs().max())


@pytest.mark.parametrize("model_type", sorted(EXACT))
def test_packed_rows_do_not_see_each_other(model_type):
    assert apart(model_type) < 1e-4


@pytest.mark.parametrize("model_type", sorted(filter(attends_by_row, EXACT)))
def test_packed_rows_are_computed_one_by_one_to_the_same_end(model_type):
    assert apart(model_type, row_by_row=True) < 1e-4


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("model_type", sorted(filter(attends_by_row, EXACT)))
def test_rows_that_are_filled_up_give_the_logits_of_the_rows_alone(model_type, side):
    """Longer and shorter than the sliding window of those that have one."""
    model = tiny(model_type)
    rows = [torch.randint(3, 64, (length,)) for length in (11, 5, 30)]
    with torch.no_grad():
        alone = [model(input_ids=row[None], use_cache=False).logits[0] for row in rows]
        assert attend_rows_apart(model) == (model_type not in WITHOUT_SDPA)
        for chosen in ((0, 1), (0, 1, 2)):
            longest = max(len(rows[row]) for row in chosen)
            ids, seen = torch.zeros(2, len(chosen), longest, dtype=torch.long)
            places = [
                slice(0, len(rows[r])) if side == "right" else slice(longest - len(rows[r]), None) for r in chosen
            ]
            for at, (row, place) in enumerate(zip(chosen, places, strict=True)):
                ids[at, place], seen[at, place] = rows[row], 1
            positions = (seen.cumsum(-1) - 1).clamp(min=0)
            logits = model(input_ids=ids, attention_mask=seen, position_ids=positions, use_cache=False).logits
            for at, (row, place) in enumerate(zip(chosen, places, strict=True)):
                assert float((logits[at, place] - alone[row]).abs().max() / alone[row].abs().max()) < 1e-4


def test_no_mask_of_all_against_all_is_made_for_rows_that_are_filled_up_at_their_end(monkeypatch):
    made = []
    monkeypatch.setattr(
        attention, "sdpa_mask", lambda *args, **kwargs: made.append(kwargs) or sdpa_mask(*args, **kwargs)
    )
    model = tiny("llama")
    assert attend_rows_apart(model)
    ids, at_the_end = torch.randint(3, 64, (2, 9)), torch.ones(2, 9, dtype=torch.long)
    at_the_end[0, 5:] = 0
    model(input_ids=ids, attention_mask=at_the_end)
    assert not made
    model(input_ids=ids, attention_mask=at_the_end.flip(1))
    assert made


@pytest.mark.parametrize("model_type", sorted(BY_MASK_ONLY))
def test_the_check_notices_layers_that_do_not_learn_where_rows_begin(model_type):
    assert apart(model_type, row_by_row=True) > 1e-3


@pytest.mark.parametrize("checkpointing", [False, True])
def test_rows_one_by_one_give_the_gradients_of_the_mask(checkpointing):
    config = AutoConfig.for_model(
        "llama", vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=64, attn_implementation="sdpa",
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, trust_remote_code=False).train()
    if checkpointing:
        model.activation_checkpointing_enable()
    ids, starts = torch.randint(3, 64, (1, 40)), torch.tensor([0, 7, 29, 40], dtype=torch.int32)
    batch = {"input_ids": ids, "labels": ids, "use_cache": False, "max_length_q": 22, "cu_seq_lens_q": starts}
    batch["position_ids"] = torch.cat([torch.arange(n) for n in (7, 22, 11)])[None]

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        model(**batch).loss.backward()
        return [weight.grad.clone() for weight in model.parameters()]

    masked = gradients()
    assert attend_rows_apart(model)
    for one, other in zip(masked, gradients(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("model_type", ["qwen3_5_text", "opt"])
def test_the_check_notices_rows_that_leak(model_type):
    assert apart(model_type) > 1e-3 and model_type not in EXACT


def test_under_autocast_rows_are_computed_in_its_format(monkeypatch):
    """Also where a rotary embedding made float32 of the queries: the flash kernel takes 16 bits."""
    seen = []
    kept = side_by_side._shares
    monkeypatch.setattr(side_by_side, "_shares", lambda q, *rest: seen.append(q.dtype) or kept(q, *rest))
    states = [torch.randn(1, heads, 9, 8) for heads in (4, 2, 2)]
    with torch.autocast("cpu", torch.bfloat16):
        out, _ = attention._attend(torch.nn.Module(), *states, None, cu_seq_lens_q=torch.tensor([0, 4, 9]))
    assert set(seen) == {torch.bfloat16} and out.dtype == torch.bfloat16 and out.shape == (1, 9, 4, 8)


@pytest.mark.parametrize(
    "lengths, most, kept, window",
    [
        ((21,), 512, 128, None),
        ((16, 16), 512, 128, None),  # nothing is filled up
        ((5, 40, 17, 1, 23, 39), 512, 128, None),  # several groups of like length, out of order
        ((5, 40, 17, 1, 23, 39), 512, 20, None),  # shares of the longer ones are computed again
        ((5, 40, 17, 1, 23, 39), 20, 128, None),  # and those are too long to be held whole
        ((5, 40, 17, 1, 23, 39), 512, 128, 18),  # a layer that looks back 18 tokens
        ((30, 40), 20, 128, None),
    ],
)
def test_rows_side_by_side_give_what_sdpa_gives_for_each_alone(monkeypatch, lengths, most, kept, window):
    monkeypatch.setattr(attention, "LONGEST_BATCHED_FLOAT32", most)
    monkeypatch.setattr(side_by_side, "LONGEST_KEPT", kept)
    torch.manual_seed(0)
    tokens = sum(lengths)
    states = [
        torch.randn(1, heads, tokens, width, dtype=torch.float64, requires_grad=True)
        for heads, width in ((6, 8), (2, 8), (2, 12))
    ]
    over = torch.randn(1, tokens, 6, 12, dtype=torch.float64)
    starts = torch.tensor([0, *lengths]).cumsum(0)
    out, _ = attention._attend(
        torch.nn.Module(), *states, None, scaling=0.3, cu_seq_lens_q=starts, sliding_window=window
    )
    row = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    back = torch.arange(tokens)[:, None] - torch.arange(tokens)[None]
    seen = (row[:, None] == row[None]) & (back >= 0) & (back < (window or tokens))
    dense = scaled_dot_product_attention(*states, attn_mask=seen, scale=0.3, enable_gqa=True).transpose(1, 2)
    assert torch.allclose(out, dense)
    for mine, theirs in zip(
        torch.autograd.grad(out, states, over), torch.autograd.grad(dense, states, over), strict=True
    ):
        assert torch.allclose(mine, theirs)


def test_rows_side_by_side_are_of_like_length_and_few_enough_for_a_cache():
    assert side_by_side._alike((10, 100, 60, 9), 4) == ((1, 2), (0, 3))
    many = side_by_side._alike((128,) * 40, 9)
    assert len(many) == 3 and sorted(sum(many, ())) == list(range(40))
    assert side_by_side._alike((512, 512), 64) == ((0,), (1,))
