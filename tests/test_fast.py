"""The shortcuts of the training path give the numbers of TRL and peft."""

import platform
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import chat_rows
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune_core import fast, head
from finetune_core.attention import attend_rows_apart
from finetune_core.encoded import encode
from finetune_core.fast import fuse_adapters
from finetune_core.head import score_trained_tokens_only
from finetune_core.render import load_tokenizer

ROOT = Path(__file__).resolve().parent.parent


def adapted(folder, dtype=torch.float32, **changes):
    """A model with an adapter that already does something (B is not zero)."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, trust_remote_code=False)
    settings = {"r": 4, "lora_alpha": 12, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | changes
    model = get_peft_model(model, LoraConfig(**settings))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.05)
    return model


def learned(model, ids):
    """Logits, and the gradient of every adapter tensor, of one pass."""
    logits = model(input_ids=ids, use_cache=False).logits
    logits.float().square().mean().backward()
    return logits.detach().float(), {n: p.grad.float() for n, p in model.named_parameters() if p.grad is not None}


IDS = torch.arange(60).reshape(2, 30) % 512


@pytest.mark.parametrize(("dtype", "apart"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_fused_adapters_give_the_logits_and_gradients_of_peft(tiny_model_dir, dtype, apart):
    plain, fused = adapted(tiny_model_dir, dtype), adapted(tiny_model_dir, dtype)
    assert fuse_adapters(fused) == 14  # two layers of seven
    (logits, gradients), (same_logits, same_gradients) = learned(plain, IDS), learned(fused, IDS)
    assert (logits - same_logits).abs().max() <= apart * logits.abs().max()
    assert gradients.keys() == same_gradients.keys() and len(gradients) == 28
    for name, gradient in gradients.items():
        assert (gradient - same_gradients[name]).abs().max() <= apart * gradient.abs().max() + 1e-9, name


def test_fused_adapters_work_under_gradient_checkpointing(tiny_model_dir):
    plain, fused = adapted(tiny_model_dir), adapted(tiny_model_dir)
    fuse_adapters(fused)
    for model in (plain, fused):
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
    gradients, same = learned(plain, IDS)[1], learned(fused, IDS)[1]
    assert all(torch.allclose(gradients[name], same[name], rtol=1e-4, atol=1e-8) for name in gradients)


@pytest.mark.parametrize("changes", [{"lora_dropout": 0.1}, {"use_dora": True}, {"lora_bias": True}])
def test_layers_that_do_more_are_left_to_peft(tiny_model_dir, changes):
    assert fuse_adapters(adapted(tiny_model_dir, **changes)) == 0


def test_a_fused_model_without_its_adapter_is_the_base(tiny_model_dir):
    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32, trust_remote_code=False)
    fused = adapted(tiny_model_dir)
    fuse_adapters(fused)
    with fused.disable_adapter():
        assert torch.equal(fused(input_ids=IDS).logits, base(input_ids=IDS).logits)


PATCHED = ("_use_triton", "_CHUNKED_LOGPROB_CHUNK_SIZE", "_ChunkedLogProbFunction")  # of TRL, when a trainer is made


def curve(folder, out, rows, shortcuts, packing):
    from trl import SFTConfig, SFTTrainer
    from trl.trainer import utils

    kept = {name: getattr(utils, name) for name in PATCHED}
    try:
        if shortcuts:
            score_trained_tokens_only()
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False)
        if shortcuts:
            assert attend_rows_apart(model)
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(
                output_dir=str(out), max_steps=50, learning_rate=1e-2, per_device_train_batch_size=2, packing=packing,
                max_length=128, logging_steps=1, report_to="none", disable_tqdm=True, use_cpu=True, bf16=False,
                save_strategy="no", seed=3, gradient_checkpointing=False, dataloader_pin_memory=False,
            ),
            train_dataset=rows,
            processing_class=AutoTokenizer.from_pretrained(folder, trust_remote_code=False),
            peft_config=LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"),
        )  # fmt: skip
        if shortcuts:
            assert fuse_adapters(trainer.model) == 14
        trainer.train()
    finally:
        vars(utils).update(kept)
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    return [entry["loss"] for entry in logs], [entry["mean_token_accuracy"] for entry in logs]


@pytest.mark.parametrize("packing", [False, True])
def test_the_loss_curve_of_fifty_steps_is_that_of_plain_trl(tiny_model_dir, tmp_path, packing, monkeypatch):
    monkeypatch.setattr(head, "HEAD_SCORES", 512 * 9)  # so that the trained tokens are taken in pieces
    rows = encode(chat_rows(40), load_tokenizer(tiny_model_dir), 128, tmp_path / "rows.arrow")
    plain, accuracy = curve(tiny_model_dir, tmp_path / "a", rows, False, packing)
    ours, same_accuracy = curve(tiny_model_dir, tmp_path / "b", rows, True, packing)
    assert len(plain) == 50 and plain[-1] < plain[0] - 0.5
    assert max(abs(a - b) / a for a, b in zip(plain, ours, strict=True)) < 0.01
    assert max(abs(a - b) for a, b in zip(accuracy, same_accuracy, strict=True)) < 0.05


def test_only_the_trained_positions_meet_the_head(tiny_model_dir, monkeypatch):
    from trl.trainer import utils

    for name in PATCHED:
        monkeypatch.setattr(utils, name, getattr(utils, name))  # put back afterwards
    seen = []
    kept = utils._ChunkedLogProbFunction.apply
    monkeypatch.setattr(
        utils._ChunkedLogProbFunction, "apply", lambda hidden, *rest: seen.append(len(hidden)) or kept(hidden, *rest)
    )
    score_trained_tokens_only()
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, trust_remote_code=False)
    utils.add_fused_lm_head(model)
    labels = IDS.clone()
    labels[:, :25] = -100
    model(input_ids=IDS, labels=labels, fused_lm_head=True)
    assert seen == [2 * 5]


LAYERS = """
import torch
from finetune_core.fast import give_freed_memory_back

def taken():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

give_freed_memory_back()
before, kept = taken(), []
for _ in range(24):
    hidden, inner = torch.zeros(1_150_000), [torch.zeros(3_000_000) for _ in range(3)]
    attended = [torch.zeros(1_150_000) for _ in range(4)]
    kept.append(hidden)
    del inner, attended
print((taken() - before) / sum(4 * each.numel() for each in kept))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of other C libraries nothing is known")
def test_what_a_checkpointed_layer_needed_for_a_moment_is_given_back():
    said = subprocess.run([sys.executable, "-c", LAYERS], cwd=ROOT, capture_output=True, text=True, check=True)
    assert float(said.stdout) < 1.2


ANSWERS = """
import torch
from finetune_core.fast import give_freed_memory_back, keep_freed_memory

def taken():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

def left_of(tensors):
    before, made = taken(), [torch.ones(1_000_000) for _ in range(tensors)]
    del made
    return (taken() - before) / (4_000_000 * tensors)

give_freed_memory_back()
given_back = left_of(8)
keep_freed_memory()
print(given_back, left_of(8))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of other C libraries nothing is known")
def test_afterwards_freed_memory_is_kept_for_the_next_tensor():
    said = subprocess.run([sys.executable, "-c", ANSWERS], cwd=ROOT, capture_output=True, text=True, check=True)
    given_back, kept = map(float, said.stdout.split())
    assert given_back < 0.1 and kept > 0.8


@pytest.mark.parametrize("checkpointing", [True, False])
def test_and_only_while_a_checkpointed_model_learns_as_it_costs_time(recipe, tmp_path, monkeypatch, checkpointing):
    from finetune_core import trainer
    from finetune_core.machine import Machine

    asked = []
    for name in ("give_freed_memory_back", "keep_freed_memory"):
        monkeypatch.setattr(fast, name, partial(asked.append, name))
    folder = Path(recipe.model_name_or_path)
    rows = encode(chat_rows(8), load_tokenizer(folder), 128, tmp_path / "rows.arrow")
    resolved = recipe.replace(gradient_checkpointing=checkpointing, max_steps=1)
    trainer.build_trainer(resolved, folder, tmp_path, (rows, None), [], Machine(2, 16, 12)).train()
    assert asked == (["give_freed_memory_back", "keep_freed_memory"] if checkpointing else [])
