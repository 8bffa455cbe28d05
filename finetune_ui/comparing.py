"""The whole comparison from the page: a button, what can be chosen about it, how far it is. A part of Prove."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from finetune_core import launch
from finetune_core.errors import FinetuneError
from finetune_core.job import goes_on
from finetune_core.proof.metrics import METRICS
from finetune_core.run import Run

from . import look, words_comparing, words_share
from .held import QUICK, SLOW, held_run, problem_card, run_to_work_on

if TYPE_CHECKING:
    from .frame import Page

LONGEST_PROMPT, LONGEST_CHECK = 20_000, 50_000  # characters
MOST_ROWS = 100_000


@dataclass(frozen=True)
class Comparing:
    outputs: tuple[Any, ...]  # what show() fills


@dataclass(frozen=True)
class Choices:
    """What the boxes say, in their order."""

    system: str = ""
    examples: str = ""
    rows: str = ""
    metric: str = ""
    forgetting: bool = True
    judge_url: str = ""
    judge_model: str = ""
    judge_key: str = ""
    check: str = ""

    def options(self) -> list[str]:
        """The choices as flags of the command line. Raises FinetuneError for a value that cannot be meant."""
        flags = []
        if self.system.strip():
            # one argument: a prompt that begins with a dash would be taken for a flag
            flags += [f"--system-prompt={_short(self.system, LONGEST_PROMPT, 'The prompt')}"]
        if self.examples.strip():
            flags += ["--examples", _number(self.examples, 0, 64, words_comparing.EXAMPLES[0])]
        if self.rows.strip():
            flags += ["--rows", _number(self.rows, 1, MOST_ROWS, words_comparing.ROWS[0])]
        if self.metric in METRICS and self.metric != "check":
            flags += ["--metric", self.metric]
        if not self.forgetting:
            flags += ["--no-forgetting"]
        if self.judge_url.strip():
            url = self.judge_url.strip()
            if not url.startswith(("http://", "https://")) or any(mark.isspace() for mark in url):
                raise _wrong(f"{url[:80]} is no address.", "It begins with http:// or https://.")
            if not self.judge_model.strip():
                raise _wrong("Which model judges?", "Write its name under “Judge: model”.")
            flags += ["--judge", url, f"--judge-model={self.judge_model.strip()}"]
        return flags


def build(page: Page) -> Comparing:
    with gr.Column(elem_classes=["card", "again"], visible=False) as card:
        problem = look.html(visible=False, js_on_load=None)
        with gr.Row(elem_classes="again-row"):
            says = look.html(js_on_load=None)
            start = gr.Button(words_comparing.START, size="md", scale=0, min_width=150)
            stop = gr.Button(words_comparing.STOP, size="md", scale=0, min_width=150, visible=False)
        sends = look.html(words_comparing.sends(""), js_on_load=None)
        with gr.Accordion(words_comparing.OPTIONS, open=False, elem_classes="again-options") as fold:
            boxes = _boxes()
            command = look.html(js_on_load=words_share.COPY_JS)
    clock = gr.Timer(1.0, active=False)
    seen = gr.State(())

    start.click(
        lambda: gr.update(value=words_comparing.STARTING, interactive=False), None, start, queue=False, **QUICK
    ).then(starter(page.runs_dir), [page.held, *boxes], [problem, start, boxes[7], seen], **SLOW)
    stop.click(partial(ask_to_stop, page.runs_dir), page.held, [stop, problem], **QUICK)
    tick = partial(now, page.runs_dir)
    clock.tick(tick, [page.held, page.step, seen], [says, start, stop, fold, seen, clock], **QUICK)
    fold.expand(partial(line, page.runs_dir), [page.held, *boxes], command, **QUICK)
    for box in (*boxes[:7], boxes[8]):
        box.change(partial(line, page.runs_dir), [page.held, *boxes], command, **QUICK)
    boxes[5].change(words_comparing.sends, boxes[5], sends, **QUICK)
    page.held.change(partial(for_another_run, page.runs_dir), [page.held, *boxes], [command, *boxes], **QUICK)
    return Comparing(outputs=(card, problem, says, start, stop, fold, seen, clock))


def _boxes() -> tuple[Any, ...]:
    """One for each of Choices."""
    words_of = words_comparing

    def box(about: tuple[str, str], **more: Any) -> gr.Textbox:
        return gr.Textbox("", label=about[0], info=about[1] or None, elem_classes="field", **more)

    with gr.Column(elem_classes="fields"):
        system = box(words_of.SYSTEM, lines=2, max_lines=8)
        metric = gr.Dropdown(
            list(words_of.METRICS), value="", label=words_of.METRIC[0], filterable=False, elem_classes="field"
        )
        examples = box(words_of.EXAMPLES, placeholder="4", max_lines=1)
        rows = box(words_of.ROWS, placeholder="as many as the recipe says", max_lines=1)
        judge_url = box(words_of.JUDGE_URL, placeholder="http://127.0.0.1:8000/v1", max_lines=1)
        judge_model = box(words_of.JUDGE_MODEL, max_lines=1)
        judge_key = box(words_of.JUDGE_KEY, type="password", max_lines=1, html_attributes=gr.InputHTMLAttributes(
            autocomplete="off"))  # fmt: skip
        forgetting = gr.Checkbox(True, label=words_of.FORGETTING[0], info=words_of.FORGETTING[1], elem_classes="field")
    check = box(words_of.CHECK, placeholder=words_of.CHECK_EXAMPLE, lines=3, max_lines=16, visible=not on_shared_page())
    return system, examples, rows, metric, forgetting, judge_url, judge_model, judge_key, check


# --- drawing ---


def show(run: Run) -> tuple[Any, ...]:
    """Everything in `outputs` for a run with a result; hidden for others and while the run itself goes on."""
    ready = run.has_result() and not run.is_alive() and _has_rows(run)
    return (
        gr.update(visible=ready),
        gr.update(visible=False),
        *_state(run)[0],
        _seen(run),
        gr.Timer(active=ready),
    )


def now(runs_dir: Path, run_id: str, step: str, seen: Sequence[Any]) -> tuple[Any, ...]:
    """The truth about the comparison, whoever started it; nothing while nothing changed."""
    skip = gr.skip()
    try:
        run = held_run(runs_dir, run_id)
    except FinetuneError:
        return skip, skip, skip, skip, skip, gr.Timer(active=False)
    if step != "prove":
        return skip, skip, skip, skip, skip, gr.Timer(active=False)
    found = _seen(run)
    if tuple(seen or ()) == found:
        return skip, skip, skip, skip, skip, skip
    return *_state(run)[0], found, skip


def _state(run: Run) -> tuple[tuple[Any, Any, Any, Any], bool]:
    """(what it says, start, stop, options), and whether it goes on."""
    job, report = launch.comparison(run), run.report()
    said = job.said()
    alive = goes_on(said)
    newer = said is not None and said.time > float((report or {}).get("made") or 0)
    asked = job.is_asked_to_stop()
    label = words_comparing.label(report)
    return (
        gr.update(value=words_comparing.card(report, said, newer, time.time())),
        gr.update(visible=not alive, interactive=True, value=label, variant="secondary" if report else "primary"),
        gr.update(
            visible=alive, interactive=not asked, value=words_comparing.STOPPING if asked else words_comparing.STOP
        ),
        gr.update(visible=not alive),
    ), alive


def _seen(run: Run) -> tuple[Any, ...]:
    """Changes with everything that is drawn here; a second of time left counts too."""
    job = launch.comparison(run)
    said = job.said()
    return run.id, said, job.is_asked_to_stop(), int(time.time()) // 2 if goes_on(said) else 0


def is_going_on(run: Run) -> bool:
    return goes_on(launch.comparison(run).said())


def _has_rows(run: Run) -> bool:
    return any((run.path / "data" / f"{split}.jsonl").is_file() for split in ("test", "validation"))


# --- handlers: the id comes from a page and is looked up anew each time ---


def starter(runs_dir: Path) -> Callable[..., tuple[Any, ...]]:
    """The button's handler. Gradio hands the request over by place, and never behind *values, so it comes first."""

    def on_start(request: gr.Request, run_id: str, *values: Any) -> tuple[Any, ...]:
        return press(runs_dir, run_id, values, is_own_machine(request))

    return on_start


def press(runs_dir: Path, run_id: str, values: Sequence[Any], own_machine: bool) -> tuple[Any, Any, Any, Any]:
    """Start the comparison: (problem, button, the key's box emptied, seen)."""
    try:
        (run, token), choices = run_to_work_on(runs_dir, run_id), Choices(*values)
        if run.is_alive():
            raise FinetuneError("This run is still going on.", "Compare it when its training is done.", "running")
        flags = choices.options()
        if choices.check.strip():
            flags += ["--check-file", str(keep_check(run, choices.check, own_machine))]
        key = choices.judge_key.strip()
        given = {"OPENAI_API_KEY": key, "HF_TOKEN": token or ""}
        launch.evaluate(run, *flags, secrets={name: value for name, value in given.items() if value} or None)
    except Exception as error:
        card = problem_card(error)
        return card, gr.update(interactive=True, value="Try again"), gr.skip(), gr.skip()
    return gr.update(visible=False), gr.skip(), "", ()


def keep_check(run: Run, text: str, own_machine: bool) -> Path:
    """The check as a file of the run. Code is taken from this machine only, and only if Python can read it."""
    if not own_machine:
        raise _wrong(
            "A check of your own is code, and this page takes code from its own machine only.",
            "Use the command line there: evaluate RUN --check-file FILE.",
        )
    source = _short(text, LONGEST_CHECK, "The check")
    try:
        compile(source, "check.py", "exec")
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        raise _wrong(
            f"Your check is no Python: {getattr(error, 'msg', error)}" + (f" (line {line})." if line else "."),
            "Correct it, and compare again.",
        ) from None
    path = run.path / "check.py"
    path.write_text(source, encoding="utf-8")
    return path


def ask_to_stop(runs_dir: Path, run_id: str) -> tuple[Any, Any]:
    try:
        launch.comparison(held_run(runs_dir, run_id)).ask_to_stop()
    except Exception as error:
        return gr.skip(), problem_card(error)
    return gr.update(interactive=False, value=words_comparing.STOPPING), gr.skip()


def line(runs_dir: Path, run_id: str, *values: Any) -> str:
    """The command that the button runs, to copy. Half a word in a box is no alarm: only pressing the button refuses."""
    try:
        run, choices = held_run(runs_dir, run_id), Choices(*values)
        flags = choices.options()
    except FinetuneError as error:
        return words_comparing.no_command(error)
    own_check = bool(choices.check.strip())
    if own_check:  # what the box says is kept when the button is pressed; until then there is no such file
        flags += ["--check-file", "check.py"]
    text = launch.as_text(launch.command(run, "evaluate", *flags))
    return words_share.copyable(text, words_comparing.command_title(own_check))


def for_another_run(runs_dir: Path, run_id: str, *values: Any) -> list[Any]:
    """The line for the run that is held now, and every box as it was at first.

    A judge was named for one run's rows: the next run's must not be sent there unasked.
    """
    first = Choices()
    kept = [gr.skip() if now == then else then for now, then in zip(values, astuple(first), strict=True)]
    return [line(runs_dir, run_id, *astuple(first)), *kept]


def is_own_machine(request: gr.Request) -> bool:
    """Does the person sit at the machine that this program runs on?"""
    client = request.client.host if request.client else ""
    passed_on = any(name in request.headers for name in ("x-forwarded-for", "forwarded", "x-real-ip"))
    return client in ("127.0.0.1", "::1") and not passed_on and not on_shared_page()


def on_shared_page() -> bool:
    return bool(os.environ.get("SPACE_ID"))


def _number(text: str, least: int, most: int, name: str) -> str:
    text = text.strip()
    if not (text.isascii() and text.isdigit()) or not least <= int(text) <= most:
        raise _wrong(
            f"{name}: {text[:40]!r} is not a number from {least} to {most:,}.", "Correct it under the options."
        )
    return text


def _short(text: str, longest: int, name: str) -> str:
    if "\0" in text:
        raise _wrong(f"{name} has a zero byte in it, which no text has.", "Write or paste it again.")
    if len(text) > longest:
        raise _wrong(f"{name} is too long: {len(text):,} characters.", f"Shorten it to at most {longest:,}.")
    return text


def _wrong(problem: str, fix: str) -> FinetuneError:
    return FinetuneError(problem, fix, code="bad-choice")
