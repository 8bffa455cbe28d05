"""Every rival answers every row, and how surprised a model is by the references."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..render import render_many
from .contest import Contest, prompt_ids
from .metrics import score
from .report import Entry
from .rivals import Rival

if TYPE_CHECKING:
    from ..answers.chatter import Chatter
    from .kept_answers import KeptAnswers
    from .likelihood import Asked as Target

Scorer = Callable[[Contest, Sequence[str]], dict[str, list[float]]]  # scores by series, one for each row
QUICK = ("base", "tuned")  # they read the reference along with the question, because its loss is reported
ASKED_ALONE = 3  # rows that are asked one by one too


def hold(
    chatter: Chatter,
    contest: Contest,
    line_up: Sequence[Rival],
    scorer: Scorer | None = None,
    tell: Callable[[float, str], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    targets: Sequence[Target | None] = (),
    alone: int = 0,
    kept: KeptAnswers | None = None,
) -> list[Entry]:
    """Let every rival answer every row. One that was stopped half-way is left out.

    targets: each row's reference as it is trained; base and tuned read it along with the question. alone: so many rows
    are also asked one by one, for the time that a single request takes. kept: what the base model said before is not
    asked again.
    """
    from .kept_answers import answers_of

    entries: list[Entry] = []
    if contest.metric.kind == "loss":
        return entries
    tell = tell or (lambda part, says: None)
    for turn, rival in enumerate(line_up):
        began = time.monotonic()
        prompts = [prompt_ids(rival.messages(row), chatter.tokenizer, row) for row in contest.rows]

        def progress(ended: int, written: int, turn: int = turn, title: str = rival.title) -> None:
            tell((turn + ended / max(1, len(contest.rows))) / len(line_up), title)

        references = references_for(targets, prompts) if rival.name in QUICK and targets else None
        answers, known = answers_of(
            chatter,
            rival.model,
            kept,
            prompts,
            max_new_tokens=contest.max_new_tokens,
            on_tokens=progress,
            should_stop=should_stop,
            references=references,
        )
        if any(answer.finish_reason == "cancelled" for answer in answers):
            break
        seconds = time.monotonic() - began + sum(answers[place].seconds for place in known)
        scores = (scorer or score_answers)(contest, [answer.text for answer in answers])
        single = [
            chatter.generate(rival.model, [prompt], max_new_tokens=contest.max_new_tokens)[0].seconds
            for prompt in prompts[:alone]
        ]
        latency = statistics.median(single) if single else None
        lengths = [len(prompt) for prompt in prompts]
        entries.append(Entry(rival, answers, lengths, scores, seconds, latency, len(known)))
    return entries


def score_answers(contest: Contest, answers: Sequence[str]) -> dict[str, list[float]]:
    """Every series of the contest's metric, each with a score for every answer."""
    return score(contest.metric.kind, answers, contest.references)


def check_scorer(file: Path, problems: list[str]) -> Scorer:
    """Scores by a person's own check, in a sandbox. What kept it from a score is added to `problems`."""
    from .own_check import run_check

    def scorer(contest: Contest, answers: Sequence[str]) -> dict[str, list[float]]:
        found = run_check(file, answers, contest.references, contest.rows)
        problems.extend(found.problems.values())
        return {"check": found.scores}

    return scorer


def told_problems(problems: Sequence[str], answers: int) -> str:
    """What a reader must know about a check that did not come to a score; "" if it always did.

    >>> told_problems(["NameError: x", "NameError: x", "took longer"], 10)
    'Your check did not come to a score for 3 of 10 answers, which count as wrong. Most often: NameError: x.'
    """
    if not problems:
        return ""
    [(most, _)] = Counter(problems).most_common(1)
    return (
        f"Your check did not come to a score for {len(problems)} of {answers} answers, which count as wrong. "
        f"Most often: {most.rstrip('.')}."
    )


def find_targets(chatter: Chatter, contest: Contest, max_length: int) -> list[Target | None]:
    """Each row's last answer as it is trained (of a plain text: all of it), cut as in training; None: nothing is."""
    from .likelihood import split_answer

    limit = min(max_length, chatter.tokenizer.model_max_length)
    return [split_answer(rendered) for rendered in render_many(contest.rows, chatter.tokenizer, limit, {})]


def references_for(targets: Sequence[Target | None], prompts: Sequence[list[int]]) -> list[list[int]]:
    """The tokens of each reference, where it was trained after exactly this prompt."""
    return [
        target.answers[0] if target is not None and target.prompt == prompt else []
        for target, prompt in zip(targets, prompts, strict=True)
    ]


def measure_loss(
    chatter: Chatter,
    targets: Sequence[Target | None],
    names: Sequence[str],
    entries: Sequence[Entry] = (),
    kept: KeptAnswers | None = None,
) -> dict[str, list[float]]:
    """Nats per token of each row's reference, by model; what was measured along with the answers, or is kept of the
    base model, is not done again."""
    from .kept_answers import likelihoods_of

    losses: dict[str, list[float]] = {}
    for name in names:
        answers = next((entry.answers for entry in entries if entry.rival.name == name), [None] * len(targets))
        known = [None if answer is None else answer.reference for answer in answers]
        if name not in chatter.names() or not any(targets):
            continue
        left = [place for place, target in enumerate(targets) if target is not None and known[place] is None]
        found = likelihoods_of(chatter, name, kept, [targets[place] for place in left])
        for place, (one,) in zip(left, found, strict=True):
            known[place] = one
        losses[name] = [one.per_token for one in known if one is not None]
    return losses
