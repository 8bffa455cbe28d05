"""What to say about a source as a whole: its encoding, its columns, its shapes."""

from __future__ import annotations

from typing import Any

from ..recipe import Recipe, Suggestion
from .columns import SHAPES
from .filenames import SUFFIXES
from .findings import Finding, count_rows, listing, place_words, shorten
from .intake import Intake
from .source import Source

KINDS = {  # of a file, in words, and the suffixes that say so
    "excel": ("an Excel workbook", (".xlsx", ".xlsm", ".xls", ".ods")),
    "parquet": ("a Parquet file", (".parquet", ".pq")),
    "arrow": ("an Arrow file", (".arrow", ".feather")),
    "csv": ("a table (CSV)", (".csv", ".tsv", ".tab", ".txt", ".text")),
    "jsonl": ("a file of JSON lines", (".jsonl", ".ndjson", ".json")),
    "json": ("a JSON file", (".jsonl", ".ndjson", ".json")),
}
ASKED = {"prompt": "the question", "completion": "the answer"}
EXAMPLE = (
    '{"messages": [{"role": "user", "content": "Is it open today?"}, {"role": "assistant", "content": "Yes, to 6."}]}'
)


def source_findings(source: Source, intake: Intake, recipe: Recipe) -> list[Finding]:
    """What there is to say about where rows came from, in the order in which a person would ask."""
    found = [
        _missing_columns(intake),
        _no_rows(intake),
        _guessed(intake),
        _no_text(intake, recipe),
        _mixed(intake),
        _plain_text(source, intake),
        _preferences(intake),
        _header(source, intake, recipe),
        _titles(source, recipe),
        _renamed(source),
        _encoding(source),
        _sheets(source),
        _documents(source),
        _ignored(intake),
    ]
    return [finding for finding in found if finding is not None]


def _documents(source: Source) -> Finding | None:
    if not source.documents:
        return None
    one = len(source.documents) == 1
    return Finding(
        "documents-left-out",
        "note",
        f"{listing(source.documents)} {'is' if one else 'are'} about the data and {'was' if one else 'were'} not read "
        "as rows.",
        fix=f"Choose {'it' if one else 'one'} by itself, or give it another name, if it is to be learned.",
    )


def _missing_columns(intake: Intake) -> Finding | None:
    if not intake.missing:
        return None
    intake.tally.pop("unknown-shape", None)  # said better here
    return Finding(
        "no-such-column",
        "error",
        f"There is no column {listing(map(repr, intake.missing))}; the columns are {_columns(intake)}.",
        fix="Choose from these under “Columns” (or in the template, between braces).",
    )


def _no_rows(intake: Intake) -> Finding | None:
    if intake.total:
        return None
    return Finding(
        "no-rows",
        "error",
        f"There are no rows{f', only the columns {_columns(intake)}' if intake.columns else ''}.",
        fix="Add rows below the first line, or choose another file.",
    )


def _guessed(intake: Intake) -> Finding | None:
    if intake.guess is None:
        return None
    roles = dict(intake.guess.roles)
    words = " and ".join(f"“{column}” {ASKED.get(role, f'the {role}')}" for role, column in roles.items())
    return Finding(
        "columns-guessed",
        "error" if intake.is_weak_guess else "warning",
        f"Is {words}? Fijn guessed so from the columns ({_columns(intake)}) and what is in them; "
        f"all {count_rows(intake.total)} are kept.",
        count=intake.shapes.get(intake.guess.shape, 0),
        fix="Say whether that is right, or choose other columns.",
        suggestion=Suggestion("That is right", {"columns": roles}),
    )


def _no_text(intake: Intake, recipe: Recipe) -> Finding | None:
    seen = intake.tally.get("unknown-shape")
    if intake.shapes or seen is None or not intake.columns or intake.missing:
        return None
    del intake.tally["unknown-shape"]  # said better here
    missing = [words for role, words in ASKED.items() if role not in recipe.columns]
    if recipe.columns and missing:
        return Finding(
            "no-columns",
            "error",
            f"It is not said yet which column is {' and which is '.join(missing)}. There are {_columns(intake)}.",
            seen.rows,
            seen.count,
            "Choose it under “Columns”.",
        )
    return Finding(
        "no-columns",
        "error",
        f"None of the columns can be a prompt or an answer: {_columns(intake, True)}.",
        seen.rows,
        seen.count,
        f"Choose a file with text, for example rows like {EXAMPLE}",
    )


def _mixed(intake: Intake) -> Finding | None:
    if len(intake.shapes) < 2:
        return None
    kinds = listing(
        f"{count:,} are {SHAPES.get(shape, shape)} (first: {place_words([intake.first_places[shape]], 1)})"
        for shape, count in intake.shapes.items()
    )
    return Finding(
        "mixed-shapes",
        "warning",
        f"The rows have {len(intake.shapes)} shapes: {kinds}. "
        + (
            "Plain text stays text, which the model would learn to go on with."
            if "text" in intake.shapes
            else f"All {count_rows(sum(intake.shapes.values()))} were turned into chat messages."
        ),
        count=intake.total,
        fix="Look at a row of each shape below; give one shape only if they do not belong together.",
    )


def _plain_text(source: Source, intake: Intake) -> Finding | None:
    if set(intake.shapes) != {"text"}:
        return None
    if intake.answers and intake.mapping:
        text, one = intake.mapping.roles["text"], intake.answers[0]
        return Finding(
            "plain-text",
            "warning",
            f"Only {text!r} is read, as running text to go on with. {listing(map(repr, intake.answers))} "
            f"{'is' if len(intake.answers) == 1 else 'are'} not used, so the model would not learn to answer.",
            count=intake.shapes["text"],
            fix=f"Is {one!r} what it should answer? Or choose another column under “Columns”.",
            suggestion=Suggestion(f"{one} is the answer", {"columns": {"prompt": text, "completion": one}}),
        )
    is_prose = any(file.kind == "text" for file in source.files)
    return Finding(
        "plain-text",
        "warning" if is_prose else "note",
        "These are no prompts with answers but running text: the model would learn to go on writing such text "
        "(continued pre-training), not to answer.",
        count=intake.shapes["text"],
        fix=f"For answers, give rows like this example, one a line in a .jsonl file: {EXAMPLE}",
    )


def _preferences(intake: Intake) -> Finding | None:
    if "preference" in intake.shapes:
        return Finding(
            "preference-pairs",
            "note",
            f"{count_rows(intake.shapes['preference'])} are preference pairs: the chosen answer is learned, the "
            "rejected one is not used.",
            count=intake.shapes["preference"],
        )
    if "kto" in intake.shapes:
        return Finding(
            "kto-rows",
            "warning" if intake.dropped.get("not-desired") else "note",
            f"Of {count_rows(intake.shapes['kto'])} with a verdict, those marked good are learned; "
            f"{intake.dropped.get('not-desired', 0):,} marked bad are left out.",
            count=intake.dropped.get("not-desired", 0),
            fix="Go on if the good answers alone are what you want to teach.",
        )
    return None


def _header(source: Source, intake: Intake, recipe: Recipe) -> Finding | None:
    if recipe.columns or not any(file.has_header is False for file in source.files):
        return None
    return Finding(
        "no-header",
        "note",
        f"The first row looks like data and not like names of columns, so it is kept as a row "
        f"({count_rows(intake.total)} in all) and the columns are called {_columns(intake)}.",
        fix="If it does hold the names, say so.",
        suggestion=_first_row(recipe, "header", "The first row is a header"),
    )


def _titles(source: Source, recipe: Recipe) -> Finding | None:
    """Rows that are no rows: said, because something was left out."""
    above = [title for file in source.files for title in file.above]
    if not above:
        return None
    return Finding(
        "titles",
        "note",
        f"Above the names of the columns stands {listing([f'“{shorten(title, 60)}”' for title in above])}; "
        "it is taken for a title and is no row.",
        fix="If it is a row, say so.",
        suggestion=_first_row(recipe, "data", "The first row is data"),
    )


def _first_row(recipe: Recipe, kind: str, says: str) -> Suggestion:
    """What the first row is, instead of what was said of it before."""
    others = [fix for fix in recipe.fixes if not fix.startswith("first-row-is-")]
    return Suggestion(says, {"fixes": [*others, f"first-row-is-{kind}"]})


def _renamed(source: Source) -> Finding | None:
    """A file that is something else than its name says."""
    for file in source.files:
        name = file.name.casefold().removesuffix(".gz").removesuffix(".zst")
        kind, suffixes = KINDS.get(file.kind, ("", ()))
        if kind and name.endswith(SUFFIXES) and not name.endswith(suffixes):
            return Finding("renamed", "note", f"{file.name} is {kind} under another name; it was read as that.")
    return None


def _encoding(source: Source) -> Finding | None:
    guessed = [file for file in source.files if not file.is_encoding_certain]
    if not guessed:
        return None
    return Finding(
        "encoding-guessed",
        "note",
        f"{listing(file.name for file in guessed)}: nothing says which encoding it is in; it was read as "
        f"{guessed[0].encoding}.",
        fix="If letters with accents look wrong, save the file as UTF-8 and choose it again.",
    )


def _sheets(source: Source) -> Finding | None:
    others = [sheet for file in source.files for sheet in file.other_sheets]
    if not others:
        return None
    return Finding(
        "other-sheets",
        "note",
        f"Only the first sheet ({source.first.sheet}) is read; there is also {listing(others)}.",
        fix="Save another sheet as a file of its own to use that one.",
    )


def _ignored(intake: Intake) -> Finding | None:
    ignored = [column for column in intake.ignored if column not in intake.answers]  # those are asked about
    if not ignored:
        return None
    return Finding(
        "unused-columns",
        "note",
        f"Not used: {listing(ignored)}.",
        fix="Choose them under “Columns” if they matter.",
    )


def _columns(intake: Intake, with_types: bool = False) -> str:
    return listing((f"{name} ({kind})" if with_types else name for name, kind in intake.columns.items()), 12)


def readiness(prepared: Any) -> dict[str, tuple[str, str]]:
    """For each objective: ("ready" | "needs-mapping" | "not-fit", why).

    Objectives are those of TRL's trainers; Fijn trains sft (and on plain text continued pre-training, which is sft on
    rows of text).
    """
    shapes = {code for code, words in SHAPES.items() if words in prepared.shapes}
    chats = shapes - {"text"}
    pairs, verdicts = "preference" in shapes, "kto" in shapes
    if prepared.proposal:
        sft = ("needs-mapping", "say which column is the prompt and which the answer")
    elif chats:
        sft = ("ready", "every row has a prompt and an answer" if not pairs else "the chosen answers are learned")
    elif "text" in shapes:
        sft = ("not-fit", "running text, no prompts with answers")
    else:
        sft = ("not-fit", "no column can be a prompt or an answer")
    return {
        "sft": sft,
        "continued pre-training": ("ready", "running text") if "text" in shapes else ("not-fit", "no plain text"),
        "dpo": ("ready", "prompt, chosen, rejected") if pairs else ("not-fit", "needs a chosen and a rejected answer"),
        "kto": ("ready", "prompt, completion, good or bad") if verdicts else
               ("ready", "each pair is a good and a bad answer") if pairs else
               ("not-fit", "needs a column that says whether the answer is good"),
        "reward": ("ready", "chosen and rejected") if pairs else ("not-fit", "needs a chosen and a rejected answer"),
    }  # fmt: skip
