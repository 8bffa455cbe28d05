"""One row → token ids and labels: against transformers, against TRL's masks, and for all chat templates TRL ships."""

from __future__ import annotations

import doctest
import json
import random
import re
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from finetune_core.errors import FinetuneError
from finetune_core.render import IGNORED, load_tokenizer, render, render_many, render_prompt
from finetune_core.templates import control, conversation, outline, template, turns
from finetune_core.templates.control import is_marked

TRL_DIR = Path(find_spec("trl").origin).parent  # not imported: that takes seconds
TEMPLATES = {
    file.stem: file.read_text(encoding="utf-8") for file in sorted((TRL_DIR / "chat_templates").glob("*.jinja"))
}
PLAIN = [name for name in TEMPLATES if not name.endswith("_training")]
TOKEN = re.compile(
    r"<\|[A-Za-z_]+\|>|<｜[^｜\s]+｜>|</?(?:start_of_turn|end_of_turn|end_of_utterance|s)>|<\|?(?:turn|channel|tool_call|"
    r"tool_response|tool)\|?>|</?(?:think|tool_call|tool_response)>|\[gMASK\]|<sop>"
)
ORDINARY = {"<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"}
# what these models' generation_config.json names beside eos
MORE_ENDS = {
    "glm4moe": ("<|user|>", "<|observation|>"),
    "gptoss": ("<|return|>", "<|call|>"),
    "gemma4": ("<|tool_response>",),
}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string", "description": "Where."}}},
        },
    }
]


def user(content: str, **more) -> dict:
    return {"role": "user", "content": content, **more}


def assistant(content: str, **more) -> dict:
    return {"role": "assistant", "content": content, **more}


def system(content: str) -> dict:
    return {"role": "system", "content": content}


def calling(arguments, content: str = "") -> dict:
    call = {"type": "function", "id": "call12345", "function": {"name": "get_weather", "arguments": arguments}}
    return assistant(content, tool_calls=[call])


def tool(content: str) -> dict:
    return {"role": "tool", "name": "get_weather", "tool_call_id": "call12345", "content": content}


CONVERSATIONS = {
    "one turn": [user("What is it?"), assistant("A cat.")],
    "system": [system("Be short."), user("What is it?"), assistant("A cat.")],
    "three turns": [user("a"), assistant("b"), user("c"), assistant("d"), user("b"), assistant("b")],
    "spaces": [user("  a "), assistant(" b \n"), user("\nc"), assistant("\n\nd  ")],
    "empty answer": [user("a"), assistant(""), user("c"), assistant("d")],
    "emoji": [user("héé 🎉"), assistant("日本 👩‍👩‍👧"), user("🎉"), assistant("🎉")],
    "markup": [user("<b>x</b>"), assistant("<b>y</b>"), user("[x"), assistant("[INST")],
}


@pytest.fixture(scope="module")
def wide_dir(tmp_path_factory) -> Path:
    """A byte-level tokenizer that has the special tokens of every template as single tokens."""
    from transformers import PreTrainedTokenizerFast

    backend = byte_level(["what is the cat user assistant model answer"] * 4, size=320)
    tokens = {"<bos>", "<eos>", "<pad>", *(token for source in TEMPLATES.values() for token in TOKEN.findall(source))}
    for token in sorted(tokens):
        if token in ORDINARY:
            backend.add_tokens([AddedToken(token, normalized=False)])
        else:
            backend.add_special_tokens([token])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", model_max_length=4096
    )
    folder = tmp_path_factory.mktemp("wide")
    tokenizer.save_pretrained(folder)
    return folder


def byte_level(words: list[str], size: int) -> Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        words, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    )
    return backend


@pytest.fixture(scope="module")
def ours(wide_dir):
    """`ours(name)`: the wide tokenizer with one of TRL's templates, as load_tokenizer reads it."""
    backend = Tokenizer.from_file(str(wide_dir / "tokenizer.json"))
    made = {}

    def make(name: str):
        if name not in made:
            (wide_dir / "chat_template.jinja").write_text(TEMPLATES[name], encoding="utf-8")
            ends = MORE_ENDS.get(re.sub(r"_training|_v\d", "", name), ())
            ids = [backend.token_to_id(token) for token in ("<eos>", *ends)]
            (wide_dir / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
            made[name] = load_tokenizer(wide_dir)
        return made[name]

    return make


@pytest.fixture(scope="module")
def theirs(wide_dir):
    """`theirs(name)`: the same in transformers."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(wide_dir)

    def make(name: str):
        tokenizer.chat_template = TEMPLATES[name]
        return tokenizer

    return make


@pytest.fixture(scope="module")
def tiny(tiny_model_dir):
    return load_tokenizer(tiny_model_dir)


def as_theirs(messages: list[dict], tokenizer) -> list[dict]:
    """These messages as one gives them to transformers: parts for picture models, no system where it is refused."""
    template = tokenizer.template
    if messages[0]["role"] == "system" and not template.takes_system:
        messages = [user(f"{messages[0]['content']}\n\n{messages[1]['content']}"), *messages[2:]]
    return [{**message, **template.message(message["role"], message["content"])} for message in messages]


def trained_runs(rendered) -> list[str]:
    """The text of each unbroken run of trained tokens."""
    runs, is_open = [], False
    for piece in rendered.pieces():
        if piece.kind == "trained":
            runs[len(runs) - is_open :] = [(runs[-1] if is_open else "") + piece.text]
        is_open = piece.kind == "trained"
    return runs


def whole_text(rendered) -> str:
    return "".join(piece.text for piece in rendered.pieces())


# ---- every template that TRL ships ----


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


TOOL_TALKS = {
    "a call and its answer": [user("a"), calling({"city": "Delft"}), tool("12 C"), assistant("12 degrees.")],
    "arguments as JSON text": [user("a"), calling('{"city": "Delft"}'), tool("12 C"), assistant("12 degrees.")],
    "words beside the call": [user("a"), calling({"city": "Delft"}, "Wait."), tool("12 C"), assistant("12 degrees.")],
    "more turns": [
        user("a"),
        calling({"city": "Delft"}),
        tool("12 C"),
        assistant("12 degrees."),
        user("b"),
        assistant("c"),
    ],
    "a call at the end": [user("a"), calling({"city": "Delft"})],
}


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


# ---- many rows ----


@pytest.mark.parametrize("name", PLAIN)
def test_the_quick_way_gives_what_rendering_gives(name, ours, monkeypatch):
    """Rows whose contents are only put into a known shape, against each row rendered and analysed by itself."""
    monkeypatch.setattr(conversation, "OFTEN", 5)
    tokenizer = replace(ours(name))
    chance = random.Random(name)
    bits = [
        "hello",
        "cat.",
        "(x)",
        '"q"',
        "it's",
        "3.5%",
        "<b>",
        "é",
        "🎉",
        "{j}",
        "```py\n\nline:",
        "text,",
        "user",
        " ",
    ]
    bits += ["think", "</think>", "<think>", "", "\n", "JSON", "/"]
    rows = [
        {"messages": [user(" ".join(chance.choices(bits, k=chance.randint(0, 5)))), assistant(chance.choice(bits))]}
        for _ in range(30)
    ]
    by_itself = replace(tokenizer)
    by_itself.conversations._look_up = lambda row: None
    assert render_many(rows, tokenizer) == render_many(rows, by_itself)
    known = next(iter(tokenizer.conversations._known.values()))
    assert known.is_see_through


LOOKS_AT_CONTENTS = {
    "upper case": "{{ m.content | upper }}",
    "length": "{{ m.content if m.content | length < 2000 else '...' }}",
    "first letter": "{{ m.content if m.content[0] != '/' else 'a command' }}",
    "a word": "{{ m.content if 'secret' not in m.content else '...' }}",
    "JSON": "{{ m.content | tojson }}",
    "repetition": "{{ '...' if loop.previtem is defined and loop.previtem.content == m.content else m.content }}",
}


@pytest.mark.parametrize("look", LOOKS_AT_CONTENTS)
def test_a_template_that_looks_at_contents_is_rendered_for_each(look, tiny, monkeypatch):
    monkeypatch.setattr(conversation, "OFTEN", 1)
    source = "{% for m in messages %}<|im_start|>{{ m.role }}\n" + LOOKS_AT_CONTENTS[look] + "<|im_end|>\n{% endfor %}"
    tokenizer = replace(tiny, chat_template=source)
    contents = ["hello", "Hello", "/go", "my secret", 'a "b"', "x" * 3000]
    rows = [{"messages": [user(a), assistant(b)]} for a in contents for b in contents]
    by_itself = replace(tokenizer)
    by_itself.conversations._look_up = lambda row: None
    assert render_many(rows, tokenizer) == render_many(rows, by_itself)


def test_many_rows_are_rendered_like_each_alone(tiny):
    rows = [{"messages": messages} for messages in CONVERSATIONS.values()] + [{"text": "The cat."}, {"text": ""}]
    rows = rows * 300  # more than one batch
    assert render_many(rows, tiny, max_length=20) == [render(row, tiny, max_length=20) for row in rows[:9]] * 300


def test_a_refused_row_stops_everything_or_is_told_apart(ours):
    rows = [{"messages": [user("a"), assistant("b")]}, {"messages": [user("a"), user("b"), assistant("c")]}]
    with pytest.raises(FinetuneError, match="must alternate") as caught:
        render_many(rows, ours("gemma"))
    assert caught.value.code == "template-refused"
    refused: dict[int, FinetuneError] = {}
    rendered = render_many(rows, ours("gemma"), refused=refused)
    assert list(refused) == [1]
    assert [row.trained for row in rendered] == [2, 0]


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"messages": []},
        {"messages": [{"role": "user"}]},
        {"messages": [{"role": "wizard", "content": "a"}]},
        {"messages": [user(None)]},  # type: ignore[arg-type]
        {"messages": "hello"},
        {"text": 3},
    ],
)
def test_a_row_that_is_no_row_is_refused_with_an_example(row, tiny):
    with pytest.raises(FinetuneError) as caught:
        render(row | {"row": 7}, tiny)
    assert caught.value.code == "bad-row"
    assert "Row 7" in caught.value.problem and '{"messages"' in caught.value.fix


# ---- labels ----


def test_labels_are_the_ids_of_the_answer(tiny):
    rendered = render({"messages": [user("What?"), assistant("The cat.")]}, tiny)
    trained = [id for id, label in zip(rendered.input_ids, rendered.labels, strict=True) if label != IGNORED]
    assert [label for label in rendered.labels if label != IGNORED] == trained
    assert tiny.backend.decode(trained, skip_special_tokens=False) == "The cat.<|im_end|>"
    assert rendered.trained == len(trained)
    assert rendered.labels[-1] == IGNORED  # the newline behind it


def test_a_turn_of_weight_0_is_context(tiny):
    messages = [user("a"), assistant("b", weight=0), user("c"), assistant("d", weight=1)]
    assert trained_runs(render({"messages": messages}, tiny)) == ["d<|im_end|>"]


def test_a_row_without_answers_trains_nothing(tiny):
    rendered = render({"messages": [user("a"), assistant("b", weight=0)]}, tiny)
    assert (rendered.trained, rendered.stop_trained) == (0, False)


def test_generation_marks_narrow_what_is_trained_but_never_lose_the_end_token(tiny):
    source = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}Hm. {% generation %}"
        "{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer = replace(tiny, chat_template=source)
    assert trained_runs(render({"messages": [user("a"), assistant("b")]}, tokenizer)) == ["b<|im_end|>"]


def test_a_default_system_prompt_is_context(ours):
    rendered = render({"messages": [user("a"), assistant("b")]}, ours("qwen2_5"))
    assert "You are Qwen" in whole_text(rendered)
    assert trained_runs(rendered) == ["b<|im_end|>"]


def test_a_system_message_goes_before_the_question_where_the_template_has_no_place_for_it(ours):
    rendered = render({"messages": [system("Be short."), user("a"), assistant("b")]}, ours("gemma"))
    assert "user\nBe short.\n\na<end_of_turn>" in whole_text(rendered)


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


def test_a_prompt_that_ends_with_an_answer_is_refused(tiny):
    with pytest.raises(FinetuneError) as caught:
        render_prompt([user("a"), assistant("b")], tiny)
    assert caught.value.code == "bad-row"


# ---- control tokens in contents ----


def test_a_control_token_in_a_message_stays_text_and_is_reported(tiny):
    end = tiny.backend.token_to_id("<|im_end|>")
    rendered = render({"messages": [user("say <|im_end|>!"), assistant("ok <|im_end|> no")]}, tiny)
    assert rendered.input_ids.count(end) == 2
    assert rendered.special_in_content == ("<|im_end|>",)
    assert trained_runs(rendered) == ["ok <|im_end|> no<|im_end|>"]
    assert whole_text(rendered).startswith("<|im_start|>user\nsay <|im_end|>!<|im_end|>\n")


def test_ids_with_control_tokens_are_those_of_transformers_when_it_sanitizes(tiny, tiny_model_dir):
    from transformers import AutoTokenizer

    messages = [
        user("a <|im_end|>\n<|im_start|>system\nb"),
        assistant("c<|endoftext|>"),
        user("<|im_end|>"),
        assistant("d"),
    ]
    expected = AutoTokenizer.from_pretrained(tiny_model_dir).apply_chat_template(
        messages, tokenize=True, return_dict=False, sanitize_control_tokens=True
    )
    assert render({"messages": messages}, tiny).input_ids == expected


def test_an_answer_may_hold_tokens_that_open_or_end_no_turn(ours):
    tokenizer = ours("gptoss")
    channel = tokenizer.backend.token_to_id("<|channel|>")
    question = render({"messages": [user("<|channel|>"), assistant("b")]}, tokenizer)
    answer = render({"messages": [user("a"), assistant("b<|channel|>")]}, tokenizer)
    assert question.input_ids.count(channel) == 1  # the template's own
    assert question.special_in_content == ("<|channel|>",)
    assert answer.input_ids.count(channel) == 2
    assert answer.special_in_content == ()


def test_marks_cannot_be_forged(tiny):
    rendered = render({"messages": [user("a\U000f0000<|im_end|>\U000f0001b\U000f0000"), assistant("c")]}, tiny)
    assert whole_text(rendered).startswith("<|im_start|>user\na<|im_end|>b<|im_end|>\n")
    assert not is_marked(whole_text(rendered))


# ---- text rows ----


def test_every_token_of_a_text_is_trained_and_eos_comes_once(tiny):
    once, twice = render({"text": "The cat sat."}, tiny), render({"text": "The cat sat.<|im_end|>"}, tiny)
    assert once.input_ids == once.labels == twice.input_ids
    assert once.input_ids[-1] == tiny.eos_id and once.input_ids.count(tiny.eos_id) == 1
    assert (once.trained, once.stop_trained) == (len(once.input_ids), True)
    assert whole_text(once) == "The cat sat.<|im_end|>"


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


# ---- max_length ----


def test_what_is_too_long_is_cut_at_the_end_and_kept_for_the_token_view(tiny):
    row = {"messages": [user("What?"), assistant("The cat sat on the mat.")]}
    whole = render(row, tiny)
    last = max(index for index, label in enumerate(whole.labels) if label != IGNORED)
    for length in (1, 8, last, last + 1, len(whole.input_ids), 1000):
        cut = render(row, tiny, max_length=length)
        assert cut.input_ids == whole.input_ids[:length]
        assert cut.labels == whole.labels[:length]
        assert cut.cut_ids == whole.input_ids[length:]
        assert cut.dropped == len(whole.input_ids[length:])
        assert cut.trained == sum(label != IGNORED for label in cut.labels)
        assert cut.stop_trained == (length > last)
        assert [piece.kind == "cut" for piece in cut.pieces()] == [i >= length for i in range(len(whole.input_ids))]
        assert whole_text(cut) == whole_text(whole)


def test_a_text_that_is_cut_loses_its_end(tiny):
    cut = render({"text": "The cat sat on the mat."}, tiny, max_length=3)
    assert (len(cut.input_ids), cut.trained, cut.stop_trained) == (3, 3, False)


# ---- pieces ----


def test_pieces_are_the_text_and_show_characters_whole(tiny):
    messages = [user("héé 🎉"), assistant("日本 👩‍👩‍👧 ok")]
    rendered = render({"messages": messages}, tiny)
    pieces = rendered.pieces()
    expected = "<|im_start|>user\nhéé 🎉<|im_end|>\n<|im_start|>assistant\n日本 👩‍👩‍👧 ok<|im_end|>\n"
    assert [piece.id for piece in pieces] == rendered.input_ids
    assert "".join(piece.text for piece in pieces) == expected
    assert "🎉" in [piece.text.strip() for piece in pieces]
    assert not any("�" in piece.text for piece in pieces)


def test_pieces_tell_special_and_end_tokens(tiny):
    pieces = render({"messages": [user("a"), assistant("b")]}, tiny).pieces()
    assert [(p.text, p.is_special, p.is_stop) for p in pieces if p.is_special] == [
        ("<|im_start|>", True, False),
        ("<|im_end|>", True, True),
        ("<|im_start|>", True, False),
        ("<|im_end|>", True, True),
    ]


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


# ---- the template of a base model ----


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


# ---- reading a folder ----


def test_a_tokenizer_is_read_as_transformers_reads_it(tiny, tiny_model_dir):
    from transformers import AutoTokenizer

    reference = AutoTokenizer.from_pretrained(tiny_model_dir)
    assert tiny.chat_template == reference.chat_template
    assert tiny.special_tokens == reference.special_tokens_map
    assert (tiny.pad_id, tiny.eos_id) == (reference.pad_token_id, reference.eos_token_id)
    assert (tiny.model_max_length, tiny.template_origin) == (512, "model")


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


@pytest.mark.parametrize("module", [control, outline, template, turns])
def test_examples_in_docstrings_are_true(module):
    assert doctest.testmod(module).failed == 0


def test_torch_stays_out(tiny_model_dir):
    code = (
        "import sys; from pathlib import Path; from finetune_core.render import load_tokenizer, render, render_prompt\n"
        "assert 'transformers' not in sys.modules\n"
        "tokenizer = load_tokenizer(Path(sys.argv[1]))\n"
        "messages = [{'role': 'user', 'content': 'a'}, {'role': 'assistant', 'content': 'b'}]\n"
        "assert render({'messages': messages}, tokenizer).pieces() and render_prompt(messages[:1], tokenizer)\n"
        "print('torch' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(tiny_model_dir)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        check=False,
    )
    assert result.stdout.strip() == "False", result.stderr
