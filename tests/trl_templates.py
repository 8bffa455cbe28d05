"""The chat templates that TRL ships, and one tokenizer that knows the special tokens of them all."""

import json
import re
from importlib.util import find_spec
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from finetune_core.render import load_tokenizer
from finetune_core.templates.tokenizer import ChatTokenizer

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


def byte_level(words: list[str], size: int) -> Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        words, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    )
    return backend


def save_wide_tokenizer(folder: Path) -> Path:
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
    tokenizer.save_pretrained(folder)
    return folder


def load_with_template(folder: Path, name: str) -> ChatTokenizer:
    """The tokenizer of this folder with one of TRL's templates, as load_tokenizer reads it."""
    (folder / "chat_template.jinja").write_text(TEMPLATES[name], encoding="utf-8")
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ends = MORE_ENDS.get(re.sub(r"_training|_v\d", "", name), ())
    ids = [backend.token_to_id(token) for token in ("<eos>", *ends)]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
    return load_tokenizer(folder)
