"""Packed rows give the logits of the rows alone, in every architecture that Fijn packs."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from finetune_core.packing import EXACT


def apart(model_type: str) -> float:
    """Largest difference of the logits of packed and separate rows, relative to the largest logit; a tiny model."""
    config = AutoConfig.for_model(
        model_type, vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=64, head_dim=8, max_position_embeddings=128, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        num_experts=4, num_local_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, sliding_window=16,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, trust_remote_code=False).float().eval()
    rows = [torch.randint(3, 64, (length,)) for length in (20, 9, 30)]
    places = torch.cat([torch.arange(len(row)) for row in rows])[None]
    with torch.no_grad():
        packed = model(input_ids=torch.cat(rows)[None], position_ids=places, use_cache=False).logits[0]
        alone = torch.cat([model(input_ids=row[None], use_cache=False).logits[0] for row in rows])
    return float((packed - alone).abs().max() / alone.abs().max())


@pytest.mark.parametrize("model_type", sorted(EXACT))
def test_packed_rows_do_not_see_each_other(model_type):
    assert apart(model_type) < 1e-4


@pytest.mark.parametrize("model_type", ["qwen3_5_text", "opt"])
def test_the_check_notices_rows_that_leak(model_type):
    assert apart(model_type) > 1e-3 and model_type not in EXACT
