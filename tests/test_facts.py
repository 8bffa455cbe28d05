"""What is known of a model from its small files: mixtures of experts, what a config leaves out, weights in few bits."""

import dataclasses
import json
import shutil

import pytest
import torch
from planned import A100, LAPTOP, plan
from transformers import AutoConfig, AutoModelForCausalLM, Gemma3TextConfig

from finetune_core.errors import FinetuneError
from finetune_core.facts import LEFT_OUT, read_facts
from finetune_core.memory import adapter_parameters
from finetune_core.preflight import look, look_again

SHAPE = {"vocab_size": 512, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
         "num_key_value_heads": 2, "intermediate_size": 160, "tie_word_embeddings": False}  # fmt: skip
MIXTURES = {
    "qwen3_moe": {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "head_dim": 16},
    "mixtral": {"num_local_experts": 8, "num_experts_per_tok": 2},
    "granitemoe": {"num_local_experts": 8, "num_experts_per_tok": 2},
    "olmoe": {"num_experts": 8, "num_experts_per_tok": 2},
}


def mixture(model_type, folder):
    """(the model, without weights; its facts, from config.json alone)"""
    config = AutoConfig.for_model(model_type, **SHAPE, **MIXTURES[model_type])
    config.save_pretrained(folder)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False), read_facts(folder)


@pytest.mark.parametrize("model_type", MIXTURES)
def test_a_mixture_is_as_large_as_all_its_experts(model_type, tmp_path):
    model, facts = mixture(model_type, tmp_path)
    assert facts.parameters == pytest.approx(sum(weight.numel() for weight in model.parameters()), rel=0.02)
    experts = sum(weight.numel() for weight in model.parameters() if weight.ndim == 3)
    assert facts.expert_parameters == experts > 0.5 * facts.parameters
    assert facts.met_parameters == facts.block_parameters - experts * 6 // 8


def test_the_experts_of_a_mixture_are_neither_held_in_4_bits_nor_given_adapters(tmp_path):
    """bitsandbytes and peft look for layers; transformers keeps the experts in one tensor a layer."""
    model, facts = mixture("qwen3_moe", tmp_path)
    head = model.get_output_embeddings()
    layers = [each for each in model.modules() if isinstance(each, torch.nn.Linear) and each is not head]
    assert sum(each.weight.numel() for each in layers) < 0.3 * facts.block_parameters
    assert adapter_parameters(facts, 16) == sum(16 * sum(each.weight.shape) for each in layers)
    made = plan(facts, A100, method="qlora")
    held = made.memory_gb["weights"] * 1024**3
    assert held > 2 * facts.expert_parameters
    assert any("experts stay in bfloat16" in reason for reason in made.reasons)


def test_a_token_of_a_mixture_takes_the_time_of_the_experts_that_it_meets(tmp_path):
    _, facts = mixture("qwen3_moe", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"num_experts_per_tok": 8}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert plan(read_facts(tmp_path)).flops_per_token > 2 * plan(facts).flops_per_token


@pytest.mark.parametrize(
    ("change", "met"),
    [({"moe_num_experts": 8, "moe_k": 2}, 2), ({"num_experts": 16384, "num_experts_per_tok": 64, "is_moe": False}, 0)],
    ids=["ernie", "doge"],
)
def test_experts_go_by_several_names_and_may_be_switched_off(tiny_model_dir, tmp_path, change, met):
    folder = changed(tiny_model_dir, tmp_path / "model", change)
    assert read_facts(folder).experts_met == met
    (folder / "model.safetensors").unlink()
    assert (read_facts(folder).parameters > 2 * read_facts(tiny_model_dir).parameters) is (met > 0)


def test_what_gemma_3_leaves_to_transformers_is_what_transformers_takes(tmp_path):
    config, known = Gemma3TextConfig(), LEFT_OUT["gemma3_text"]
    assert {name: getattr(config, name) for name in known} == known
    text = {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34, "model_type": "gemma3_text"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": text}))
    assert read_facts(tmp_path).parameters == pytest.approx(3.88e9, rel=0.01)


def test_weights_that_are_not_here_are_counted_from_their_list(tmp_path):
    AutoConfig.for_model("llama", **SHAPE, dtype="bfloat16").save_pretrained(tmp_path)
    parts = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(parts | {"metadata": {"total_size": 2468}}))
    assert read_facts(tmp_path).parameters == 1234
    assert read_facts(tmp_path, 4321).parameters == 4321  # as the Hub counts them
    header = json.dumps({"a": {"shape": [5], "dtype": "BF16", "data_offsets": [0, 10]}}).encode()
    some = len(header).to_bytes(8, "little") + header + bytes(10)
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(some)  # a download that was not finished
    assert read_facts(tmp_path).parameters == 1234
    for name in ("model-00002-of-00002.safetensors", "consolidated.safetensors"):
        (tmp_path / name).write_bytes(some)
    assert read_facts(tmp_path, 4321).parameters == 10  # Mistral's second copy is not counted


@pytest.mark.parametrize("change", [{"hidden_size": None}, {"hidden_size": "wide"}, {"num_hidden_layers": [1]}])
def test_a_config_that_describes_no_decoder_is_an_error_with_a_fix(recipe, tiny_model_dir, tmp_path, change):
    asked = recipe.replace(model_name_or_path=str(changed(tiny_model_dir, tmp_path / "model", change)))
    with pytest.raises(FinetuneError) as refused:
        look(asked, machine=LAPTOP)
    assert refused.value.code == "not-a-language-model" and refused.value.fix


def changed(model, folder, change):
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_layers_of_different_widths_count_as_the_widest(tiny_model_dir, tmp_path):
    sizes = {"intermediate_size": [128, 256], "num_key_value_heads": [1, 2]}
    facts = read_facts(changed(tiny_model_dir, tmp_path / "model", sizes))
    assert (facts.intermediate_size, facts.kv_heads) == (256, 2)


@pytest.mark.parametrize(
    ("stored", "method", "code"),
    [("gptq", "lora", "few-bits"), ("fp8", "full", "few-bits"), ("bitsandbytes", "lora", "few-bits"),
     ("mxfp4", "lora", None), ("bitsandbytes", "qlora", "no-gpu")],
)  # fmt: skip
def test_weights_in_few_bits_are_refused_before_they_are_fetched(
    recipe, tiny_model_dir, tmp_path, stored, method, code
):
    folder = changed(tiny_model_dir, tmp_path / "model", {"quantization_config": {"quant_method": stored}})
    asked = recipe.replace(model_name_or_path=str(folder), method=method)
    if code is None:
        look(asked)
        return
    with pytest.raises(FinetuneError) as refused:
        look(asked)
    assert refused.value.code == code and "Choose" in refused.value.fix
    if code == "few-bits":
        with pytest.raises(FinetuneError, match="few bits"):
            look_again(dataclasses.replace(look(recipe), facts=read_facts(folder)), asked)


def test_packed_numbers_are_not_taken_for_weights(tiny_model_dir, tmp_path):
    """Eight weights may lie in one stored value."""
    folder = changed(tiny_model_dir, tmp_path / "model", {"quantization_config": {"quant_method": "bitsandbytes"}})
    (folder / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    assert read_facts(folder).parameters == pytest.approx(read_facts(tiny_model_dir).parameters, rel=0.01)
