"""Amounts in words: counts, shares, durations, memory, files, models, money. For the page and the command line."""

from __future__ import annotations


def count(number: float) -> str:
    """A whole number with thousands set apart.

    >>> count(1234567)
    '1,234,567'
    """
    return f"{round(number):,}"


def many(number: int, one: str, several: str | None = None) -> str:
    """A number with its noun.

    >>> many(1, "row"), many(1200, "row"), many(2, "copy", "copies")
    ('1 row', '1,200 rows', '2 copies')
    """
    return f"{count(number)} {one if number == 1 else several or one + 's'}"


def parameters(number: int) -> str:
    """A model's size as people say it.

    >>> parameters(134_515_008), parameters(4_020_000_000)
    ('135 million', '4.0 billion')
    """
    return f"{number / 1e6:.0f} million" if number < 1e9 else f"{number / 1e9:.1f} billion"


def percent(share: float, digits: int = 0) -> str:
    """A share as a percentage.

    >>> percent(0.293), percent(0.0042, 1)
    ('29%', '0.4%')
    """
    return f"{100 * share:.{digits}f}%"


def duration(seconds: float | None) -> str:
    """How long, in the words that a person would use.

    >>> [duration(s) for s in (0.4, 42, 59.7, 170, 5400, 200_000)]
    ['1 second', '42 seconds', '1 minute', '3 minutes', '1 h 30 min', '2 days 8 h']
    """
    if seconds is None:
        return "unknown"
    if round(seconds) < 60:
        return many(max(1, round(seconds)), "second")
    if seconds < 45 * 60:
        return many(round(seconds / 60), "minute")
    if seconds < 24 * 3600:
        hours, minutes = divmod(round(seconds / 60), 60)
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{many(days, 'day')} {hours} h" if hours else many(days, "day")


def roughly(seconds: float) -> str:
    """A duration as precise as an estimate is.

    >>> [roughly(s) for s in (3, 31, 58, 170)]
    ['10 seconds', '30 seconds', '1 minute', '3 minutes']
    """
    return duration(max(10, round(seconds, -1)) if seconds < 60 else seconds)


def minutes(seconds: float) -> str:
    """A training's time on a rented machine, where seconds say nothing beside its start.

    >>> minutes(3), minutes(600)
    ('under a minute', 'about 10 minutes')
    """
    return "under a minute" if seconds < 60 else f"about {duration(seconds)}"


def clock(seconds: float | None) -> str:
    """A duration that ticks, always of the same width.

    >>> clock(75), clock(3700)
    ('1:15', '1:01:40')
    """
    if seconds is None:
        return "–:––"
    hours, rest = divmod(round(seconds), 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"


def gib(amount: float) -> str:
    """Memory in units of 2**30 bytes, with as many digits as matter; said as GB, as a graphics card's box says it.

    >>> gib(0.254), gib(1.35), gib(76.2)
    ('0.25 GB', '1.4 GB', '76 GB')
    """
    digits = 2 if amount < 1 else 1 if amount < 10 else 0
    return f"{amount:.{digits}f} GB"


def size(n_bytes: float) -> str:
    """Bytes on a disk, in powers of ten as disks and the Hub count them.

    >>> size(900), size(269e6), size(2.2e9)
    ('900 bytes', '269 MB', '2.2 GB')
    """
    if n_bytes < 1e3:
        return f"{n_bytes:.0f} bytes"
    for limit, unit in ((1e6, "kB"), (1e9, "MB")):
        if n_bytes < limit:
            return f"{n_bytes / limit * 1e3:.0f} {unit}"
    return f"{n_bytes / 1e9:.1f} GB"


def money(dollars: float) -> str:
    """A price in US dollars.

    >>> money(0.534), money(0.002)
    ('$0.53', 'under 1 cent')
    """
    return f"${dollars:,.2f}" if dollars >= 0.01 else "under 1 cent"
