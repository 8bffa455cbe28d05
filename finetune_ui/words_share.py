"""What can be taken along, in words and html: a file, an address for other programs, commands. Pure."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence

from finetune_core.recipe import Recipe

from .words import esc, icon, short_model, size

COPY_JS = """
element.addEventListener('click', async (event) => {
  const button = event.target.closest('[data-copy]');
  if (!button) return;
  const text = button.closest('.copyable').querySelector('code').textContent;
  try {
    await navigator.clipboard.writeText(text);
  } catch {  // a page that is not on https or localhost has no clipboard
    const area = document.createElement('textarea');
    area.value = text; document.body.append(area); area.select(); document.execCommand('copy'); area.remove();
  }
  button.classList.add('copied');
  setTimeout(() => button.classList.remove('copied'), 1600);
});
"""


def copyable(text: str, title: str = "") -> str:
    """A block of code with a button that copies it."""
    head = f'<span class="copy-title">{esc(title)}</span>' if title else ""
    return (
        f'<div class="copyable">{head}<pre tabindex="0"><code>{esc(text)}</code></pre>'
        f'<button type="button" class="copy" data-copy aria-label="Copy {esc(title or "this")}">{icon("copy")}'
        f'<span class="copy-said">{icon("check")}</span></button></div>'
    )


def command_line(text: str) -> str:
    return f'<section class="card command-card">{copyable(text, "In a terminal, from the folder of Fijn")}</section>'


def nothing_yet() -> str:
    return (
        '<section class="card empty"><p class="lead">Nothing to share yet.</p>'
        '<p class="sub">When training has saved what it learned, you can take it from here.</p></section>'
    )


def file_card(recipe: Recipe, n_bytes: int, folder: str) -> str:
    """What the zip holds, how large it is, and for whom."""
    base = short_model(recipe.model_name_or_path)
    if recipe.method == "full":
        title, what = "The model", "The whole tuned model with its tokenizer and chat template."
        whom = "For transformers, vLLM, or any program that reads safetensors."
    else:
        title, what = "The adapter", "Only what was learned, with tokenizer and chat template."
        whom = f"Whoever has {base} adds it with peft, transformers or vLLM."
    return (
        f'<h3 class="card-title">{title} as a file</h3><p class="share-what">{what} {esc(whom)}</p>'
        f'<dl class="kv"><dt>Size</dt><dd>{size(n_bytes)}</dd><dt>Base model</dt><dd>{esc(base)}</dd></dl>'
        f"{copyable(folder, 'The folder on this machine')}"
    )


def endpoint_card(url: str, models: Sequence[str], question: str, system: str) -> str:
    """An address that speaks the OpenAI protocol, with lines that work as they are."""
    head = (
        '<h3 class="card-title">Use it from other programs</h3><p class="share-what">A server on this machine that '
        "speaks the OpenAI chat-completions protocol: most chat programs and libraries only need its address.</p>"
    )
    if not url:
        return head + (
            '<p class="muted">It is off. It takes the memory of one model, ends after 30 minutes without a '
            "question, and only programs on this machine can reach it.</p>"
        )
    names = ", ".join(models)
    return (
        f'{head}<p class="endpoint-on"><span class="dot good"></span>It answers as <b>{esc(names)}</b>.</p>'
        f"{copyable(url + '/v1', 'Address')}{copyable(python_lines(url, question, system), 'Python')}"
        f"{copyable(curl_line(url, question, system), 'curl')}"
        '<p class="muted">It ends after 30 minutes without a question, and when a training begins. '
        "The number in the address changes each time; for one that stays, use the command under “In a terminal”.</p>"
    )


def _messages(question: str, system: str) -> list[dict[str, str]]:
    said = [{"role": "system", "content": system}] if system else []
    return [*said, {"role": "user", "content": question}]


def python_lines(url: str, question: str, system: str) -> str:
    """Lines for the openai client that run as they are."""
    messages = ",\n    ".join(json.dumps(each, ensure_ascii=False) for each in _messages(question, system))
    return (
        "from openai import OpenAI\n\n"
        f'client = OpenAI(base_url="{url}/v1", api_key="none")\n'
        f'reply = client.chat.completions.create(model="tuned", temperature=0, messages=[\n    {messages},\n])\n'
        "print(reply.choices[0].message.content)"
    )


def curl_line(url: str, question: str, system: str) -> str:
    body = {"model": "tuned", "temperature": 0, "messages": _messages(question, system)}
    return (
        f"curl {url}/v1/chat/completions -H 'Content-Type: application/json' "
        f"-d {shlex.quote(json.dumps(body, ensure_ascii=False))}"
    )


def terminal_card(chat: str, predict: str, serve: str) -> str:
    return (
        '<h3 class="card-title">In a terminal</h3>'
        '<p class="share-what">The same model without the page, from the folder of Fijn: '
        "to talk, to answer a whole file, or as a server.</p>"
        f"{copyable(chat, 'Talk')}{copyable(predict, 'Answer every row of a file')}{copyable(serve, 'Serve')}"
    )


def readme(recipe: Recipe, run_id: str, verdict: str = "") -> str:
    """What the zip says about itself: how to load it, in lines that run."""
    base = recipe.model_name_or_path
    proof = f"\n## Was it worth it?\n\n{verdict}\n" if verdict else ""
    if recipe.method == "full":
        what, install = "A fine-tuned language model", "pip install transformers torch"
        load = "from transformers import AutoModelForCausalLM, AutoTokenizer"
        maker = "AutoModelForCausalLM"
    else:
        what, install = f"An adapter for {base}", "pip install transformers peft torch"
        load = "from peft import AutoPeftModelForCausalLM\nfrom transformers import AutoTokenizer"
        maker = "AutoPeftModelForCausalLM"
    return f"""# {what}

Trained with Fijn as run {run_id}; every setting is in recipe.yaml.
{proof}
## Load it

```
{install}
```

In the folder of this file:

```python
{load}

model = {maker}.from_pretrained(".")
tokenizer = AutoTokenizer.from_pretrained(".")

messages = [{{"role": "user", "content": "Hello"}}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
answer = model.generate(**inputs, max_new_tokens=128, do_sample=False)
print(tokenizer.decode(answer[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
```
"""
