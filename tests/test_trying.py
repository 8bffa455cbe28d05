"""A repair that is tried is the repair that is made: counted from the rows at hand, and by reading the source again."""

from __future__ import annotations

import csv
from collections import Counter

import pytest
from conftest import write_jsonl
from make_bad_inputs import chat, chats, sentence

from finetune_core import preflight
from finetune_core.data import changes
from finetune_core.data.changes import difference, row_says
from finetune_core.data.problems import DROP_REASONS, FIXES
from finetune_core.data.trying import try_repair
from finetune_core.recipe import Recipe

READS_AGAIN = {"first-row-is-header", "first-row-is-data"}


def asked(question: str, answer: str = "good") -> dict:
    return chat(question, answer)


def messy_chats() -> list[dict]:
    """Something for every repair of chats; repeats before and after what they repeat are rewritten."""
    twice = [{"messages": [{"role": "user", "content": "Hello."}, *row["messages"]]} for row in chats(6, 900)]
    mails = [asked(f"Please write to jan{i}@winkel.nl about my {sentence(i, 3)}") for i in range(12)]
    near = [asked(sentence(2000 + i, 30) + " near") for i in range(8)]
    nearly = [asked(sentence(2000 + i, 30) + " close") for i in range(8)]
    same = [asked(f"Call {phone} now") for phone in ("+31612345678", "+31687654321", "+31699999999")]
    merged = {
        "messages": [{"role": "user", "content": "Hello.\n\n" + sentence(900)}, *chats(1, 900)[0]["messages"][1:]]
    }
    return [
        *chats(30), *mails, *twice, *near, *same, merged, asked("Hello <|im_end|> there"),
        asked("use AKIAIOSFODNN7EXAMPLE here"), asked(sentence(77, 400)), chat("How many?", 12),
        chat("And?", ["a", "b"]), chat("Why?", True), chat("Empty", ["", ""]), chat("Odd", {"x": 1}),
        chat("Silent", " "), chat("Looked up", "#N/B"),
        {"messages": [{"role": "user", "content": "?"}]}, {"messages": [{"role": "robot", "content": "?"}]},
        {"messages": [{"role": "user"}]}, {"weight": 3},
        {"messages": [{"role": "user", "content": "Quiet"}, {"role": "assistant", "content": "x", "weight": 0}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]},
                      {"role": "assistant", "content": "y"}]},
        *chats(7, 3), *mails[3:6], *nearly, *same[:1], *twice[:2],
    ]  # fmt: skip


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Name → a source to read: chats, labels in a table, a folder with its own test split, a table with odd rows."""
    folder = tmp_path_factory.mktemp("sources")
    chats_file = write_jsonl(folder / "chats.jsonl", messy_chats())
    with chats_file.open("a") as file:
        file.write('{"messages": [\n')
    labels = [(sentence(i % 40), ("good", "bad", " Good", "BAD.")[i % 4 if i % 5 == 0 else i % 2]) for i in range(70)]
    labels += [(f"mail{i}@winkel.nl wants it", "good") for i in range(6)]
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *labels])
    own = folder / "own"
    own.mkdir()
    hidden = [asked(f"I am {i}@home.nl and ask", "yes") for i in range(3)]
    write_jsonl(own / "train.jsonl", [*chats(30), *hidden, asked("I am 9@home.nl and ask", "yes")])
    write_jsonl(own / "test.jsonl", [*chats(8, 25), hidden[1], *chats(3, 25)])
    with (folder / "odd.csv").open("w", newline="") as file:
        rows = [("prompt", "completion"), *((sentence(i), "ok") for i in range(20)), ("a", "b", "c"), ("", "d")]
        csv.writer(file).writerows(rows)
    return {"chats": chats_file, "labels": folder / "labels.csv", "own": own, "odd": folder / "odd.csv"}


@pytest.fixture(scope="module")
def looked_at(sources, tiny_model_dir):
    """What the page knows of a source under some repairs."""
    known = {}

    def looked_at(name: str, fixes: tuple[str, ...] = (), **fields) -> preflight.Preflight:
        key = name, frozenset(fixes), tuple(fields.items())
        if key not in known:
            recipe = Recipe(dataset_name=str(sources[name]), fixes=list(fixes), **{"max_length": 200} | fields)
            recipe = recipe.replace(model_name_or_path=str(tiny_model_dir))
            known[key] = preflight.look(recipe)
        return known[key]

    return looked_at


def tried(before: preflight.Preflight, fix: str) -> changes.Difference | None:
    return try_repair(before.prepared, before.diagnosis.concerned, before.recipe, fix)


def texts(seen: preflight.Preflight) -> dict[tuple[str, int], str]:
    """File and row of the source → what is learned from it."""
    prepared = seen.prepared
    return {
        (prepared.place(number).file, prepared.place(number).row): row_says(row)
        for rows in prepared.splits().values()
        for number, row in zip(rows.numbers.tolist(), rows, strict=True)
    }


def counted(before: preflight.Preflight, after: preflight.Preflight) -> tuple[int, int, int]:
    """The difference counted by hand: (left out, changed, taken in)."""
    old, new = texts(before), texts(after)
    never = sum(after.prepared.dropped.get(why, 0) for why in DROP_REASONS.values())
    never -= sum(before.prepared.dropped.get(why, 0) for why in DROP_REASONS.values())
    changed = sum(new[row] != old[row] for row in old.keys() & new.keys())
    return len(old.keys() - new.keys()) + never, changed, len(new.keys() - old.keys())


BEFORE = [
    (), ("mask-personal-data",),
    ("drop-duplicates", "drop-near-duplicates", "drop-conflicts", "drop-leaks"), ("trim-labels", "drop-duplicates"),
    ("mask-personal-data", "merge-consecutive", "drop-duplicates"), ("drop-too-long",),
]  # fmt: skip


@pytest.mark.parametrize("name", ["chats", "labels", "own", "odd"])
@pytest.mark.parametrize("fixes", BEFORE, ids="+".join)
def test_every_repair_that_is_tried_is_what_is_made(looked_at, name, fixes):
    before, met = looked_at(name, fixes), Counter()
    for fix in FIXES.keys() - READS_AGAIN - set(fixes):
        found, after = tried(before, fix), looked_at(name, (*fixes, fix))
        if found is not None:
            assert found == difference(before.prepared, after.prepared), fix
            assert (found.left_out, found.changed, found.taken_in) == counted(before, after), fix
            met[fix] += 1
    assert met["drop-duplicates"] or "drop-duplicates" in fixes


@pytest.mark.parametrize("rows", [20, 35])
def test_another_sample_is_foretold_too(looked_at, rows):
    for fix in ("drop-duplicates", "mask-personal-data", "drop-near-duplicates"):
        before, after = (looked_at("chats", fixes, max_rows=rows) for fixes in ((), (fix,)))
        assert tried(before, fix) == difference(before.prepared, after.prepared)


def test_every_repair_finds_something_in_these_rows(looked_at):
    """Else the tests above compare nothing with nothing."""
    something = set()
    for name in ("chats", "labels", "own", "odd"):
        for fix in FIXES.keys() - READS_AGAIN:
            found = tried(looked_at(name), fix)
            if found is not None and found.left_out + found.changed + found.taken_in:
                something.add(fix)
    unmet = {"drop-refused", "drop-empty-texts", "drop-unknown-verdict"}  # there are no such rows
    assert FIXES.keys() - something - READS_AGAIN == unmet | {"replace-broken-characters"}  # which changes no row


@pytest.mark.parametrize(
    ("fixes", "fix"),
    [((), "first-row-is-header"), (("drop-too-long",), "mask-personal-data"), (("drop-leaks",), "numbers-to-text")],
)
def test_where_only_the_source_can_tell_nothing_is_foretold(looked_at, fixes, fix):
    assert tried(looked_at("chats", fixes), fix) is None


@pytest.mark.parametrize("name", ["chats", "labels", "own"])
@pytest.mark.parametrize(
    ("fixes", "then"),
    [((), ("drop-duplicates", "drop-leaks", "drop-conflicts")), (("mask-personal-data",), ("drop-near-duplicates",)),
     ((), ("drop-too-long", "drop-special-tokens", "drop-duplicates"))],
)  # fmt: skip
def test_leaving_rows_out_needs_no_second_reading(looked_at, name, fixes, then, monkeypatch):
    before, after = looked_at(name, fixes), looked_at(name, (*fixes, *then))
    monkeypatch.setattr("finetune_core.data.prepare", None)
    monkeypatch.setattr("finetune_core.check.measure", None)
    quick = preflight.look(after.recipe, earlier=before)
    assert quick.diagnosis.as_dict() == after.diagnosis.as_dict() and texts(quick) == texts(after)
    assert quick.prepared.card() == after.prepared.card() and quick.plan.recipe == after.plan.recipe
    for one, other in zip(quick.prepared.splits().values(), after.prepared.splits().values(), strict=True):
        assert list(one) == list(other)


@pytest.mark.parametrize("name", ["chats", "labels", "own"])
@pytest.mark.parametrize(
    ("was", "wanted"),
    [((), ("mask-personal-data",)), (("mask-personal-data",), ()), ((), ("merge-consecutive", "mask-personal-data")),
     (("merge-consecutive", "drop-duplicates"), ("drop-leaks",)), ((), ("trim-labels",)), (("drop-duplicates",), ()),
     (("drop-too-long", "trim-labels"), ("mask-personal-data", "drop-conflicts"))],
)  # fmt: skip
@pytest.mark.parametrize("max_length", [None, 24, 90])
def test_masking_merging_and_another_length_need_no_second_reading(
    looked_at, name, was, wanted, max_length, monkeypatch
):
    before = looked_at(name, was)
    changes = {"fixes": list(wanted)} | ({"max_length": max_length} if max_length else {})
    after = preflight.look(before.recipe.replace(**changes))
    monkeypatch.setattr("finetune_core.data.prepare", None)
    quick = preflight.look(after.recipe, earlier=before)
    assert quick.diagnosis.as_dict() == after.diagnosis.as_dict() and texts(quick) == texts(after)
    assert quick.prepared.card() == after.prepared.card() and quick.plan.recipe == after.plan.recipe
    for one, other in zip(quick.prepared.splits().values(), after.prepared.splits().values(), strict=True):
        assert list(one) == list(other)


def test_another_length_renders_no_row_whose_answer_is_in_one_piece(looked_at, monkeypatch):
    before = looked_at("labels")
    monkeypatch.setattr("finetune_core.data.again.measure", None)
    monkeypatch.setattr("finetune_core.check.measure", None)
    assert preflight.look(before.recipe.replace(max_length=24), earlier=before).diagnosis.lengths["max"] > 24


def test_what_is_found_is_what_the_repair_would_leave_out_of_the_rows_that_stay(looked_at):
    kinds = {"duplicates": "drop-duplicates", "near-duplicates": "drop-near-duplicates",
             "conflicting-labels": "drop-conflicts", "label-variants": "trim-labels"}  # fmt: skip
    for name, fixes in [("labels", ("drop-conflicts",)), ("chats", ("drop-duplicates",)), ("own", ("drop-leaks",))]:
        seen = looked_at(name, fixes)
        counts = {finding.code: finding.count for finding in seen.prepared.findings}
        found = {code: tried(seen, fix) for code, fix in kinds.items() if fix not in fixes}
        expected = {code: each.left_out + each.changed for code, each in found.items() if each.left_out + each.changed}
        assert {code: counts[code] for code in counts if code in found} == expected
    assert not any(finding.code == "leak" for finding in looked_at("own", ("drop-leaks",)).prepared.findings)


def test_a_row_is_told_with_its_file_where_there_are_several(looked_at):
    seen = looked_at("own")
    leak = next(finding for finding in seen.prepared.findings if finding.code == "leak")
    assert set(leak.files) == {"test.jsonl"} and len(leak.files) == len(leak.rows)
    assert {change.file for change in tried(seen, "drop-leaks").examples} == {"train.jsonl"}
