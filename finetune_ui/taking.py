"""Four of Share's cards: the Hub, its rows there, whole weights as files, GGUF for Ollama. Each job is a process."""

from __future__ import annotations

import shutil
import zipfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from finetune_core import hub, launch
from finetune_core.errors import FinetuneError
from finetune_core.job import goes_on
from finetune_core.run import Run
from finetune_core.takeaway import PERSONAL, PERSONAL_PUBLIC, TAKEN
from finetune_core.takeaway.kept import exports_dir, kept, short_name, sizes

from . import look, taking_rows, words_take
from .downloads import download
from .held import QUICK, held_run, problem_card, run_to_work_on
from .pressing import button_of, cancelled, start_push, starting, state_of, token_box
from .signed_in import known_account
from .words_share import COPY_JS

if TYPE_CHECKING:
    from .frame import Page

LARGEST_ZIP = 4 * 2**30  # bytes; what is larger is better copied from its folder
SPARE_DISK = 500 * 2**20  # bytes that stay free
STATES = 16  # values that states_of gives
TOKEN, ROWS_TOKEN = 2, 13  # the places of the two boxes for a token among them
PUSH, MERGE, GGUF = "Put it on the Hub", "Make whole weights", "Make GGUF files"


@dataclass(frozen=True)
class Taking:
    outputs: tuple[Any, ...]  # what show() fills


def build(page: Page, problem: gr.HTML, adapter_zip: Any) -> Taking:
    """The cards; `adapter_zip(run_id, folder)` writes what the first download hands over."""
    card = partial(look.html, js_on_load=COPY_JS)
    seen = gr.State(())
    with gr.Column(elem_classes=["card", "share-card"]):
        hub_head = card()
        with gr.Column(elem_classes="take-form"):
            repo = gr.Textbox(label="Name", max_lines=1, placeholder="owner/name", max_length=140)
            with gr.Row(elem_classes="take-choices"):
                what = gr.Radio(
                    [("Adapter", "adapter"), ("Whole weights", "merged")],
                    value="adapter", label="What", show_label=False, elem_classes="pills",
                )  # fmt: skip
                private = gr.Checkbox(True, label="Private", elem_classes="take-private")
            who = card()
            token = token_box()
        push = gr.Button(PUSH, variant="primary", size="md")
        hub_state = card()
    rows = taking_rows.build()
    with gr.Column(elem_classes=["card", "share-card"]):
        file_head = card()
        with gr.Row(elem_classes="share-buttons"):
            zipped = download(
                "Download as zip", adapter_zip, [page.held], problem, name="adapter", busy="Making the zip…",
                size="md",
            )  # fmt: skip
            merge = gr.Button(MERGE, size="md")
            write_merged = partial(write_export_zip, page.runs_dir, "merged")
            merged_zip = download(
                "Download whole weights", write_merged, [page.held], problem, name="merged", busy="Making the zip…",
                size="md", visible=False,
            )  # fmt: skip
        file_state = card()
    with gr.Column(elem_classes=["card", "share-card"]):
        gguf_head = card()
        with gr.Row(elem_classes="share-buttons"):
            gguf = gr.Button(GGUF, size="md")
            four = gr.Checkbox(False, label="Also in 4 bits", elem_classes="take-four")
            write_gguf = partial(write_export_zip, page.runs_dir, "gguf")
            gguf_zip = download(
                "Download as zip", write_gguf, [page.held], problem, name="gguf", busy="Making the zip…", size="md",
                visible=False,
            )  # fmt: skip
        gguf_state = card()
    clock = gr.Timer(1, active=False)

    states = [seen, who, token, push, hub_state, merge, merged_zip, file_state, gguf, gguf_zip, gguf_state, four,
              *rows.states]  # fmt: skip
    for button, to, more in ((merge, "merged", []), (gguf, "gguf", [four])):
        button.click(starting, None, button, queue=False, **QUICK).then(
            partial(press_export, page.runs_dir, to), [page.held, *more], [problem, *states], **QUICK
        )
    push.click(starting, None, push, queue=False, **QUICK).then(
        partial(press_push, page.runs_dir), [page.held, repo, what, private, token], [problem, *states], **QUICK
    )
    rows.push.click(starting, None, rows.push, queue=False, **QUICK).then(
        partial(press_rows, page.runs_dir), [page.held, rows.repo, rows.private, rows.token], [problem, *states],
        **QUICK,
    )  # fmt: skip
    clock.tick(partial(tick, page.runs_dir), [page.held, page.step, seen], [*states, clock], **QUICK)
    return Taking((hub_head, repo, what, private, file_head, zipped, gguf_head, *rows.outputs, clock, *states))


def show(run: Run) -> tuple[Any, ...]:
    found, recipe = sizes(run), run.recipe
    full = recipe.method == "full"
    # an adapter on a base model that only this machine has is of no use on the Hub
    only_whole = full or hub.looks_local(recipe.model_name_or_path)
    return (
        words_take.hub_card(found, full),
        short_name(run),
        gr.update(value="merged" if only_whole else "adapter", visible=not only_whole),
        True,
        words_take.file_card(recipe, found, str(run.result_dir)),
        gr.update(visible=found["adapter"] <= LARGEST_ZIP),
        words_take.gguf_card(found),
        *taking_rows.show(run),
        gr.Timer(active=True),
        *_with_rows_token(run, states_of(run)),
    )


def nothing() -> list[Any]:
    """For a run without a result: leave everything, and stop asking."""
    return [*[gr.skip()] * (7 + taking_rows.OUTPUTS), gr.Timer(active=False), *[gr.skip()] * STATES]


def states_of(run: Run) -> tuple[Any, ...]:
    """What the jobs of a run look like now, and what was made."""
    jobs, me = {what: launch.taking(run, what).said() for what in TAKEN}, known_account()
    busy = any(map(goes_on, jobs.values()))
    merged, gguf, pushed = kept(run, "merged"), kept(run, "gguf"), jobs["push"] and jobs["push"].made
    can_merge = run.recipe.method != "full"
    whole = words_take.made_file(merged) if merged else ""
    files = words_take.made_gguf(gguf, short_name(run)) if gguf else ""
    return (
        version(run),
        words_take.account(me.name, me.is_away, me.ends_in, me.problem) if me else words_take.asking(),
        gr.update(visible=bool(me and not me.name and not me.is_away)),
        button_of(PUSH, jobs["push"], busy, bool(me and not me.is_away)),
        state_of(jobs["push"], words_take.made_push(pushed) if pushed else ""),
        button_of(MERGE, jobs["merged"], busy, visible=can_merge and merged is None),
        gr.update(visible=_fits(merged)),
        state_of(jobs["merged"], whole),
        button_of(GGUF, jobs["gguf"], busy, visible=gguf is None),
        gr.update(visible=_fits(gguf)),
        state_of(jobs["gguf"], files),
        gr.update(visible=gguf is None, interactive=not busy),
        *taking_rows.states_of(run, jobs["push-data"], busy, me),
    )


def version(run: Run) -> tuple[Any, ...]:
    """Changes whenever the cards would look different."""
    made = tuple((exports_dir(run, to) / "parity.json").is_file() for to in ("merged", "gguf"))
    return run.id, tuple(launch.taking(run, what).said() for what in TAKEN), made, known_account()


def _fits(made: dict[str, Any] | None) -> bool:
    return made is not None and made["bytes"] <= LARGEST_ZIP


# --- handlers ---


def tick(runs_dir: Path, run_id: str, step: str, seen: Any) -> list[Any]:
    """The truth about the jobs, which a terminal may start too; nothing while nothing changed.

    The clock rests while another step is open, so that nobody asks the Hub every minute; `show` wakes it.
    """
    try:
        run = held_run(runs_dir, run_id)
    except FinetuneError:
        return [*[gr.skip()] * STATES, gr.Timer(active=False)]
    if step != "share":
        return [*[gr.skip()] * STATES, gr.Timer(active=False)]
    if version(run) == tuple(seen):
        return [*[gr.skip()] * STATES, gr.skip()]
    states = states_of(run)
    return [*(_with_rows_token(run, states) if _pushed_rows(run, seen) else states), gr.skip()]


def press_export(runs_dir: Path, to: str, run_id: str, four_bits: bool = False) -> tuple[Any, ...]:
    try:
        run, token = run_to_work_on(runs_dir, run_id)
        if not cancelled(run, to) and kept(run, to) is None:
            shutil.rmtree(exports_dir(run, to), ignore_errors=True)  # of earlier weights
            types = ["--types", "f16", "q8_0", "q4_0"] if four_bits else []
            line = launch.command(run, "export", "--to", to, "--output", str(exports_dir(run, to)), *types)
            launch.start_job(launch.taking(run, to), line, {"HF_TOKEN": token} if token else None)
        return gr.update(visible=False), *states_of(run)
    except Exception as error:
        return _refused(runs_dir, run_id, error)


def press_push(runs_dir: Path, run_id: str, repo_id: str, what: str, private: bool, token: str) -> tuple[Any, ...]:
    """The token goes into the child's environment and nowhere else; its box is emptied."""
    try:
        run, own_token = run_to_work_on(runs_dir, run_id)
        if not cancelled(run, "push"):
            options = [*(["--merged"] if what == "merged" else []), *([] if private else ["--public"])]
            start_push(run, "push", repo_id, options, token, own_token)
        return gr.update(visible=False), *_emptied(states_of(run), TOKEN)
    except Exception as error:
        return _refused(runs_dir, run_id, error)


def press_rows(runs_dir: Path, run_id: str, repo_id: str, private: bool, token: str) -> tuple[Any, ...]:
    """As press_push. A second press agrees to the personal data that the first was refused for, and to nothing else;
    until then the box keeps what was typed, in the browser alone."""
    try:
        run, own_token = run_to_work_on(runs_dir, run_id)
        if not cancelled(run, "push-data"):
            agreed = taking_rows.refused_for(run) == (PERSONAL if private else PERSONAL_PUBLIC)
            options = [*([] if private else ["--public"]), *(["--yes"] if agreed else [])]
            start_push(run, "push-data", repo_id, options, token, own_token)
        return gr.update(visible=False), *_with_rows_token(run, states_of(run))
    except Exception as error:
        return _refused(runs_dir, run_id, error)


def _emptied(states: tuple[Any, ...], place: int) -> tuple[Any, ...]:
    """The box of a token that was typed is empty from now on."""
    return *states[:place], states[place] | {"value": ""}, *states[place + 1 :]


def _with_rows_token(run: Run, states: tuple[Any, ...]) -> tuple[Any, ...]:
    """Its box is emptied unless it may be needed once more: the rows are looked through, or a question is open."""
    said = launch.taking(run, "push-data").said()
    needed = goes_on(said) or taking_rows.refused_for(run, said) in (PERSONAL, PERSONAL_PUBLIC)
    return states if needed else _emptied(states, ROWS_TOKEN)


def _pushed_rows(run: Run, seen: Any) -> bool:
    """Whether the page showed rows of this run on their way when it was drawn last."""
    return len(seen) > 1 and seen[0] == run.id and goes_on(seen[1][TAKEN.index("push-data")])


def _refused(runs_dir: Path, run_id: str, error: Exception) -> tuple[Any, ...]:
    shown = problem_card(error)
    try:
        return shown, *states_of(held_run(runs_dir, run_id))
    except FinetuneError:
        return shown, *[gr.skip()] * STATES


def write_export_zip(runs_dir: Path, to: str, run_id: str, folder: Path) -> Path:
    """An export in one file. Weights do not compress, so they are only put together."""
    run = held_run(runs_dir, run_id)
    made = kept(run, to)
    if made is None:
        raise FinetuneError("That has not been made yet.", "Make it first.", code="no-result")
    require_room(folder, made["bytes"], made["path"])
    path = folder / f"{short_name(run)}-{to}.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as target:
        for name in made["files"]:
            target.write(Path(made["path"]) / name, f"{path.stem}/{name}")
    return path


def require_room(folder: Path, n_bytes: int, where: str) -> None:
    """Raises FinetuneError (too-large, disk-full) for a zip of so many bytes."""
    if n_bytes > LARGEST_ZIP:
        raise FinetuneError("It is too large for a zip.", f"Copy the folder {where}.", code="too-large")
    if shutil.disk_usage(folder).free < n_bytes + SPARE_DISK:
        raise FinetuneError(
            "There is no room on the disk for the zip.", "Delete runs that you no longer need.", code="disk-full"
        )
