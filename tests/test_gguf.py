"""GGUF, run by llama.cpp itself. The real starter model, because a made-up tokenizer is none that llama.cpp knows."""

import json

import pytest
from tuned import save_weights

from finetune_core.errors import FinetuneError
from finetune_core.recipe import Recipe
from finetune_core.run import Run
from finetune_core.takeaway import converter
from finetune_core.takeaway.export import export

pytestmark = pytest.mark.starter


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    from finetune_core.starter import ensure_starter

    base, _ = ensure_starter()
    run = Run.create(tmp_path_factory.mktemp("runs"), Recipe(dtype="float32", max_new_tokens=12))
    save_weights(run.result_dir, base, "lora", seed=1, strength=0.004)
    return run


def test_llama_cpp_answers_as_the_tuned_model(run, tmp_path):
    made = export(run, "gguf", tmp_path / "gguf", kinds=("f16", "q4_0"))
    exact, small = (made["parity"]["by_file"][name] for name in made["files"] if name.endswith(".gguf"))
    assert exact["same"] + exact["ties"] == exact["compared"] and exact["logprob_mean"] < 0.01
    assert exact["engine"] == "llama.cpp"
    assert small["format"] == "q4_0" and small["passed"]
    assert made["ollama"]["template"] and "TEMPLATE" in (tmp_path / "gguf" / "Modelfile").read_text()


def test_a_model_that_the_converter_does_not_know_is_said_in_words(run, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps({"architectures": ["NoSuchModel"], "model_type": "x"}))
    with pytest.raises(FinetuneError) as caught:
        converter.convert(tmp_path / "model", tmp_path / "x.gguf", "f16")
    assert caught.value.code == "no-gguf" and "NoSuchModel" in caught.value.problem
