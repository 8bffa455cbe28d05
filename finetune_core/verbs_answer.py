"""The verbs that let a run's models answer: the rows of a file, a person at the terminal, other programs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from .alone import WAITING, alone
from .files import read_json
from .output import Output
from .run import Run
from .verbs import GOOD, needs_result


def predict(options: argparse.Namespace, out: Output) -> int:
    from .model import load_for_chat
    from .predict import predict_file

    run = Run.find(options.runs_dir, options.run)
    if not options.base:
        needs_result(run)
    with alone(run.path.parent, lambda: out.say(WAITING)):
        count = predict_file(
            lambda: load_for_chat(run),
            Path(options.input),
            Path(options.output),
            recipe=run.recipe,
            trained=(read_json(run.path / "data" / "card.json") or {}).get("mapping"),
            question=options.question,
            base=options.base,
            max_new_tokens=options.max_new_tokens or run.recipe.max_new_tokens,
            on_progress=lambda fraction, words="": print(f"\r{fraction:.0%} {words}", end="", file=sys.stderr),
            on_read=out.say,
        )
    out.give({"rows": count, "output": options.output}, f"{count} answers in {options.output}")
    return GOOD


def chat(options: argparse.Namespace, out: Output) -> int:
    from .model import load_for_chat
    from .render import render_prompt

    run = Run.find(options.runs_dir, options.run)
    if not options.base:
        needs_result(run)
    chatter = load_for_chat(run)
    name = "base" if options.base else "tuned"
    system = chatter.system_prompt if options.system is None else options.system
    history = [{"role": "system", "content": system}] if system else []

    def answer(message: str) -> str:
        ids = render_prompt([*history, {"role": "user", "content": message}], chatter.tokenizer)
        text = ""
        for piece in chatter.stream(
            name, ids, max_new_tokens=options.max_new_tokens or 256, temperature=options.temperature
        ):
            text += piece
            if not out.as_json:
                print(piece, end="", file=out.stream, flush=True)
        out.say("")
        return text

    if options.message is not None:
        text = answer(options.message)
        if out.as_json:
            out.json({"model": name, "message": options.message, "answer": text})
        return GOOD
    out.say("Type a message; an empty line ends.")
    while message := sys.stdin.readline().strip():
        text = answer(message)
        if out.as_json:
            out.json({"model": name, "message": message, "answer": text})
        history += [{"role": "user", "content": message}, {"role": "assistant", "content": text}]
    return GOOD


def serve(options: argparse.Namespace, out: Output) -> int:
    from .serve import serve as work

    run = Run.find(options.runs_dir, options.run)

    def announce(value: dict[str, Any]) -> None:
        out.give(value, f"Answering at {value['url']}/v1 as {', '.join(value['models'])}. Ctrl-C ends it.")

    work(run, port=options.port, idle_seconds=options.idle_seconds or None, announce=announce)
    return GOOD
