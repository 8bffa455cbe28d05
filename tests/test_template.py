"""Every chat template that TRL ships, and stranger ones: the ids of transformers and the labels of TRL's masks."""

from __future__ import annotations

from dataclasses import replace

import pytest
from conversations import CONVERSATIONS, TOOL_TALKS, TOOLS, assistant, trained_runs, user, whole_text
from trl_templates import PLAIN, TEMPLATES

from finetune_core.errors import FinetuneError
from finetune_core.render import IGNORED, render, render_prompt


@pytest.fixture(scope="module")
def theirs(wide_dir):
    """`theirs(name)`: the tokenizer of `ours(name)`, in transformers."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(wide_dir)

    def make(name: str):
        tokenizer.chat_template = TEMPLATES[name]
        return tokenizer

    return make


def as_theirs(messages: list[dict], tokenizer) -> list[dict]:
    """These messages as one gives them to transformers: parts for picture models, no system where it is refused."""
    template = tokenizer.template
    if messages[0]["role"] == "system" and not template.takes_system:
        messages = [user(f"{messages[0]['content']}\n\n{messages[1]['content']}"), *messages[2:]]
    return [{**message, **template.message(message["role"], message["content"])} for message in messages]


@pytest.mark.parametrize("name", PLAIN)
def test_ids_are_those_of_transformers(name, ours, theirs):
    tokenizer = ours(name)
    for what, messages in CONVERSATIONS.items():
        expected = theirs(name).apply_chat_template(as_theirs(messages, tokenizer), tokenize=True, return_dict=False)
        ids = render({"messages": messages}, tokenizer).input_ids
        if name == "glm4moe":  # its answers are ended by the next message's <|user|>, so the last one gets one
            expected = [*expected, tokenizer.backend.token_to_id("<|user|>")]
        assert ids == expected, what


# what a template writes between its generation prompt and an answer: the model must write it, so it is trained
WRITTEN_FIRST = {
    "",
    "<think>\n\n</think>",  # Qwen3, where the conversation ends
    "</think>",  # Qwen3.5 and Nemotron, whose prompts end with <think>
    "<think></think>",  # GLM
    "<|channel|>final<|message|>",  # gpt-oss
    "to=user<|message|>",  # Muse Glimmer
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_answer_is_trained_through_its_end_token_and_nothing_else_is(name, ours):
    tokenizer = ours(name)
    ends = {tokenizer.backend.id_to_token(id) for id in tokenizer.turn_end_ids}
    for what, messages in CONVERSATIONS.items():
        rendered = render({"messages": messages}, tokenizer)
        answers = [message["content"].strip() for message in messages if message["role"] == "assistant"]
        runs = trained_runs(rendered)
        assert rendered.stop_trained, what
        assert len(runs) == len(answers), what
        for run, answer in zip(runs, answers, strict=True):
            end = next(end for end in ends if run.endswith(end))
            body = run.removesuffix(end).removesuffix("<|END_RESPONSE|>").strip()
            assert body.endswith(answer), what
            assert body.removesuffix(answer).strip() in WRITTEN_FIRST, what


@pytest.mark.parametrize("name", PLAIN)
def test_the_prompt_is_what_stands_before_the_answer(name, ours):
    tokenizer = ours(name)
    # DeepSeek and Nemotron ask with "<think>\n" but write a plain answer without it; `prompt_differs` says so
    differs = name.startswith(("deepseek", "nemotron"))
    assert tokenizer.template.prompt_differs == differs
    for what in ("one turn", "system", "three turns", "emoji"):
        messages = CONVERSATIONS[what]
        prompt = render_prompt(messages[:-1], tokenizer)
        rendered = render({"messages": messages}, tokenizer)
        first_answer = max(index for index, label in enumerate(rendered.labels) if label == IGNORED)
        if differs:
            assert tokenizer.backend.decode(prompt, skip_special_tokens=False).endswith("<think>\n")
        elif rendered.labels[-1] != IGNORED:
            assert rendered.input_ids[: len(prompt)] == prompt, what
            assert len(prompt) == first_answer + 1, what
        else:  # the template writes a newline or a second end token behind the last one
            assert rendered.input_ids[: len(prompt)] == prompt, what
            assert set(rendered.labels[len(prompt) :]) != {IGNORED}, what
            assert rendered.labels[len(prompt)] != IGNORED, what


# Where TRL's own mask trains more than we do: (what its runs begin with besides, why we leave it out)
TRL_TRAINS_MORE = {
    "deepseek_r1_distill": ("<｜Assistant｜>", "the header comes from the prompt"),
    "deepseekv3": ("<｜Assistant｜>", "the header comes from the prompt"),
    "gptoss": ("<|start|>assistant", "the header comes from the prompt"),
    "muse_glimmer": ("<|start|>assistant", "the header comes from the prompt"),
    "qwen2_5": ("\n", "the header's newline comes from the prompt"),
    "nemotron_3_nano": ("<think>", "the prompt ends with it"),
    "nemotron_3_super": ("<think>", "the prompt ends with it"),
    "nemotron_3_ultra": ("<think>", "the prompt ends with it"),
    "nemotron_3_5_lightning": ("<think>", "the prompt ends with it"),
    "qwen3_5_nothink": ("<think>\n\n</think>\n\n", "the prompt ends with it"),
    "qwen3_5_think": ("<think>\n", "the prompt ends with it"),
    "qwen3_6": ("<think>\n", "the prompt ends with it"),
    "qwen3_8": ("<think>\n", "the prompt ends with it"),
}
# TRL's training template writes a thinking block into every turn; the model's own, which is what a chat will use, into
# the last turn only. So only last turns can be compared.
TRL_REWRITES_HISTORY = {"qwen3", "qwen3_5_nothink", "qwen3_5_think", "qwen3_6"}
# TRL has no training template for these, and they bear no marks themselves.
TRL_HAS_NONE = {"gemma4", "gemma4_v2", "gemma4_v3", "gemma4_v4", "gemma4_v5", "llama3_1", "llama3_2"}
# Its marks end behind the content, and transformers' mask then loses all but the first token of a last emoji.
TRL_LOSES_BYTES = {"diffusion_gemma"}


@pytest.mark.parametrize("name", [name for name in PLAIN if name not in TRL_HAS_NONE])
def test_labels_are_those_of_trl_but_for_what_is_said_above(name, ours, theirs):
    tokenizer, reference = ours(name), theirs(name)
    template = TEMPLATES.get(f"{name}_training", TEMPLATES[name])  # trl.chat_template_utils.get_training_chat_template
    for what in ("one turn", "system", "three turns", "spaces", "emoji", "markup"):
        if what == "emoji" and name in TRL_LOSES_BYTES:
            continue
        messages = CONVERSATIONS[what]
        coded = reference.apply_chat_template(
            as_theirs(messages, tokenizer),
            chat_template=template,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        expected = masked_runs(coded["input_ids"], coded["assistant_masks"], reference)
        more, _ = TRL_TRAINS_MORE.get(name, ("", ""))
        assert all(run.startswith(more) for run in expected), what
        # everywhere: TRL also trains the newline behind the end token, and Phi-3's second end token
        expected = [run.removeprefix(more).removesuffix("\n<eos>").removesuffix("\n") for run in expected]
        runs = trained_runs(render({"messages": messages}, tokenizer))
        if name in TRL_REWRITES_HISTORY:
            runs, expected = runs[-1:], expected[-1:]
        assert runs == expected, what


def masked_runs(ids: list[int], mask: list[int], tokenizer) -> list[str]:
    runs, is_open = [], False
    for id, inside in zip(ids, mask, strict=True):
        if inside:
            runs[len(runs) - is_open :] = [(runs[-1] if is_open else []) + [id]]
        is_open = bool(inside)
    return [tokenizer.decode(run, skip_special_tokens=False) for run in runs]


@pytest.mark.parametrize("name", PLAIN)
def test_tool_calls_are_trained_and_what_tools_say_is_not(name, ours):
    tokenizer = ours(name)
    if "tool_calls" not in tokenizer.template.supports:
        pytest.skip("the template does not write tool calls")
    tools = TOOLS if "tools" in tokenizer.template.supports else None
    for what, messages in TOOL_TALKS.items():
        try:
            rendered = render({"messages": messages, "tools": tools}, tokenizer)
        except FinetuneError as error:
            # Gemma moves the words beside a call behind the tool's answer, into one turn with it: refused
            assert what == "words beside the call" and "gemma" in name and error.code == "template-refused"
            continue
        runs = trained_runs(rendered)
        assert "get_weather" in runs[0] and "Delft" in "".join(runs[:2]), what
        assert rendered.stop_trained, what
        assert not any("12 C" in run for run in runs), what
        assert not any(header in run for run in runs for header in tokenizer.template.headers), what
        assert "12 degrees." in "".join(runs) or what == "a call at the end"
        if what == "words beside the call" and "gemma" not in name:
            assert rendered.left_out == ("Wait." not in "".join(runs))


def test_a_template_without_tool_calls_says_so(ours):
    assert ours("gemma3").template.supports == {"system"}
    assert ours("gemma").template.supports == frozenset()


@pytest.mark.parametrize("name", PLAIN)
def test_reasoning_is_trained_where_the_template_writes_it_and_else_reported(name, ours):
    messages = [user("a"), assistant("<think>\nhm\n</think>\n\nb"), user("c"), assistant("<think>\nhmm\n</think>\n\nd")]
    rendered = render({"messages": messages}, ours(name))
    runs = trained_runs(rendered)
    assert len(runs) == 2 and "b" in runs[0] and "d" in runs[1]
    assert rendered.stop_trained
    assert rendered.left_out == (not ("hm" in runs[0] and "hmm" in runs[1] and "<think>\nhmm" in whole_text(rendered)))


PLAIN_TEXT_TEMPLATES = {
    # (template, what is trained of the answers "b" and "d", the end of the prompt)
    "llama2": (
        "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content + ' [/INST]' }}"
        "{% else %}{{ ' ' + m.content + ' ' + eos_token }}{% endif %}{% endfor %}",
        [" b <eos>", " d <eos>"],
        "[/INST]",
    ),
    "no end token at all": (
        "{% for m in messages %}### {{ m.role }}:\n{{ m.content }}\n\n{% endfor %}"
        "{% if add_generation_prompt %}### assistant:\n{% endif %}",
        ["b\n\n", "d\n\n<eos>"],
        "### assistant:\n",
    ),
    "no generation prompt": (
        "{% for m in messages %}### {{ m.role }}: {{ m.content }}{{ eos_token }}\n{% endfor %}",
        [" b<eos>", " d<eos>"],
        "### assistant:",
    ),
    "end token only at the end": (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% else %}{{ eos_token }}{% endif %}",
        [" b\n", " d\n<eos>"],
        "assistant:",
    ),
}


@pytest.mark.parametrize("name", PLAIN_TEXT_TEMPLATES)
def test_templates_without_header_tokens_work_too(name, ours):
    source, runs, prompt_end = PLAIN_TEXT_TEMPLATES[name]
    tokenizer = replace(ours("phi3"), chat_template=source)
    messages = [user("a"), assistant("b"), user("c"), assistant("d")]
    rendered = render({"messages": messages}, tokenizer)
    prompt = render_prompt(messages[:-1], tokenizer)
    assert trained_runs(rendered) == runs
    assert rendered.stop_trained
    assert rendered.input_ids[: len(prompt)] == prompt
    assert tokenizer.backend.decode(prompt, skip_special_tokens=False).endswith(prompt_end)
