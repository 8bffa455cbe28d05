"""The Go template for Ollama writes what the trained Jinja template writes, or there is none."""

import re

import pytest
from conftest import CHATML

from finetune_core.render import load_tokenizer
from finetune_core.takeaway.modelfile import (
    Translation,
    find_around,
    modelfile,
    probe_conversations,
    translate,
)
from finetune_core.templates.template import ChatTemplate

WITH_DEFAULT = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{% for message in messages %}{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
)
COUNTING = (
    "{% for message in messages %}{{ loop.index ~ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
VARIABLES = {"bos_token": "<s>", "eos_token": "</s>"}


def template_of(source):
    return ChatTemplate(source, VARIABLES, stops=["</s>", "<|im_end|>"], added=["<s>", "</s>", "<|im_end|>"])


def run_go(text, messages):
    """A Go template of the few actions that `as_go` writes, run as Go's text/template would."""
    system = messages[0]["content"] if messages[0]["role"] == "system" else ""
    text = re.sub(r"\s*\{\{-", "{{", text)
    tokens = re.findall(r"\{\{ ?(.*?) ?\}\}", text, re.S)
    assert "".join("{{" + token + "}}" for token in tokens).replace(" ", "") == text.replace(" ", "")
    names = {"$system": ""}

    def value(word, dot):
        match word:
            case ".System":
                return system
            case ".Content" | ".Role":
                return dot[word[1:].lower()]
            case "$system":
                return names["$system"]
        return re.sub(r"\\(.)", lambda found: {"n": "\n"}.get(found[1], found[1]), word[1:-1])

    def run(place, dot, writes):
        said = ""
        while place < len(tokens):
            token = tokens[place]
            if token == "end" or token.startswith("else"):
                return said, place
            place += 1
            if token.startswith("range"):
                start, whole = place, ""
                for message in messages if writes else [None]:
                    part, place = run(start, message, writes)
                    whole += part
                said, place = said + whole, place + 1
            elif token.startswith("if"):
                chosen, taken = writes and holds(token, dot), False
                while True:
                    part, place = run(place, dot, chosen)
                    said, taken = said + part, taken or chosen
                    if tokens[place] == "end":
                        place += 1
                        break
                    chosen = writes and not taken and (tokens[place] == "else" or holds(tokens[place][5:], dot))
                    place += 1
            elif "=" in token and token.startswith("$system"):
                if writes:
                    names["$system"] = value(token.split("= ", 1)[1], dot)
            elif writes:
                said += value(token, dot)
        return said, place

    def holds(token, dot):
        words = token.split()
        if words[1] == "eq":
            return value(words[2], dot) == value(words[3], dot)
        return bool(value(words[1], dot))

    return run(0, None, True)[0]


@pytest.mark.parametrize(
    "source", [CHATML, WITH_DEFAULT, GEMMA, MISTRAL], ids=["chatml", "default", "gemma", "mistral"]
)
def test_the_go_template_writes_what_the_trained_one_writes(source):
    template = template_of(source)
    go = find_around(template).as_go()
    for messages in probe_conversations():
        assert run_go(go, messages) == template.prompt(template.adapt(messages))


def test_a_default_system_prompt_is_written_only_where_there_is_no_other():
    around = find_around(template_of(WITH_DEFAULT))
    assert "Be kind." in around.write([{"role": "user", "content": "a"}])
    assert "Be kind." not in around.write([{"role": "system", "content": "b"}, {"role": "user", "content": "a"}])


def test_a_template_that_does_more_is_not_translated(tiny_model_dir, tmp_path):
    import shutil

    shutil.copytree(tiny_model_dir, tmp_path / "model")
    for source in (COUNTING, CHATML + "{{ strftime_now('%d') }}"):
        (tmp_path / "model" / "chat_template.jinja").write_text(source)
        found = translate(load_tokenizer(tmp_path / "model"), adds_bos=False)
        assert found.template is None and found.why


def test_bos_is_left_to_a_runtime_that_adds_it(tiny_model_dir, tmp_path):
    import json
    import shutil

    shutil.copytree(tiny_model_dir, tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").write_text("{{ bos_token }}" + CHATML)
    config = json.loads((tmp_path / "model" / "tokenizer_config.json").read_text())
    (tmp_path / "model" / "tokenizer_config.json").write_text(json.dumps(config | {"bos_token": "<|endoftext|>"}))
    tokenizer = load_tokenizer(tmp_path / "model")
    assert "<|endoftext|>" in translate(tokenizer, adds_bos=False).template
    assert "<|endoftext|>" not in translate(tokenizer, adds_bos=True).template


def test_a_modelfile_says_what_ollama_must_know():
    text = modelfile(
        "m-q8_0.gguf", Translation("{{ .Prompt }}"), stops=["<|im_end|>"], system_prompt="Be brief.", context=512,
        about="one\ntwo",
    )  # fmt: skip
    assert text.splitlines()[:3] == ["# one", "# two", "FROM ./m-q8_0.gguf"]
    assert 'TEMPLATE """{{ .Prompt }}"""' in text and 'SYSTEM """Be brief."""' in text
    assert 'PARAMETER stop "<|im_end|>"' in text and "PARAMETER num_ctx 512" in text


def test_a_modelfile_without_a_translation_says_so():
    text = modelfile("m.gguf", Translation(None, "it counts"), stops=[], system_prompt=None, context=512, about="x")
    assert "TEMPLATE" not in text and "it counts" in text
