"""What travels to a job and where it is kept: a private repository of the person's own.

source.zip       this program
run/             recipe, plan and rows as used; then, as it goes, the newest checkpoint and the diary; at the end
                 the result and the proof
run/stop         exists = please stop after this step
"""

from __future__ import annotations

import io
import re
import zipfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from .. import hub
from ..errors import FinetuneError
from ..files import read_json, write_json
from ..recipe import Recipe
from ..run import Run
from .hub_jobs import alive, ask, client

PROJECT = Path(__file__).resolve().parent.parent.parent
IMAGE = "ghcr.io/astral-sh/uv:python3.12-bookworm"
NOT_THERE = ("gradio", "xllamacpp", "gguf", "optuna")  # packages that a training does without
BEFORE = ["recipe.yaml", "plan.json", "data/*"]

BOOT = """
import os, zipfile
from huggingface_hub import snapshot_download
snapshot_download(os.environ["FIJN_REPO"], local_dir="fijn", allow_patterns=["source.zip"])
zipfile.ZipFile("fijn/source.zip").extractall("fijn")
os.chdir("fijn")
os.execvp("uv", ["uv", "run", "--no-project", "--python", "3.12", "--with-requirements", "requirements.txt",
                 "python", "-m", "finetune_core.jobs.around"])
"""


@dataclass(frozen=True)
class Sent:
    """A run's job.json. It holds no token."""

    flavor: str
    title: str
    timeout_seconds: int
    namespace: str
    repo_id: str
    job_id: str = ""  # of the newest job; "" before one was started
    since: int = 0  # lines of the diary that are older than this job
    pid: int = 0  # of the process that follows it, or did
    dollars_per_minute: float = 0.0  # when it was agreed to
    after: str = ""  # the run that ran out of memory, and the rung of the ladder, for which this one was made
    left: dict[str, str] | None = None  # why the last follower left a job that may go on: code, problem, fix

    @property
    def dollars_at_most(self) -> float:
        """The price if a job of it ran until its time-out."""
        return self.timeout_seconds / 60 * self.dollars_per_minute

    def save(self, run: Run) -> None:
        write_json(run.path / "job.json", asdict(self))


def sent_of(run: Run) -> Sent | None:
    """What was sent of a run on rented hardware; None for a run of this machine."""
    try:
        return Sent(**read_json(run.path / "job.json"))
    except TypeError:
        return None


def page_of(sent: Sent) -> str:
    """The job's own page on the Hub."""
    return f"{hub.endpoint()}/jobs/{sent.namespace}/{sent.job_id}"


def require_can_travel(recipe: Recipe) -> None:
    """Raises FinetuneError (model-not-on-hub) for a model that a job cannot fetch."""
    if hub.looks_local(recipe.model_name_or_path):
        raise FinetuneError(
            "A job fetches its model from the Hub, and this one is a folder on this machine.",
            "Choose a model by its name on the Hub (owner/name), or train on this machine.",
            code="model-not-on-hub",
        )


def label_of(run: Run) -> str:
    """The end of the run's name: letters and digits."""
    return re.sub(r"[^A-Za-z0-9]", "", run.id.rpartition("-")[2])


def source_archive(recipe: Recipe) -> bytes:
    """This program as a zip, with the packages it needs; no settings, no runs, no rows."""
    packages = (PROJECT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    packages = [line for line in packages if not line.startswith(NOT_THERE)]
    if recipe.method == "qlora" or "8bit" in (recipe.optim or ""):
        packages.append("bitsandbytes")
    into = io.BytesIO()
    with zipfile.ZipFile(into, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("requirements.txt", "\n".join(packages) + "\n")
        for folder, pattern in (("finetune_core", "*.py"), ("presets", "*.yaml")):
            for file in sorted((PROJECT / folder).rglob(pattern)):
                archive.write(file, str(file.relative_to(PROJECT)))
    return into.getvalue()


def send(run: Run, sent: Sent, token: str) -> Sent:
    """Put program and rows into the private repository and start a job; one that goes on already is taken up again.

    Raises FinetuneError; nothing costs anything before the last step has succeeded.
    """
    api = client(token)
    job_id = alive(token, sent.namespace, label_of(run))
    if job_id is None:
        ask(lambda: _upload(api, run, sent), seconds=None, about_jobs=False)
        version = re.search(r"(?m)^huggingface_hub(==\S+)$", (PROJECT / "requirements.txt").read_text(encoding="utf-8"))
        tool = "huggingface_hub" + (version[1] if version else "")
        line = ["uv", "run", "--no-project", "--python", "3.12", "--with", tool, "python", "-c", BOOT]
        job_id = ask(
            lambda: api.run_job(
                image=IMAGE,
                command=line,
                env={"FIJN_REPO": sent.repo_id, "FIJN_RUN": run.id, "HF_HUB_DISABLE_TELEMETRY": "1"},
                secrets={"HF_TOKEN": token},  # never in env, which everybody who sees the job can read
                flavor=sent.flavor,
                timeout=sent.timeout_seconds,
                name="fijn",
                labels={"app": "fijn", "fijn-run": label_of(run)},
                namespace=sent.namespace,
                token=token,
            ),
            seconds=60,
        ).id
    sent = replace(sent, job_id=job_id)
    sent.save(run)
    return sent


def _upload(api: Any, run: Run, sent: Sent) -> None:
    api.create_repo(sent.repo_id, private=True, exist_ok=True)
    if not api.model_info(sent.repo_id).private:
        raise FinetuneError(
            f"{sent.repo_id} can be seen by everyone, and your rows would go there.",
            "Make it private on its Settings page, then resume.",
            code="repo-public",
        )
    if api.file_exists(sent.repo_id, "run/stop"):  # of the job before this one
        api.delete_file("run/stop", sent.repo_id, commit_message="Go on")
    api.upload_file(
        path_or_fileobj=source_archive(run.recipe), path_in_repo="source.zip", repo_id=sent.repo_id,
        commit_message="The program",
    )  # fmt: skip
    api.upload_folder(
        folder_path=run.path, path_in_repo="run", repo_id=sent.repo_id, allow_patterns=BEFORE,
        commit_message="Recipe and rows",
    )  # fmt: skip


def ask_to_stop(sent: Sent, token: str) -> None:
    """Ask the job to stop: it looks for a file after each step or so, keeps what was learned, and ends."""
    ask(
        lambda: client(token).upload_file(
            path_or_fileobj=b"please\n", path_in_repo="run/stop", repo_id=sent.repo_id, commit_message="Stop"
        ),
        about_jobs=False,
    )
