"""A model's chat template: what it is like, and a conversation → text. Never imports torch.

The text always comes from transformers' own `render_jinja_template`. What a template is like (where an answer begins,
what ends it, whether it takes a system message) is found by rendering small conversations with a stand-in for answers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from ..errors import FinetuneError, first_line
from .control import TokenFinder

Messages = Sequence[Mapping[str, Any]]

STAND_IN = "\U000f1e57"  # a private-use character: no template and no row contains it


class ChatTemplate:
    """A model's chat template, and what rendering small conversations with it shows.

    `stops`: end tokens that the model's files name. `added`, `special`: the tokenizer's added tokens, and those of
    them that are special. `variables`: bos_token, eos_token and the like.
    """

    def __init__(
        self,
        source: str,
        variables: Mapping[str, str],
        stops: Sequence[str] = (),
        added: Iterable[str] = (),
        special: Iterable[str] = (),
    ):
        self.source = source
        self.variables = dict(variables)
        self.stops = tuple(stops)
        self._added = frozenset(token for token in added if not token.isspace())  # Gemma has a token for "\n\n"
        self._special = frozenset(special)

    # ---- what it takes ----

    @cached_property
    def wants_parts(self) -> bool:
        """True for templates of picture models, which read a content only as [{"type": "text", "text": ...}]."""
        for parts in (False, True):
            content = [{"type": "text", "text": STAND_IN}] if parts else STAND_IN
            if STAND_IN in (self.attempt([{"role": "user", "content": content}]) or ""):
                return parts
        return False

    @cached_property
    def takes_system(self) -> bool:
        """False for templates that refuse or drop a system message; it then goes in front of the next user message."""
        return STAND_IN in (self.attempt([self.message("system", STAND_IN), *self._question]) or "")

    @cached_property
    def supports(self) -> frozenset[str]:
        """Which of "system", "tools" and "tool_calls" the template writes itself; the latter two are lost otherwise."""
        name, found = "fijn_probe", {"system"} if self.takes_system else set()
        tool = {"type": "function", "function": {"name": name, "description": "d", "parameters": {"type": "object"}}}
        call = {"type": "function", "function": {"name": name, "arguments": {"a": 1}}}
        if name in (self.attempt(self._question, tools=[tool]) or ""):
            found.add("tools")
        if name in (self.attempt([*self._question, self.message("assistant", "") | {"tool_calls": [call]}]) or ""):
            found.add("tool_calls")
        return frozenset(found)

    # ---- how an answer begins ----

    @cached_property
    def _question(self) -> list[dict[str, Any]]:
        return [self.message("user", "a")]

    @cached_property
    def _answered(self) -> tuple[str, str]:
        """What stands before and after the answer in the smallest conversation."""
        before, found, after = self.render([*self._question, self.message("assistant", STAND_IN)]).partition(STAND_IN)
        if not found or STAND_IN in after:
            raise unclear("it does not write the answer")
        return before, after

    @cached_property
    def ignores_prompt(self) -> bool:
        """True for templates that do not know `add_generation_prompt`, though their answers have a header."""
        prompt = self.render(self._question, prompt=True)
        before = self._answered[0]
        return prompt == self.render(self._question) and bool(before[common_length(prompt, before) :].strip())

    @cached_property
    def header(self) -> str:
        """What asks for an answer, as far as written answers have it too: `<|im_start|>assistant\\n`. May be ""."""
        prompt, history, before = (
            self.render(self._question, prompt=True),
            self.render(self._question),
            self._answered[0],
        )
        if self.ignores_prompt:
            return before[common_length(history, before) :].rstrip(" \t")
        return prompt[common_length(prompt, history) : common_length(prompt, before)]

    @cached_property
    def headers(self) -> tuple[str, ...]:
        """The header and its shorter forms, longest first: earlier turns may lack the `<think>` that it ends with."""
        question = self.render(self._question)
        cuts = {len(self.header), *(match.start() for match in re.finditer(r"[<\[]", self.header))}
        headers = [self.header[:cut] for cut in sorted(cuts, reverse=True)]
        return tuple(header for header in headers if header and header not in question)

    @cached_property
    def prompt_differs(self) -> bool:
        """True where the generation prompt is not how a plain answer is written in training.

        So it is with some reasoning models: the prompt of DeepSeek-R1 opens `<think>`, its written answers never do.
        """
        prompt = self.render(self._question, prompt=True)
        return not self.ignores_prompt and not self._answered[0].startswith(prompt)

    @cached_property
    def prompt_opens(self) -> str:
        """What the generation prompt ends with and a plain written answer lacks: `<think>`, or nothing."""
        prompt = self.render(self._question, prompt=True)
        return prompt[common_length(prompt, self._answered[0]) :].strip() if self.prompt_differs else ""

    # ---- how an answer ends ----

    @cached_property
    def turn_end(self) -> str | None:
        """The token that ends an answer, or None if the template writes none after the last one."""
        run: list[tuple[int, int]] = []
        try:
            after = self._answered[1]
        except FinetuneError:  # said when a row is rendered
            return None
        for start, end in self._tokens.find(after):
            if run and start != run[-1][1]:
                break  # only tokens in one unbroken run: Phi-3 writes <|end|>, a newline, <|endoftext|>
            run.append((start, end))
        tokens = [after[start:end] for start, end in run]
        named = [token for token in tokens if token in self.stops]
        return (named or tokens or [None])[-1]

    @cached_property
    def inner_turn_end(self) -> str | None:
        """The token that ends an answer when the conversation goes on; gpt-oss has another one there.

        Where a template closes no answer it is the next message's first token, if that stops the model: GLM's <|user|>.
        """
        text = self.attempt([*self._question, self.message("assistant", STAND_IN), *self._question]) or ""
        after = text.partition(STAND_IN)[2]
        tokens = [after[start:end] for start, end in self._tokens.find(after)]
        if not tokens or self.turn_end in tokens:
            return self.turn_end
        return tokens[0] if self.turn_end or tokens[0] in self.stops else None

    @cached_property
    def ends(self) -> re.Pattern[str]:
        """Any token that ends a turn."""
        ends = {*self.stops, self.turn_end, self.inner_turn_end} - {None, ""}
        return re.compile("|".join(re.escape(end) for end in sorted(ends, key=len, reverse=True)) or "(?!)")

    def closing(self, messages: Messages, tools: Any, text: str) -> str | None:
        """What ends a last answer that the template leaves open: what would end it if the conversation went on."""
        more = self.message("tool" if "tool_calls" in messages[-1] else "user", "a")
        longer = self.attempt([*messages, more], tools) or ""
        found = self.ends.match(longer, len(text)) if longer.startswith(text) else None
        return found[0] if found else self.turn_end or self.inner_turn_end

    # ---- tokens that must not come from a message ----

    @cached_property
    def _tokens(self) -> TokenFinder:
        return TokenFinder(self._added | set(self.stops))

    @cached_property
    def _turn_tokens(self) -> frozenset[str]:
        opening = self.attempt(self._question) or ""
        tokens = {opening[start:end] for start, end in TokenFinder(self._added).find(opening)}
        return frozenset({*self.stops, self.turn_end or "", self.inner_turn_end or "", *tokens})

    @cached_property
    def control(self) -> TokenFinder:
        """What a user, system or tool message must not contain as tokens: special ones, and those around turns."""
        return TokenFinder(self._special | self._turn_tokens)

    @cached_property
    def turn_control(self) -> TokenFinder:
        """What an answer must not contain as tokens: those around turns. Others (<think>, <tool_call>) the model may
        well be meant to write."""
        return TokenFinder((self._special & set(self.variables.values())) | self._turn_tokens)

    # ---- rendering ----

    def message(self, role: str, content: str) -> dict[str, Any]:
        return {"role": role, "content": [{"type": "text", "text": content}] if self.wants_parts else content}

    def adapt(self, messages: Messages) -> list[dict[str, Any]]:
        """A row's messages as this template wants them, control tokens in their contents marked."""
        adapted: list[dict[str, Any]] = []
        system = ""
        for message in messages:
            role = message["role"]
            finder = self.turn_control if role == "assistant" else self.control
            content = finder.mark(message["content"])
            if role == "system" and not self.takes_system:
                system = f"{system}\n\n{content}" if system else content
                continue
            if role == "user" and system:
                content, system = f"{system}\n\n{content}", ""
            adapted.append(self.message(role, content))
            for key, value in message.items() if len(message) > 2 else ():
                # templates ask whether a key is there, not what it holds
                if key not in ("role", "content", "weight") and value is not None and value != []:
                    value = [_with_arguments(call, as_text=False) for call in value] if key == "tool_calls" else value
                    adapted[-1][key] = finder.mark_all(value)
        if system:
            adapted.append(self.message("user", system))
        return adapted

    def adapt_tools(self, tools: Sequence[Any] | None) -> Any:
        return self.control.mark_all(tools) if tools else None

    def prompt(self, messages: Messages, tools: Any = None) -> str:
        """Adapted messages with the header of an answer behind them: what a model is asked."""
        if not self.ignores_prompt:
            return self.render(messages, tools, prompt=True)
        text = self.render([*messages, self.message("assistant", STAND_IN)], tools)
        return text[: text.rindex(STAND_IN)].rstrip(" \t")

    def attempt(self, messages: Messages, tools: Any = None, prompt: bool = False) -> str | None:
        """`render`, or None where the template refuses."""
        try:
            return self.render(messages, tools, prompt)
        except FinetuneError:
            return None

    def render(self, messages: Messages, tools: Any = None, prompt: bool = False) -> str:
        """Adapted messages as text. Raises FinetuneError (template-refused)."""
        try:
            return self._render([messages], tools, add_generation_prompt=prompt)[0][0]
        except FinetuneError:
            if not any("tool_calls" in message for message in messages):
                raise
        return self._render([_with_text_arguments(messages)], tools, add_generation_prompt=prompt)[0][0]

    def render_many(self, conversations: Sequence[Messages]) -> list[str]:
        """Conversations without tools, in one call. Raises FinetuneError if the template refuses any of them."""
        return self._render(conversations, None)[0]

    def generation_marks(self, messages: Messages, tools: Any) -> tuple[str, list[tuple[int, int]]]:
        """The text, and what the template's own {% generation %} marks enclose."""
        texts, marks = self._render([messages], tools, return_assistant_tokens_mask=True)
        return texts[0], marks[0]

    def _render(self, conversations: Sequence[Messages], tools: Any, **options: Any) -> tuple[list[str], list[Any]]:
        from transformers.utils.chat_template_utils import render_jinja_template  # 1.3 s, so only when needed

        try:
            return render_jinja_template(
                list(conversations), tools=tools, chat_template=self.source, **options, **self.variables
            )
        except Exception as error:  # a template is a program of the model's: it may raise anything
            raise FinetuneError(
                f"The model's chat template refuses this conversation: {first_line(error)}",
                "Change the row (many templates want user and assistant to take turns, beginning with user), "
                "or choose another model.",
                code="template-refused",
            ) from None


def content_of(message: Mapping[str, Any]) -> str:
    """A message's text, plain or as the one part of a list."""
    content = message["content"]
    return content if isinstance(content, str) else content[0]["text"]


def common_length(a: str, b: str) -> int:
    """How many characters two texts begin with in common.

    >>> common_length("<think>", "<tool>")
    2
    """
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def unclear(why: str) -> FinetuneError:
    return FinetuneError(
        f"The model's chat template is unlike the others: {why}.",
        "Choose another model, or put a plainer chat_template.jinja into its folder.",
        code="template-unclear",
    )


def _with_text_arguments(messages: Messages) -> list[Mapping[str, Any]]:
    """Some templates paste the arguments of a call as text, where transformers documents a dict."""
    return [
        {**message, "tool_calls": [_with_arguments(call, as_text=True) for call in message["tool_calls"]]}
        if "tool_calls" in message
        else message
        for message in messages
    ]


def _with_arguments(call: Any, as_text: bool) -> Any:
    """A tool call with its arguments as a dict (what transformers documents) or as JSON text (as OpenAI writes it)."""
    function = call.get("function", call) if isinstance(call, Mapping) else {}
    arguments = function.get("arguments")
    if as_text and not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    elif not as_text and isinstance(arguments, str):
        try:
            parsed = json.loads(arguments)
        except ValueError:
            return call
        arguments = parsed if isinstance(parsed, dict) else arguments
    else:
        return call
    function = {**function, "arguments": arguments}
    return {**call, "function": function} if "function" in call else function
