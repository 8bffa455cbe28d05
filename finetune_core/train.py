"""The worker: a run's recipe -> trainer -> adapter. Heavy imports wait for the lock."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .alone import WAITING, alone
from .errors import FinetuneError, explain, redact
from .events import Event
from .ladder import as_typed, harder_rungs, step_down, walked_down, wider_rungs
from .learn import Tell, learn, release_memory, sample_of
from .machine import take_gpus, this_machine
from .preflight import refuse_impossible
from .processes import learn_together
from .recipe import Recipe
from .run import Run
from .turn import StoppedWaiting

if TYPE_CHECKING:
    from .answers.chatter import Chatter
    from .encoded import Sets
    from .render import ChatTokenizer

WITHOUT_LIGER = {"use_liger_kernel": False}


def train(
    run: Run,
    on_event: Callable[[Event], None] | None = None,
    token: str | None = None,
    *,
    evaluate: bool = True,
    on_compared: Callable[[Chatter], None] | None = None,
) -> str:
    """Train or resume this run in this process. Returns its outcome: "finished" or "stopped".

    evaluate: False leaves the test rows unseen, whatever the recipe says.
    on_compared: gets base and tuned model, loaded for the comparison, so that a chat need not load them again.

    Every line of the diary is also given to `on_event`. Raises FinetuneError after writing it into the diary as the
    last line; anything else is a bug, and is written there too before it is raised.
    """

    def tell(kind: str, /, **data: Any) -> Event:
        event = run.tell(kind, **data)
        if on_event:
            on_event(event)
        return event

    _require_own_rows(run)  # before the first line: the diary of a finished run stays as it is
    with run.lock():
        (run.path / "stop").unlink(missing_ok=True)  # of an earlier worker; whoever asks from now on means this one
        began = time.monotonic()
        try:
            tell("start", command=["train", run.id], pid=os.getpid(), machine=this_machine().title, versions=versions())
            with alone(run.path.parent, partial(tell, "stage", name=WAITING), (run.path / "stop").exists):
                outcome, facts = _train(run, tell, token, evaluate, on_event, on_compared)
        except StoppedWaiting:
            outcome, facts = "stopped", {}
        except (KeyboardInterrupt, SystemExit):
            raise  # interrupted: the status says so, and Resume is offered
        except BaseException as error:
            told = _with_a_resume(explain(error), run)
            tell("error", **told.as_dict(), run=run.id)
            if told is error or told.code == "bug":
                raise
            raise told from error
        tell("done", outcome=outcome, seconds=round(time.monotonic() - began, 1), run=run.id, **facts)
        return outcome


def _with_a_resume(told: FinetuneError, run: Run) -> FinetuneError:
    """The error, with how to go on where the disk is full: the run is there, and so are its checkpoints."""
    if told.code != "disk-full":
        return told
    fix = f"Delete runs that you no longer need; then press Resume, or type: python -m finetune_core train {run.id}"
    return FinetuneError(told.problem, fix, code=told.code)


def _train(
    run: Run,
    tell: Tell,
    token: str | None,
    prove: bool,
    on_event: Callable[[Event], None] | None,
    on_compared: Callable[[Chatter], None] | None,
) -> tuple[str, dict[str, Any]]:
    recipe = run.recipe
    refuse_impossible(recipe)  # it may have been made on another machine
    tell("stage", name="fetching")
    gpus = len(this_machine().gpus)
    take_gpus(recipe.num_processes)
    from .model import fetch_model, require_same_gpu

    require_same_gpu(this_machine())
    folder = fetch_model(
        recipe.model_name_or_path,
        recipe.model_revision,
        token=token,
        on_progress=_fraction_teller(tell, "fetching"),
    )
    tell("stage", name="preparing data")
    from .render import load_tokenizer

    tokenizer = load_tokenizer(folder)
    _write_rows(run, recipe, tokenizer, token, tell)
    outcome, facts = _learn(run, recipe, folder, tokenizer, tell, on_event, gpus)
    if outcome == "finished" and recipe.evaluate and prove:
        _compare(run, tell, on_compared)
    return outcome, facts


def _learn(
    run: Run,
    recipe: Recipe,
    folder: Path,
    tokenizer: ChatTokenizer,
    tell: Tell,
    on_event: Callable[[Event], None] | None,
    gpus: int,
) -> tuple[str, dict[str, Any]]:
    """Learn from the encoded rows, here or in several processes, with what fits in memory. `gpus`: how many there
    are."""
    from .encoded import encode_run, forget_encoded, token_lengths

    forget_encoded(run)  # of a worker that was ended
    try:
        sets = encode_run(run, tokenizer, recipe.max_length)
        _warn_unwatched(run, sets, tell)
        longest = max(length for rows in sets if rows for length in token_lengths(rows))
        tell("stage", name="loading the model")

        def attempt(recipe: Recipe) -> tuple[str, dict[str, Any]]:
            sets = encode_run(run, tokenizer, recipe.max_length)
            if recipe.num_processes > 1:
                return learn_together(run, recipe, folder, on_event)
            return learn(run, recipe, folder, tokenizer, sets, sample_of(run, recipe, tokenizer), tell)

        return _learn_what_fits(run, tell, attempt, longest, gpus)
    finally:
        forget_encoded(run)


def _warn_unwatched(run: Run, sets: Sets, tell: Tell) -> None:
    from .encoded import read_rows

    if sets[1] is None and len(read_rows(run)[1]):
        tell(
            "warning",
            code="no-validation",
            says="No validation row has an answer within max_length, so there is no validation loss to watch.",
        )


def _compare(run: Run, tell: Tell, on_compared: Callable[[Chatter], None] | None) -> None:
    """The quick comparison. What was trained is kept: a comparison that fails is a warning, not the end of the run."""
    from .evaluate import Asked, evaluate
    from .model import load_for_chat

    release_memory()
    tell("stage", name="evaluating")
    try:
        chatter = load_for_chat(run)
        evaluate(run, chatter, tell=tell, asked=Asked(quick=True))
    except Exception as error:
        print(redact(traceback.format_exc()), file=sys.stderr)
        tell(
            "warning",
            code="not-compared",
            says=f"The model is trained and kept, but it could not be compared: {explain(error).problem} "
            f"Compare it again under Prove, or with: python -m finetune_core evaluate {run.id}",
        )
        return
    if on_compared:
        on_compared(chatter)


def _write_rows(run: Run, recipe: Recipe, tokenizer: ChatTokenizer, token: str | None, tell: Tell) -> None:
    """The run's own rows, where they were not written when it was made: then they had been looked at already."""
    if (run.path / "data" / "card.json").is_file():
        return
    from .data import prepare, write_data

    prepared = prepare(recipe, token=token, tokenizer=tokenizer, on_progress=_fraction_teller(tell, "preparing data"))
    write_data(prepared, run.path / "data", (run.plan() or {}).get("passed"))


def _require_own_rows(run: Run) -> None:
    """Raises FinetuneError (no-rows) for a run from the Hub: it has a card of its data, but none of its rows."""
    data = run.path / "data"
    if (data / "card.json").is_file() and not (data / "train.jsonl").is_file():
        raise FinetuneError(
            "This run was trained elsewhere, and its rows are not on this machine.",
            "To train with its settings on rows of yours: "
            f"python -m finetune_core train {run.path / 'recipe.yaml'} dataset_name=FILE",
            code="no-rows",
        )


def _learn_what_fits(run: Run, tell: Tell, learn: Callable[[Recipe], Any], longest: int, gpus: int) -> Any:
    """Learn; where memory runs out, go one rung down the ladder and on from the last checkpoint."""
    recipe, back = walked_down(run.recipe, run.events()), {}
    while True:
        try:
            return learn(recipe)
        except (RuntimeError, MemoryError, FinetuneError) as error:
            told = explain(error)
            if told.code == "liger-unusable" and recipe.use_liger_kernel:
                recipe = recipe.replace(**WITHOUT_LIGER)
                says = f"{told.problem} Going on without it, which takes more memory."
                tell("warning", code="stepped-down", says=says, changes=WITHOUT_LIGER)
                release_memory()
                continue
            if told.code == "no-fsdp" and recipe.fsdp and not run.recipe.fsdp:  # a rung that this model does not have
                back = {"fsdp": False}
                recipe = recipe.replace(**back)
            elif told.code != "out-of-memory":
                raise
            lower = step_down(recipe, longest, this_machine(), bool(run.checkpoints()), can_share=not back)
            if lower is None:
                raise _at_the_foot(recipe, told, gpus, can_share=not back, longest=longest) from error
            recipe, rung = lower
        why = "It did not fit in memory." if told.code == "out-of-memory" else told.problem
        says = f"{why} Now with: {rung.says}."
        tell("warning", code="stepped-down", says=says, changes=back | rung.changes)
        release_memory()


def _at_the_foot(recipe: Recipe, told: FinetuneError, gpus: int, can_share: bool, longest: int) -> FinetuneError:
    """Memory ran out although everything was tried that leaves the rows and the method as they are."""
    rungs = (*(wider_rungs(recipe, gpus) if can_share else ()), *harder_rungs(recipe, longest))
    fix = f"Start again. {' Or: '.join(map(as_typed, rungs))}" if rungs else "Choose a machine with more memory."
    return FinetuneError(f"{told.problem} No saving is left that would not change the result.", fix, "out-of-memory")


def versions() -> dict[str, str]:
    """Versions of the libraries that shape a result; read from their metadata, not by importing them."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": sys.version.split()[0]}
    for name in ("torch", "transformers", "trl", "peft", "datasets", "tokenizers", "accelerate"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _fraction_teller(tell: Tell, stage: str) -> Callable[..., None]:
    """At most one diary line per second and ten per cent, so the diary stays short."""
    last = {"time": 0.0, "fraction": -1.0}

    def on_progress(fraction: float | None, words: str = "") -> None:
        now = time.monotonic()
        if fraction is None or now - last["time"] < 1.0 or fraction - last["fraction"] < 0.1:
            return
        last.update(time=now, fraction=fraction)
        tell("stage", name=stage, fraction=round(fraction, 3), says=words)

    return on_progress
