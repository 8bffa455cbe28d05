"""Models are fetched and loaded, or refused at once by name; a result carries its tokenizer."""

import json
import shutil
import time

import pytest
from tuned import QUESTIONS, make_tuned_run

from finetune_core import model
from finetune_core.errors import FinetuneError
from finetune_core.render import load_tokenizer, render_prompt


def test_a_run_that_was_interrupted_has_its_checkpoints(tmp_path, tiny_model_dir):
    run = make_tuned_run(tmp_path, tiny_model_dir, result=False)
    assert model.load_for_chat(run).names() == ["base", "checkpoint-20"]


def test_a_run_without_any_weights_says_what_to_wait_for(tmp_path, tiny_model_dir):
    run = make_tuned_run(tmp_path, tiny_model_dir, result=False)
    shutil.rmtree(run.path / "checkpoints")
    with pytest.raises(FinetuneError) as caught:
        model.load_for_chat(run)
    assert caught.value.code == "no-result"


@pytest.mark.parametrize("fixture", ["tiny_model_dir", "tiny_base_dir"])
def test_the_result_carries_the_tokenizer_it_was_trained_with(fixture, request, tmp_path):
    base = request.getfixturevalue(fixture)
    trained = load_tokenizer(base)
    model.save_tokenizer(trained, base, tmp_path / "result")
    carried = load_tokenizer(tmp_path / "result")
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTIONS[0]}]
    assert render_prompt(messages, carried) == render_prompt(messages, trained)
    assert (carried.stop_ids, carried.pad_id) == (trained.stop_ids, trained.pad_id)
    assert carried.model_max_length == trained.model_max_length == 512
    assert (tmp_path / "result" / "chat_template.jinja").read_text() == trained.chat_template


def test_transformers_reads_the_carried_template_as_we_do(tiny_base_dir, tmp_path):
    from transformers import AutoTokenizer

    ours = load_tokenizer(tiny_base_dir)
    model.save_tokenizer(ours, tiny_base_dir, tmp_path / "result")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "result", trust_remote_code=False)
    messages = [{"role": "user", "content": QUESTIONS[0]}]
    asked = theirs.apply_chat_template(messages, add_generation_prompt=True)
    assert list(asked["input_ids"] if hasattr(asked, "keys") else asked) == render_prompt(messages, ours)


def test_a_local_folder_is_taken_as_it_is(tiny_model_dir):
    assert model.fetch_model(str(tiny_model_dir)) == tiny_model_dir


FOLDERS = [  # (files to take away, files to add, what the problem must name)
    (["config.json"], {}, "config.json"),
    (["config.json"], {"config.json": "{"}, "config.json"),
    (["tokenizer.json"], {}, "tokenizer.json"),
    (["model.safetensors"], {}, "safetensors"),
    (["model.safetensors"], {"pytorch_model.bin": ""}, "pickle"),
    (["model.safetensors"], {"model.Q4_K_M.gguf": ""}, "GGUF"),
    (["model.safetensors", "config.json"], {"adapter_config.json": "{}"}, "adapter"),
    (
        ["model.safetensors"],
        {
            "model-00001-of-00002.safetensors": "",
            "model.safetensors.index.json": '{"weight_map": {"a": "model-00002-of-00002.safetensors"}}',
        },
        "model-00002-of-00002.safetensors",
    ),
]


@pytest.mark.parametrize(("without", "extra", "names"), FOLDERS, ids=[row[2] for row in FOLDERS])
def test_a_folder_that_is_no_model_is_refused_by_name(tiny_model_dir, tmp_path, without, extra, names):
    folder = shutil.copytree(tiny_model_dir, tmp_path / "model")
    for name in without:
        (folder / name).unlink()
    for name, text in extra.items():
        (folder / name).write_text(text)
    with pytest.raises(FinetuneError) as caught:
        model.fetch_model(str(folder))
    assert caught.value.code == "not-a-model" and names in caught.value.problem


@pytest.mark.parametrize(
    ("name", "code"),
    [("/no/such/folder", "not-found"), ("what is this", "not-found"), ("owner/not-on-this-machine", "hub-away")],
)
def test_a_model_that_cannot_be_had_is_refused_at_once(name, code):
    began = time.monotonic()
    with pytest.raises(FinetuneError) as caught:
        model.fetch_model(name)
    assert caught.value.code == code and time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"model_type": "brand_new", "auto_map": {"AutoModel": "evil.Model"}}, "not-a-language-model"),
        ({"model_type": "vit"}, "not-a-language-model"),
    ],
)
def test_a_model_that_is_not_for_text_or_needs_its_own_program_is_refused(tiny_model_dir, tmp_path, changes, code):
    folder = shutil.copytree(tiny_model_dir, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(FinetuneError) as caught:
        model.load_base(folder, dtype="float32")
    assert caught.value.code == code


def test_damaged_weights_are_explained(tiny_model_dir, tmp_path):
    folder = shutil.copytree(tiny_model_dir, tmp_path / "model")
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(FinetuneError) as caught:
        model.load_base(folder, dtype="float32")
    assert caught.value.code == "damaged-weights"


def test_four_bits_without_a_gpu_point_to_lora(tiny_model_dir, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(FinetuneError) as caught:
        model.load_base(tiny_model_dir, dtype="float32", quantization="4bit")
    assert caught.value.code == "no-quantization" and "lora" in caught.value.fix


def test_attention_that_is_not_installed_points_to_sdpa(tiny_model_dir):
    with pytest.raises(FinetuneError) as caught:
        model.load_base(tiny_model_dir, dtype="float32", attn_implementation="flash_attention_2", device="cpu")
    assert "sdpa" in caught.value.fix


@pytest.mark.parametrize(("for_training", "trainable"), [(False, False), (True, True)])
def test_weights_take_gradients_only_for_training(tiny_model_dir, for_training, trainable):
    loaded = model.load_base(tiny_model_dir, dtype="float32", for_training=for_training)
    assert all(weight.requires_grad is trainable for weight in loaded.parameters()) and loaded.training is for_training
