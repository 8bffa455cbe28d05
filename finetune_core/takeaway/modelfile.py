"""An Ollama Modelfile whose TEMPLATE is the one that was trained with.

Ollama writes prompts with Go templates, transformers with Jinja ones, and no program translates the one into the other.
What most chat templates do is simple, though: a text around every message. That is found here by rendering with
stand-ins, and then proven: the rule must write conversations exactly as the Jinja template does, or there is no
translation and the Modelfile says so. Without torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..errors import FinetuneError
from ..templates.template import ChatTemplate
from ..templates.tokenizer import ChatTokenizer

STAND_INS = tuple(chr(0xF1E60 + number) for number in range(5))  # private use: no template contains them
Conversation = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Around:
    """What a plain template writes around messages."""

    head: str  # before everything, where there is no system message: bos, perhaps a default system prompt
    system: tuple[str, str] | None  # before and behind a system message; None: it goes in front of the first question
    user: tuple[str, str]
    assistant: tuple[str, str]
    ask: str  # what asks for an answer

    def write(self, messages: Conversation) -> str:
        """A conversation that ends with a question, as the template would write it."""
        first, rest = messages[0], list(messages)
        system = first["content"] if first["role"] == "system" else ""
        rest = rest[1:] if system else rest
        text = self.system[0] + system + self.system[1] if system and self.system else self.head
        for message in rest:
            before, behind = self.user if message["role"] == "user" else self.assistant
            content = message["content"]
            if system and not self.system and message["role"] == "user":
                content, system = f"{system}\n\n{content}", ""
            text += before + content + behind
        return text + self.ask

    def as_go(self) -> str:
        """The same as a Go template (https://github.com/ollama/ollama/blob/main/docs/template.md).

        Texts stand in quotes, so that no white space is trimmed or added.
        """
        user = f"{_go(self.user[0])}{{{{ .Content }}}}{_go(self.user[1])}"
        answer = f"{_go(self.assistant[0])}{{{{ .Content }}}}{_go(self.assistant[1])}"
        if self.system:
            opening = (
                f"{{{{ if .System }}}}{_go(self.system[0])}{{{{ .System }}}}{_go(self.system[1])}"
                f"{{{{ else }}}}{_go(self.head)}{{{{ end }}}}"
            )
        else:
            opening = f"{_go(self.head)}{{{{ $system := .System }}}}"
            user = (
                f'{_go(self.user[0])}{{{{ if $system }}}}{{{{ $system }}}}{_go(chr(10) * 2)}{{{{ $system = "" }}}}'
                f"{{{{ end }}}}{{{{ .Content }}}}{_go(self.user[1])}"
            )
        return (
            f"{opening}\n"
            "{{- range .Messages }}\n"
            f'{{{{- if eq .Role "user" }}}}{user}\n'
            f'{{{{- else if eq .Role "assistant" }}}}{answer}\n'
            "{{- end }}\n"
            f"{{{{- end }}}}{_go(self.ask)}"
        )


@dataclass(frozen=True)
class Translation:
    """The Go template, or why there is none."""

    template: str | None
    why: str = ""


def translate(tokenizer: ChatTokenizer, adds_bos: bool) -> Translation:
    """The trained chat template for Ollama. `adds_bos`: the runtime puts the bos token in front by itself."""
    template = tokenizer.template
    if "strftime_now" in template.source:
        return Translation(None, "it writes today's date, which a Go template cannot")
    around = find_around(template)
    if around is None:
        return Translation(None, "it does more than put a text around each message")
    if wrong := _first_difference(around, template):
        return Translation(None, f"a translation writes {wrong} differently")
    bos = tokenizer.special_tokens.get("bos_token") or ""
    if adds_bos and bos:
        head, system = around.head.removeprefix(bos), around.system
        around = replace(around, head=head, system=(system[0].removeprefix(bos), system[1]) if system else None)
    return Translation(around.as_go())


def find_around(template: ChatTemplate) -> Around | None:
    """What the template writes around messages, or None where no such rule can be read off."""
    first, answer, second, system, _ = STAND_INS
    try:
        asked = _render(template, [("user", first)], prompt=False)
        prompt = _render(template, [("user", first)])
        longer = _render(template, [("user", first), ("assistant", answer), ("user", second)])
        with_system = _render(template, [("system", system), ("user", first)]) if template.takes_system else ""
        opening, behind_first = _cut(asked, first)
        start, between, after, end = _cut(longer, first, answer, second)
    except (FinetuneError, ValueError):
        return None
    if start != opening or not prompt.startswith(asked) or not between.startswith(behind_first):
        return None
    ask = prompt[len(asked) :]
    if end != behind_first + ask:
        return None
    # `after` is the end of an answer and the beginning of the next question; the opening ends with the latter too
    if after.startswith(behind_first) and opening.endswith(after[len(behind_first) :]):
        answer_end, question = behind_first, after[len(behind_first) :]
    else:
        question = _common_end(opening, after)
        answer_end = after[: len(after) - len(question)]
    around_system = None
    if template.takes_system:
        try:
            before, behind, tail = _cut(with_system, system, first)
        except ValueError:
            return None
        if not behind.endswith(question) or tail != end:
            return None
        around_system = before, behind[: len(behind) - len(question)]
    return Around(
        head=opening[: len(opening) - len(question)],
        system=around_system,
        user=(question, behind_first),
        assistant=(between[len(behind_first) :], answer_end),
        ask=ask,
    )


def modelfile(
    weights: str, translation: Translation, *, stops: Sequence[str], system_prompt: str | None, context: int, about: str
) -> str:
    """The text of a Modelfile (https://docs.ollama.com/modelfile)."""
    lines = [f"# {line}" for line in about.splitlines()]
    lines.append(f"FROM ./{weights}")
    if translation.template is not None:
        lines.append(f'TEMPLATE """{translation.template}"""')
    else:
        lines += [
            f"# The trained chat template has no proven translation for Ollama: {translation.why}.",
            "# Ollama will guess one. The GGUF file carries the real one: `llama-server --jinja -m` uses it.",
        ]
    if system_prompt and '"""' not in system_prompt:
        lines.append(f'SYSTEM """{system_prompt}"""')
    lines += [f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in stops]
    lines += [f"PARAMETER num_ctx {context}", "# always the likeliest word, as in the proof", "PARAMETER temperature 0"]
    return "\n".join(lines) + "\n"


PROBES = ("a", "Hello there, what is 2 + 2?", 'Ab "c" {d} [e] <f> & 1.5%\n\ng: h | é 日本 🎉', "No.\n- one\n- two")


def probe_conversations() -> list[list[dict[str, str]]]:
    """Conversations that end with a question: with and without a system message, of one to three turns."""
    found = []
    for place, text in enumerate(PROBES):
        others = [PROBES[(place + step) % len(PROBES)] for step in range(1, 5)]
        for system in ([], [{"role": "system", "content": others[0]}]):
            for turns in range(3):
                history = [
                    {"role": role, "content": others[(turn + (role == "user")) % 4]}
                    for turn in range(turns)
                    for role in ("user", "assistant")
                ]
                found.append([*system, *history, {"role": "user", "content": text}])
    return found


def _first_difference(around: Around, template: ChatTemplate) -> str:
    """Words for the first probe that the rule and the template write differently; "" if there is none."""
    for messages in probe_conversations():
        adapted = template.adapt(messages)
        if around.write(messages) != template.attempt(adapted, prompt=True):
            has_system = " with a system prompt" if messages[0]["role"] == "system" else ""
            return f"a conversation of {len(messages)} messages{has_system}"
    return ""


def _render(template: ChatTemplate, turns: Sequence[tuple[str, str]], prompt: bool = True) -> str:
    return template.render([template.message(role, content) for role, content in turns], prompt=prompt)


def _cut(text: str, *stand_ins: str) -> list[str]:
    """The text before, between and behind stand-ins. Raises ValueError where one is missing or twice there."""
    parts = []
    for mark in stand_ins:
        before, found, text = text.partition(mark)
        if not found or mark in text:
            raise ValueError("a stand-in is not where it should be")
        parts.append(before)
    return [*parts, text]


def _common_end(one: str, other: str) -> str:
    length = 0
    while length < min(len(one), len(other)) and one[-length - 1] == other[-length - 1]:
        length += 1
    return one[len(one) - length :]


def _go(text: str) -> str:
    """A text as an action that writes it. JSON's escapes are Go's too."""
    return f"{{{{ {json.dumps(text, ensure_ascii=False)} }}}}" if text else ""
