"""Packed rows give the logits of the rows alone, in every architecture that Fijn packs."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoConfig, AutoModelForCausalLM

from finetune_core import attention
from finetune_core.attention import attend_rows_apart
from finetune_core.packing import BY_MASK_ONLY, EXACT, attends_by_row

WITHOUT_SDPA = {"gemma2", "vaultgemma"}  # their scores are bent (softcap), which no fast kernel of torch does


def apart(model_type: str, row_by_row: bool = False) -> float:
    """Largest difference of the logits of packed and separate rows, relative to the largest logit; a tiny model.

    row_by_row: as a GPU or a CPU computes them in training, without a mask; else by sdpa with one.
    """
    config = AutoConfig.for_model(
        model_type, vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=64, head_dim=8, max_position_embeddings=128, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        num_experts=4, num_local_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, sliding_window=16,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, trust_remote_code=False).float().eval()
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
    kept = attention.scaled_dot_product_attention
    monkeypatch.setattr(
        attention, "scaled_dot_product_attention", lambda q, k, v, **how: seen.append(q.dtype) or kept(q, k, v, **how)
    )
    states = [torch.randn(1, heads, 9, 8) for heads in (4, 2, 2)]
    with torch.autocast("cpu", torch.bfloat16):
        out, _ = attention._attend(torch.nn.Module(), *states, None, cu_seq_lens_q=torch.tensor([0, 4, 9]))
    assert set(seen) == {torch.bfloat16} and out.dtype == torch.bfloat16 and out.shape == (1, 9, 4, 8)


def test_plain_attention_of_a_row_is_that_of_sdpa_both_ways():
    torch.manual_seed(0)
    states = [torch.randn(1, heads, 21, 8, dtype=torch.float64, requires_grad=True) for heads in (6, 2, 2)]
    over = torch.randn(1, 6, 21, 8, dtype=torch.float64)
    plain = attention._Plain.apply(*states, 0.3)
    dense = scaled_dot_product_attention(*states, is_causal=True, scale=0.3, enable_gqa=True)
    assert torch.allclose(plain, dense)
    for mine, theirs in zip(
        torch.autograd.grad(plain, states, over), torch.autograd.grad(dense, states, over), strict=True
    ):
        assert torch.allclose(mine, theirs)


@pytest.mark.parametrize("length, plain", [(20, True), (attention.LONGEST_PLAIN + 1, False)])
def test_short_rows_in_bfloat16_are_attended_by_plain_products_on_a_processor(monkeypatch, length, plain):
    used = []
    monkeypatch.setattr(attention._Plain, "apply", lambda *states: used.append(1) or states[0])
    states = torch.randn(1, 4, length, 8, dtype=torch.bfloat16, requires_grad=True)
    starts = torch.tensor([0, length], dtype=torch.int32)
    for wanted in (states, states.float()):
        attention._attend(torch.nn.Module(), wanted, wanted, wanted, None, cu_seq_lens_q=starts, max_length_q=length)
    assert len(used) == plain  # once, in bfloat16
