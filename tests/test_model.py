"""Models are fetched, loaded and asked: the same answers one by one, in a batch, streamed, and side by side."""

import dataclasses
import json
import shutil
import time

import pytest
from tuned import make_tuned_run

from finetune_core import model
from finetune_core.answers import chatter as chatter_module
from finetune_core.answers.generate import Decoding, TextPieces
from finetune_core.errors import FinetuneError
from finetune_core.render import load_tokenizer, render_prompt

QUESTIONS = [
    "my kettle is broken",
    "order 7: what is the capital of France? " * 3,
    "lamp",
    "Sort this shop message: een kat zat op de mat",
    "Sort this shop message: een kat zat op de stoel en ik wil mijn geld terug",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_model_dir):
    return make_tuned_run(tmp_path_factory.mktemp("runs"), tiny_model_dir)


@pytest.fixture(scope="module")
def chatter(run):
    return float32(run)


def float32(run):
    """Whatever this machine is good at: only float32 gives the same tokens in every batch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "chat_dtype", lambda trained: "float32")
        patch.setattr(model, "best_device", lambda: "cpu")
        return model.load_for_chat(run)


def prompts(chatter, questions=QUESTIONS):
    return [render_prompt([{"role": "user", "content": question}], chatter.tokenizer) for question in questions]


def ids(answers):
    return [answer.token_ids for answer in answers]


def test_a_run_has_its_tuned_model_the_base_and_the_checkpoints(chatter):
    assert chatter.names() == ["tuned", "base", "checkpoint-20"]


@pytest.mark.parametrize("name", ["tuned", "base", "checkpoint-20"])
def test_a_batch_answers_as_each_prompt_alone(chatter, name):
    asked = prompts(chatter)
    alone = [chatter.generate(name, [prompt], max_new_tokens=24)[0] for prompt in asked]
    assert ids(chatter.generate(name, asked, max_new_tokens=24)) == ids(alone)
    assert name == "base" or len({token for answer in alone for token in answer.token_ids}) > 8  # no dull proof


@pytest.mark.parametrize("beginning", [0, 3, 40])
def test_a_beginning_that_all_prompts_share_is_read_once_and_changes_nothing(chatter, beginning):
    asked = [[5] * beginning + list(range(20, 20 + length)) for length in (4, 9, 2)]
    alone = [chatter.generate("tuned", [prompt], max_new_tokens=12)[0] for prompt in asked]
    assert ids(chatter.generate("tuned", asked, max_new_tokens=12)) == ids(alone)


FAMILIES = [  # what differs between them: sliding windows, learned positions, alibi, a recurrent state
    ("mistral", {"sliding_window": 8, "num_key_value_heads": 2}),
    ("gpt2", {}),
    ("bloom", {"n_layer": 2, "n_head": 4}),
    ("mamba", {"state_size": 4}),
]


@pytest.mark.parametrize(("family", "extra"), FAMILIES, ids=[family for family, _ in FAMILIES])
def test_other_families_answer_in_a_batch_as_alone(family, extra):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    sizes = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    plain = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes | extra), dtype=torch.float32).eval()
    asked = [[5, 6, 7] * 7 + list(range(8, 8 + length)) for length in (3, 9, 1)]

    def greedy(rows):
        decoding = Decoding(rows, pad_id=0)
        return [list(tokens) for tokens in zip(*([t for _, t in decoding.step(plain)] for _ in range(8)), strict=True)]

    alone = [greedy([row])[0] for row in asked]
    for row, answer in zip(asked, alone, strict=True):
        theirs = plain.generate(
            torch.tensor([row]), max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        assert theirs[0, len(row) :].tolist() == answer
    assert plain._is_stateful or greedy(asked) == alone  # those are asked one by one


def test_greedy_answers_are_those_of_transformers(chatter, run):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(run.recipe.model_name_or_path, trust_remote_code=False)
    theirs = PeftModel.from_pretrained(theirs, run.result_dir)
    [prompt] = prompts(chatter, QUESTIONS[:1])
    asked = torch.tensor([prompt])
    stops = sorted(chatter.tokenizer.stop_ids)
    out = theirs.generate(
        input_ids=asked, attention_mask=torch.ones_like(asked), max_new_tokens=24, do_sample=False, eos_token_id=stops
    )
    [answer] = chatter.generate("tuned", [prompt], max_new_tokens=24)
    assert answer.token_ids == [token for token in out[0, len(prompt) :].tolist() if token not in stops]


def test_tuned_base_and_checkpoint_differ(chatter):
    asked = prompts(chatter, QUESTIONS[:1])
    answers = {name: tuple(chatter.generate(name, asked, max_new_tokens=16)[0].token_ids) for name in chatter.names()}
    assert len(set(answers.values())) == 3


def test_switching_leaves_the_base_as_it_was(chatter, run):
    """To the last bit: base is the plain model, whatever was active before."""
    plain = chatter_module.Chatter(
        chatter_module.FullModels(
            lambda folder: model.load_base(folder, dtype="float32", device="cpu"),
            {"base": model.Path(run.recipe.model_name_or_path)},
        ),
        chatter.tokenizer,
        ["base"],
    )
    [prompt] = prompts(chatter, QUESTIONS[:1])
    before = plain.logprob("base", prompt, [7, 8, 9])
    for name in ("tuned", "checkpoint-20", "tuned"):
        assert chatter.logprob(name, prompt, [7, 8, 9]) != before
        assert chatter.logprob("base", prompt, [7, 8, 9]) == before


def test_a_checkpoint_is_loaded_when_it_is_first_asked_for(run):
    """Also right after the base model spoke, with all adapters off."""
    fresh = float32(run)
    base, checkpoint = (fresh.logprob(name, [5, 6], [7]) for name in ("base", "checkpoint-20"))
    assert checkpoint != base and checkpoint == fresh.logprob("checkpoint-20", [5, 6], [7])


def test_a_switched_adapter_is_the_one_that_peft_loads_alone(chatter, run):
    from peft import PeftModel

    base = model.load_base(model.Path(run.recipe.model_name_or_path), dtype="float32", device="cpu")
    alone = PeftModel.from_pretrained(base, run.checkpoints()[0])
    [prompt] = prompts(chatter, QUESTIONS[:1])
    import torch

    with torch.inference_mode():
        logits = torch.log_softmax(alone(input_ids=torch.tensor([prompt])).logits[0, -1], -1)
    assert chatter.logprob("checkpoint-20", prompt, [7]) == pytest.approx(float(logits[7]), abs=1e-5)


def test_the_base_is_in_memory_once(chatter):
    chatter.generate("checkpoint-20", prompts(chatter, QUESTIONS[:1]), max_new_tokens=1)
    assert chatter._models.activate("base") is chatter._models.activate("tuned")


def test_a_stream_is_the_answer_in_pieces(chatter):
    [prompt] = prompts(chatter, QUESTIONS[:1])
    stream = chatter.stream("tuned", prompt, max_new_tokens=24)
    pieces = list(stream)
    [answer] = chatter.generate("tuned", [prompt], max_new_tokens=24)
    assert "".join(pieces) == answer.text == stream.answer.text
    assert (stream.answer.token_ids, stream.answer.finish_reason) == (answer.token_ids, answer.finish_reason)


def test_answers_written_side_by_side_are_those_written_one_after_the_other(chatter):
    [prompt] = prompts(chatter, QUESTIONS[1:2])
    streams = {name: chatter.stream(name, prompt, max_new_tokens=16) for name in chatter.names()}
    going = list(streams.values())
    while going:
        going = [stream for stream in going if next(stream, None) is not None]
    for name, stream in streams.items():
        assert stream.answer.token_ids == chatter.generate(name, [prompt], max_new_tokens=16)[0].token_ids


def test_the_next_turn_reads_only_what_is_new(chatter, monkeypatch):
    read = []
    forward = Decoding._forward

    def counted(self, base, tokens, *rest):
        read.append(tokens.shape[1])
        return forward(self, base, tokens, *rest)

    monkeypatch.setattr(Decoding, "_forward", counted)
    messages = [{"role": "user", "content": QUESTIONS[1]}]
    first = chatter.stream("base", render_prompt(messages, chatter.tokenizer), max_new_tokens=8)
    messages += [{"role": "assistant", "content": "".join(first)}, {"role": "user", "content": "and Paris?"}]
    prompt = render_prompt(messages, chatter.tokenizer)
    read.clear()
    list(second := chatter.stream("base", prompt, max_new_tokens=8))
    assert read[0] < 40 < len(prompt)
    assert second.answer.token_ids == chatter.generate("base", [prompt], max_new_tokens=8)[0].token_ids


@pytest.mark.parametrize("name", ["generate", "stream"])
def test_an_answer_ends_at_a_stop_token_that_is_not_part_of_it(chatter, name, monkeypatch):
    [prompt] = prompts(chatter, QUESTIONS[:1])
    drawn = {"max_new_tokens": 24, "temperature": 1.5, "seed": 1}
    whole = chatter.generate("base", [prompt], **drawn)[0].token_ids
    stop = next(token for place, token in enumerate(whole) if token not in whole[:place] and place > 2)
    monkeypatch.setattr(chatter, "tokenizer", dataclasses.replace(chatter.tokenizer, stop_ids=frozenset({stop})))
    if name == "stream":
        list(stream := chatter.stream("base", prompt, **drawn))
        answer = stream.answer
    else:
        [answer] = chatter.generate("base", [prompt], **drawn)
    assert (answer.token_ids, answer.finish_reason) == (whole[: whole.index(stop)], "stop")


def test_an_answer_is_as_long_as_allowed(chatter):
    answers = chatter.generate("base", prompts(chatter), max_new_tokens=3)
    assert {(len(a.token_ids), a.finish_reason) for a in answers if a.finish_reason != "stop"} == {(3, "length")}


def test_an_answer_never_leaves_the_context(chatter):
    [answer] = chatter.generate("base", [[5] * 505], max_new_tokens=100)
    assert len(answer.token_ids) <= 7


@pytest.mark.parametrize("length", [0, 512, 600])
def test_a_prompt_that_does_not_fit_is_refused(chatter, length):
    with pytest.raises(FinetuneError) as caught:
        chatter.generate("base", [[5] * length], max_new_tokens=1)
    assert caught.value.code == "too-long"


def test_should_stop_is_asked_before_each_token(chatter):
    [prompt] = prompts(chatter, QUESTIONS[:1])
    asked = []
    answers = chatter.generate(
        "base", [prompt], max_new_tokens=50, should_stop=lambda: asked.append(1) or len(asked) > 4
    )
    assert (len(answers[0].token_ids), answers[0].finish_reason) == (4, "cancelled")
    stream = chatter.stream("base", prompt, max_new_tokens=50, should_stop=lambda: len(asked) > 4)
    assert (list(stream), stream.answer.finish_reason) == ([], "cancelled")


def test_a_stream_that_is_closed_is_cancelled_and_keeps_its_text(chatter):
    stream = chatter.stream("base", prompts(chatter)[0], max_new_tokens=50)
    first = next(stream)
    stream.close()
    assert (stream.answer.text, stream.answer.finish_reason) == (first, "cancelled")


def test_progress_counts_answers_and_tokens(chatter):
    told = []
    chatter.generate(
        "base", prompts(chatter), max_new_tokens=5, on_tokens=lambda ended, tokens: told.append((ended, tokens))
    )
    assert told[-1][0] == len(QUESTIONS) and told[-1][1] <= 5 * len(QUESTIONS)


def test_a_seed_draws_the_same_answer_again(chatter):
    [prompt] = prompts(chatter, QUESTIONS[:1])
    drawn = [
        tuple(chatter.generate("base", [prompt], max_new_tokens=12, temperature=1.5, seed=seed)[0].token_ids)
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_tiny_top_p_leaves_only_the_likeliest(chatter):
    [prompt] = prompts(chatter, QUESTIONS[:1])
    drawn = chatter.generate("base", [prompt], max_new_tokens=12, temperature=2.0, top_p=1e-6, seed=3)
    assert ids(drawn) == ids(chatter.generate("base", [prompt], max_new_tokens=12))


def test_an_unknown_name_is_refused(chatter):
    for ask in (chatter.generate, chatter.stream):
        with pytest.raises(FinetuneError) as caught:
            ask("checkpoint-99", [[5]] if ask == chatter.generate else [5], max_new_tokens=1)
        assert caught.value.code == "no-model"


TEXTS = ["plain words", "één ☕ kost €3,50", "👩‍👩‍👧 family", "中文和日本語", " leading and trailing ", "a\n\n\tb"]


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_are_whole_characters_and_add_up(chatter, text):
    pieces = TextPieces(chatter.tokenizer.backend)
    shown = [pieces.add(token) for token in chatter.tokenizer.backend.encode(text).ids]
    assert "".join(shown) + pieces.rest() == text
    assert not any("\ufffd" in piece for piece in shown)


def test_a_character_cut_off_by_the_end_is_shown_as_such(chatter):
    pieces = TextPieces(chatter.tokenizer.backend)
    coffee = chatter.tokenizer.backend.encode("☕").ids
    assert (pieces.add(coffee[0]), pieces.rest()) == ("", "\ufffd")


def test_full_weights_can_be_asked_too(tmp_path, tiny_model_dir):
    chatter = float32(make_tuned_run(tmp_path, tiny_model_dir, method="full"))
    asked = prompts(chatter, QUESTIONS[:1])
    answers = {name: tuple(chatter.generate(name, asked, max_new_tokens=16)[0].token_ids) for name in chatter.names()}
    assert list(answers) == ["tuned", "base", "checkpoint-20"] and len(set(answers.values())) == 3


def test_a_run_that_was_interrupted_has_its_checkpoints(tmp_path, tiny_model_dir):
    run = make_tuned_run(tmp_path, tiny_model_dir, result=False)
    assert model.load_for_chat(run).names() == ["base", "checkpoint-20"]


def test_a_run_without_any_weights_says_what_to_wait_for(tmp_path, tiny_model_dir):
    run = make_tuned_run(tmp_path, tiny_model_dir, result=False)
    shutil.rmtree(run.path / "checkpoints")
    with pytest.raises(FinetuneError) as caught:
        model.load_for_chat(run)
    assert caught.value.code == "no-result"


def test_an_adapter_in_a_pickle_is_not_opened(tmp_path, tiny_model_dir):
    run = make_tuned_run(tmp_path, tiny_model_dir)
    weights = run.checkpoints()[0] / "adapter_model.safetensors"
    weights.rename(weights.with_name("adapter_model.bin"))
    with pytest.raises(FinetuneError) as caught:
        float32(run).generate("checkpoint-20", [[5]], max_new_tokens=1)
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
