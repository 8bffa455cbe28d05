"""Repairs before they are made, what a person passed over, and what of a data set on the Hub is fetched and chosen."""

from __future__ import annotations

import gc
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import save_tiny_model, write_jsonl
from make_bad_inputs import chat, chats, sentence

from finetune_core import preflight
from finetune_core.check import check
from finetune_core.data import hubdata, prepare
from finetune_core.data.changes import around, difference
from finetune_core.data.json_rows import Record
from finetune_core.data.readers import Reading
from finetune_core.data.streamed import kept
from finetune_core.errors import FinetuneError
from finetune_core.garbage import fewer_collections
from finetune_core.recipe import Recipe
from finetune_core.render import load_tokenizer

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def rows_of(tmp_path):
    """Rows → the recipe over a file of them."""

    def rows_of(rows, **fields) -> Recipe:
        return Recipe(dataset_name=str(write_jsonl(tmp_path / "rows.jsonl", rows)), **fields)

    return rows_of


def change_of(recipe: Recipe, fix: str):
    return difference(prepare(recipe), prepare(recipe.replace(fixes=[fix])))


# what a repair would change


def test_dropping_shows_the_rows_that_go(rows_of):
    found = change_of(rows_of([*chats(40), *chats(10)]), "drop-duplicates")
    assert (found.left_out, found.changed, found.taken_in) == (10, 0, 0)
    assert [(change.row, change.after) for change in found.examples] == [(41, None), (42, None), (43, None)]
    assert sentence(0) in found.examples[0].before


def test_merging_shows_a_row_before_and_after(rows_of):
    rows = [{"messages": [{"role": "user", "content": "Hello."}, *row["messages"]]} for row in chats(20)]
    found = change_of(rows_of([*chats(20, 500), *rows]), "merge-consecutive")
    assert (found.left_out, found.changed) == (0, 20)
    assert found.examples[0].before.startswith("user: Hello.\nuser: ")
    assert found.examples[0].after.startswith("user: Hello.\n\n")


def test_one_spelling_of_labels_shows_both_spellings(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("text,label\n" + "".join(f"{sentence(i)},{' Good' if i % 4 == 0 else 'good'}\n" for i in range(40)))
    found = change_of(Recipe(dataset_name=str(path)), "trim-labels")
    assert found.changed == 10
    assert "Good" in found.examples[0].before and found.examples[0].after.endswith("assistant: good")


def test_rows_that_become_usable_are_told_apart(rows_of):
    found = change_of(rows_of([*chats(30), chat("How many?", 12)]), "numbers-to-text")
    assert (found.left_out, found.changed, found.taken_in) == (0, 0, 1)
    assert found.examples[0].before is None and found.examples[0].after.endswith("12")


def test_rows_that_were_never_usable_are_counted_as_left_out(rows_of):
    found = change_of(rows_of([*chats(30), {"messages": [{"role": "user", "content": "?"}]}]), "drop-missing-answers")
    assert found.left_out == 1


def test_an_excerpt_stands_around_the_difference():
    one, two = around("a" * 900 + "X" + "b" * 900, "a" * 900 + "Y"), around("short", "shirt")
    assert "X" in one and len(one) < 300 and one[0] == one[-1] == "…"
    assert two == "short"


def test_every_repair_of_a_row_is_counted_in_the_data_card(rows_of):
    rows = [{"messages": [{"role": "user", "content": "Hello."}, *row["messages"]]} for row in chats(5)]
    recipe = rows_of([*chats(30, 200), *rows, chat("How many?", 12)], fixes=["merge-consecutive", "numbers-to-text"])
    assert prepare(recipe).card()["repaired"] == {"merge-consecutive": 5, "numbers-to-text": 1}


# what the template does with rows

THINKS = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)


def findings_of(recipe: Recipe, tokenizer) -> dict:
    return {finding.code: finding for finding in check(prepare(recipe), tokenizer, recipe).findings}


def test_answers_without_the_opening_of_the_prompt_are_a_warning(rows_of, tmp_path):
    tokenizer = load_tokenizer(save_tiny_model(tmp_path / "thinker", chat_template=THINKS))
    plain, thought = chats(20), [chat(sentence(i), f"<think>\nhm\n</think>\nyes {i}") for i in range(900, 910)]
    finding = findings_of(rows_of([*plain, *thought]), tokenizer)["prompt-differs"]
    assert (finding.level, finding.count) == ("warning", 20) and "<think>" in finding.says
    assert "prompt-differs" not in findings_of(rows_of(thought), tokenizer)


def test_tools_that_the_template_does_not_write_are_a_warning(rows_of, tiny_model_dir):
    tool = {"type": "function", "function": {"name": "find", "description": "d", "parameters": {"type": "object"}}}
    rows = [row | ({"tools": [tool]} if i < 4 else {}) for i, row in enumerate(chats(30))]
    finding = findings_of(rows_of(rows), load_tokenizer(tiny_model_dir))["tools-not-written"]
    assert (finding.level, finding.count, finding.rows) == ("warning", 4, (1, 2, 3, 4))


# large checks


def test_a_look_tells_its_progress_through_reading_and_counting(rows_of, tiny_model_dir):
    told = []
    recipe = rows_of(chats(3000), model_name_or_path=str(tiny_model_dir))
    preflight.look(recipe, on_progress=lambda fraction, says: told.append((fraction, says)))
    fractions = [fraction for fraction, _ in told if fraction is not None]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    assert any(says == "counting tokens" and fraction > 0.5 for fraction, says in told)


def test_counting_can_be_cancelled(rows_of, tiny_model_dir):
    class Cancelled(Exception):
        pass

    def stop(fraction, says):
        if says == "counting tokens":
            raise Cancelled

    with pytest.raises(Cancelled):
        preflight.look(rows_of(chats(500), model_name_or_path=str(tiny_model_dir)), on_progress=stop)
    assert gc.get_threshold()[0] < 10_000


def test_pythons_own_threshold_comes_back_after_overlapping_uses():
    before = gc.get_threshold()
    one, two = fewer_collections(), fewer_collections()
    one.__enter__()
    two.__enter__()
    one.__exit__(None, None, None)
    assert gc.get_threshold() != before
    two.__exit__(None, None, None)
    assert gc.get_threshold() == before


def test_ctrl_c_ends_a_check_on_the_command_line(tmp_path, tiny_model_dir):
    with (tmp_path / "many.jsonl").open("w") as file:
        for number in range(60_000):
            file.write(json.dumps(chat(sentence(number, 12), f"yes {number}")) + "\n")
    (tmp_path / "recipe.yaml").write_text(
        f"model_name_or_path: {tiny_model_dir}\ndataset_name: {tmp_path / 'many.jsonl'}\n"
    )
    line = [sys.executable, "-m", "finetune_core", "check", str(tmp_path / "recipe.yaml"), "--json"]
    work = subprocess.Popen(
        line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        # a shell that runs the tests in the background has them ignore Ctrl-C, and a child inherits that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    shown = b""
    while b"%" not in shown:
        shown += work.stderr.read1()
        assert work.poll() is None, shown
    began = time.monotonic()
    work.send_signal(signal.SIGINT)
    out, rest = work.communicate(timeout=20)
    assert work.returncode == 3 and time.monotonic() - began < 10
    assert b"Traceback" not in rest and out == b""


# what was passed over


def test_warnings_that_were_passed_stand_in_the_runs_data_card(rows_of, tiny_model_dir, runs_dir):
    recipe = rows_of([*chats(40), *chats(10)], model_name_or_path=str(tiny_model_dir))
    seen = preflight.look(recipe)
    run = preflight.create_run_from(seen, runs_dir)
    assert [passed["code"] for passed in run.plan()["passed"]] == ["duplicates"]
    card = json.loads((run.path / "data" / "card.json").read_text())
    assert [(passed["code"], passed["rows"]) for passed in card["warnings_passed"]] == [("duplicates", 10)]


# the Hub


def reading(rows, taken):
    def records():
        for number, row in enumerate(rows, start=1):
            taken.append(number)
            yield Record(number, number, row)

    return Reading("train", "hub", records(), columns={"prompt": "text"}, split="train")


def test_a_stream_is_fetched_once_and_then_read_from_disk():
    rows, taken = [{"prompt": f"p{i}", "completion": "c"} for i in range(30)], []
    first = [record.value for record in kept(reading(rows, taken), "acme/big", "commit", 30).records]
    again = kept(reading(rows, taken), "acme/big", "commit", 30)
    assert [record.value for record in again.records] == first == rows
    assert len(taken) == 30
    assert (again.kind, again.split, again.columns) == ("hub", "train", {"prompt": "text"})


def test_a_stream_that_was_left_early_is_not_taken_for_the_whole(tmp_path):
    rows, taken = [{"prompt": f"p{i}", "completion": "c"} for i in range(30)], []
    half = kept(reading(rows, taken), "acme/big", "other", 30).records
    next(half), half.close()
    assert len(list(kept(reading(rows, taken), "acme/big", "other", 30).records)) == 30
    assert not list((tmp_path / "cache").rglob("*.part"))


@pytest.fixture
def hub_here(monkeypatch):
    """A Hub that has acme/big: larger than what is put on disk first, two subsets."""
    import datasets
    import huggingface_hub

    rows = [{"prompt": f"What is {i}?", "completion": f"It is {i}."} for i in range(200)]
    streams = []

    def load(name, config, streaming, **options):
        streams.append(name)
        return datasets.IterableDatasetDict({"train": datasets.Dataset.from_list(rows).to_iterable_dataset()})

    monkeypatch.setattr(hubdata.hub, "reachable", lambda *_: True)
    monkeypatch.setattr(hubdata, "_facts", lambda *_: hubdata.HubFacts("c0ffee", "cc0-1.0", 10 * 1024**3))
    info = SimpleNamespace(info=SimpleNamespace(download_size=0))
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *_, **__: info)
    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda name, **_: ["small", "large"])
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda name, config, **_: [f"{config}-a", f"{config}-b"])
    refs = SimpleNamespace(branches=[SimpleNamespace(name="main")], tags=[SimpleNamespace(name="v1")])
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_refs", lambda *_, **__: refs)
    return streams


def test_a_large_set_of_the_hub_is_streamed_as_far_as_it_is_wanted(hub_here):
    recipe = Recipe(dataset_name="acme/big", max_rows=50)
    first, again = prepare(recipe), prepare(recipe)
    assert first.rows == 50 and (first.source.revision, first.source.licence) == ("c0ffee", "cc0-1.0")
    assert [row["messages"] for row in again.train] == [row["messages"] for row in first.train]


def test_a_large_set_without_max_rows_says_what_to_do(hub_here):
    with pytest.raises(FinetuneError, match="larger than") as caught:
        prepare(Recipe(dataset_name="acme/big"))
    assert "max_rows" in caught.value.fix


@pytest.mark.parametrize(("config", "splits"), [(None, ("small-a", "small-b")), ("large", ("large-a", "large-b"))])
def test_subsets_splits_and_versions_can_be_chosen(hub_here, config, splits):
    found = hubdata.choices("acme/big", config)
    assert (found.configs, found.splits, found.revisions) == (("small", "large"), splits, ("main", "v1"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("acme/faq", True), ("squad", True), ("shop-messages", False), ("rows.csv", False), ("/tmp", False)],
)
def test_a_name_is_of_the_hub_or_of_this_machine(name, expected):
    assert hubdata.is_on_hub(name) is expected


def test_only_rows_that_hold_personal_data_count_as_repaired(rows_of):
    rows = [*chats(30), chat("Mail me at jan@dewinkel.nl.", "I will.")]
    assert prepare(rows_of(rows, fixes=["mask-personal-data"])).repaired == {"mask-personal-data": 1}
