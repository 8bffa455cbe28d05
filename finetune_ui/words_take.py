"""What is being taken away, in words and html: the Hub, whole weights, Ollama; how far it is, and the proof. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from finetune_core.amounts import count, duration, size
from finetune_core.errors import FinetuneError
from finetune_core.recipe import Recipe

from .words import error_card, esc, icon, notice, short_model, wait_bar
from .words_share import copyable

STAGES = {
    "checking": "Asking the Hub whether this account may do that",
    "reading": "Reading the rows",
    "fetching": "Fetching the base model",
    "merging": "Working what was learned into the weights",
    "converting": "Writing GGUF files",
    "comparing": "Asking both models the same questions",
    "saving": "Writing the model card",
    "uploading": "Sending it to the Hub",
}
VLLM_RANK = 16  # the largest that vLLM takes unasked
TOKEN_PAGE = "https://huggingface.co/settings/tokens"


def head(mark: str, title: str, what: str, whom: str) -> str:
    """What a card makes, and for whom."""
    return (
        f'<div class="take-head">{icon(mark)}<h3 class="card-title">{esc(title)}</h3></div>'
        f'<p class="share-what">{esc(what)}</p><p class="take-whom">{esc(whom)}</p>'
    )


def sizes_line(parts: Sequence[tuple[str, int | None]]) -> str:
    """How large it gets, before it is made."""
    cells = "".join(
        f"<li><b>{size(n_bytes) if n_bytes else '–'}</b><span>{esc(name)}</span></li>" for name, n_bytes in parts
    )
    return f'<ul class="take-sizes" aria-label="Size">{cells}</ul>'


def hub_card(found: Mapping[str, int], full: bool) -> str:
    what = "A private repository with a model card that says where it comes from, what it learned and how well."
    whom = "For colleagues and programs that load it by its name, also when this machine is off."
    parts = [("whole weights", found.get("merged") or found["adapter"])]
    parts = parts if full else [("adapter", found["adapter"]), *parts]
    return head("hub", "On the Hugging Face Hub", what, whom) + sizes_line(parts)


def rows_card(rows: Mapping[str, int]) -> str:
    """rows: how many are in each split."""
    what = "A private data set: the rows as this run used them, cleaned and split, with a card of where they come from."
    whom = "For whoever trains or tests on the same rows: load_dataset gives them by their name."
    cells = "".join(f"<li><b>{count(number)}</b><span>{esc(split)}</span></li>" for split, number in rows.items())
    return head("table", "The rows, on the Hub", what, whom) + f'<ul class="take-sizes" aria-label="Rows">{cells}</ul>'


def file_card(recipe: Recipe, found: Mapping[str, int], folder: str) -> str:
    base = short_model(recipe.model_name_or_path)
    if recipe.method == "full":
        what = "The whole tuned model with its tokenizer and chat template."
        whom = "For transformers, vLLM, or any program that reads safetensors."
        parts = [("whole weights", found["adapter"])]
    else:
        what = "The adapter is only what was learned. Merged, it is one model that needs nothing else."
        whom = f"The adapter for whoever has {base} (peft, vLLM); whole weights for everyone else."
        parts = [("adapter", found["adapter"]), ("whole weights", found.get("merged"))]
    return head("file", "As files", what, whom) + sizes_line(parts) + copyable(folder, "Folder on this machine")


def gguf_card(found: Mapping[str, int]) -> str:
    what = "GGUF files and a Modelfile that writes prompts exactly as in training."
    whom = "For a laptop without Python: Ollama, LM Studio, llama.cpp."
    return head("laptop", "For Ollama and llama.cpp", what, whom) + sizes_line(
        [
            ("16 bits", found.get("f16")),
            ("8 bits, nearly the same", found.get("q8_0")),
            ("4 bits, answers can differ", found.get("q4_0")),
        ]
    )


def working(stage: str, fraction: float | None, says: str) -> str:
    """A job that is going on."""
    doing = STAGES.get(stage, "Starting")
    more = f" · {esc(says)}" if says else ""
    bar = wait_bar(fraction or None, doing)
    return f'<div class="take-now" role="status"><p>{esc(doing)}…<span>{more}</span></p>{bar}</div>'


def may_they(error: Mapping[str, str]) -> str:
    """Personal data was found in the rows: what, where it would go, and the two ways on."""
    fix = "If they may go there, press again. If not, open Check, have placeholders put in its place, and train again."
    return notice("warn", error.get("problem", ""), fix)


def failed(error: Mapping[str, str]) -> str:
    return error_card(FinetuneError(error.get("problem", ""), error.get("fix", "")))


def proof(parity: Mapping[str, Any]) -> str:
    """Whether the files answer as the tuned model did."""
    found = parity.get("by_file") or {"": parity}
    failed = parity.get("failed") or {}
    rows = "".join(_proof_row(name, each) for name, each in found.items())
    return (
        f'<div class="take-proof"><p class="take-good">{icon("check")}<b>Compared before it was kept.</b> '
        f"The files were loaded again and asked {parity['compared']} {esc(_split(parity['split']))}.</p>"
        f"<ul>{rows}</ul></div>"
        + "".join(notice("bad", f"{name}: {says}", "Use the other files.") for name, says in failed.items())
    )


def _proof_row(name: str, found: Mapping[str, Any]) -> str:
    label = f"<code>{esc(_kind(name))}</code> " if name else ""
    torn = found["ties"]
    ties = f", {torn} {'differs' if torn == 1 else 'differ'} where the model itself was undecided" if torn else ""
    apart = found["logprob_mean"]
    sure = "exactly" if apart < 1e-4 else "nearly" if apart < 0.1 else "not quite"
    off = f"{sure} as sure of each word" + (f" ({apart:.2g} nats a token off)" if apart >= 1e-4 else "")
    return (
        f"<li>{label}<div><b>{found['same']} of {found['compared']}</b> answers the same{ties}"
        '<span title="Mean difference of the log-probabilities of the answers’ tokens">'
        f"{off}, run by {esc(found['engine'])}</span></div></li>"
    )


def _kind(name: str) -> str:
    return name.removesuffix(".gguf").rpartition("-")[2] or name


def _split(split: str) -> str:
    kept_apart = {"test": "test questions that training never saw", "validation": "validation questions"}
    return kept_apart.get(split, "questions")


def made_file(made: Mapping[str, Any]) -> str:
    return proof(made["parity"]) + copyable(str(made["path"]), f"Whole weights, {size(made['bytes'])}")


def made_gguf(made: Mapping[str, Any], name: str) -> str:
    """GGUF files and what to type next."""
    lines = f"cd {made['path']}\nollama create {name} -f Modelfile\nollama run {name}"
    return proof(made["parity"]) + copyable(lines, "In a terminal, with Ollama installed")


def made_push(made: Mapping[str, Any]) -> str:
    return _where(made) + proof(made["parity"])


def made_rows(made: Mapping[str, Any]) -> str:
    """A data set on the Hub, and the line that loads it."""
    lines = f'from datasets import load_dataset\n\nrows = load_dataset("{made["repo_id"]}")'
    return _where(made) + copyable(lines, "In Python")


def _where(made: Mapping[str, Any]) -> str:
    who = "Only you and whom you invite can see it." if made.get("private") else "Everyone can see it."
    url = str(made["url"])
    link = (
        f'<a href="{esc(url)}" target="_blank" rel="noreferrer">{esc(url)}</a>' if url.startswith("http") else esc(url)
    )
    return f'<p class="take-url">{link}</p><p class="muted">{who}</p>'


def account(name: str, is_away: bool, ends_in: float | None = None, problem: tuple[str, str] | None = None) -> str:
    """Who pushes. ends_in: seconds until the sign-in or the token ends, where that is soon."""
    if is_away:
        return notice("warn", "The Hub cannot be reached from here.", "Check the connection; files work without it.")
    if problem:
        return notice("warn", *problem)
    if name:
        ends = f"; that ends in {duration(ends_in)}" if ends_in is not None else ""
        return f'<p class="take-who">{icon("check")}<span>Signed in as <b>{esc(name)}</b>{ends}.</span></p>'
    return (
        f'<p class="take-who">Not signed in. A token with the role “write” is made on '
        f'<a href="{TOKEN_PAGE}" target="_blank" rel="noreferrer">huggingface.co/settings/tokens</a>; '
        "it is used for this one push and kept nowhere.</p>"
    )


def elsewhere(recipe: Recipe, adapter: str | None, merged: str | None) -> str:
    """Lines for servers that stay up. `adapter`, `merged`: their folders, where there are such."""
    lines = []
    if adapter:
        parts = ["vllm", "serve", recipe.model_name_or_path, "--enable-lora", "--lora-modules", f"tuned={adapter}"]
        parts += ["--chat-template", f"{adapter}/chat_template.jinja"]
        parts += ["--max-lora-rank", str(recipe.lora_r)] if recipe.lora_r > VLLM_RANK else []
        lines.append(copyable(shlex.join(parts), "vLLM, adapter on its base model"))
    if merged:
        lines.append(copyable(f"vllm serve {shlex.quote(merged)}", "vLLM, whole weights"))
    return (
        f'<div class="take-head">{icon("server")}<h3 class="card-title">On a server</h3></div>'
        '<p class="share-what">vLLM speaks the same protocol and answers many people at once; it needs a GPU.</p>'
        + "".join(lines)
        + '<p class="muted">Inference Endpoints: put the whole weights on the Hub, then choose Deploy → Inference '
        "Endpoints on the model’s page. The repository carries everything that it asks for.</p>"
    )


def asking() -> str:
    return '<p class="take-who"><span class="skeleton">Asking the Hub who is signed in</span></p>'
