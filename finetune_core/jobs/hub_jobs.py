"""The Hub's Jobs, asked with a time-out and answered in words. `namespace` and `token` are given every time: without
them huggingface_hub 2.4 falls back to whoever is signed in on this machine.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, TypeVar

from .. import hub
from ..errors import FinetuneError
from ..takeaway import account

T = TypeVar("T")

SECONDS = 20.0  # for one answer; sending files takes as long as it takes
OVER = ("COMPLETED", "CANCELED", "ERROR", "DELETED")
_pool = ThreadPoolExecutor(max_workers=8, thread_name_prefix="jobs")

REFUSALS = {
    402: (
        "no-credit",
        "The Hub rents out hardware only to accounts with credit, and this one has none left.",
        "Add credit on huggingface.co/settings/billing, then try again; nothing was started.",
    ),
    403: (
        "no-jobs-scope",
        "This token may not start or see jobs.",
        "Make one with the right “jobs” (or the role “write”) on huggingface.co/settings/tokens and give it as "
        "HF_TOKEN; in an organisation, its settings may forbid jobs.",
    ),
    404: ("no-job", "The Hub does not know this job any more.", "Resume: a new one goes on from the last checkpoint."),
}


def client(token: str) -> Any:
    """The Hub's client for this token."""
    from huggingface_hub import HfApi

    return HfApi(token=token, library_name="fijn")


def ask(question: Callable[[], T], seconds: float | None = SECONDS, about_jobs: bool = True) -> T:
    """The answer, or FinetuneError: no-credit, no-jobs-scope, hub-away, hub-slow, …; of a repository, account's."""
    if not hub.reachable():
        raise account.away()
    try:
        return _pool.submit(question).result(timeout=seconds)
    except FutureTimeout:
        raise FinetuneError(
            "The Hub took the question and did not answer.", "Try again in a minute.", code="hub-slow"
        ) from None
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if about_jobs and status in REFUSALS:
            code, problem, fix = REFUSALS[status]
            raise FinetuneError(problem, fix, code=code) from error
        raise account.told(error) from error


def stage(token: str, namespace: str, job_id: str) -> tuple[str, str]:
    """(SCHEDULING | RUNNING | one of OVER, what the Hub says about it)."""
    found = ask(lambda: client(token).inspect_job(job_id=job_id, namespace=namespace, token=token))
    return str(getattr(found.status.stage, "value", found.status.stage)), found.status.message or ""


def running_seconds(token: str, namespace: str, job_id: str) -> float | None:
    """How long it ran, or has run by now; None where the Hub does not say."""
    found = ask(lambda: client(token).inspect_job(job_id=job_id, namespace=namespace, token=token))
    return getattr(found.durations, "running_secs", None)


def cancel(token: str, namespace: str, job_id: str) -> None:
    """End a job now. Raises FinetuneError."""
    ask(lambda: client(token).cancel_job(job_id=job_id, namespace=namespace, token=token))


def alive(token: str, namespace: str, label: str) -> str | None:
    """The job of this run that is not over, if there is one: a start whose answer was lost is not made twice."""
    found = ask(lambda: list(client(token).list_jobs(labels={"fijn-run": label}, namespace=namespace, token=token)))
    going = [job for job in found if str(getattr(job.status.stage, "value", job.status.stage)) not in OVER]
    return going[0].id if going else None
