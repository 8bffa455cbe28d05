"""Everything that can be wrong with a row as it is read: how bad it is, the words for it, and the repairs."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import FinetuneError
from ..recipe import Recipe
from .findings import Finding, Place, Seen, Tally, count_rows, place_words, with_fix


@dataclass(frozen=True)
class Problem:
    """Words may use {n} (`15 rows`), {where} (`rows 1, 5, 9`), {lines}, {detail}, {example}, {rest}, {total}."""

    level: str
    says: str
    fix: str
    repairs: tuple[tuple[str, str], ...] = ()  # (code for recipe.fixes, the button); the first not yet tried is offered
    drops: str = ""  # the repair that leaves such rows out


PROBLEMS = {
    "broken-lines": Problem(
        "error",
        "{n} cannot be read as JSON: {lines} ({detail}). It begins: {example}",
        "Correct the file, or leave this out: {rest} stay.",
        (("skip-broken-lines", "Leave them out"),),
        "skip-broken-lines",
    ),
    "broken-json": Problem(
        "error",
        "The file breaks off or is damaged at {lines}: {detail}. There it reads: {example}",
        "Correct the file at that line, or download it again; what comes after it cannot be read.",
    ),
    "ragged-rows": Problem(
        "error",
        "{n} of the table have too many cells: {where} ({detail}). For example: {example}",
        "Put quotation marks around text that holds the delimiter, choose another delimiter under “Read the file "
        "differently”, or leave these rows out: {rest} stay.",
        (("skip-ragged-rows", "Leave them out"),),
        "skip-ragged-rows",
    ),
    "unknown-shape": Problem(
        "error",
        "{n} have no columns that Fijn knows: {where} ({detail}).",
        "Say under “Columns” which column is the prompt and which the answer, or leave these rows out: {rest} stay.",
        (("drop-unknown-shape", "Leave them out"),),
        "drop-unknown-shape",
    ),
    "missing-answers": Problem(
        "error",
        "{n} have no assistant answer, so there is nothing to learn from them: {where}.",
        "Each row needs a user message and an assistant answer. Add the answers, or leave these rows out: {rest} stay.",
        (("drop-missing-answers", "Leave them out"),),
        "drop-missing-answers",
    ),
    "empty-answers": Problem(
        "error",
        "{n} have an empty answer; the model would learn to say nothing: {where}.",
        "Fill in the answers, or leave these rows out: {rest} stay.",
        (("drop-empty-answers", "Leave them out"),),
        "drop-empty-answers",
    ),
    "spreadsheet-errors": Problem(
        "error",
        "{n} have a spreadsheet's error in the place of an answer: {where} ({detail}).",
        "Correct the cells and save the file again, or leave these rows out: {rest} stay.",
        (("drop-spreadsheet-errors", "Leave them out"),),
        "drop-spreadsheet-errors",
    ),
    "missing-prompts": Problem(
        "error",
        "{n} have an empty prompt: {where}.",
        "Fill in the prompts, or leave these rows out: {rest} stay.",
        (("drop-missing-prompts", "Leave them out"),),
        "drop-missing-prompts",
    ),
    "no-text": Problem(
        "error",
        "{n} have no text: {where}.",
        "Fill them in, or leave these rows out: {rest} stay.",
        (("drop-empty-texts", "Leave them out"),),
        "drop-empty-texts",
    ),
    "unknown-roles": Problem(
        "error",
        "{n} have a role that is not system, user, assistant or tool: {where} ({detail}).",
        "Correct the roles, or leave these rows out: {rest} stay.",
        (("drop-unknown-roles", "Leave them out"),),
        "drop-unknown-roles",
    ),
    "not-text": Problem(
        "error",
        "{n} hold another type than text where text belongs: {where} ({detail}).",
        "Turn them into text if that is what the model should say (what does 0 or 1 mean to it?), "
        "or leave these rows out: {rest} stay.",
        (("numbers-to-text", "Turn into text"), ("drop-not-text", "Leave them out")),
        "drop-not-text",
    ),
    "image-parts": Problem(
        "error",
        "{n} hold an image or sound, which a text model cannot read: {where}. Nothing was fetched.",
        "Leave these rows out: {rest} stay.",
        (("drop-image-rows", "Leave them out"),),
        "drop-image-rows",
    ),
    "bad-messages": Problem(
        "error",
        "{n} have messages that are not as they should be: {where} ({detail}).",
        "Each message needs a role and a content. Correct them, or leave these rows out: {rest} stay.",
        (("drop-bad-messages", "Leave them out"),),
        "drop-bad-messages",
    ),
    "unknown-verdict": Problem(
        "error",
        "{n} have a verdict of which Fijn cannot tell whether it is good or bad: {where} ({detail}).",
        "Write true or false there (or yes and no, good and bad), or leave these rows out: {rest} stay.",
        (("drop-unknown-verdict", "Leave them out"),),
        "drop-unknown-verdict",
    ),
    "consecutive-turns": Problem(
        "warning",
        "{n} have several turns of one role in a row (consecutive turns): {where}. They are kept as separate turns, "
        "which many chat templates refuse or were never trained on.",
        "Merge them into one turn each.",
        (("merge-consecutive", "Merge them"),),
    ),
    "late-system": Problem(
        "warning",
        "{n} have a system message that is not the first message: {where}. Many chat templates refuse that.",
        "Put the system message first.",
    ),
    "missing-user": Problem(
        "warning",
        "{n} have an answer but no user message: {where}.",
        "Add what the user asked, unless the model should begin the conversation.",
    ),
    "broken-characters": Problem(
        "warning",
        "{n} hold broken characters, such as half an emoji, which no text file can keep: {where}. "
        "They were replaced by �.",
        "Correct them in the file, or accept the replacement.",
        (("replace-broken-characters", "Accept the replacement"),),
    ),
    "numbers-as-text": Problem("note", "{n} have a number as text or label; it is learned as written: {where}.", ""),
    "joined-parts": Problem("note", "{n} have text in several parts; the parts were joined: {where}.", ""),
    "unanswered-end": Problem(
        "note", "{n} end with a turn that has no answer; that turn is left out: {where}.", ""
    ),
}  # fmt: skip

DROP_REASONS = {problem.drops: code for code, problem in PROBLEMS.items() if problem.drops}
FIXES = {  # every repair a recipe can name, and what it does
    "skip-broken-lines": "leave out lines that are no JSON",
    "skip-ragged-rows": "leave out table rows with too many cells",
    "drop-unknown-shape": "leave out rows whose columns are not known",
    "drop-missing-answers": "leave out rows without an answer",
    "drop-empty-answers": "leave out rows with an empty answer",
    "drop-spreadsheet-errors": "leave out rows with a spreadsheet's error for an answer",
    "drop-missing-prompts": "leave out rows with an empty prompt",
    "drop-empty-texts": "leave out rows without text",
    "drop-unknown-roles": "leave out rows with unknown roles",
    "drop-not-text": "leave out rows with something else than text",
    "drop-image-rows": "leave out rows with images or sound",
    "drop-bad-messages": "leave out rows with malformed messages",
    "drop-unknown-verdict": "leave out rows whose verdict is neither good nor bad",
    "numbers-to-text": "turn numbers, true, false and lists of words into text",
    "merge-consecutive": "merge turns of one role in a row",
    "replace-broken-characters": "replace broken characters by �",
    "mask-personal-data": "put [e-mail], [phone], [IBAN] … in the place of personal data and keys",
    "trim-labels": "give every label one spelling, the most frequent one",
    "drop-duplicates": "leave out rows that repeat an earlier one",
    "drop-near-duplicates": "leave out rows that nearly repeat an earlier one",
    "drop-conflicts": "leave out rows with the same prompt and different labels",
    "drop-leaks": "leave out training rows that are also validation or test rows",
    "drop-too-long": "leave out rows that are longer than max_length",
    "drop-nothing-trained": "leave out rows that train no token",
    "drop-special-tokens": "leave out rows with control tokens in their text",
    "drop-refused": "leave out rows that the chat template refuses",
    "first-row-is-header": "take the first row for the names of the columns",
    "first-row-is-data": "take the first row for data",
}
TOKEN_FIXES = {  # repairs that leave rows out by their tokens, and why
    "drop-refused": "template-refuses",
    "drop-too-long": "too-long",
    "drop-nothing-trained": "trains-nothing",
    "drop-special-tokens": "special-tokens",
}
WISHES = ("encoding-", "delimiter-")  # followed by a codec, or by comma, semicolon, tab or pipe


def check_fixes(recipe: Recipe) -> None:
    """Raises FinetuneError for a repair that does not exist."""
    for fix in recipe.fixes:
        if fix not in FIXES and not fix.startswith(WISHES):
            raise FinetuneError(
                f"{fix!r} is no repair.", f"Take it out of fixes; repairs are {', '.join(FIXES)}.", code="bad-recipe"
            )


def problem_findings(tally: Tally, total: int, recipe: Recipe) -> list[Finding]:
    """What was met while reading, in words. `total`: rows read."""
    findings = []
    for code, seen in tally.items():
        if code in PROBLEMS and not (code == "broken-characters" and "replace-broken-characters" in recipe.fixes):
            findings.append(_finding(code, PROBLEMS[code], seen, total, recipe))
    return findings


def _finding(code: str, problem: Problem, seen: Seen, total: int, recipe: Recipe) -> Finding:
    details = sorted(seen.details.items(), key=lambda item: -item[1])
    lines = place_words([Place(place.line, place.line, place.file) for place in seen.places[:5]], seen.count)
    words = {
        "n": count_rows(seen.count),
        "where": seen.words(),
        "lines": lines.replace("rows ", "lines ").replace("row ", "line "),
        "detail": "; ".join(f"{detail} ({count:,})" if len(details) > 1 else detail for detail, count in details[:4]),
        "example": f"“{seen.examples[0]}”" if seen.examples else "nothing",
        "rest": count_rows(total - seen.count),
        "total": count_rows(total),
    }
    says, fix = problem.says.format(**words), problem.fix.format(**words)
    if seen.count == 1:
        says = _singular(says)
    repair = next(((code, button) for code, button in problem.repairs if code not in recipe.fixes), None)
    if problem.drops and seen.count == total:
        repair = repair if repair and repair[0] != problem.drops else None
        fix = fix.partition(", or leave")[0].rstrip(".") + "." if ", or leave" in fix else "Choose other rows."
    return Finding(
        code,
        problem.level,
        says,
        seen.rows,
        seen.count,
        fix,
        with_fix(recipe, repair[0], repair[1]) if repair else None,
        seen.lines,
        tuple(seen.examples),
        seen.files,
    )


def _singular(says: str) -> str:
    """
    >>> _singular("1 row have no answer: row 3.")
    '1 row has no answer: row 3.'
    """
    verbs = ("have", "has"), ("of the table have", "of the table has"), ("hold", "holds"), ("end", "ends")
    for many, one in ((f"row {many} ", f"row {one} ") for many, one in verbs):
        if says.startswith("1 " + many):
            return "1 " + one + says[len("1 " + many) :]
    return says
