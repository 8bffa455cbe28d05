"""What a run says whose training is a job on rented hardware. Pure: Progress and job.json in, text or html out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from finetune_core.amounts import count, duration, minutes, money
from finetune_core.errors import KILLED
from finetune_core.events import Event
from finetune_core.hub import endpoint
from finetune_core.jobs.sent import Sent, page_of
from finetune_core.jobs.standing import standing
from finetune_core.progress import Progress, reached
from finetune_core.recipe import Suggestion

from . import words_run
from .words import esc, icon, notice
from .words_actions import Actions, again_with
from .words_place import about, name_of

FOLLOW, FETCH = "Follow it again", "Fetch its result"
STOPPING = "Stopping the job after this step…"
SIGN_IN_AGAIN = {  # by whether the page is a Space
    False: "Sign in again (`hf auth login`, or start the page with a new HF_TOKEN), then follow it: ",
    True: "Sign in again at the top of the page, then follow it: ",
}
LAST_SEEN = "last seen here"
NOT_LOST = "the job goes on without this page, and what it learns is kept in its repository."


def actions(
    status: str,
    progress: Progress,
    sent: Sent,
    next_start: str,
    *,
    kept: int | None,
    has_result: bool,
    has_report: bool,
    stop_asked: bool,
    gentler: str = "",
) -> Actions:
    """What can be done now. next_start: what a start would do. kept: step of the checkpoint in the repository.
    gentler: the button for the next rung, where memory ran out; the same again would cost and end the same way.
    """
    price = f"on {name_of(sent.title)}, {money(sent.dollars_at_most)} at most"
    again = f"Resume from step {count(kept)} {price}" if kept else f"Try again {price}"
    proof = {"prove": has_report, "talk": has_result}
    match status:
        case "running" if progress.outcome:  # its result is being fetched
            return Actions()
        case "running":
            learned = "Stop, keep what it learned" if progress.step else "Stop"
            return Actions(stop=STOPPING if stop_asked else learned, stopping=stop_asked)
        case "finished" | "stopped" if next_start == "follow":
            return Actions("start", start=FETCH, **proof)
        case "finished":
            return Actions("prove" if has_report else "talk", **proof)
        case "stopped":
            more = again if reached(progress) < progress.total_steps or not progress.step else ""
            return Actions("prove" if has_report else "talk" if has_result else "start", start=more, **proof)
        case "interrupted" if next_start == "follow":
            return Actions("start", start=FOLLOW, stop="Stop the job", talk=has_result)
        case "failed" if gentler:
            was_killed = (progress.error or {}).get("code") == KILLED  # which may have had another reason
            return Actions("gentler", start=again if was_killed else "", gentler=gentler, change=True, talk=has_result)
        case "failed":
            return Actions("start", start=again, change=True, talk=has_result)
        case _:
            return Actions("start", start=f"Send it {'again ' if status != 'new' else ''}{price}", change=True)


def kept_step(events: Iterable[Event]) -> int | None:
    """The newest checkpoint that the job made: it lies in the repository, not here."""
    return max((int(event.data["step"]) for event in events if event.kind == "checkpoint"), default=None)


def headline(status: str, progress: Progress, sent: Sent, next_start: str, kept: int | None) -> tuple[str, str]:
    """The large sentence and the quiet one under it."""
    where = name_of(sent.title)
    match status:
        case "new":
            return "Not sent yet.", f"It waits to be sent to {where} at Hugging Face."
        case "running" if progress.outcome:
            return "Fetching its result.", f"What was learned, and the proof, come from {sent.repo_id} to this machine."
        case "running" if progress.stage in ("starting", "waiting for its turn") and not progress.workers:
            if not sent.job_id:
                return "Sending it.", f"The program, the recipe and the rows go to {sent.repo_id}, which is private."
            return (
                f"Waiting for {where}.",
                "The machine is found and set up, which takes some minutes; the log says how far it is. "
                "You may close the page; it goes on.",
            )
        case "running" if progress.stage == "fetching":
            return "Fetching the model.", "From the Hub to the rented machine."
        case "finished" | "stopped" if next_start == "follow":
            says, _ = words_run.headline(status, progress)
            return says, f"Its result is not here yet; it is kept in {sent.repo_id}."
        case "stopped" if not progress.step:
            return "Stopped before it learned anything.", "Its job was ended, and costs no more."
        case "stopped":
            return words_run.headline(status, progress)[
                0
            ], "Its job is over and costs no more. What it learned is kept."
        case "failed" if not sent.job_id:
            return "It could not be sent.", "No job was started."
        case "failed":
            lies = f"Step {count(kept)} is kept in {sent.repo_id}; a new job can go on from there." if kept else ""
            return words_run.headline(status, progress)[0], lies or "Its job is over; no step had been saved yet."
        case "interrupted" if next_start == "follow":
            return (
                "Nobody follows its job here.",
                "It may go on at Hugging Face, and costs until it is over. Follow it again to see it and to have its "
                "result here.",
            )
        case "interrupted":
            return (
                "It may not have been sent.",
                "The process that sent it ended before the Hub had answered. A job that has begun all the same is "
                "found when you send it again.",
            )
    return words_run.headline(status, progress)


def rail(status: str, next_start: str) -> tuple[str, str]:
    """In the list of runs, of one that nobody follows: (how it stands, what to press in it); empty for any other."""
    word = standing(status, next_start)
    if not word:
        return "", ""
    if next_start != "follow":
        return word, f"{word}: open it to send it again"
    return word, f"not followed: press “{FOLLOW}”" if status == "interrupted" else f"at the Hub: press “{FETCH}”"


def rented_line(sent: Sent) -> str:
    """Under the stages: the hardware, its price, and where to see it on the Hub."""
    hour = f"{money(60 * sent.dollars_per_minute)} an hour, " if sent.dollars_per_minute else ""
    price = f"{hour}{money(sent.dollars_at_most)} at most" if hour else ""
    job = f" · {_link(page_of(sent), 'its job')}" if sent.job_id else ""
    return (
        f'<p class="rented-line num">{icon("server")}<span>{esc(name_of(sent.title))} at Hugging Face Jobs'
        f"{f' · {esc(price)}' if price else ''}{job} · "
        f"{_link(f'{endpoint()}/{sent.repo_id}', 'its private repository')}</span></p>"
    )


def _link(address: str, text: str) -> str:
    return f'<a href="{esc(address)}" target="_blank" rel="noreferrer">{esc(text)}</a>'


def left_card(sent: Sent, status: str, is_space: bool) -> str:
    """Why nobody follows it any more, and what to do; empty while somebody does."""
    if not sent.left or status == "running":
        return ""
    code, problem, fix = (str(sent.left.get(name, "")) for name in ("code", "problem", "fix"))
    if code in ("no-token", "bad-token", "sign-in-ended"):
        problem = problem if code == "no-token" else "Your sign-in at the Hub has ended."
        return notice("warn", problem, SIGN_IN_AGAIN[is_space] + NOT_LOST)
    if status == "interrupted" and sent.job_id:
        fix = f"{fix} Follow it again after that: {NOT_LOST}"
    return notice("warn", problem, fix)


def rung_labels(rungs: Sequence[Suggestion], sent: Sent, place: int = -1, made: Any = None) -> list[str]:
    """Labels of the buttons for rungs of the ladder: the first press finds out the price, the second agrees to it.

    place, made: the one whose price is known.
    """
    where = name_of(sent.title)
    labels = [f"{again_with(rung)} on {where}, price first" for rung in rungs]
    if made is not None:
        labels[place] = f"{again_with(rungs[place])} on {where}, {money(made.dollars_at_most)} at most"
    return labels


def rung_price(rung: Suggestion, made: Any) -> str:
    """What a second press agrees to."""
    return notice(
        "info",
        f"{rung.says}: {minutes(made.seconds)} on {name_of(made.flavor.title)}, with its start and the proof, and "
        f"{about(made.dollars)}. It is ended after {duration(made.timeout_seconds)}, so it costs "
        f"{money(made.dollars_at_most)} at most. Nothing was started.",
        "Press again to agree: it is a new run, and its rows go to a private repository as before.",
    )


def dearer(sent: Sent, now: Sent) -> tuple[str, str]:
    """now: the same order at the price of now."""
    before = money(sent.dollars_at_most) if sent.dollars_per_minute else "none"
    return (
        f"{name_of(sent.title)} costs {money(60 * now.dollars_per_minute)} an hour now. A new job is ended after "
        f"{duration(now.timeout_seconds)}, so it costs {money(now.dollars_at_most)} at most, and {before} was "
        "agreed to. Nothing was started.",
        "Press again to agree.",
    )


def discard_question(sent: Sent) -> str:
    """Asked before a run is deleted."""
    kept = _link(f"{endpoint()}/{sent.repo_id}/settings", sent.repo_id)
    return (
        '<p class="confirm-question" role="alert"><b>Delete this run?</b> If its job still goes on, it is ended now '
        "and costs no more; what it learned since its last checkpoint is lost. Its curves and its result here are gone "
        f"for good. What was sent stays in {kept} until you delete it there.</p>"
    )
