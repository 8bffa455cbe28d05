"""Everything offline and small: a two-layer Llama that a laptop trains in a second."""

from __future__ import annotations

import os

# before any library reads them
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import functools
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WORDS = """The cat sat on the mat. Een kat zat op de mat. What is the capital of France? Paris is the capital.
Sort this shop message: my kettle is broken and I want it today! {"category": "defect", "urgency": "high"}
user assistant system prompt answer question message order number delivery return payment de het een en van"""


def save_tiny_model(folder: Path, chat_template: str | None = CHATML, layers: int = 2, seed: int = 0) -> Path:
    """A model folder like any on the Hub: config, safetensors, tokenizer.json, chat template. 512 tokens, 64 wide."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    backend = Tokenizer(models.BPE(unk_token=None))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=512, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator([WORDS] * 4, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=None,
        eos_token="<|im_end|>" if chat_template else "<|endoftext|>",
        pad_token="<|endoftext|>",
        model_max_length=512,
    )
    if chat_template:
        tokenizer.chat_template = chat_template
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def _no_surprises(monkeypatch, tmp_path, request):
    """No token, no network, no runs in the working folder, and nothing learned from tiny models about this machine."""
    if not any(request.node.get_closest_marker(name) for name in ("starter", "browser")):
        monkeypatch.setenv("FIJN_CACHE", str(tmp_path / "cache"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "SPACE_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FINETUNE_RUNS_DIR", str(tmp_path / "runs"))


@pytest.fixture
def on_acme(monkeypatch):
    """As on the Space of tests/space_people.py, where the Hub knows these people."""
    from space_people import PEOPLE, SPACE

    from finetune_core import access
    from finetune_core.space import Identity

    for name, value in SPACE.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(access, "who_has", lambda token: PEOPLE.get(token, Identity()))


@pytest.fixture
def runs_dir(tmp_path) -> Path:
    return tmp_path / "runs"


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("tiny-model"))


@pytest.fixture(scope="session")
def tiny_base_dir(tmp_path_factory) -> Path:
    """A base model: no chat template."""
    return save_tiny_model(tmp_path_factory.mktemp("tiny-base"), chat_template=None)


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def chat_rows(n: int = 40) -> list[dict]:
    """n different one-turn conversations whose answers follow from the question."""
    things = ["kettle", "lamp", "chair", "phone", "coat", "clock"]
    return [
        {
            "messages": [
                {"role": "user", "content": f"order {i}: my {things[i % 6]} is broken"},
                {"role": "assistant", "content": f"defect {things[i % 6]}"},
            ]
        }
        for i in range(n)
    ]


# --- rendering ---


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_model_dir):
    from finetune_core.render import load_tokenizer

    return load_tokenizer(tiny_model_dir)


@pytest.fixture(scope="session")
def wide_dir(tmp_path_factory) -> Path:
    from trl_templates import save_wide_tokenizer

    return save_wide_tokenizer(tmp_path_factory.mktemp("wide"))


@pytest.fixture(scope="session")
def ours(wide_dir):
    """`ours(name)`: the wide tokenizer with one of TRL's templates, as load_tokenizer reads it."""
    from trl_templates import load_with_template

    return functools.cache(lambda name: load_with_template(wide_dir, name))


# --- a run and its models ---


@pytest.fixture
def recipe(tiny_model_dir, tmp_path):
    """40 rows, 8 steps, no proof: a second of training."""
    from finetune_core.recipe import Recipe

    data = write_jsonl(tmp_path / "rows.jsonl", chat_rows(40))
    return Recipe(
        model_name_or_path=str(tiny_model_dir), dataset_name=str(data), max_steps=8, evaluate=False,
        logging_steps=1, eval_steps=4, save_steps=2, learning_rate=1e-2, packing=False,
    )  # fmt: skip


@pytest.fixture(scope="session")
def trained(tmp_path_factory, tiny_model_dir):
    """`trained(processes, field=value, …)`: (run, lines handed on, seconds). Twenty steps, five epochs; once each.

    In float32: in bfloat16 a batch of four rows is rounded otherwise than one of eight.
    """
    import time

    from finetune_core.preflight import create_run
    from finetune_core.recipe import Recipe
    from finetune_core.train import train

    rows = write_jsonl(tmp_path_factory.mktemp("shared") / "rows.jsonl", chat_rows(40))
    made = {}

    def go(processes, **values):
        usual = {
            "model_name_or_path": str(tiny_model_dir), "dataset_name": str(rows), "max_steps": 20, "evaluate": False,
            "num_processes": processes, "logging_steps": 1, "eval_steps": 10, "save_steps": 10, "learning_rate": 1e-2,
            "dtype": "float32",
        }  # fmt: skip
        recipe = Recipe(**usual | values)
        if recipe.as_yaml() not in made:
            run = create_run(recipe, tmp_path_factory.mktemp("runs"))
            seen, began = [], time.monotonic()
            assert train(run, on_event=seen.append) == "finished"
            made[recipe.as_yaml()] = run, seen, time.monotonic() - began
        return made[recipe.as_yaml()]

    return go


@pytest.fixture(scope="session")
def tuned_run(tmp_path_factory, tiny_model_dir):
    from tuned import make_tuned_run

    return make_tuned_run(tmp_path_factory.mktemp("runs"), tiny_model_dir)


@pytest.fixture(scope="session")
def tuned_chatter(tuned_run):
    from tuned import float32

    return float32(tuned_run)


# --- a proof ---


@pytest.fixture(scope="session")
def proof_run(tmp_path_factory, tiny_model_dir):
    """A tuned run with 28 rows to learn from and 12 to prove it on."""
    from tuned import lay_rows, make_tuned_run

    run = make_tuned_run(tmp_path_factory.mktemp("runs"), tiny_model_dir, max_new_tokens=12)
    lay_rows(run, chat_rows(40)[:28], (), chat_rows(40)[28:])
    return run


@pytest.fixture(scope="session")
def proof_chatter(proof_run):
    from finetune_core.answers.chatter import AdapterModels, Chatter
    from finetune_core.model import load_base
    from finetune_core.render import load_tokenizer

    base = load_base(Path(proof_run.recipe.model_name_or_path), dtype="float32", device="cpu")
    models = AdapterModels(base, {"tuned": proof_run.result_dir})
    return Chatter(models, load_tokenizer(proof_run.result_dir), ["tuned", "base"])


@pytest.fixture(scope="session")
def proof_told():
    """What a proof told while it was made: (kind, data)."""
    return []


@pytest.fixture(scope="session")
def proof_report(proof_run, proof_chatter, proof_told):
    """The whole proof; whoever makes another one of this run writes this report back."""
    from finetune_core.evaluate import evaluate

    return evaluate(proof_run, proof_chatter, lambda kind, **data: proof_told.append((kind, data)))


# --- the page ---


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("data") / "tickets.jsonl", chat_rows(48))


@pytest.fixture(scope="module")
def looks():
    """Looks at rows, as one page keeps them."""
    from finetune_ui.looking import Looks

    return Looks()


@pytest.fixture
def tiny_boxes(tiny_model_dir, tiny_data):
    """The boxes of the page, filled in for the tiny model and tiny_data."""
    from page_inputs import boxes_of

    return boxes_of(model_name_or_path=str(tiny_model_dir), dataset_name=str(tiny_data), max_length=128)


@pytest.fixture
def seen(looks, tiny_boxes):
    """What a look at tiny_boxes shows."""
    from finetune_ui import form

    return looks.ask(form.read(tiny_boxes), wait_seconds=30)


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """An empty Hub on this machine."""
    from hub_double import HubDouble

    with HubDouble(tmp_path_factory.mktemp("hub")) as double:
        yield double


@pytest.fixture
def price(monkeypatch):
    """Dollars a minute that the Hub asks for an L4; `price.now = …` is another day."""
    from hub_store import ALICE
    from planned import flavor
    from rented import SENT

    from finetune_core.jobs import price as pricing
    from finetune_ui import following

    asked = SimpleNamespace(now=SENT.dollars_per_minute)
    monkeypatch.setattr(pricing, "list_flavors", lambda token: [flavor("l4x1", asked.now, 24)])
    monkeypatch.setattr(following.account, "find_token", lambda: ALICE)
    return asked
