"""The models of one run, asked by name: tuned, base and checkpoints in one memory, streamed and side by side."""

import pytest
from tuned import QUESTIONS, float32, logprob_of, make_tuned_run, prompts

from finetune_core import model
from finetune_core.answers import chatter as chatter_module
from finetune_core.answers.generate import Decoding
from finetune_core.errors import FinetuneError
from finetune_core.render import render_prompt


def test_a_run_has_its_tuned_model_the_base_and_the_checkpoints(tuned_chatter):
    assert tuned_chatter.names() == ["tuned", "base", "checkpoint-20"]


def test_tuned_base_and_checkpoint_differ(tuned_chatter):
    asked = prompts(tuned_chatter, QUESTIONS[:1])
    answers = {
        name: tuple(tuned_chatter.generate(name, asked, max_new_tokens=16)[0].token_ids)
        for name in tuned_chatter.names()
    }
    assert len(set(answers.values())) == 3


def test_switching_leaves_the_base_as_it_was(tuned_chatter, tuned_run):
    """To the last bit: base is the plain model, whatever was active before."""
    plain = chatter_module.Chatter(
        chatter_module.FullModels(
            lambda folder: model.load_base(folder, dtype="float32", device="cpu"),
            {"base": model.Path(tuned_run.recipe.model_name_or_path)},
        ),
        tuned_chatter.tokenizer,
        ["base"],
    )
    [prompt] = prompts(tuned_chatter, QUESTIONS[:1])
    before = logprob_of(plain, "base", prompt, [7, 8, 9])
    for name in ("tuned", "checkpoint-20", "tuned"):
        assert logprob_of(tuned_chatter, name, prompt, [7, 8, 9]) != before
        assert logprob_of(tuned_chatter, "base", prompt, [7, 8, 9]) == before


def test_a_checkpoint_is_loaded_when_it_is_first_asked_for(tuned_run):
    """Also right after the base model spoke, with all adapters off."""
    fresh = float32(tuned_run)
    base, checkpoint = (logprob_of(fresh, name, [5, 6], [7]) for name in ("base", "checkpoint-20"))
    assert checkpoint != base and checkpoint == logprob_of(fresh, "checkpoint-20", [5, 6], [7])


def test_a_switched_adapter_is_the_one_that_peft_loads_alone(tuned_chatter, tuned_run):
    from peft import PeftModel

    base = model.load_base(model.Path(tuned_run.recipe.model_name_or_path), dtype="float32", device="cpu")
    alone = PeftModel.from_pretrained(base, tuned_run.checkpoints()[0])
    [prompt] = prompts(tuned_chatter, QUESTIONS[:1])
    import torch

    with torch.inference_mode():
        logits = torch.log_softmax(alone(input_ids=torch.tensor([prompt])).logits[0, -1], -1)
    assert logprob_of(tuned_chatter, "checkpoint-20", prompt, [7]) == pytest.approx(float(logits[7]), abs=1e-5)


def test_adapters_lie_where_the_base_is_on_a_machine_with_a_gpu_too(tuned_run, tmp_path, monkeypatch):
    """Chat, and a merge, which is made in main memory. peft would choose the fastest device it sees, whatever the base
    is on; "meta" stands for it here."""
    from peft import peft_model

    from finetune_core.takeaway.merge import merge

    monkeypatch.setattr(peft_model, "infer_device", lambda: "meta")
    chatter = float32(tuned_run)
    for name in ("tuned", "checkpoint-20"):
        weights = {weight.device.type for weight in chatter._models.activate(name).parameters()}
        assert weights == {"cpu"}
    merge(tuned_run, model.Path(tuned_run.recipe.model_name_or_path), tmp_path / "merged")
    assert (tmp_path / "merged" / "model.safetensors").is_file()


def test_the_base_is_in_memory_once(tuned_chatter):
    tuned_chatter.generate("checkpoint-20", prompts(tuned_chatter, QUESTIONS[:1]), max_new_tokens=1)
    assert tuned_chatter._models.activate("base") is tuned_chatter._models.activate("tuned")


def test_a_stream_is_the_answer_in_pieces(tuned_chatter):
    [prompt] = prompts(tuned_chatter, QUESTIONS[:1])
    stream = tuned_chatter.stream("tuned", prompt, max_new_tokens=24)
    pieces = list(stream)
    [answer] = tuned_chatter.generate("tuned", [prompt], max_new_tokens=24)
    assert "".join(pieces) == answer.text == stream.answer.text
    assert (stream.answer.token_ids, stream.answer.finish_reason) == (answer.token_ids, answer.finish_reason)


def test_answers_written_side_by_side_are_those_written_one_after_the_other(tuned_chatter):
    [prompt] = prompts(tuned_chatter, QUESTIONS[1:2])
    streams = {name: tuned_chatter.stream(name, prompt, max_new_tokens=16) for name in tuned_chatter.names()}
    going = list(streams.values())
    while going:
        going = [stream for stream in going if next(stream, None) is not None]
    for name, stream in streams.items():
        assert stream.answer.token_ids == tuned_chatter.generate(name, [prompt], max_new_tokens=16)[0].token_ids


def test_the_next_turn_reads_only_what_is_new(tuned_chatter, monkeypatch):
    read = []
    forward = Decoding._forward

    def counted(self, base, tokens, *rest):
        read.append(tokens.shape[1])
        return forward(self, base, tokens, *rest)

    monkeypatch.setattr(Decoding, "_forward", counted)
    messages = [{"role": "user", "content": QUESTIONS[1]}]
    first = tuned_chatter.stream("base", render_prompt(messages, tuned_chatter.tokenizer), max_new_tokens=8)
    messages += [{"role": "assistant", "content": "".join(first)}, {"role": "user", "content": "and Paris?"}]
    prompt = render_prompt(messages, tuned_chatter.tokenizer)
    read.clear()
    list(second := tuned_chatter.stream("base", prompt, max_new_tokens=8))
    assert read[0] < 40 < len(prompt)
    assert second.answer.token_ids == tuned_chatter.generate("base", [prompt], max_new_tokens=8)[0].token_ids


def test_a_stream_that_is_closed_is_cancelled_and_keeps_its_text(tuned_chatter):
    stream = tuned_chatter.stream("base", prompts(tuned_chatter)[0], max_new_tokens=50)
    first = next(stream)
    stream.close()
    assert (stream.answer.text, stream.answer.finish_reason) == (first, "cancelled")


def test_an_unknown_name_is_refused(tuned_chatter):
    for ask in (tuned_chatter.generate, tuned_chatter.stream):
        with pytest.raises(FinetuneError) as caught:
            ask("checkpoint-99", [[5]] if ask == tuned_chatter.generate else [5], max_new_tokens=1)
        assert caught.value.code == "no-model"


def test_full_weights_can_be_asked_too(tmp_path, tiny_model_dir):
    chatter = float32(make_tuned_run(tmp_path, tiny_model_dir, method="full"))
    asked = prompts(chatter, QUESTIONS[:1])
    answers = {name: tuple(chatter.generate(name, asked, max_new_tokens=16)[0].token_ids) for name in chatter.names()}
    assert list(answers) == ["tuned", "base", "checkpoint-20"] and len(set(answers.values())) == 3


def test_an_adapter_in_a_pickle_is_not_opened(tmp_path, tiny_model_dir):
    run = make_tuned_run(tmp_path, tiny_model_dir)
    weights = run.checkpoints()[0] / "adapter_model.safetensors"
    weights.rename(weights.with_name("adapter_model.bin"))
    with pytest.raises(FinetuneError) as caught:
        float32(run).generate("checkpoint-20", [[5]], max_new_tokens=1)
    assert caught.value.code == "no-result"
