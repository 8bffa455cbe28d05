"""What can be taken along, in words and html: a file, an address for other programs, commands. Pure."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence

from .words import esc, icon

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


def nothing_yet() -> str:
    return (
        '<section class="card empty"><p class="lead">Nothing to share yet.</p>'
        '<p class="sub">When training has saved what it learned, you can take it from here.</p></section>'
    )


def endpoint_card(url: str, models: Sequence[str], question: str, system: str) -> str:
    """An address that speaks the OpenAI protocol, with lines that work as they are."""
    head = (
        '<div class="take-head">'
        + icon("plug")
        + '<h3 class="card-title">From other programs</h3></div><p class="share-what">A server on this machine that '
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
        '<div class="take-head">' + icon("terminal") + '<h3 class="card-title">In a terminal</h3></div>'
        '<p class="share-what">The same model without the page, from the folder of Fijn: '
        "to talk, to answer a whole file, or as a server.</p>"
        f"{copyable(chat, 'Talk')}{copyable(predict, 'Answer every row of a file')}{copyable(serve, 'Serve')}"
    )
