"""Start and stop what has a process of its own: a training, the jobs beside it, the chat's server. Every button is a
command."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .children import died, end, last_error, spawn, spawn_until, tail
from .errors import FinetuneError
from .files import read_json, remove
from .job import Job
from .jobs.sent import sent_of
from .locks import busy, forget_locks, hold, is_held
from .recipe import Recipe, group_of
from .run import Run, list_runs, making
from .space import OWNER
from .takeaway import TAKEN

THEN_CHAT = ("--then-serve",)  # for a person at the page: the models that were compared stay loaded to chat with
IDLE_SECONDS = 1800  # a chat's server that nobody asks anything ends itself
BEFORE_TRAINING = {"should-i": ".should-i", "sweep": ".sweeps", "plan": ".measured"}  # verb -> its folder in the runs


def command(run: Run, verb: str, *options: str) -> list[str]:
    """What a button runs, and what the page shows to copy."""
    return [sys.executable, "-m", "finetune_core", verb, str(run.path), *options]


def as_text(line: list[str]) -> str:
    """A command as a person would type it, with the interpreter's short name."""
    return shlex.join(["python", *line[1:]])


def start(run: Run, token: str | None = None, wait_seconds: float = 20.0, options: tuple[str, ...] = ()) -> None:
    """Train (or resume) the run in a process of its own session, so that it outlives the page.

    The chat's memory is freed first; who follows a job on rented hardware needs none. The token travels in the
    child's environment only. Returns when the worker holds its lock. A second start of a running run does nothing.
    Raises FinetuneError if the worker ends at once (worker-died).
    """
    with run.starting(wait_seconds):
        if run.is_alive():
            return
        if not (run.path / "recipe.yaml").is_file():  # the start before this one did not come off
            raise FinetuneError("This run is not there any more.", "Start it anew.", code="no-run")
        if sent_of(run) is None:
            stop_serving(run.path.parent)
        (run.path / "stop").unlink(missing_ok=True)
        before = len(run.events())
        process = spawn_until(
            lambda: run.is_alive() or len(run.events()) > before,
            command(run, "train", *options),
            run.log_path,
            {"HF_TOKEN": token} if token else None,
            wait_seconds,
        )
    if process.poll() is not None and len(run.events()) == before:
        raise died("The training", run.log_path, "worker-died")


def start_new(run: Run, token: str | None = None, options: tuple[str, ...] = ()) -> None:
    """Start a run that was made for this start. Where no process comes of it (no memory, a full disk), nothing stays of
    the run and its rows; of a worker that died at once its log stays, and what another start (a double click) begins.
    """
    try:
        start(run, token, options=options)
    except Exception as error:
        if not (isinstance(error, FinetuneError) and error.code == "worker-died"):
            _unmake(run)
        raise


def _unmake(run: Run) -> None:
    """Delete a run that never began, unless somebody starts it now."""
    try:
        with run.starting(0):
            if run.status() != "new":
                return
            (run.path / "recipe.yaml").unlink(missing_ok=True)  # no run any more, for who waits for this lock as well
    except FinetuneError:
        return  # it is being started
    remove(run.path)
    forget_locks(run.path)


def fetch_starter(runs_dir: Path) -> None:
    """Bring the starter model to this machine in the background, once; `fetching` says how far it is."""
    runs_dir.mkdir(parents=True, exist_ok=True)
    if not is_held(runs_dir / ".fetch.lock"):
        (runs_dir / ".fetch.log").unlink(missing_ok=True)
        spawn([sys.executable, "-m", "finetune_core", "fetch", "--json", "--runs-dir", str(runs_dir)],
               runs_dir / ".fetch.log")  # fmt: skip


def fetching(runs_dir: Path) -> dict[str, Any] | None:
    """The last thing the background fetch said: {fraction, says}, {path, where} or {error}; None if none ran."""
    for line in reversed(tail(runs_dir / ".fetch.log", 20).splitlines()):
        try:
            said = json.loads(line)
        except ValueError:
            continue
        if isinstance(said, dict):
            return said
    return None


def stop(run: Run, token: str | None = None) -> None:
    """Ask the worker to stop after this step and keep what was learned.

    token: for a job on rented hardware that nobody here follows, and which may go on nevertheless.
    """
    if not run.is_alive():
        if sent_of(run):
            from .jobs.follow import stop as stop_job

            return stop_job(run, token)
        raise FinetuneError("This run is not going on.", "There is nothing to stop.", code="not-running")
    (run.path / "stop").touch()


def kill(run: Run, wait_seconds: float = 10.0) -> None:
    """End the worker now, with its children; returns when its lock (and so its memory) is free."""
    pids = [event.data.get("pid") for event in run.events() if event.kind == "start"][-1:]
    if sent := sent_of(run):
        pids = [sent.pid]
    if not run.is_alive() or not pids or not pids[0]:
        return
    end(int(pids[0]), wait_seconds)
    deadline = time.monotonic() + wait_seconds
    while run.is_alive() and time.monotonic() < deadline:
        time.sleep(0.05)


def discard(run: Run, token: str | None = None) -> None:
    """End the worker, its job on rented hardware and the jobs that go on with its result, and delete the folder.

    token: of who rents (None: this machine's own). Raises FinetuneError where a job may go on and cost.
    """
    from .jobs.follow import cancel

    if sent_of(run):
        cancel(run, token)
    kill(run)
    if sent_of(run):
        cancel(run, token)  # the job that its worker was starting just then
    for job in (comparison(run), *(taking(run, what) for what in TAKEN)):
        end_job(job)
    run.delete()


def follow_jobs(runs_dir: Path) -> None:
    """After a restart: take up the jobs on rented hardware that nobody follows. Never starts a new one."""
    from .jobs.follow import next_start

    for run in list_runs(runs_dir):
        with contextlib.suppress(FinetuneError):  # the run says itself why not
            if sent_of(run) and not run.is_alive() and next_start(run) == "follow":
                start(run)


# --- jobs beside training ---


def comparison(run: Run) -> Job:
    return Job(run.path, "evaluate")


def evaluate(run: Run, *options: str, secrets: Mapping[str, str] | None = None) -> None:
    """Compare the run's tuned model with its rivals in a process of its own; `comparison(run)` says how far it is."""
    start_job(comparison(run), command(run, "evaluate", *options), secrets)


def taking(run: Run, what: str) -> Job:
    """The job that exports a run's result ("adapter", "merged", "gguf") or puts it on the Hub ("push")."""
    return Job(run.path, f"take-{what}")


def before_training(runs_dir: Path, verb: str, key: str) -> Job:
    """The job that tries prompts ("should-i") or settings ("sweep"), or measures ("plan"); its folder keeps what it
    finds."""
    return Job(runs_dir / BEFORE_TRAINING[verb] / key, verb)


def key_of(recipe: Recipe, owner: str = "", verb: str = "") -> str:
    """The key of a recipe's jobs before training. Recipes with the same model, rows and proof of the same owner have
    the same ones: how they learn is what a sweep tries, and of no account to a prompt. A measurement is of every
    setting."""
    names = {name for name in Recipe.model_fields if verb == "plan" or _is_asked(name)}
    asked = recipe.model_dump(include=names)
    return hashlib.sha256((json.dumps(asked, sort_keys=True) + owner).encode()).hexdigest()[:16]


def _is_asked(name: str) -> bool:
    filled_in = ("dtype", "attn_implementation", "accept_warnings")  # by the plan, or when a run is made
    learned_from = group_of(name) in ("Model", "Data", "Proof") or name in ("method", "max_length", "seed")
    return learned_from and name not in filled_in


def start_before_training(
    runs_dir: Path, verb: str, recipe: Recipe, *options: str, token: str | None = None, owner: str = ""
) -> Job:
    """Start the verb for this recipe in a process of its own; returns its job.

    owner: user name of who starts it on a shared page; the job and what comes of it is theirs.
    """
    job = before_training(runs_dir, verb, key_of(recipe, owner, verb))
    with making(runs_dir, wait_seconds=60):
        job.folder.mkdir(parents=True, exist_ok=True)
        recipe.save(job.folder / "recipe.yaml")  # renamed into the folder, which is young again: it is not swept
        if owner:
            (job.folder / OWNER).write_text(owner + "\n", encoding="utf-8")
    line = [sys.executable, "-m", "finetune_core", verb, str(job.folder / "recipe.yaml"), *options,
            "--into", str(job.folder), "--runs-dir", str(runs_dir)]  # fmt: skip
    start_job(job, line, {"HF_TOKEN": token} if token else None)
    return job


def start_job(job: Job, line: list[str], secrets: Mapping[str, str] | None = None, wait_seconds: float = 20.0) -> None:
    """Start a verb that keeps this job; a second start of one that goes on does nothing.

    secrets: names and values for the child's environment, and nowhere else. Returns when the job is alive or over.
    Raises FinetuneError if its process ends before it began.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    with hold(job.folder / f".{job.name}-start.lock", busy(), wait_seconds):
        if job.is_alive():
            return
        before = job.said()
        process = spawn_until(lambda: job.is_alive() or job.said() != before, line, job.log_path, secrets, wait_seconds)
    if process.poll() is not None and job.said() == before:
        raise died("It", job.log_path, "job-died")


def end_job(job: Job, wait_seconds: float = 10.0) -> None:
    """End its process now, with its children."""
    said = job.said()
    if said is not None and said.pid and job.is_alive():
        end(said.pid, wait_seconds)


# --- the chat's server ---


@dataclass(frozen=True)
class Server:
    """The process that answers for the chat: where, and with which models of which run."""

    url: str
    run_id: str
    models: tuple[str, ...]
    pid: int


def serving(runs_dir: Path) -> Server | None:
    """The server that answers for this runs folder, if one is alive."""
    try:
        said = read_json(runs_dir / ".serve.json") or {}
        server = Server(said["url"], Path(said["run"]).name, tuple(said.get("models", ())), int(said["pid"]))
    except (ValueError, KeyError):
        return None
    return server if is_held(runs_dir / ".serve.lock") else None


def start_serving(run: Run, token: str | None = None, wait_seconds: float = 90.0) -> Server:
    """A server for this run's models; one at a time, so another run's is ended first. Waits until it answers."""
    runs_dir, log = run.path.parent, run.path / "serve.log"

    def ours() -> Server | None:
        server = serving(runs_dir)
        return server if server and server.run_id == run.id else None

    with hold(runs_dir / ".serve-start.lock", busy(), wait_seconds):
        if server := ours():
            return server
        stop_serving(runs_dir)
        line = command(run, "serve", "--idle-seconds", str(IDLE_SECONDS))
        process = spawn_until(ours, line, log, {"HF_TOKEN": token} if token else None, wait_seconds)
        if server := ours():
            return server
    if process.poll() is None:
        end(process.pid, 5)
    raise FinetuneError(
        "The chat could not be started.",
        f"{last_error(log) or 'The model may be too large for the free memory: close other programs and try again.'}",
        code="chat-failed",
    )


def stop_serving(runs_dir: Path, wait_seconds: float = 10.0) -> None:
    """End the chat's server and wait until its memory is free."""
    if server := serving(runs_dir):
        end(server.pid, wait_seconds)
    (runs_dir / ".serve.json").unlink(missing_ok=True)
