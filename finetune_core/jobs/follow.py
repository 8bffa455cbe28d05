"""Follow a job from here: its diary, its log and its result come into the run folder, as if it had run on this machine.

Who follows holds the run's lock. A follower that dies leaves the job as it is; the next one takes it up where the
diary ends, because each of the job's lines has a number.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from ..errors import KILLED, FinetuneError, redact
from ..events import KINDS, Event, plain, write_event
from ..files import append, put, replacing
from ..run import Run
from ..takeaway import account
from . import hub_jobs
from .around import SIGNS, WITH_LESS
from .hub_jobs import OVER
from .inside import event_in
from .price import CHANGED, at_price, price_now
from .sent import Sent, ask_to_stop, label_of, page_of, send, sent_of

ENDS = ("done", "error")
PASSING = ("hub-away", "hub-slow", "hub-trouble", "hub-busy")  # the job goes on without us
NOT_SIGNED_IN = ("no-token", *account.REFUSED, "other-account", "forbidden", "no-jobs-scope")  # so it does then
STOP_SECONDS = 900.0  # for a job to end by itself after a stop, and keep its result, before it is cancelled
AT_TIMEOUT = 0.97  # of its time-out: a job that ran so long has run to its end
AWAY_SECONDS = 30.0  # between two tries while the Hub is away
AWAY_TRIES = 20
NO_LOG_SECONDS = 5.0


def follow(
    run: Run, on_event: Callable[[Event], None] | None = None, token: str | None = None, agreed: bool = False
) -> str:
    """Start the run's job, or take up the one that goes on, and stay until it is over: "finished" or "stopped".

    agreed: to the price of now, where that is higher than the one in job.json; else a new job is refused
    (price-changed), and diary and job.json are as they were.
    Raises FinetuneError after writing it into the diary, as train does. Where only we could not go on (the Hub is
    away from here, a sign-in has ended), it goes into job.json and the diary stays open, because the job goes on.
    """
    with run.lock():
        (run.path / "stop").unlink(missing_ok=True)
        mirror = Mirror(run, on_event)
        before = _require_sent(run)
        sent = replace(before, pid=os.getpid(), left=None)
        sent.save(run)
        try:
            token = _require_token(sent, token)
            if not _is_to_be_followed(run, sent, token):
                sent = at_price(sent, price_now(sent, token), agreed)
                sent = replace(sent, job_id="", since=len(run.events()))
                sent.save(run)  # before a job can start: who is ended here has agreed, and finds it by its label
                mirror.tell("stage", name="waiting for its turn", says=f"sending the rows to {sent.repo_id} (private)")
                sent = send(run, sent, token)
                mirror.tell("stage", name="waiting for its turn", says=f"HF Jobs: {sent.title}, job {sent.job_id}")
            stage, says = _watch(run, sent, token, mirror)
            _fetch_result(run, sent, token)
            return _ended(run, sent, token, stage, says, mirror)
        except FinetuneError as error:
            if error.code == CHANGED:
                before.save(run)
                raise
            ends = [event.kind for event in run.events()[sent.since :] if event.kind in ENDS]
            is_ours = error.code in PASSING or (bool(sent.job_id) and error.code in NOT_SIGNED_IN)
            if ends[-1:] == ["done"] or (is_ours and not ends):
                replace(sent, left=error.as_dict()).save(run)
            elif not ends:
                mirror.tell("error", **error.as_dict(), run=run.id)
            raise


def stop(run: Run, token: str | None = None) -> None:
    """Stop a job that nobody here follows: one that waits is cancelled, one that learns keeps what it learned; follow
    it to have that here.

    Raises FinetuneError (not-running) if it is over.
    """
    sent = _require_sent(run)
    token = _require_token(sent, token)
    stage = _stage(sent, token)[0] if sent.job_id else "DELETED"
    if stage in OVER:
        raise FinetuneError("This run's job is over.", "Resume the run to fetch its result.", code="not-running")
    if stage == "RUNNING":
        ask_to_stop(sent, token)
        return
    with run.lock():
        hub_jobs.cancel(token, sent.namespace, sent.job_id)
        run.tell("done", outcome="stopped", seconds=0.0, run=run.id)


def cancel(run: Run, token: str | None = None) -> None:
    """End the run's job, if it may still go on: it costs money. Raises FinetuneError if that is not sure."""
    sent, last = _require_sent(run), run.last_event()
    over = last is not None and last.kind in ENDS
    if last is None or (over and not sent.job_id):  # it was never sent, or refused
        return
    if over and ("remote" in last.data or last.data.get("code") in ("job-died", KILLED)):
        return
    token = _require_token(sent, token)
    # of one that was being sent, the answer may have been lost
    job_id = sent.job_id or hub_jobs.alive(token, sent.namespace, label_of(run))
    if job_id and _stage(replace(sent, job_id=job_id), token)[0] not in OVER:
        hub_jobs.cancel(token, sent.namespace, job_id)


def next_start(run: Run) -> str:
    """What a start of this run would do: "new" (a new job, which costs), "follow" (the job that may go on, or what
    it left on the Hub), "" where everything is here."""
    sent, last = _require_sent(run), run.last_event()
    if not sent.job_id or last is None or last.kind == "error":
        return "new"
    if last.kind != "done":
        return "follow"
    if last.data.get("outcome") == "finished":
        return "" if run.has_result() else "follow"
    return "follow" if "remote" in last.data and not run.has_result() else "new"


def _is_to_be_followed(run: Run, sent: Sent, token: str) -> bool:
    """Whether the newest job goes on, or is over and its end has not come here yet. Else a new one is started."""
    if not sent.job_id:
        return False
    if _stage(sent, token)[0] not in OVER:
        return True
    return next_start(run) != "new"


def _stage(sent: Sent, token: str) -> tuple[str, str]:
    try:
        return hub_jobs.stage(token, sent.namespace, sent.job_id)
    except FinetuneError as error:
        if error.code == "no-job":
            return "DELETED", ""
        raise


def _watch(run: Run, sent: Sent, token: str, mirror: Mirror) -> tuple[str, str]:
    """Hand on the job's log until it is over: (its last stage, what the Hub says)."""
    api, away = hub_jobs.client(token), 0
    with _stopping(run, sent, token):
        while True:
            try:
                mirror.begin(sent.job_id)
                lines = api.fetch_job_logs(job_id=sent.job_id, namespace=sent.namespace, follow=True, token=token)
                for line in lines:
                    mirror.take(sent.job_id, line)
                stage, says = _stage(sent, token)
                if stage in OVER:
                    return stage, says
                away = 0
            except FinetuneError as error:
                if error.code not in PASSING or away >= AWAY_TRIES:
                    raise
            except Exception as error:
                status = getattr(getattr(error, "response", None), "status_code", None)
                if status == 404:
                    stage, says = _stage(sent, token)
                    if stage in OVER:
                        return stage, says
                    time.sleep(NO_LOG_SECONDS)  # it has none yet, and goes on
                    continue
                if status in (401, 403) or away >= AWAY_TRIES:
                    raise account.told(error, token) from error
            if away == 1:
                mirror.tell("warning", code="hub-away", says="The Hub is away; the job goes on. Trying again.")
            away += 1
            time.sleep(AWAY_SECONDS if away > 1 else 1.0)


@contextmanager
def _stopping(run: Run, sent: Sent, token: str) -> Iterator[None]:
    """Pass a wish to stop on to the job; one that waits, or does not end by itself, is cancelled."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(1.0):
            if (run.path / "stop").exists():
                with contextlib.suppress(FinetuneError):  # tried again in a second
                    if _stage(sent, token)[0] == "RUNNING":
                        ask_to_stop(sent, token)
                        over.wait(STOP_SECONDS)
                    if not over.is_set() and _stage(sent, token)[0] not in OVER:
                        hub_jobs.cancel(token, sent.namespace, sent.job_id)
                    return

    threading.Thread(target=look, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _fetch_result(run: Run, sent: Sent, token: str) -> None:
    """The tuned weights and the proof from the private repository; checkpoints stay there for a resume."""
    from huggingface_hub import snapshot_download

    name = run.result_dir.name
    inbox = run.inbox
    shutil.rmtree(inbox, ignore_errors=True)  # of a follower that was killed
    inbox.mkdir(parents=True)
    try:
        wanted = [f"run/{name}/*", "run/report*"]
        hub_jobs.ask(
            lambda: snapshot_download(sent.repo_id, local_dir=inbox, allow_patterns=wanted, token=token),
            seconds=None,
            about_jobs=False,
        )
        for file in (inbox / "run").glob("report*"):
            with replacing(run.path / file.name) as beside:
                shutil.copyfile(file, beside)
        if (inbox / "run" / name).is_dir():  # last: once it is here nothing is fetched again
            put(inbox / "run" / name, run.result_dir)
    finally:
        shutil.rmtree(inbox, ignore_errors=True)


def _ended(run: Run, sent: Sent, token: str, stage: str, says: str, mirror: Mirror) -> str:
    last = next((event for event in reversed(run.events()[sent.since :]) if event.kind in ENDS), None)
    if last is not None and last.kind == "done":
        outcome = str(last.data.get("outcome", "finished"))
        if outcome == "finished" and not run.has_result():
            lost = FinetuneError(
                f"The job learned to its end, but its result did not come to {sent.repo_id}; its log says why.",
                "Resume: a new job goes on from the last checkpoint there.",
                code="result-lost",
            )
            mirror.tell("error", **lost.as_dict(), run=run.id)
            raise lost
        return outcome
    if last is not None:
        raise FinetuneError(last.data["problem"], last.data["fix"], code=last.data["code"])
    if stage == "CANCELED" and (run.path / "stop").exists():
        mirror.tell("done", outcome="stopped", seconds=0.0, run=run.id)
        return "stopped"
    if stage == "ERROR" and (told := killed_for_memory(redact(says), partial(_had_time_left, sent, token))):
        raise told
    how = {
        "CANCELED": "The job was cancelled on the Hub",
        "DELETED": "The Hub does not know this job any more",
    }.get(stage, "The job ended before the training did, as it does at its time-out or when its machine is lost")
    raise FinetuneError(
        f"{how}{f' ({redact(says)})' if says else ''}.",
        f"Resume: a new job goes on from the last checkpoint in {sent.repo_id}. The job's own page is {page_of(sent)}.",
        code="job-died",
    )


def killed_for_memory(says: str, had_time_left: Callable[[], bool]) -> FinetuneError | None:
    """The error of a job that ended whole because its memory was full, as far as the Hub's words for its end tell."""
    if re.search(r"(?i)\boom|out.of.memory", says):
        known = f"The job ended before the training did: its machine had no memory left. The Hub says: {says}"
        return FinetuneError(f"{known.rstrip('.')}.", WITH_LESS, code=KILLED)
    if re.search(r"\b137\b", says) and had_time_left():
        known = f"The job was killed before the training was over. The Hub says: {says.rstrip('.')}."
        guess = f"{SIGNS}; a machine that is lost can look the same."
        return FinetuneError(f"{known} {guess}", WITH_LESS, code=KILLED)
    return None


def _had_time_left(sent: Sent, token: str) -> bool:
    """Whether the job ended well before its time-out, at which it is killed as well."""
    seconds = hub_jobs.running_seconds(token, sent.namespace, sent.job_id)
    return seconds is None or seconds < AT_TIMEOUT * sent.timeout_seconds


def _require_token(sent: Sent, token: str | None) -> str:
    """The token of who rents. Raises FinetuneError: to another account a job of theirs looks like none at all."""
    token = token or account.find_token() or ""
    name = account.sign_in(token).name
    if name != sent.namespace:
        raise FinetuneError(
            f"The job of this run was started by {sent.namespace}, and you are signed in as {name}.",
            f"Sign in as {sent.namespace}, then try again.",
            code="other-account",
        )
    return token


def _require_sent(run: Run) -> Sent:
    sent = sent_of(run)
    if sent is None:
        raise FinetuneError("This run belongs to this machine.", "Start a new one with --on jobs.", code="not-a-job")
    return sent


class Mirror:
    """The run's diary and log, as the job's lines come in; a line that is there already is left out."""

    def __init__(self, run: Run, on_event: Callable[[Event], None] | None):
        self.run, self.on_event = run, on_event
        self._have = {event.data["remote"] for event in run.events() if "remote" in event.data}
        self._is_new = True  # what comes now was not here before

    def begin(self, job_id: str) -> None:
        """The job's log comes from its first line again."""
        self._is_new = not any(remote.startswith(f"{job_id}:") for remote in self._have)

    def tell(self, kind: str, /, **data: Any) -> Event:
        event = self.run.tell(kind, **data)
        if self.on_event:
            self.on_event(event)
        return event

    def take(self, job_id: str, line: str) -> None:
        found = event_in(line.rstrip("\r\n"))
        if found is None:
            if not self._is_new:
                return
            append(self.run.log_path, redact(line.rstrip("\r\n")).encode("utf-8", "replace"))
            return
        number, said = found
        remote = f"{job_id}:{number}"
        if remote in self._have or said["kind"] not in KINDS:
            return
        self._have.add(remote)
        self._is_new = True
        kind = str(said.pop("kind"))
        said.pop("pid", None)  # of a process there; here it would be somebody else's
        event = Event(kind, float(said.pop("time", time.time())), plain(said) | {"remote": remote})
        write_event(self.run.diary, event)
        if self.on_event:
            self.on_event(event)
