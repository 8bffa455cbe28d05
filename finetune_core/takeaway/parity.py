"""Does the exported model answer as the tuned one did? Greedy answers and log-probabilities on held-out prompts. Pure.

Two programs never agree to the last bit, and at a near tie a bit decides which token is greedy. So an answer that parts
from the tuned model's counts as explained only where the tuned model itself was torn between two tokens; anywhere else
it is a mistake of the export (a wrong scale, a lost layer, another template), and so is a log-probability that is off
by more than rounding to that number format explains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import FinetuneError

MOST_PROMPTS = 20
MOST_TOKENS = 64  # of an answer; one that is the same so far hardly parts later


@dataclass(frozen=True)
class Trace:
    """One greedy answer. `logprobs`: of the *tuned* model's answer, token by token, as far as it was measured."""

    answer: list[int]  # token ids, without the one that ended it
    ended: bool  # by itself, not by the limit
    logprobs: list[float]  # nats
    margins: list[float]  # by how much the first choice led the second, at each token and where the answer ended


@dataclass(frozen=True)
class Allowed:
    """What rounding explains: several times what SmolLM2-135M loses. tests/test_export.py has mistakes that fail."""

    logprob: float  # mean difference per token, nats
    tie: float | None  # a lead this small may be lost; None: answers may differ (4 bits are another model)
    torn: float = 0.0  # the mean difference where answers part, and each of them at such a near tie


# Measured: 1e-6 (float32), 0.001 (bfloat16), 0.0002 (f16), 0.005-0.007 (q8_0), 0.06 (q4_0) nats a token where answers
# are sure; 0.05 (q8_0) where a model that learned for a moment is undecided at every word and
# parts at near ties alone (one run of 8 prompts; f16 was off by 0.008 there), which is what `torn` is for.
ALLOWED = {
    "adapter": Allowed(1e-3, 0.01),
    "float32": Allowed(1e-3, 0.01),
    "bfloat16": Allowed(0.02, 0.5),
    "float16": Allowed(0.01, 0.2),
    "f16": Allowed(0.02, 0.5),  # of weights that were merged in bfloat16
    "q8_0": Allowed(0.04, 0.8, torn=0.1),
    "q4_0": Allowed(0.4, None),
}


@dataclass(frozen=True)
class Parity:
    """How far an export answers as the tuned model does."""

    compared: int  # prompts
    same: int  # answers that are the same, token by token
    ties: int  # answers that part where the tuned model was torn; never counted as the same
    logprob_mean: float  # mean difference per token of the tuned model's answers, nats
    logprob_max: float
    tokens: int  # that the log-probabilities were compared on
    allowed: float  # mean difference that still passes
    passed: bool
    format: str  # a key of ALLOWED
    engine: str  # what ran the export
    split: str  # where the prompts come from

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def judge(reference: Sequence[Trace], export: Sequence[Trace], format: str, *, engine: str, split: str) -> Parity:
    """Compare an export's traces with the tuned model's, prompt by prompt."""
    allowed = ALLOWED[format]
    same = ties = unexplained = 0
    differences: list[float] = []
    for ours, theirs in zip(reference, export, strict=True):
        differences += [abs(a - b) for a, b in zip(ours.logprobs, theirs.logprobs, strict=False)]
        if ours.answer == theirs.answer and ours.ended == theirs.ended:
            same += 1
        elif allowed.tie is not None:
            torn = _lead_where_they_part(ours, theirs) <= allowed.tie
            ties, unexplained = ties + torn, unexplained + (not torn)
    finite = all(difference == difference and difference != float("inf") for difference in differences)
    mean = sum(differences) / max(1, len(differences))
    bound = max(allowed.logprob, allowed.torn) if ties and not unexplained else allowed.logprob
    return Parity(
        compared=len(reference),
        same=same,
        ties=ties,
        logprob_mean=round(mean, 6) if finite else float("inf"),
        logprob_max=round(max(differences, default=0.0), 6) if finite else float("inf"),
        tokens=len(differences),
        allowed=bound,
        passed=bool(reference) and bool(differences) and finite and not unexplained and mean <= bound,
        format=format,
        engine=engine,
        split=split,
    )


def require(parity: Parity) -> Parity:
    """Raises FinetuneError (parity-failed) with the numbers if the export is not the tuned model."""
    if not parity.passed:
        raise not_kept([what_is_off(parity)])
    return parity


def what_is_off(parity: Parity) -> str:
    """What is wrong with an export that failed, in words."""
    different = parity.compared - parity.same - parity.ties
    return (
        f"The exported model ({parity.format}, run by {parity.engine}) is not close enough to the tuned one: "
        f"{different} of {parity.compared} answers differ, and log-probabilities are off by {parity.logprob_mean:.3g} "
        f"nats a token where rounding explains {parity.allowed:g}. It was not kept."
    )


def not_kept(problems: Sequence[str], kept: str = "") -> FinetuneError:
    """The error for what did not pass. kept: where the files are that did, if any."""
    instead = f"Use what passed, in {kept}, or export" if kept else "Export"
    return FinetuneError(
        " ".join(problems),
        f"{instead} another format (adapter is what was trained); if it stays so, please report it with this run's "
        "recipe.",
        code="parity-failed",
    )


def _lead_where_they_part(ours: Trace, theirs: Trace) -> float:
    """By how much the tuned model preferred its own token where the other answer leaves it."""
    both = zip(ours.answer, theirs.answer, strict=False)
    place = next((n for n, (a, b) in enumerate(both) if a != b), min(len(ours.answer), len(theirs.answer)))
    return ours.margins[place] if place < len(ours.margins) else float("inf")
