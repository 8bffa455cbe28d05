"""Which rows are asked, how answers are judged, and who competes. No torch."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..data.rows import open_rows
from ..errors import FinetuneError
from ..recipe import Recipe
from ..render import ChatTokenizer, render_prompt
from .metrics import METRICS, Metric, choose_metric
from .rivals import (
    Lookup,
    Messages,
    Rival,
    Row,
    can_be_asked,
    choose_examples,
    draw_pool,
    number_word,
    question,
    reference,
    suggested_system_prompt,
    with_examples,
    with_system,
    without_system,
)

RIVALS = ("base", "tuned", "examples", "retrieved", "system", "best", "last")  # in the order in which they are asked
SPARE_TOKENS = 16  # beyond the longest reference, where only an exact answer counts


@dataclass(frozen=True)
class Contest:
    """What all rivals share: the rows, how they are judged, and how long an answer may be."""

    rows: list[Row]
    references: list[str]
    metric: Metric
    max_new_tokens: int
    split: str
    available: int  # rows that could have been used
    note: str = ""


def held_out(data: Path) -> tuple[str, Sequence[Row]]:
    """The test rows of a run; its validation rows where there are none; ("none", no rows) without either."""
    for split in ("test", "validation"):
        if rows := open_rows(data / f"{split}.jsonl"):
            return split, rows
    return "none", []


def prepare_contest(
    rows: Sequence[Row],
    split: str,
    recipe: Recipe,
    tokenizer: ChatTokenizer,
    *,
    max_rows: int | None = None,
    metric: str | None = None,
    known: Sequence[Row] = (),
) -> Contest:
    """Which rows are asked, and how answers are judged. Rows that no model can read whole are left out, and counted.

    `known`: further rows whose answers help to see what kind of answers these are (a few test rows look all different).
    """
    if metric is not None and metric not in METRICS:
        raise FinetuneError(f"There is no metric {metric!r}.", f"Metrics: {', '.join(METRICS)}.", code="bad-metric")
    places = range(len(rows))
    asked = [place for place in places if can_be_asked(rows[place])]
    if not asked or metric == "loss":
        chosen = sample(list(places), max_rows or recipe.evaluate_rows, recipe.seed)
        found = [rows[place] for place in chosen]
        return Contest(found, [""] * len(found), METRICS["loss"], 0, split, len(rows), _note(split, 0, recipe))
    fits = [place for place in asked if _can_be_read(question(rows[place]), tokenizer, rows[place])]
    chosen = sample(fits, max_rows or recipe.evaluate_rows, recipe.seed)
    found = [rows[place] for place in chosen]
    references = [reference(row) for row in found]
    kind = metric or choose_metric([reference(row) for row in (*found, *filter(can_be_asked, known))])
    lengths = [len(code.ids) for code in tokenizer.backend.encode_batch(references)]
    longest = max(lengths, default=0)
    useful = longest + SPARE_TOKENS if kind in ("label", "json") else 2 * longest
    most = min(recipe.max_new_tokens, max(useful, SPARE_TOKENS))
    return Contest(
        rows=found,
        references=references,
        metric=METRICS[kind],
        max_new_tokens=most,
        split=split,
        available=len(fits),
        note=_note(split, len(rows) - len(fits), recipe, sum(length > most for length in lengths), most),
    )


def _can_be_read(messages: Messages, tokenizer: ChatTokenizer, row: Row, answer: int = 2) -> bool:
    """Whether the template takes it, and it leaves room for an answer of so many tokens."""
    try:
        return len(prompt_ids(messages, tokenizer, row)) + answer < tokenizer.model_max_length
    except FinetuneError:
        return False


def sample(places: list[int], size: int, seed: int) -> list[int]:
    """All places, or a seeded sample of them in their order."""
    return places if len(places) <= size else sorted(random.Random(seed).sample(places, size))


def enter_rivals(
    names: Iterable[str],
    contest: Contest,
    recipe: Recipe,
    train: Callable[[], Sequence[Row]],
    tokenizer: ChatTokenizer,
) -> list[Rival]:
    """The rivals that make sense for these rows, in the order of RIVALS."""
    unknown = [name for name in names if name not in RIVALS]
    if unknown:
        raise FinetuneError(f"There is no rival {unknown[0]!r}.", f"Rivals: {', '.join(RIVALS)}.", code="no-rival")
    entered = [
        Rival("base", "Base model", "the untuned model", "base", question),
        Rival("tuned", "Tuned model", "tuning", "tuned", question),
    ]
    if contest.metric.kind != "loss" and set(names) & {"examples", "retrieved", "system"}:
        pool = draw_pool(train(), recipe.seed)
        entered += _with_examples(contest, recipe, pool, tokenizer, names)
        entered += _with_system(contest, recipe, pool, tokenizer)
    return [rival for name in RIVALS for rival in entered if rival.name == name and name in names]


def _with_examples(
    contest: Contest, recipe: Recipe, pool: Sequence[Row], tokenizer: ChatTokenizer, names: Iterable[str]
) -> list[Rival]:
    found = []

    def fits(row: Row, examples: Sequence[Row]) -> bool:
        return _can_be_read(with_examples(question(row), examples), tokenizer, row, contest.max_new_tokens)

    examples = choose_examples(pool, recipe.few_shot_examples, recipe.seed) if "examples" in names else []
    widest = max(contest.rows, key=lambda row: len(prompt_ids(question(row), tokenizer, row)), default=None)
    while examples and widest is not None and not fits(widest, examples):
        examples = examples[:-1]
    if examples:
        k = len(examples)
        fewer = f"Only {k} of {recipe.few_shot_examples} fit into the context." if k < recipe.few_shot_examples else ""
        title = f"Base with {k} example{'s' * (k > 1)}"
        phrase = f"{number_word(k)} example{'s' * (k > 1)} in the prompt"
        found.append(
            Rival("examples", title, phrase, "base", lambda row: with_examples(question(row), examples), fewer)
        )
    k = min(recipe.few_shot_examples, len(pool))
    if "retrieved" in names and k > 0:
        lookup = Lookup(pool)

        def similar(row: Row) -> Messages:
            rows = lookup.similar(row, k)
            while rows and not fits(row, rows):
                rows = rows[1:]
            return with_examples(question(row), rows)

        title = f"Base with {k} similar row{'s' * (k > 1)}"
        phrase = f"{number_word(k)} similar row{'s' * (k > 1)} in the prompt"
        found.append(Rival("retrieved", title, phrase, "base", similar))
    return found


def _with_system(contest: Contest, recipe: Recipe, pool: Sequence[Row], tokenizer: ChatTokenizer) -> list[Rival]:
    own = recipe.rival_system_prompt
    system = own or suggested_system_prompt([reference(row) for row in pool[:5000]], contest.metric.kind)

    def messages(row: Row) -> Messages:
        return with_system(question(row), system or "", replace=bool(own))

    if not system or not all(_can_be_read(messages(row), tokenizer, row) for row in contest.rows):
        return []
    note = ("Your prompt: " if own else "Written from the training answers: ") + system
    return [
        Rival(
            "system", "Base with a better prompt", "a better prompt", "base", messages, note,
        )
    ]  # fmt: skip


def prompt_ids(messages: Messages, tokenizer: ChatTokenizer, row: Row) -> list[int]:
    """A conversation as the model reads it; the system turn folded into the first question where there is none."""
    try:
        return render_prompt(messages, tokenizer, row.get("tools"))
    except FinetuneError as error:
        if error.code != "template-refused" or messages[0].get("role") != "system":
            raise
        return render_prompt(without_system(messages), tokenizer, row.get("tools"))


def _note(split: str, left_out: int, recipe: Recipe, too_long: int = 0, most: int = 0) -> str:
    notes = []
    if split == "validation":
        chosen = (
            "Training looks at them to choose when to stop, which flatters the tuned model a little."
            if recipe.early_stopping
            else "If settings were chosen by their loss, that flatters the tuned model a little."
        )
        notes.append(f"There were no test rows, so the validation rows were used. {chosen}")
    if left_out:
        notes.append(
            f"{left_out} {'row was' if left_out == 1 else 'rows were'} left out: no question and answer, refused by "
            "the chat template, or too long to read."
        )
    if too_long:
        notes.append(
            f"{too_long} of the expected answers {'is' if too_long == 1 else 'are'} longer than the {most} tokens "
            "after which every answer was cut off; raise the longest answer (max_new_tokens) to compare whole ones."
        )
    return " ".join(notes)
