"""One row token by token, and how long the rows are. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from finetune_core.amounts import count, many, percent

from .words import esc, icon, join

SHOWN_TOKENS = 3000  # of one row; more would make the page slow
SHOWN_LENGTHS = 1500  # different lengths sent to the page for counting

SPLIT_WORDS = {
    "train": "to learn from",
    "validation": "to check along the way, never trained",
    "test": "for the proof, never trained",
}


def tokens(
    pieces: Sequence[Any],
    index: int,
    rows: int,
    source_row: int | None = None,
    split: str = "train",
    says: str = "",
    file: str = "",
) -> str:
    """One row exactly as the model reads it: trained, only read, or cut off; the stop token marked.

    file: the one that the row came from, where there are several.
    """
    kinds = Counter(piece.kind for piece in pieces)
    where = join([SPLIT_WORDS[split], f"row {count(source_row)} of {file or 'the data'}" if source_row else ""])
    spans = "".join(_token(piece) for piece in pieces[:SHOWN_TOKENS])
    more = len(pieces) - SHOWN_TOKENS
    rest = f'<p class="muted">and {many(more, "token")} more in this row</p>' if more > 0 else ""
    stops = any(piece.is_stop and piece.kind == "trained" for piece in pieces)
    stop = (
        f'<span class="badge good">{icon("stop")}learns when to stop</span>'
        if stops
        else f'<span class="badge warn">{icon("warn")}never learns to stop</span>'
    )
    legend = join(
        [
            f'<span class="token-key trained">{count(kinds["trained"])} trained</span>',
            f'<span class="token-key context">{count(kinds["context"])} only read</span>',
            f'<span class="token-key cut">{count(kinds["cut"])} cut off</span>' if kinds["cut"] else "",
            stop,
        ],
        "",
    )
    last = max(rows - 1, 0)
    said = f'<p class="token-says" role="status">{esc(says)}</p>' if says else ""
    return (
        '<section class="card"><div class="token-head"><div><h2 class="card-title">What the model reads</h2>'
        '<p class="sub num">'
        f"One row, token by token: {esc(where)}.</p></div>"
        '<div class="pager"><button type="button" class="icon-btn" data-turn="'
        f'{max(index - 1, 0)}" aria-label="Row before"{" disabled" if index <= 0 else ""}>{icon("left")}</button>'
        f'<span class="num">Row {count(index + 1)} of {count(rows)}</span>'
        f'<button type="button" class="icon-btn" data-turn="{min(index + 1, last)}" aria-label="Next row"'
        f"{' disabled' if index >= last else ''}>{icon('right')}</button></div></div>{said}"
        f'<div class="legend num">{legend}</div><div class="tokens" tabindex="0" role="group" '
        f'aria-label="Tokens of row {index + 1}">{spans}</div>{rest}</section>'
    )


def _token(piece: Any) -> str:
    kind = piece.kind + (" special" if piece.is_special else "") + (" stop" if piece.is_stop else "")
    about = join(
        [
            {"trained": "trained", "context": "only read", "cut": "cut off"}[piece.kind],
            "stop token" if piece.is_stop else "special token" if piece.is_special else "",
            f"id {piece.id}",
        ]
    )
    text = esc(piece.text).replace("\n", '<i class="nl">↵</i>\n')
    return f'<span class="t {kind}" title="{about}">{text}</span>'


# --- lengths ---


def lengths(
    all_lengths: Sequence[int], max_length: int, answer_starts: Sequence[int] | None = None, bins: int = 40
) -> str:
    """A histogram of the rows' tokens with the max-length line in it; the slider under it recounts at once.

    `answer_starts`: index of each row's first trained token, beyond its length where it trains none.
    """
    if not all_lengths:
        return ""
    longest = max(all_lengths)
    end = _round_up(longest if max_length > 3 * longest else max(longest, max_length))
    width = end / bins
    heights = Counter(min(int(length / width), bins - 1) for length in all_lengths)
    top = max(heights.values())
    bars = "".join(
        f'<rect x="{1000 * n / bins + 2:.1f}" y="{400 - 392 * heights[n] / top:.1f}" width="{1000 / bins - 4:.1f}" '
        f'height="{392 * heights[n] / top:.1f}" rx="3"/>'
        for n in range(bins)
        if heights[n]
    )
    cut = sum(length > max_length for length in all_lengths)
    # a row that trains nothing anyway loses nothing
    trained = zip(answer_starts or [0] * len(all_lengths), all_lengths, strict=True)
    starts = [start for start, length in trained if start < length]
    lost = sum(start >= max_length for start in starts)
    at = min(max_length, end)
    counts = json.dumps(_counted(all_lengths), separators=(",", ":"))
    begun = json.dumps(_counted(starts), separators=(",", ":"))
    ordered = sorted(all_lengths)
    middle, most = ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return (
        f'<section class="card lengths" data-counts="{esc(counts)}" data-starts="{esc(begun)}" '
        f'data-end="{end}" data-rows="{len(ordered)}">'
        '<h2 class="card-title">How long the rows are</h2>'
        f'<p class="sub num">Half are under {many(middle, "token")}, 95% under {count(most)}, '
        f"the longest has {count(longest)}.</p>"
        f'<div class="histogram" style="--at:{100 * at / end:.2f}%"><svg viewBox="0 0 1000 400" '
        f'preserveAspectRatio="none" role="img" aria-label="Histogram of tokens per row">{bars}</svg>'
        '<i class="over"></i><i class="line"></i></div>'
        f'<input type="range" min="0" max="{end}" step="8" value="{at}" aria-label="Longest row, in tokens">'
        f'<div class="axis num"><span>0</span><span>{count(end)} tokens</span></div>'
        f'<p class="cut-says num" role="status"><b data-length>{count(max_length)}</b> tokens are read of a row: '
        f"<span data-cut>{cut_words(cut, len(ordered), lost)}</span></p></section>"
    )


def cut_words(cut: int, rows: int, lost: int = 0) -> str:
    """
    >>> cut_words(0, 240), cut_words(3, 240, 1)
    ('no row is cut.', '3 rows cut (1.2%). 1 row loses the whole answer.')
    """
    losing = f" {many(lost, 'row')} {'loses' if lost == 1 else 'lose'} the whole answer." if lost else ""
    return f"{many(cut, 'row')} cut ({percent(cut / rows, 1)}).{losing}" if cut else "no row is cut."


def _counted(all_lengths: Sequence[int]) -> list[list[int]]:
    """[length, rows] pairs, at most SHOWN_LENGTHS of them; rounded up where there are more, so no cut is hidden."""
    counted = Counter(all_lengths)
    step = 1
    while len(counted) > SHOWN_LENGTHS:
        step *= 2
        counted = Counter()
        for length in all_lengths:
            counted[-(-length // step) * step] += 1
    return [[length, rows] for length, rows in sorted(counted.items())]


def _round_up(number: int) -> int:
    """A round end for an axis.

    >>> _round_up(93), _round_up(1300)
    (96, 1408)
    """
    unit = 8 if number < 256 else 32 if number < 1024 else 128
    return max(unit, -(-number // unit) * unit)


def length_set(length: int) -> str:
    return f"Rows are read up to {many(length, 'token')}"
