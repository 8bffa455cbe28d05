"""What a page on a Hugging Face Space says about itself: whose machine it is, who you are, what is kept. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_core.amounts import duration
from finetune_core.errors import FinetuneError
from finetune_core.space import Space

from .words import esc, icon, notice
from .words_share import copyable

HUB = "https://huggingface.co"
SIGN_IN, SIGN_OUT = "Sign in", "Sign out"
DUPLICATE = "Duplicate"
HOW = "How to train this"
SOON = 3600.0  # seconds of a sign-in that are left when its end is said
FOLDER = "fijn"  # that a person gets with the two commands


@dataclass(frozen=True)
class Ends:
    """When a visitor's sign-in ends."""

    left: float | None = None  # seconds until then
    has_ended: bool = False


def strip(
    space: Space,
    name: str = "",
    may_use: bool = False,
    problem: FinetuneError | None = None,
    is_kept: bool = True,
    ends: Ends | None = None,
) -> str:
    """The line under the header: who you are here, what you may do, until when, and whether anything stays."""
    ends = ends or Ends()
    who = ended() if ends.has_ended else _who(space, name, may_use, problem)
    return f'<div class="space-says" role="status">{who}{_ends_soon(ends.left)}{lost(is_kept)}</div>'


def ended() -> str:
    return _line(
        "warn",
        "<b>Your sign-in has ended.</b> Sign in again to see your runs and to put them on the Hub. A training goes on "
        "without you.",
    )


def _ends_soon(left: float | None) -> str:
    if left is None or left > SOON:
        return ""
    return _line(
        "warn",
        f"Your sign-in ends in {duration(max(left, 60))}. Sign out and in again before you put something on the Hub.",
    )


def _who(space: Space, name: str, may_use: bool, problem: FinetuneError | None) -> str:
    owner = f"<b>{esc(space.owner)}</b>"
    if not space.can_sign_in:
        return _line(
            "warn",
            "Nobody can sign in to this Space, so nothing can be trained here: the top of its README needs "
            "<code>hf_oauth: true</code>.",
        )
    if problem:
        return _line("warn", f"The Hub did not say who you are. {esc(problem.problem)} {esc(problem.fix)}")
    if not name:
        return _line(
            "info",
            f"Choose, check and plan with rows of your own. Training on this machine is for its owner, {owner}: "
            "sign in if that is you, or to train on Hugging Face Jobs on your own account.",
        )
    if may_use:
        return _line("check", f"Signed in as <b>{esc(name)}</b>. This Space’s machine is yours to use.")
    return _line(
        "info",
        f"Signed in as <b>{esc(name)}</b>. Train on Hugging Face Jobs, on your own account; this machine is for its "
        f"owner, {owner}.",
    )


def lost(is_kept: bool) -> str:
    """A plain warning while nothing outlives the Space."""
    if is_kept:
        return ""
    return _line(
        "warn",
        "<b>Everything here is lost when the Space sleeps or restarts.</b> Download or push a result as soon as it is "
        "there; a storage bucket that its owner mounts at <code>/data</code> keeps it.",
    )


def _line(drawing: str, html: str) -> str:
    return f'<p class="space-line {drawing}">{icon(drawing)}<span>{html}</span></p>'


def ways(space_id: str, name: str) -> str:
    """For who may not spend this Space's machine: how to train all the same."""
    owner = space_id.partition("/")[0]
    who = "" if name else " Is it yours? Sign in at the top of the page."
    clone = f"git clone {HUB}/spaces/{space_id} {FOLDER} && cd {FOLDER}"
    run = "pip install -r requirements.txt && python app.py"
    return (
        '<section class="ways" role="alert">'
        + notice("info", f"Training on this machine is for its owner, {owner}.{who}", "Three ways to do it yourself:")
        + '<div class="ways-both"><div class="way wide"><h3 class="card-title">On Hugging Face Jobs</h3>'
        f"<p>By the minute, on your own account{'' if name else ', once you are signed in'}: choose it at the end of "
        "Check, under “Where it runs”, and see the price before it starts.</p></div>"
        '<div class="way"><h3 class="card-title">On your own computer</h3>'
        "<p>Free, and your rows stay with you. Two commands:</p>"
        f"{copyable(clone)}{copyable(run)}</div>"
        '<div class="way"><h3 class="card-title">In a copy of this Space</h3>'
        "<p>You choose its hardware and pay for the hours that it runs; making a copy needs a PRO or Team account.</p>"
        f'<a class="btn" href="{HUB}/spaces/{esc(space_id)}?duplicate=true" target="_blank" rel="noreferrer">'
        "Duplicate this Space</a></div></div></section>"
    )


def ends_first(left: float | None, seconds: float) -> str:
    """For a training that outlasts the sign-in of who starts it; nothing for the others.

    >>> ends_first(None, 1e6), ends_first(7200.0, 60.0)
    ('', '')
    """
    if left is None or seconds <= left:
        return ""
    return (
        f'<p class="bar-note">{icon("warn")}<span>Your sign-in ends in {duration(max(left, 60))}, before this training '
        "does. It goes on without you; sign in again to see it and to put it on the Hub. Sign out and in now to "
        "have the longest time.</span></p>"
    )
