"""What to say about rows once they are counted in tokens: cut, untrained, refused, without a learned end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..recipe import Recipe, Suggestion
from .findings import Finding, Seen, count_rows, listing, seen_at, with_fix
from .measure import Measures

if TYPE_CHECKING:
    from ..render import ChatTokenizer
    from .prepared import Prepared

TOO_MANY = 0.3  # share of rows that train nothing from which something larger is wrong


def length_findings(prepared: Prepared, measures: Measures, tokenizer: ChatTokenizer, recipe: Recipe) -> list[Finding]:
    """What there is to say about lengths, the gravest first."""
    found = [
        _refused(prepared, measures, recipe),
        _nothing_trained(prepared, measures, recipe),
        _cut(prepared, measures, tokenizer, recipe),
        _stop(prepared, measures, recipe),
        _left_out(prepared, measures),
        _special(prepared, measures, recipe),
        _beyond_model(tokenizer, recipe, measures),
    ]
    return [finding for finding in found if finding is not None]


def _seen(prepared: Prepared, numbers: np.ndarray) -> Seen:
    places = {int(number): prepared.place(int(number)) for number in np.sort(numbers)[:20]}
    return seen_at(places, np.sort(numbers))


def _refused(prepared: Prepared, measures: Measures, recipe: Recipe) -> Finding | None:
    if not measures.refused:
        return None
    seen = _seen(prepared, np.array(list(measures.refused)))
    error = measures.refused[min(measures.refused)]
    return Finding(
        "template-refuses",
        "error",
        f"{count_rows(seen.count)} cannot be rendered: {seen.words()}. {error.problem}",
        seen.rows,
        seen.count,
        error.fix,
        with_fix(recipe, "drop-refused", "Leave them out") if seen.count < len(measures.numbers) else None,
        seen.lines,
        files=seen.files,
    )


def _nothing_trained(prepared: Prepared, measures: Measures, recipe: Recipe) -> Finding | None:
    """Rows without a trained token for another reason than max_length (weights of 0, for instance)."""
    which = (measures.trained == 0) & ~np.isin(measures.numbers, list(measures.refused))
    if not which.any():
        return None
    seen = _seen(prepared, measures.numbers[which])
    return Finding(
        "trains-nothing",
        "error" if seen.count > TOO_MANY * len(which) else "warning",
        f"{count_rows(seen.count)} train no token: every answer has weight 0 or is empty: {seen.words()}.",
        seen.rows,
        seen.count,
        "Give at least one answer of each row a weight of 1, or leave these rows out.",
        with_fix(recipe, "drop-nothing-trained", "Leave them out"),
        seen.lines,
        files=seen.files,
    )


def _cut(prepared: Prepared, measures: Measures, tokenizer: ChatTokenizer, recipe: Recipe) -> Finding | None:
    limit = recipe.max_length
    is_cut = measures.lengths > limit
    if not is_cut.any():
        return None
    is_lost = is_cut & (measures.answer_starts >= limit) & (measures.trained > 0)
    hurts = is_cut & (measures.answer_ends > limit)
    seen = _seen(prepared, measures.numbers[is_cut])
    longest = int(measures.lengths.max())
    lost = int(is_lost.sum())
    words = f" {count_rows(lost)} {'loses' if lost == 1 else 'lose'} the whole answer." if lost else ""
    about = "about " if measures.estimated else ""
    share = f"the longest has {about}{longest:,} tokens" if seen.count > 1 else f"{about}{longest:,} tokens"
    fits = longest <= tokenizer.model_max_length and seen.count > 1
    room = min(int(2 ** np.ceil(np.log2(longest))), tokenizer.model_max_length)
    return Finding(
        "too-long",
        "error" if lost > TOO_MANY * len(is_cut) else "warning" if hurts.any() else "note",
        f"{count_rows(seen.count)} {'is' if seen.count == 1 else 'are'} too long: {seen.words()} ({share}; max_length "
        f"is {limit:,}, the model reads {tokenizer.model_max_length:,}). The end is cut off.{words}",
        seen.rows,
        seen.count,
        f"Raise max_length to {room:,} (more memory), or leave these rows out." if fits else
        "Leave these rows out, or shorten them.",
        Suggestion(f"max_length {room:,}", {"max_length": room}) if fits else
        with_fix(recipe, "drop-too-long", "Leave them out"),
        seen.lines, files=seen.files,
    )  # fmt: skip


def _stop(prepared: Prepared, measures: Measures, recipe: Recipe) -> Finding | None:
    uncut = (measures.lengths <= recipe.max_length) & (measures.trained > 0)
    which = uncut & ~measures.stops
    if not which.any():
        return None
    seen = _seen(prepared, measures.numbers[which])
    return Finding(
        "stop-not-trained",
        "error" if which.sum() == uncut.sum() else "warning",
        f"In {count_rows(seen.count)} the token that ends an answer is not trained: {seen.words()}. "
        "The model would not learn to stop.",
        seen.rows,
        seen.count,
        "Give the last answer of each row a weight of 1.",
        None,
        seen.lines,
        files=seen.files,
    )


def _left_out(prepared: Prepared, measures: Measures) -> Finding | None:
    if not measures.left_out:
        return None
    seen = _seen(prepared, np.array(list(measures.left_out)))
    return Finding(
        "answer-left-out",
        "warning",
        f"In {count_rows(seen.count)} the model's chat template leaves out a part of an answer (thinking, or words "
        f"beside a tool call): {seen.words()}. That part is not learned.",
        seen.rows,
        seen.count,
        "Go on if that is meant, or choose a model whose template writes it.",
        None,
        seen.lines,
        files=seen.files,
    )


def _special(prepared: Prepared, measures: Measures, recipe: Recipe) -> Finding | None:
    if not measures.special:
        return None
    seen = _seen(prepared, np.array(list(measures.special)))
    tokens = sorted({token for some in measures.special.values() for token in some})
    return Finding(
        "special-tokens",
        "warning",
        f"{count_rows(seen.count)} {'has' if seen.count == 1 else 'have'} control tokens of the model written in the "
        f"text ({listing(tokens, 6)}): {seen.words()}. They are read as plain text, so they open and close nothing.",
        seen.rows,
        seen.count,
        "Take them out of the text: the chat template adds its own. Or leave these rows out.",
        with_fix(recipe, "drop-special-tokens", "Leave them out"),
        seen.lines,
        files=seen.files,
    )


def _beyond_model(tokenizer: ChatTokenizer, recipe: Recipe, measures: Measures) -> Finding | None:
    """Only where it matters: some row is longer than the model reads, and max_length lets it through."""
    room = tokenizer.model_max_length
    if recipe.max_length <= room or not len(measures.lengths) or measures.lengths.max() <= room:
        return None
    return Finding(
        "beyond-model",
        "warning",
        f"max_length is {recipe.max_length:,} tokens, but this model reads {room:,}, and some rows are longer.",
        fix=f"Set max_length to {room:,}.",
        suggestion=Suggestion(f"max_length {room:,}", {"max_length": room}),
    )
