"""Look at rows as the trainer will read them, say what is wrong, and what would fix it."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from .data import Prepared, personal, readiness
from .data.duplicates import row_text
from .data.findings import Finding, Tally, count_rows, verdict, with_fix
from .data.languages import language_of
from .data.lengths import length_findings
from .data.measure import Measures, measure, misfits
from .data.problems import check_fixes
from .errors import FinetuneError
from .recipe import Recipe, Suggestion

if TYPE_CHECKING:
    from .render import ChatTokenizer

__all__ = ["Diagnosis", "Finding", "Suggestion", "check", "readiness"]

FEW_ROWS, SMALL_SET = 10, 100
SAMPLED_LANGUAGES = 500  # rows whose language is looked at
TOLD = 1000  # rows between two words about progress
LEVEL_ORDER = {"error": 0, "warning": 1, "note": 2}


@dataclass(frozen=True)
class Diagnosis:
    """What a check found."""

    verdict: str  # ready, warnings or blocked
    shape: str
    rows: int  # read
    train_rows: int
    validation_rows: int
    test_rows: int
    dropped: dict[str, int]
    lengths: dict[str, int]  # tokens of a row: p50, p95, max, mean
    trained_tokens: int  # in one epoch, within max_length
    stop_token_trained: bool
    findings: tuple[Finding, ...]
    readiness: dict[str, tuple[str, str]]
    max_length: int
    token_lengths: array = field(repr=False, default_factory=lambda: array("q"))  # train, validation, test, uncut
    answer_starts: array = field(repr=False, default_factory=lambda: array("q"))  # index of the first trained token
    answer_ends: array = field(repr=False, default_factory=lambda: array("q"))  # index behind the last one
    measures: Measures | None = field(repr=False, default=None)
    concerned: dict[str, np.ndarray] = field(repr=False, default_factory=dict)  # repair → numbers of rows it is about

    def split_lengths(self, max_length: int) -> tuple[list[int], list[int]]:
        """Tokens of the training rows, and of the validation rows; 0 where the cut leaves nothing to learn."""
        lengths, starts = np.array(self.token_lengths), np.array(self.answer_starts)
        if len(starts) == len(lengths):
            lengths = np.where(starts < max_length, lengths, 0)
        train, validation = self.train_rows, self.validation_rows
        return lengths[:train].tolist(), lengths[train : train + validation].tolist()

    @property
    def shared_tokens(self) -> int:
        """How many tokens all rows that train something begin with in common; none of these is trained."""
        return len(self.measures.beginning or ()) if self.measures else 0

    def as_dict(self) -> dict[str, Any]:
        """What `check --json` prints."""
        return {
            "verdict": self.verdict,
            "shape": self.shape,
            "rows": self.rows,
            "train_rows": self.train_rows,
            "validation_rows": self.validation_rows,
            "test_rows": self.test_rows,
            "dropped": self.dropped,
            "lengths": self.lengths,
            "trained_tokens": self.trained_tokens,
            "stop_token_trained": self.stop_token_trained,
            "readiness": {objective: list(answer) for objective, answer in self.readiness.items()},
            "findings": [finding.as_dict() for finding in self.findings],
        }


def check(
    prepared: Prepared,
    tokenizer: ChatTokenizer,
    recipe: Recipe,
    *,
    on_progress: Callable[[float | None, str], None] | None = None,
) -> Diagnosis:
    """Render every row as the trainer does and gather what there is to say. Raises only what `on_progress` raises."""
    check_fixes(recipe)
    tell = on_progress or (lambda fraction, words: None)
    reader = _Reader(prepared, tokenizer)
    measures = prepared.measures
    if measures is None or measures.max_length != recipe.max_length:
        measures = measure(
            prepared.splits(), tokenizer, recipe.max_length, lambda part: tell(part, "counting tokens"), reader.look
        )
    else:
        everything = chain.from_iterable(
            zip(rows.numbers.tolist(), rows, strict=True) for rows in prepared.splits().values()
        )
        for done, (number, row) in enumerate(everything):
            reader.look(number, row)
            if done % TOLD == 0:
                tell(done / len(measures.numbers), "reading")
    sizes = {name: len(rows) for name, rows in prepared.splits().items()}
    findings = [
        *prepared.findings,
        *size_findings(prepared, sizes),
        *length_findings(prepared, measures, tokenizer, recipe),
        *reader.findings(recipe),
    ]
    findings.sort(key=lambda finding: LEVEL_ORDER[finding.level])
    in_train = slice(0, sizes["train"])
    uncut = (measures.lengths <= recipe.max_length) & (measures.trained > 0)
    tell(1.0, "checked")
    return Diagnosis(
        verdict=verdict(findings, recipe.accept_warnings),
        shape=prepared.shape,
        rows=prepared.rows,
        train_rows=sizes["train"],
        validation_rows=sizes["validation"],
        test_rows=sizes["test"],
        dropped=dict(prepared.dropped),
        lengths=describe(measures.lengths),
        trained_tokens=int(measures.trained_kept[in_train].sum()),
        stop_token_trained=bool(uncut.any() and measures.stops[uncut].all()),
        findings=tuple(findings),
        readiness=readiness(prepared),
        max_length=recipe.max_length,
        token_lengths=array("q", measures.lengths.tobytes()),
        answer_starts=array("q", measures.answer_starts.tobytes()),
        answer_ends=array("q", measures.answer_ends.tobytes()),
        measures=measures,
        concerned={fix: np.sort(measures.numbers[which]) for fix, which in misfits(measures).items()}
        | {"mask-personal-data": np.sort(np.array(reader.personal, dtype=np.int64))},
    )


def describe(lengths: np.ndarray) -> dict[str, int]:
    """
    >>> describe(np.array([1, 2, 3, 10]))
    {'p50': 2, 'p95': 10, 'max': 10, 'mean': 4}
    """
    if not len(lengths):
        return {"p50": 0, "p95": 0, "max": 0, "mean": 0}
    p50, p95 = (int(np.percentile(lengths, share, method="higher" if share > 50 else "lower")) for share in (50, 95))
    return {"p50": p50, "p95": p95, "max": int(lengths.max()), "mean": int(lengths.mean())}


def size_findings(prepared: Prepared, sizes: dict[str, int]) -> list[Finding]:
    """Too few rows to learn from, to watch with, or to prove anything with."""
    usable = sum(sizes.values())
    if usable == 0:
        if any(finding.level == "error" for finding in prepared.findings):
            return []  # said by what was read
        if prepared.dropped.get("not-desired"):
            return [Finding("nothing-to-learn", "error", "No answer is marked good, so there is nothing to learn.",
                            fix="Choose another column for the verdict, or none.")]  # fmt: skip
        return [
            Finding(
                "nothing-to-learn",
                "error",
                f"None of the {count_rows(prepared.rows)} has a user message and an assistant answer to learn from.",
                fix='Each row needs both, for example {"prompt": "2 + 2?", "completion": "4"}.',
            )
        ]
    if not sizes["train"]:
        return [Finding("nothing-to-learn", "error", "No rows are left to learn from.", fix="Leave fewer rows out.")]
    if usable < FEW_ROWS:
        return [
            Finding(
                "too-few-rows",
                "warning",
                f"There {'is' if usable == 1 else 'are'} only {count_rows(usable)}: too few to learn from, and no "
                f"validation or test rows can be set aside.",
                count=usable,
                fix="Add rows: some tens at least, better a few hundred.",
            )
        ]
    if usable < SMALL_SET:
        return [
            Finding(
                "small-set",
                "note",
                f"{count_rows(usable)} are a small set ({sizes['test']} of them to test with).",
                count=usable,
                fix="A few hundred rows teach more, and prove more.",
            )
        ]
    return []


TEMPLATE_WARNINGS = {
    "prompt-differs": (
        "When this model is asked, its chat template begins every answer with `{opening}`; {n} to learn from have no "
        "such beginning: {where}. It would be asked in another way than it learned, and may think before it answers.",
        "Go on and look at its answers in Chat, or choose a model that does not think first (an Instruct model).",
    ),
    "tools-not-written": (
        "{n} list tools, and the chat template of this model does not write them: {where}. It would learn to call "
        "tools that it was never shown.",
        "Choose a model whose template knows tools, such as a Qwen or Llama 3 Instruct model.",
    ),
}


def _prompt_opens(tokenizer: ChatTokenizer) -> str:
    try:
        return tokenizer.template.prompt_opens
    except FinetuneError:  # a template that refuses is said for each row
        return ""


def _says_first(row: dict[str, Any], opening: str) -> bool:
    answers = [message for message in row["messages"] if message["role"] == "assistant" and message.get("weight") != 0]
    return all(answer["content"].lstrip().startswith(opening) for answer in answers)


class _Reader:
    """Looks into the text of every row as it passes."""

    def __init__(self, prepared: Prepared, tokenizer: ChatTokenizer):
        self.prepared = prepared
        self.template = tokenizer.template
        self.opening = _prompt_opens(tokenizer)
        self.tally = Tally()
        self.personal = array("q")  # numbers of rows with personal data or keys
        self.languages: dict[str, int] = {}
        self.answers: dict[str, int] = {}
        self.seen = 0
        self.step = max(1, sum(len(rows) for rows in prepared.splits().values()) // SAMPLED_LANGUAGES)

    def look(self, number: int, row: dict[str, Any]) -> None:
        text = row_text(row)
        said = list(personal.texts_of(row))
        has_secrets = any(map(personal.find_secrets, said))
        kinds = {kind for each in said for kind, *_ in personal.find_personal(each)}
        if has_secrets:
            self.tally.add("secrets", self.prepared.place(number))
        if kinds:
            self.tally.add("personal-data", self.prepared.place(number), " and ".join(sorted(kinds)))
        if has_secrets or kinds:
            self.personal.append(number)
        if self.opening and "messages" in row and not _says_first(row, self.opening):
            self.tally.add("prompt-differs", self.prepared.place(number))
        if row.get("tools") and "tools" not in self.template.supports:
            self.tally.add("tools-not-written", self.prepared.place(number))
        if self.seen % self.step == 0 and (language := language_of(text)):
            self.languages[language] = self.languages.get(language, 0) + 1
        self.seen += 1

    def findings(self, recipe: Recipe) -> list[Finding]:
        found = []
        for code, (says, fix) in TEMPLATE_WARNINGS.items():
            if seen := self.tally.get(code):
                words = {"n": count_rows(seen.count), "where": seen.words(), "opening": self.opening}
                says = says.format(**words)
                found.append(
                    Finding(code, "warning", says, seen.rows, seen.count, fix, None, seen.lines, files=seen.files)
                )
        if seen := self.tally.get("secrets"):
            found.append(
                Finding(
                    "secrets",
                    "warning",
                    f"{count_rows(seen.count)} {_seem(seen.count)} to hold a password-like key or token: "
                    f"{seen.words()}. A model can repeat what it learned to anybody.",
                    seen.rows,
                    seen.count,
                    "Make the key invalid where it came from, and put [key] in its place.",
                    with_fix(recipe, "mask-personal-data", "Put [key] in its place"),
                    seen.lines,
                    files=seen.files,
                )
            )
        if seen := self.tally.get("personal-data"):
            kinds = sorted({kind for detail in seen.details for kind in detail.split(" and ")})
            found.append(
                Finding(
                    "personal-data",
                    "note",
                    f"{count_rows(seen.count)} {_seem(seen.count)} to hold personal data ({', '.join(kinds)}): "
                    f"{seen.words()}.",
                    seen.rows,
                    seen.count,
                    "May the model know and repeat it? If not, put a placeholder in its place.",
                    with_fix(recipe, "mask-personal-data", "Put placeholders in their place"),
                    seen.lines,
                    files=seen.files,
                )
            )
        total = sum(self.languages.values())
        shares = {language: count / total for language, count in self.languages.items() if count >= 0.05 * total}
        if len(shares) > 1:
            words = ", ".join(f"{language} {share:.0%}" for language, share in shares.items())
            found.append(
                Finding(
                    "languages",
                    "note",
                    f"The rows are in several languages ({words}, of those that can be told).",
                    fix="Fine if the model is to know them all.",
                )
            )
        return found


def _seem(count: int) -> str:
    return "seems" if count == 1 else "seem"
