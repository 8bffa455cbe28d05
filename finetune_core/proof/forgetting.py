"""What tuning cost elsewhere: the general probe before and after, and how far the base model's own answers moved."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..amounts import percent
from ..answers.generate import Answer
from ..render import ChatTokenizer, render_many, render_prompt
from .intervals import difference_interval
from .kept_answers import answers_of, likelihoods_of
from .likelihood import Asked, split_answer
from .probe import AREAS, Item, follows, load_probe

if TYPE_CHECKING:
    from ..answers.chatter import Chatter
    from .kept_answers import KeptAnswers

PROBE_TOKENS = 32  # longest answer to a rule item or an open one


def measure_forgetting(
    chatter: Chatter,
    on_fraction: Callable[[float], None] | None = None,
    kept: KeptAnswers | None = None,
) -> dict[str, Any]:
    """Ask base and tuned the probe; kept, lost and the drift, as a part of the report. kept: of the base model."""
    began = time.monotonic()
    tell = on_fraction or (lambda fraction: None)
    probe = load_probe()
    right: dict[str, dict[str, bool]] = {}
    written: dict[str, dict[str, Answer]] = {}
    for turn, name in enumerate(("base", "tuned")):
        written[name] = write_answers(chatter, name, probe, kept)
        tell(0.5 * turn + 0.15)
        right[name] = {item.id: follows(item.rule, written[name][item.id].text) for item in probe if item.rule}
        right[name] |= choose_answers(chatter, name, [item for item in probe if item.right], kept)
        tell(0.5 * turn + 0.4)
    scored = [item for item in probe if item.area != "open"]
    found = kept_and_lost([right["base"][item.id] for item in scored], [right["tuned"][item.id] for item in scored])
    drift = measure_drift(chatter, "tuned", probe, written["base"], kept)
    tell(1.0)
    return found | {
        "areas": {
            area: {
                "n": sum(item.area == area for item in scored),
                "before": sum(right["base"][item.id] for item in scored if item.area == area),
                "after": sum(right["tuned"][item.id] for item in scored if item.area == area),
            }
            for area in AREAS
        },
        "changed": [
            {"id": item.id, "prompt": item.prompt, "before": right["base"][item.id], "after": right["tuned"][item.id]}
            for item in scored
            if right["base"][item.id] != right["tuned"][item.id]
        ],
        "drift": drift,
        "seconds": round(time.monotonic() - began, 1),
    }


def kept_and_lost(before: Sequence[bool], after: Sequence[bool]) -> dict[str, Any]:
    """The paired difference in words. before, after: the same questions, right or not."""
    n, was, now = len(before), sum(before), sum(after)
    low, high = difference_interval([float(x) for x in after], [float(x) for x in before])
    lost = sum(b and not a for b, a in zip(before, after, strict=True))
    start = f"Of {n} general questions the model answered {was} right before and {now} after"
    if high < 0:
        state, end = "lost", f"tuning cost {_points(-high)} to {_points(-low)} points of general ability."
    elif low > 0:
        state, end = "gained", f"it even gained {_points(low)} to {_points(high)} points."
    else:
        state, end = (
            "kept",
            f"no loss that {n} questions can show; if there is one, it is {_points(-low)} points at most.",
        )
    return {
        "state": state,
        "sentence": f"{start}: {end}",
        "n": n,
        "before": round(was / n, 4),
        "after": round(now / n, 4),
        "difference": round((now - was) / n, 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "lost": lost,
        "won": now - was + lost,
    }


def write_answers(
    chatter: Chatter, name: str, probe: Sequence[Item], kept: KeptAnswers | None = None
) -> dict[str, Answer]:
    """What the model writes for items with a rule and for open ones, by id."""
    items = [item for item in probe if not item.right]
    prompts = [render_prompt(item.messages, chatter.tokenizer) for item in items]
    answers, _ = answers_of(chatter, name, kept, prompts, max_new_tokens=PROBE_TOKENS)
    return {item.id: answer for item, answer in zip(items, answers, strict=True)}


def choose_answers(
    chatter: Chatter, name: str, items: Sequence[Item], kept: KeptAnswers | None = None
) -> dict[str, bool]:
    """For each item: is the right answer likelier than every wrong one, each completed to the end of the turn?"""
    tokenizer = chatter.tokenizer
    found = likelihoods_of(chatter, name, kept, [with_answers(item, tokenizer) for item in items])
    return {
        item.id: all(right.loss < other.loss for other in wrong)
        for item, (right, *wrong) in zip(items, found, strict=True)
    }


def measure_drift(
    chatter: Chatter, tuned: str, probe: Sequence[Item], written: dict[str, Answer], kept: KeptAnswers | None = None
) -> dict[str, Any]:
    """How the tuned model judges the base model's own answers: the share of tokens it would have chosen too, and how
    many nats less likely each became (for answers drawn from the base model this estimates the KL divergence)."""
    tokenizer = chatter.tokenizer
    items = [item for item in probe if item.id in written and written[item.id].token_ids]
    asked = [Asked(render_prompt(item.messages, tokenizer), [written[item.id].token_ids]) for item in items]
    if not asked:
        return {"tokens": 0, "same": None, "nats": None, "sentence": ""}
    judged = {}
    for name in ("base", "tuned"):
        judged[name] = [one for (one,) in likelihoods_of(chatter, name, kept, asked)]
    tokens = sum(one.tokens for one in judged[tuned])
    same = sum(one.likeliest for one in judged[tuned]) / tokens
    nats = (sum(one.loss for one in judged[tuned]) - sum(one.loss for one in judged["base"])) / tokens
    return {
        "tokens": tokens,
        "same": round(same, 4),
        "nats": round(nats, 4),
        "sentence": f"Of the words that the base model wrote to {len(items)} everyday requests, the tuned model would "
        f"have chosen {percent(same)} too.",
    }


def with_answers(item: Item, tokenizer: ChatTokenizer) -> Asked:
    """An item with all its answers, tokenized as the model would read them in a conversation."""
    rows = [
        {"messages": [*item.messages, {"role": "assistant", "content": answer}]} for answer in (item.right, *item.wrong)
    ]
    split = [found for rendered in render_many(rows, tokenizer) if (found := split_answer(rendered))]
    return Asked(split[0].prompt, [found.answers[0] for found in split])


def _points(share: float) -> str:
    points = 100 * share
    return f"{points:.0f}" if points >= 1.5 else f"{points:.1f}"
