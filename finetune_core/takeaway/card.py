"""A model card that a stranger can use: the README.md of everything that leaves. Pure, from Facts to text.

The front matter is what the Hub reads (https://huggingface.co/docs/hub/model-cards); the text says where the model
comes from, what was learned from which rows, whether it helped, and how it is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..amounts import duration
from ..recipe import Recipe
from . import origin
from .facts import Facts
from .origin import code, hub_link, prose

MERGED, ADAPTER, GGUF = "merged", "adapter", "gguf"
RELATIONS = {ADAPTER: "adapter", MERGED: "finetune", GGUF: "finetune"}
LIBRARIES = {ADAPTER: "peft", MERGED: "transformers", GGUF: "gguf"}
RECIPE_FIELDS = (
    "method", "dtype", "learning_rate", "lr_scheduler_type", "warmup_steps", "num_train_epochs", "max_steps",
    "per_device_train_batch_size", "gradient_accumulation_steps", "max_length", "packing", "optim", "weight_decay",
    "seed",
)  # fmt: skip
ADDRESS = re.compile(r"https?://[\w./%?=+,-]+", re.ASCII)  # that ends where it seems to
LICENCE_LINK = re.compile(r"https?://\S+|[\w./-]+", re.ASCII)  # or a file of the repository
LORA_FIELDS = ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "use_rslora", "use_dora")


def write_card(folder: Path, facts: Facts, to: str, repo_id: str | None = None) -> None:
    """Write README.md beside what is exported. `to`: merged, adapter or gguf."""
    (folder / "README.md").write_text(card(facts, to, repo_id, gguf_files(folder)), encoding="utf-8")


def gguf_files(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(file.name for file in folder.glob("*.gguf")))


def card(facts: Facts, to: str, repo_id: str | None = None, files: Sequence[str] = ()) -> str:
    """The README of an export. `repo_id`: where it will lie on the Hub; without one, the snippet loads this folder."""
    to = MERGED if to == ADAPTER and facts.recipe.method == "full" else to
    title = repo_id.split("/")[-1] if repo_id else f"{facts.base.split('/')[-1]}, tuned on {facts.data_name}"
    parts = [
        f"# {prose(title)}",
        _opening(facts, to),
        "## Was it worth it?\n\n" + _proof(facts.report),
        "## Load it\n\n" + _snippet(facts, to, repo_id, files),
        "## What it learned from\n\n" + origin.lines(facts.data, facts.recipe),
        "## How it was trained\n\n" + _recipe(facts),
        "## How it is asked\n\n" + _template(facts),
        "## Are these files what was trained?\n\n" + _parity(facts.parity, facts.recipe) if facts.parity else "",
        "## Limits\n\n" + _limits(facts),
        "## Licence\n\n" + _licence(facts),
        f"Made with Fijn as run {code(facts.run_id)}; every setting is in `recipe.yaml`.",
    ]
    return f"---\n{front_matter(facts, to, title)}---\n\n" + "\n\n".join(part for part in parts if part) + "\n"


def front_matter(facts: Facts, to: str, title: str) -> str:
    """The metadata block, without its fences."""
    licence = facts.licence
    values: dict[str, Any] = {
        "license": licence.id,
        "license_name": licence.name,
        "license_link": licence.link if LICENCE_LINK.fullmatch(licence.link or "") else None,
        "language": list(facts.languages) or None,
        "base_model": None if facts.base_is_local else facts.base,
        "base_model_relation": None if facts.base_is_local else RELATIONS[to],
        "library_name": LIBRARIES[to],
        "pipeline_tag": "text-generation",
        "datasets": [facts.hub_dataset] if facts.hub_dataset else None,
        "tags": ["trl", facts.recipe.objective, facts.recipe.method, "fijn", "generated_from_trainer"],
        "model-index": _model_index(facts, title),
        "fijn_run": facts.run_id,
    }
    return origin.as_yaml(values)


def _model_index(facts: Facts, title: str) -> list[dict[str, Any]] | None:
    """The proof's scores as the Hub shows them. Left out where nothing was measured."""
    report = facts.report or {}
    tuned = _rival(report, "tuned")
    if tuned is None:
        return None
    metrics = [{"type": report.get("metric_kind", "score"), "name": report.get("metric"), "value": tuned["score"]}]
    loss = report.get("loss") or {}
    if isinstance(loss.get("tuned"), float) and report.get("metric_kind") != "loss":
        metrics.append({"type": "loss", "name": "Loss (nats per token)", "value": loss["tuned"]})
    dataset = {
        "type": facts.hub_dataset or re.sub(r"[^\w.-]+", "-", facts.data_name) or "data",
        "name": facts.data_name,
        "split": report.get("split") or "test",
    }
    task = {"type": "text-generation", "name": "Text generation"}
    return [{"name": title, "results": [{"task": task, "dataset": dataset, "metrics": metrics}]}]


def _opening(facts: Facts, to: str) -> str:
    base = prose(facts.base) if facts.base_is_local else hub_link(facts.base)
    revision = f" at revision {code(facts.base_revision)}" if facts.base_revision else ""
    what = {
        ADAPTER: f"An adapter (only what was learned) for {base}{revision}.",
        MERGED: f"The whole weights of {base}{revision}, fine-tuned.",
        GGUF: f"{base}{revision}, fine-tuned, as GGUF files for llama.cpp and Ollama.",
    }[to]
    count = (facts.data.get("rows") or {}).get("train")
    rows = f" It learned from {count} rows of {code(facts.data_name)}." if count else ""
    return what + rows


def _proof(report: Mapping[str, Any] | None) -> str:
    if not report or not report.get("rivals"):
        return "Not measured: it was not compared with its base model on rows kept apart."
    lines = [prose((report.get("verdict") or {}).get("sentence") or ""), ""]
    percent = report.get("metric_kind") not in ("loss",)
    scale, unit = (100, " %") if percent else (1, "")
    lines += [
        f"Measured on {report.get('n')} {prose(report.get('split'))} rows that training never saw; "
        f"metric: {prose(report.get('metric'))}. In brackets: 95 % intervals.",
        "",
        "| | score | tokens a request |",
        "|---|---|---|",
    ]
    for rival in report["rivals"]:
        tokens = rival.get("tokens_per_request")
        interval = f"[{scale * rival['low']:.3g}, {scale * rival['high']:.3g}]"
        name = f"**{prose(rival['title'])}**" if rival["name"] == "tuned" else prose(rival["title"])
        score = f"{scale * rival['score']:.3g}{unit} {interval}"
        lines.append(f"| {name} | {score} | {f'{tokens:.0f}' if tokens else ''} |")
    loss = report.get("loss") or {}
    if isinstance(loss.get("base"), float) and isinstance(loss.get("tuned"), float):
        lines += ["", f"Loss on their answers: {loss['base']:.3f} before, {loss['tuned']:.3f} after (nats per token)."]
    forgotten = report.get("forgetting") or {}
    if isinstance(forgotten.get("sentence"), str):
        lines += ["", prose(forgotten["sentence"])]
    return "\n".join(lines).strip()


def _snippet(facts: Facts, to: str, repo_id: str | None, files: Sequence[str]) -> str:
    if to == GGUF:
        return _gguf_snippet(repo_id, files)
    place = repr(repo_id or ".").replace("'", '"')
    adapter = to == ADAPTER
    install = "pip install transformers torch" + (" peft" if adapter else "")
    where = "" if repo_id else "In the folder of this file:\n\n"
    maker = "AutoPeftModelForCausalLM" if adapter else "AutoModelForCausalLM"
    imports = (
        "from peft import AutoPeftModelForCausalLM\nfrom transformers import AutoTokenizer"
        if adapter
        else "from transformers import AutoModelForCausalLM, AutoTokenizer"
    )
    local = f"\n\nThe base model was the folder {code(facts.base)}; put its path into `adapter_config.json` first."
    messages = [{"role": "system", "content": facts.recipe.system_prompt}] if facts.recipe.system_prompt else []
    messages.append({"role": "user", "content": "Hello"})
    return f"""```
{install}
```

{where}```python
{imports}

model = {maker}.from_pretrained({place})
tokenizer = AutoTokenizer.from_pretrained({place})

messages = {messages!r}
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
answer = model.generate(**inputs, max_new_tokens=128, do_sample=False)
print(tokenizer.decode(answer[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
```{local if adapter and facts.base_is_local else ""}"""


def _gguf_snippet(repo_id: str | None, files: Sequence[str]) -> str:
    listed = "\n".join(f"- `{name}`" for name in files)
    first = next((name for name in files if "q8_0" in name), files[0] if files else "model.gguf")
    get = f"hf download {repo_id} --local-dir tuned && cd tuned\n" if repo_id else ""
    return (
        f"{listed}\n\nWith Ollama:\n\n```\n{get}ollama create tuned -f Modelfile\nollama run tuned\n```\n\n"
        f"With llama.cpp:\n\n```\nllama-server --jinja -m {first}\n```"
    )


def _recipe(facts: Facts) -> str:
    recipe, progress = facts.recipe, facts.progress
    names = (*RECIPE_FIELDS, *(() if recipe.method == "full" else LORA_FIELDS))
    lines = ["| | |", "|---|---|"]
    lines += [f"| {name} | {prose(getattr(recipe, name))} |" for name in names if getattr(recipe, name) is not None]
    where = [f"on {prose(progress.machine)}"] if progress.machine else []
    where += [f"{facts.steps} steps"] if facts.steps else []
    where += [f"{duration(facts.train_seconds)} of training"] if facts.train_seconds else []
    libraries = ", ".join(prose(f"{name} {version}") for name, version in facts.versions.items())
    said = [f"Trained {', '.join(where)}." if where else "", f"Libraries: {libraries}." if libraries else ""]
    curve = _curve(progress.loss, progress.eval_loss)
    return "\n".join(lines) + "".join(f"\n\n{text}" for text in (" ".join(filter(None, said)), curve) if text)


def _curve(loss: Sequence[tuple[int, float]], held: Sequence[tuple[int, float]], points: int = 8) -> str:
    """The loss as a short table: a few steps of the whole way."""
    if len(loss) < 2:
        return ""
    places = sorted({round(place * (len(loss) - 1) / (points - 1)) for place in range(points)})
    rows = [f"| {loss[place][0]} | {loss[place][1]:.3f} |" for place in places]
    text = "| step | training loss |\n|---|---|\n" + "\n".join(rows)
    if held:
        text += f"\n\nValidation loss: {held[0][1]:.3f} at step {held[0][0]}, {held[-1][1]:.3f} at step {held[-1][0]}."
    return text


def _template(facts: Facts) -> str:
    if not facts.template:
        return "With the base model's own chat template."
    stops = ", ".join(code(token) for token in facts.stop_tokens)
    system = facts.recipe.system_prompt
    said = f"Rows without a system prompt were given this one:\n\n{_fenced(system)}\n\n" if system else ""
    return (
        f"The chat template lies beside the weights (`chat_template.jinja`) and is the one that was trained with. "
        f"An answer ends with {stops}. Of each row the answers were trained, every assistant turn through its "
        "end-of-turn token; questions, system prompts and headers were read but not trained.\n\n"
        f"{said}<details><summary>The template</summary>\n\n{_fenced(facts.template)}\n\n</details>"
    )


def _parity(parity: Mapping[str, Any], recipe: Recipe) -> str:
    tuned = "the tuned model as it was trained was asked the same."
    if recipe.method == "qlora":
        tuned = (
            "the same was asked of the adapter on its base model in full precision. The training and the scores above "
            f"had that base model in {_bits(recipe)} bits, so these files may answer a little differently from what "
            "was scored."
        )
    rows = (parity.get("by_file") or {"": parity}).items()
    lines = [
        f"Before they were kept, these files were loaded again and asked {parity['compared']} {parity['split']} "
        f"prompts, and {tuned}",
        "",
        "| | run by | same greedy answers | log-probability of an answer's tokens, mean difference |",
        "|---|---|---|---|",
    ]
    for name, found in rows:
        ties = f" ({found['ties']} part at a near tie)" if found["ties"] else ""
        lines.append(
            f"| {prose(name or found['format'])} | {found['engine']} | {found['same']} of {found['compared']}{ties} | "
            f"{found['logprob_mean']:.2g} nats |"
        )
    return "\n".join(lines)


def _bits(recipe: Recipe) -> int:
    return 8 if recipe.load_in_8bit else 4


def _limits(facts: Facts) -> str:
    base = prose(facts.base.split("/")[-1])
    lines = [
        f"- It knows what {base} knows, makes its mistakes, and can state wrong things with confidence.",
        "- It was tuned on rows of one kind; on other questions it may do worse than the base model.",
    ]
    report = facts.report or {}
    if report.get("n"):
        lines.append(f"- The scores above rest on {report['n']} rows of the same source, not on your data.")
    if facts.recipe.method == "qlora":
        bits = _bits(facts.recipe)
        lines.append(f"- It was trained on the base model in {bits} bits, and lies on the full-precision one here.")
    if (facts.data.get("rows") or {}).get("train", 1000) < 100:
        lines.append("- It learned from fewer than 100 rows.")
    lines.append("- Small models repeat parts of their rows: do not share it wider than the rows themselves may be.")
    return "\n".join(lines)


def _licence(facts: Facts) -> str:
    licence = facts.licence
    if not licence.id:
        return (
            "Not known. These weights are made from the base model's, so its licence holds for them too; "
            "its page says which that is."
        )
    name = licence.name or licence.id
    link = f" ({licence.link})" if licence.link and ADDRESS.fullmatch(licence.link) else ""
    built = "\n\nBuilt with Llama." if name.lower().startswith("llama") else ""
    return f"{prose(name)}{link}, inherited from the base model {prose(facts.base)}.{built}"


def _rival(report: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    return next((rival for rival in report.get("rivals") or () if rival.get("name") == name), None)


def _fenced(text: str) -> str:
    """A block of code, fenced with more backticks than the text holds."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"
