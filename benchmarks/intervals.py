"""How often do our 95 % intervals contain the truth? They should do so 93 to 97 times of 100.

python benchmarks/intervals.py [--draws 2000] [--json FILE]      about 15 minutes on one core

Right-or-wrong scores are not simulated: every possible outcome is weighed by its probability, so those numbers are
exact. Graded scores and losses are drawn from shapes that real scores take, `--draws` times each (standard error of
a coverage of 95 % with 2,000 draws: half a point). Scenarios marked "sparse" have so few rows that differ that no
method can be both exact and narrow there; ours is wide on purpose, so only the lower end of the claim holds for them.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from finetune_core.proof.intervals import SPARSE, Interval, difference_interval, mean_interval, tango, wilson

SIZES = (50, 200, 500)
LOW, HIGH = 0.93, 0.97

# (share of rows that only the tuned model gets right, share that only its rival gets right)
PAIRS = (
    (0.5, 0.05), (0.3, 0.02), (0.3, 0.1), (0.2, 0.2), (0.1, 0.1), (0.1, 0.05), (0.05, 0.05),
    (0.1, 0.02), (0.06, 0.02), (0.7, 0.02), (0.9, 0.01), (0.8, 0.0), (0.3, 0.0), (0.1, 0.0), (0.97, 0.0), (0.02, 0.02),
)  # fmt: skip
SHARES = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 0.98)

Draw = Callable[[np.random.Generator, tuple[int, int]], tuple[np.ndarray, np.ndarray]]


def chrf(random: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Both answers as good as their row allows, the tuned one a little better."""
    row = random.beta(2, 2, shape)
    return np.clip(row + random.normal(0.15, 0.15, shape), 0, 1), np.clip(row + random.normal(0, 0.15, shape), 0, 1)


def token_f1(random: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Many answers wholly right or wholly wrong."""
    tuned = np.where(random.random(shape) < 0.7, 1, random.beta(2, 3, shape))
    return tuned, np.where(random.random(shape) < 0.3, 0, random.beta(2, 2, shape))


def fields(random: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Three fields: scores of 0, 1/3, 2/3 and 1."""
    steps = np.array([0, 1 / 3, 2 / 3, 1])
    return random.choice(steps, shape, p=[0.02, 0.03, 0.15, 0.8]), random.choice(steps, shape, p=[0.3, 0.3, 0.3, 0.1])


def equal(random: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """No difference at all, much noise."""
    return random.beta(1, 1, shape), random.beta(1, 1, shape)


def loss(random: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Nats per token: above zero, and skewed."""
    return random.gamma(4, 0.25, shape), random.gamma(6, 0.4, shape)


def few_changed(share: float) -> Draw:
    """Most answers as good as before; some better."""

    def draw(random: np.random.Generator, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        change = np.where(random.random(shape) < share, random.uniform(-0.2, 0.5, shape), 0)
        return 0.5 + change, np.full(shape, 0.5)

    return draw


# name, how to draw, bounded, share of rows that differ from the commonest value (of the differences, of one mean)
GRADED: tuple[tuple[str, Draw, bool, float, float | None], ...] = (
    ("chrF, tuned better", chrf, True, 1.0, 1.0),
    ("token F1 with many 0 and 1", token_f1, True, 0.9, 0.3),
    ("JSON fields", fields, True, 0.7, 0.2),
    ("no difference", equal, True, 1.0, 1.0),
    ("loss (skewed, no upper end)", loss, False, 1.0, 1.0),
    ("30 % of the rows changed", few_changed(0.3), True, 0.3, None),
    ("5 % of the rows changed", few_changed(0.05), True, 0.05, None),
)


def exact_paired(n: int, only_a: float, only_b: float) -> float:
    """Coverage of Tango's interval, summed over every outcome."""
    truth, contained = only_a - only_b, 0.0
    for gained in range(n + 1):
        for lost in range(n + 1 - gained):
            chance = _multinomial(n, gained, lost, only_a, only_b)
            if chance > 1e-12:
                low, high = _tango(gained, lost, n)
                contained += chance * (low - 1e-9 <= truth <= high + 1e-9)
    return contained


def exact_share(n: int, share: float) -> float:
    """Coverage of Wilson's interval, summed over every outcome."""
    return sum(
        _multinomial(n, right, 0, share, 0.0)
        for right in range(n + 1)
        if wilson(right, n).low - 1e-12 <= share <= wilson(right, n).high + 1e-12
    )


def simulated(n: int, draw: Draw, bounded: bool, draws: int, seed: int) -> tuple[float, float]:
    """Coverage for the paired difference, and for the mean of the first alone."""
    random = np.random.default_rng(seed)
    a, b = draw(random, (4000, 1000))
    true_difference, true_mean = float((a - b).mean()), float(a.mean())
    a, b = draw(random, (draws, n))
    difference = mean = 0
    for row_a, row_b in zip(a, b, strict=True):
        difference += _contains(difference_interval(row_a, row_b, bounded=bounded), true_difference)
        mean += _contains(mean_interval(row_a, bounded=bounded), true_mean)
    return difference / draws, mean / draws


def measure(draws: int) -> Iterator[dict]:
    """One result a line: kind, scenario, n, coverage, sparse."""
    for n in SIZES:
        for only_a, only_b in PAIRS:
            name = f"{only_a:.0%} only a, {only_b:.0%} only b"
            sparse = n * min(1 - only_b, 1 - only_a, only_a + only_b) < 3
            yield _result("paired, right or wrong", name, n, exact_paired(n, only_a, only_b), sparse)
        for share in SHARES:
            sparse = n * min(share, 1 - share) < 2
            yield _result("one share", f"{share:.0%} right", n, exact_share(n, share), sparse)
        for seed, (name, draw, bounded, changed, off) in enumerate(GRADED):
            difference, mean = simulated(n, draw, bounded, draws, seed)
            yield _result("paired, graded", name, n, difference, bounded and n * changed < 2 * SPARSE)
            if off is not None:
                yield _result("one mean, graded", name, n, mean, bounded and n * off < 2 * SPARSE)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    began, results = time.monotonic(), []
    for result in measure(arguments.draws):
        results.append(result)
        mark = "ok" if result["ok"] else "OUT"
        note = " (sparse: wide on purpose)" if result["sparse"] else ""
        print(f"{result['n']:4d}  {result['coverage']:6.1%}  {mark:3}  {result['kind']}: {result['scenario']}{note}")
        sys.stdout.flush()
    plain = [result["coverage"] for result in results if not result["sparse"]]
    outside = [result for result in results if not result["ok"]]
    print(
        f"\n{len(results)} scenarios, {len(outside)} outside. Not sparse: {min(plain):.1%} to {max(plain):.1%}, "
        f"mean {sum(plain) / len(plain):.1%}. {time.monotonic() - began:.0f} s."
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 1 if outside else 0


def _result(kind: str, scenario: str, n: int, coverage: float, sparse: bool) -> dict:
    coverage = round(coverage, 3)  # to the tenth of a percent that is printed
    good = coverage >= LOW and (sparse or coverage <= HIGH)
    return {"kind": kind, "scenario": scenario, "n": n, "coverage": coverage, "sparse": bool(sparse), "ok": bool(good)}


def _contains(interval: Interval, truth: float) -> bool:
    return interval.low <= truth <= interval.high


TANGO: dict[tuple[int, int, int], Interval] = {}


def _tango(gained: int, lost: int, n: int) -> Interval:
    key = (gained, lost, n)
    if key not in TANGO:
        TANGO[key] = tango(*key)
    return TANGO[key]


def _multinomial(n: int, first: int, second: int, p: float, q: float) -> float:
    rest, r = n - first - second, max(0.0, 1 - p - q)
    log = math.lgamma(n + 1) - math.lgamma(first + 1) - math.lgamma(second + 1) - math.lgamma(rest + 1)
    for count, share in ((first, p), (second, q), (rest, r)):
        if count and share <= 0:
            return 0.0
        log += count * math.log(share) if count else 0.0
    return math.exp(log)


if __name__ == "__main__":
    sys.exit(main())
