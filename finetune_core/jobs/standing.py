"""How a run stands whose training is a job that nobody here follows, for the page and the command line. Pure."""

from __future__ import annotations


def standing(status: str, next_start: str) -> str:
    """How a run stands, in place of its status, which only says what this machine saw; "" where that says all.

    next_start: what a start of it would do (`follow.next_start`).

    >>> standing("interrupted", "follow"), standing("finished", "follow"), standing("running", "follow")
    ('at the Hub, not followed here', 'finished, its result at the Hub', '')
    """
    match status:
        case "interrupted" if next_start == "follow":
            return "at the Hub, not followed here"
        case "interrupted":
            return "perhaps not sent"
        case "finished" | "stopped" if next_start == "follow":
            return f"{status}, its result at the Hub"
    return ""
