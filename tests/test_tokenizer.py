"""A tokenizer's folder is read as transformers reads it, whatever its kind; a base model gets a template."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from conversations import TOOL_TALKS, TOOLS, assistant, system, trained_runs, user, whole_text
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from trl_templates import TEMPLATES, byte_level

from finetune_core.errors import FinetuneError
from finetune_core.render import load_tokenizer, render, render_many, render_prompt


@pytest.mark.parametrize("in_config", [None, True, False])
@pytest.mark.parametrize("in_file", [True, False])
def test_bos_comes_before_a_text_as_transformers_puts_it(in_file, in_config, wide_dir, tmp_path):
    from transformers import AutoTokenizer

    backend = Tokenizer.from_file(str(wide_dir / "tokenizer.json"))
    bos = backend.token_to_id("<bos>")
    if in_file:
        backend.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", bos)])
    backend.save(str(tmp_path / "tokenizer.json"))
    config = {"bos_token": "<bos>", "eos_token": "<eos>", "tokenizer_class": "PreTrainedTokenizerFast"}
    config |= {} if in_config is None else {"add_bos_token": in_config}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(tmp_path)
    expected = AutoTokenizer.from_pretrained(tmp_path)("a cat").input_ids
    rendered = render({"text": "a cat"}, tokenizer)
    assert rendered.input_ids == [*expected, tokenizer.eos_id]
    assert rendered.input_ids.count(bos) == len(tokenizer.text_prefix)
    assert render({"text": "<bos>a cat"}, tokenizer).input_ids.count(bos) == 1
    assert whole_text(rendered) == "<bos>" * len(tokenizer.text_prefix) + "a cat<eos>"


def test_offsets_survive_a_tokenizer_that_trims_or_normalizes(wide_dir, tmp_path):
    backend = Tokenizer.from_file(str(wide_dir / "tokenizer.json"))
    backend.post_processor = processors.ByteLevel(trim_offsets=True)  # as Llama 3
    backend.normalizer = normalizers.NFC()  # as Qwen
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<eos>"}')
    (tmp_path / "chat_template.jinja").write_text(TEMPLATES["qwen3_instruct_2507"])
    rendered = render({"messages": [user("e\u0301 "), assistant("\n\n cafe\u0301 ")]}, load_tokenizer(tmp_path))
    assert trained_runs(rendered) == ["\n\n cafe\u0301 <|im_end|>"]


def test_a_header_token_that_swallows_the_answers_spaces_is_not_trained(wide_dir, tmp_path):
    data = json.loads((wide_dir / "tokenizer.json").read_text())
    for token in data["added_tokens"]:
        token["rstrip"] = token["content"] == "<|assistant|>"  # as Phi 3
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<eos>"}')
    (tmp_path / "chat_template.jinja").write_text(TEMPLATES["phi3"])
    rendered = render({"messages": [user("a"), assistant("  b")]}, load_tokenizer(tmp_path))
    assert trained_runs(rendered) == ["b<|end|>"]


def test_a_sentencepiece_tokenizer_works(tmp_path):
    backend = Tokenizer(models.Unigram([("<unk>", 0.0), ("▁", -2.0), *((c, -3.0) for c in "abcdefgh:#AUrst\n")], 0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Metaspace()
    backend.add_special_tokens(["<s>", "</s>"])
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}')
    source = "{{ bos_token }}{% for m in messages %}{{ m.role[0] + ': ' + m.content + eos_token }}{% endfor %}"
    (tmp_path / "chat_template.jinja").write_text(source + "{% if add_generation_prompt %}a:{% endif %}")
    tokenizer = load_tokenizer(tmp_path)
    rendered = render({"messages": [user("abc"), assistant("de f")]}, tokenizer)
    marked = render({"messages": [user("ab </s> c"), assistant("de f")]}, tokenizer)
    assert trained_runs(rendered) == trained_runs(marked) == [" de f</s>"]
    assert whole_text(marked) == "<s>u: ab </s> c</s>a: de f</s>"
    assert marked.input_ids.count(tokenizer.eos_id) == 2
    assert marked.special_in_content == ("</s>",)


def test_a_base_model_with_chatml_tokens_gets_chatml(tiny_base_dir):
    tokenizer = load_tokenizer(tiny_base_dir)
    rendered = render({"messages": [system("s"), user(" a"), assistant("b\n")]}, tokenizer)
    assert tokenizer.template_origin == "fijn"
    expected = "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\n a<|im_end|>\n<|im_start|>assistant\nb\n<|im_end|>\n"
    assert whole_text(rendered) == expected
    assert trained_runs(rendered) == ["b\n<|im_end|>"]
    assert {tokenizer.backend.id_to_token(id) for id in tokenizer.stop_ids} == {"<|im_end|>", "<|endoftext|>"}


@pytest.fixture
def bare_dir(tmp_path) -> Path:
    """A base model's tokenizer with nothing but an end token, and bos before every text."""
    backend = byte_level(["the cat sat"], size=280)
    backend.add_special_tokens(["<s>", "</s>"])
    bos = backend.token_to_id("<s>")
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": "<s>", "eos_token": {"content": "</s>"}}')
    return tmp_path


def test_a_base_model_without_chat_tokens_gets_plain_headers_and_its_own_eos(bare_dir):
    tokenizer = load_tokenizer(bare_dir)
    messages = [system("s"), user("a\n"), assistant("\nb"), user("c"), assistant("d")]
    rendered = render({"messages": messages}, tokenizer)
    expected = "<s>### System:\ns\n\n### User:\na\n\n### Assistant:\nb</s>\n\n### User:\nc\n\n### Assistant:\nd</s>\n\n"
    assert tokenizer.template_origin == "fijn"
    assert whole_text(rendered) == expected
    assert trained_runs(rendered) == ["b</s>", "d</s>"]
    assert rendered.input_ids[: len(render_prompt(messages[:-1], tokenizer))] == render_prompt(messages[:-1], tokenizer)
    assert tokenizer.stop_ids == {tokenizer.backend.token_to_id("</s>")}


def test_a_default_template_is_known_again_when_it_was_saved_with_the_result(bare_dir):
    (bare_dir / "chat_template.jinja").write_text(load_tokenizer(bare_dir).chat_template)
    assert load_tokenizer(bare_dir).template_origin == "fijn"


@pytest.mark.parametrize("kind", ["chatml", "plain"])
def test_default_templates_write_tools_and_calls(kind, tiny_base_dir, bare_dir):
    tokenizer = load_tokenizer(tiny_base_dir if kind == "chatml" else bare_dir)
    rendered = render({"messages": TOOL_TALKS["more turns"], "tools": TOOLS}, tokenizer)
    assert tokenizer.template.supports == {"system", "tools", "tool_calls"}
    assert '"description": "The weather."' in whole_text(rendered)
    assert trained_runs(rendered)[0].startswith('<tool_call>{"name": "get_weather", "arguments": {"city": "Delft"}}')
    assert trained_runs(rendered)[1].startswith("12 degrees.")


def test_a_tokenizer_is_read_as_transformers_reads_it(tiny_tokenizer, tiny_model_dir):
    from transformers import AutoTokenizer

    reference = AutoTokenizer.from_pretrained(tiny_model_dir)
    assert tiny_tokenizer.chat_template == reference.chat_template
    assert tiny_tokenizer.special_tokens == reference.special_tokens_map
    assert (tiny_tokenizer.pad_id, tiny_tokenizer.eos_id) == (reference.pad_token_id, reference.eos_token_id)
    assert (tiny_tokenizer.model_max_length, tiny_tokenizer.template_origin) == (512, "model")


def test_a_template_that_fails_spoils_only_conversations(tiny_model_dir, tmp_path):
    folder = copy_tokenizer(tiny_model_dir, tmp_path)
    (folder / "chat_template.jinja").write_text("{{ raise_exception('never') }}")
    tokenizer = load_tokenizer(folder)
    assert whole_text(render({"text": "a cat"}, tokenizer)) == "a cat<|im_end|>"
    with pytest.raises(FinetuneError, match="never"):
        render({"messages": [user("a"), assistant("b")]}, tokenizer)


def test_no_tokenizer_is_said_with_a_way_out(tmp_path):
    with pytest.raises(FinetuneError) as caught:
        load_tokenizer(tmp_path)
    assert caught.value.code == "no-tokenizer"
    assert "save_pretrained" in caught.value.fix


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json", "config.json"])
def test_a_broken_file_is_named(file, tiny_model_dir, tmp_path):
    copy_tokenizer(tiny_model_dir, tmp_path)
    (tmp_path / file).write_text("{ not json")
    with pytest.raises(FinetuneError, match=re.escape(file)) as caught:
        load_tokenizer(tmp_path)
    assert caught.value.code == "no-tokenizer"


def copy_tokenizer(source: Path, folder: Path, **changes) -> Path:
    """tokenizer.json and a changed tokenizer_config.json, without the other files."""
    (folder / "tokenizer.json").write_bytes((source / "tokenizer.json").read_bytes())
    config = json.loads((source / "tokenizer_config.json").read_text()) | changes
    (folder / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    return folder


@pytest.mark.parametrize(
    "chat_template",
    ["MINE", [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "MINE"}], {"default": "MINE"}],
)
def test_a_template_in_the_config_is_found_and_default_goes_first(chat_template, tiny_model_dir, tmp_path):
    mine = TEMPLATES["lfm2"]
    config = json.loads(json.dumps(chat_template).replace('"MINE"', json.dumps(mine)))
    tokenizer = load_tokenizer(copy_tokenizer(tiny_model_dir, tmp_path, chat_template=config))
    assert (tokenizer.chat_template, tokenizer.template_origin) == (mine, "model")
    (tmp_path / "chat_template.jinja").write_text(TEMPLATES["qwen3"])
    assert load_tokenizer(tmp_path).chat_template == TEMPLATES["qwen3"]


@pytest.mark.parametrize(
    ("tokenizer_says", "model_says", "expected"),
    [
        (1e30, {"max_position_embeddings": 4096}, 4096),
        (1000000000000000019884624838656, {"text_config": {"max_position_embeddings": 8192}}, 8192),
        (131072, {"max_position_embeddings": 32768}, 32768),
        (512, {"max_position_embeddings": 2048}, 512),
        (None, {"n_positions": 1024}, 1024),
        (None, {}, 2048),
    ],
)
def test_the_length_is_what_both_tokenizer_and_model_can_read(
    tokenizer_says, model_says, expected, tiny_model_dir, tmp_path
):
    folder = copy_tokenizer(tiny_model_dir, tmp_path, model_max_length=tokenizer_says)
    (folder / "config.json").write_text(json.dumps(model_says))
    assert load_tokenizer(folder).model_max_length == expected


def test_a_reply_ends_with_any_end_token_that_a_file_names(tiny_model_dir, tmp_path):
    folder = copy_tokenizer(tiny_model_dir, tmp_path, eos_token="<|endoftext|>")
    (folder / "chat_template.jinja").write_text(TEMPLATES["qwen3"])  # <|im_end|>
    (folder / "generation_config.json").write_text('{"eos_token_id": [0, 5]}')
    (folder / "config.json").write_text('{"eos_token_id": 7}')
    tokenizer = load_tokenizer(folder)
    assert tokenizer.stop_ids == {0, 2, 5, 7}
    assert tokenizer.eos_id == 0


def test_gpt_oss_stops_at_return_and_not_between_its_channels(ours):
    tokenizer = ours("gptoss")
    stops = {tokenizer.backend.id_to_token(id) for id in tokenizer.stop_ids}
    assert "<|return|>" in stops and "<|end|>" not in stops


def test_tokens_that_only_the_config_knows_are_added(tiny_model_dir, tmp_path):
    entry = {"content": "<new>", "special": True, "lstrip": False, "rstrip": False, "normalized": False}
    size = Tokenizer.from_file(str(tiny_model_dir / "tokenizer.json")).get_vocab_size()
    folder = copy_tokenizer(tiny_model_dir, tmp_path, added_tokens_decoder={str(size): entry})
    assert load_tokenizer(folder).backend.encode("a<new>").ids[-1] == size


def test_settings_of_an_earlier_use_are_switched_off(tiny_model_dir, tmp_path):
    backend = Tokenizer.from_file(str(tiny_model_dir / "tokenizer.json"))
    backend.enable_truncation(4)
    backend.enable_padding(length=64)
    copy_tokenizer(tiny_model_dir, tmp_path)
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "chat_template.jinja").write_text((tiny_model_dir / "chat_template.jinja").read_text())
    row = {"messages": [user("What is the capital of France?"), assistant("Paris.")]}
    assert render(row, load_tokenizer(tmp_path)) == render(row, load_tokenizer(tiny_model_dir))


@pytest.mark.starter
def test_the_starter_model_is_rendered_as_by_transformers():
    from transformers import AutoTokenizer

    from finetune_core.starter import where_is_starter

    folder, _ = where_is_starter()
    if folder is None:
        pytest.skip("the starter model is not on this machine yet")
    tokenizer, reference = load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    lines = (Path(__file__).parents[1] / "presets/data/shop-messages/train.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in lines.splitlines()]
    for row, rendered in zip(rows, render_many(rows, tokenizer), strict=True):
        prompt = render_prompt(row["messages"][:-1], tokenizer)
        assert rendered.input_ids == reference.apply_chat_template(row["messages"], return_dict=False)
        assert rendered.input_ids[: len(prompt)] == prompt
        assert trained_runs(rendered) == [row["messages"][-1]["content"] + "<|im_end|>"]
