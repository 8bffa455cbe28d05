"""TRL's trainer as it is set up: it reads what was rendered, and a dry run leaves no trace."""

import re
from pathlib import Path

import pytest
from conftest import chat_rows

from finetune_core.errors import FinetuneError


def token_view(row, tokenizer) -> list[tuple[int, bool]]:
    """(id, whether it is shown as trained) of each token that the page draws for a row."""
    from finetune_core.render import render
    from finetune_ui.words_tokens import tokens

    drawn = tokens(render(row, tokenizer, 512).pieces(), 0, 1)
    spans = re.findall(r'<span class="t (\w+)[^"]*" title="[^"]*id (\d+)">', drawn)
    return [(int(id), kind == "trained") for kind, id in spans]


@pytest.mark.parametrize("packing", [False, True])
def test_what_the_trainer_reads_is_what_render_made(recipe, tmp_path, packing):
    """The first batch of TRL's own loader holds the ids and labels of the rendered rows, as the page shows them."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTTrainer

    from finetune_core.encoded import encode
    from finetune_core.machine import Machine
    from finetune_core.render import load_tokenizer, render
    from finetune_core.trainer import sft_config

    rows = chat_rows(16)
    folder = recipe.model_name_or_path
    tokenizer = load_tokenizer(Path(folder))
    resolved = recipe.replace(
        dtype="float32", packing=packing, packing_length=128 if packing else None, gradient_checkpointing=False,
        per_device_train_batch_size=1 if packing else 4,
    )  # fmt: skip
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False),
        args=sft_config(resolved, tmp_path / "out", Machine(2, 8, 8), False),
        train_dataset=encode(rows, tokenizer, 512, tmp_path / "rows.arrow"),
        processing_class=AutoTokenizer.from_pretrained(folder, trust_remote_code=False),
    )
    batch = next(iter(trainer.get_train_dataloader()))
    expected = {tuple(r.input_ids): r.labels for r in (render(row, tokenizer) for row in rows)}
    shown = {ids: token_view(row, tokenizer) for ids, row in zip(expected, rows, strict=True)}
    found = 0
    for ids, labels, positions in zip(
        batch["input_ids"].tolist(), batch["labels"].tolist(),
        (batch["position_ids"] if packing else batch["attention_mask"].cumsum(1) - 1).tolist(), strict=True,
    ):  # fmt: skip
        starts = [i for i, position in enumerate(positions) if position == 0]
        for begin, end in zip(starts, [*starts[1:], len(ids)], strict=True):
            length = max(positions[begin:end]) + 1
            row = tuple(ids[begin : begin + length])
            assert row in expected
            assert labels[begin : begin + length] == expected[row]
            trained = [label != -100 for label in labels[begin : begin + length]]
            assert shown[row] == list(zip(row, trained, strict=True))
            found += 1
    assert found >= 4


@pytest.fixture
def ready(recipe, tiny_model_dir, tmp_path):
    """`ready(lora_r=4, …)`: the trainer of a recipe with these changes."""
    from finetune_core.encoded import encode
    from finetune_core.machine import this_machine
    from finetune_core.preflight import look
    from finetune_core.render import load_tokenizer
    from finetune_core.trainer import build_trainer

    def make(watches=False, **changes):
        resolved = look(recipe.replace(**changes)).plan.recipe
        rows = encode(chat_rows(40), load_tokenizer(tiny_model_dir), 128, tmp_path / "rows.arrow")
        sets = rows, rows if watches else None
        return build_trainer(resolved, tiny_model_dir, tmp_path / "out", sets, [], this_machine())

    return make


@pytest.mark.parametrize(("most", "places"), [(None, range(40)), (100, range(40)), (4, range(0, 40, 10))])
def test_a_look_is_at_as_many_validation_rows_as_was_said(ready, most, places):
    trainer = ready(watches=True, eval_rows=most)
    assert trainer.eval_dataset["input_ids"] == [trainer.train_dataset[place]["input_ids"] for place in places]
    assert 0 < trainer.evaluate()["eval_loss"] < 20


def test_a_dry_run_checkpoints_as_the_training_will(ready, monkeypatch):
    from finetune_core.trainer import dry_run

    trainer, seen = ready(gradient_checkpointing=True), []
    kept = trainer.compute_loss

    def watched(model, *args):
        seen.append(model.is_activation_checkpointing)
        return kept(model, *args)

    monkeypatch.setattr(trainer, "compute_loss", watched)
    dry_run(trainer)
    assert seen == [True]


def test_a_dry_run_computes_in_the_number_format_of_the_training(ready, monkeypatch):
    import contextlib

    from finetune_core.trainer import dry_run

    trainer, inside = ready(), []
    kept = trainer.compute_loss

    @contextlib.contextmanager
    def autocast():
        inside.append("on")
        yield
        inside.append("off")

    def watched(*args):
        inside.append("loss")
        return kept(*args)

    monkeypatch.setattr(trainer.accelerator, "autocast", autocast)
    monkeypatch.setattr(trainer, "compute_loss", watched)
    dry_run(trainer)
    assert inside == ["on", "loss", "off"]


def test_a_dry_run_leaves_the_trainer_as_it_was(ready):
    import torch

    from finetune_core.trainer import dry_run

    trainer = ready()
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    random = torch.get_rng_state()
    dry_run(trainer)
    assert all(torch.equal(before[name], value) for name, value in trainer.model.state_dict().items())
    assert all(weight.grad is None for weight in trainer.model.parameters())
    assert torch.equal(random, torch.get_rng_state()) and not trainer._metrics["train"]


@pytest.mark.parametrize(("asked", "kept"), [(None, "float32"), (True, "float32"), (False, "bfloat16")])
def test_an_adapter_is_kept_in_the_format_that_was_asked_for(ready, asked, kept):
    trainer = ready(dtype="bfloat16", autocast_adapter_dtype=asked)
    moved = {str(weight.dtype) for weight in trainer.model.parameters() if weight.requires_grad}
    assert moved == {f"torch.{kept}"}


def test_what_is_pinned_reaches_the_trainer_and_trains(ready):
    trainer = ready(packing=False, train_sampling_strategy="random", dataloader_num_workers=1, max_steps=2)
    assert (trainer.args.train_sampling_strategy, trainer.args.dataloader_num_workers) == ("random", 1)
    trainer.train()
    assert trainer.state.global_step == 2


@pytest.mark.parametrize(
    ("optim", "bytes_each"), [("adamw_torch_fused", 8), ("adamw_8bit", 2), ("paged_adamw_8bit", 0)]
)
def test_a_dry_run_has_room_for_the_moments_of_its_optimizer(ready, optim, bytes_each):
    from finetune_core.trainer import _room_for_moments

    trainer = ready(method="full")
    trainer.args.optim = optim  # bitsandbytes is asked for when the training begins
    weights = sum(weight.numel() for weight in trainer.model.parameters())
    embedding = trainer.model.get_input_embeddings().weight.numel()  # keeps moments of 32 bits, unless they are paged
    held = sum(room.numel() for room in _room_for_moments(trainer))
    assert held == bytes_each * (weights - embedding) + (8 if bytes_each else 0) * embedding


@pytest.mark.parametrize(("targets", "layers"), [("q_proj", 2), (["q_proj", "v_proj"], 4), (r".*\.(q|k)_proj", 4)])
def test_an_adapter_lies_on_the_layers_that_were_named(ready, targets, layers):
    trainer = ready(lora_target_modules=targets)
    assert sum(name.endswith("lora_A.default") for name, _ in trainer.model.named_modules()) == layers


@pytest.mark.parametrize("targets", ["q_prjo", ["q_proj", "v_prjo"], ["lm_head"], r".*\.q_prjo"], ids=str)
def test_a_layer_that_is_not_there_is_refused_with_the_names_of_those_that_are(ready, targets):
    with pytest.raises(FinetuneError, match="lora_target_modules") as refused:
        ready(lora_target_modules=targets)
    assert "q_proj" in refused.value.fix
