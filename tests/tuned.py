"""Runs as a training leaves them, made in a moment: a tiny model and adapters that do change what it says."""

import json
from pathlib import Path

import pytest
from conftest import write_jsonl

from finetune_core import model
from finetune_core.recipe import Recipe
from finetune_core.render import render_prompt
from finetune_core.run import Run

QUESTIONS = [
    "my kettle is broken",
    "order 7: what is the capital of France? " * 3,
    "lamp",
    "Sort this shop message: een kat zat op de mat",
    "Sort this shop message: een kat zat op de stoel en ik wil mijn geld terug",
]


def make_tuned_run(runs_dir: Path, model_dir: Path, *, method: str = "lora", result: bool = True, **values) -> Run:
    """A run with a result and one checkpoint (checkpoint-20), which differ from the base model and from each other."""
    recipe = Recipe(model_name_or_path=str(model_dir), method=method, dtype="float32", **values)
    run = Run.create(runs_dir, recipe)
    save_weights(run.path / "checkpoints" / "checkpoint-20", model_dir, method, seed=20)
    (run.path / "checkpoints" / "checkpoint-20" / "trainer_state.json").write_text(json.dumps({"global_step": 20}))
    if result:
        save_weights(run.result_dir, model_dir, method, seed=1)
    return run


def save_weights(folder: Path, model_dir: Path, method: str, seed: int, strength: float = 0.5) -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    from finetune_core.model import load_base, save_tokenizer
    from finetune_core.render import load_tokenizer

    torch.manual_seed(seed)
    model = load_base(model_dir, dtype="float32", device="cpu", for_training=True)
    if method != "full":
        model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if method == "full" or "lora_B" in name:
                weight += (0.1 if method == "full" else strength) * torch.randn_like(weight)
    model.save_pretrained(folder)
    save_tokenizer(load_tokenizer(model_dir), model_dir, folder)


def lay_rows(run: Run, train=(), validation=(), test=()) -> None:
    """The prepared rows of a run, as training would have left them."""
    for name, rows in (("train", train), ("validation", validation), ("test", test)):
        write_jsonl(run.path / "data" / f"{name}.jsonl", list(rows))


def float32(run: Run):
    """A chatter, whatever this machine is good at: only float32 gives the same tokens in every batch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "chat_dtype", lambda trained: "float32")
        patch.setattr(model, "best_device", lambda: "cpu")
        return model.load_for_chat(run)


def prompts(chatter, questions=QUESTIONS) -> list[list[int]]:
    return [render_prompt([{"role": "user", "content": question}], chatter.tokenizer) for question in questions]


def ids(answers) -> list[list[int]]:
    return [answer.token_ids for answer in answers]


def logprob(model, prompt_ids, answer_ids) -> float:
    """Natural logarithm of the probability of exactly this answer after this prompt, in one plain pass."""
    import torch

    ids = torch.tensor([[*prompt_ids, *answer_ids]])
    with torch.inference_mode():
        logits = model(input_ids=ids, use_cache=False).logits[0, -len(answer_ids) - 1 : -1]
    return float(torch.log_softmax(logits, -1).gather(-1, ids[0, len(prompt_ids) :, None]).sum())


def logprob_of(chatter, name, prompt_ids, answer_ids) -> float:
    with chatter.borrow(name) as model:
        return logprob(model, prompt_ids, answer_ids)
