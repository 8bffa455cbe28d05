"""The rows of a run as a data set on the Hub, with the real clients against a Hub on this machine."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from conftest import chat_rows, write_jsonl
from hub_store import ALICE, ALICE_READS, BOB, SIGNED_IN

from finetune_core.data import prepare, write_data
from finetune_core.data.rows import open_rows
from finetune_core.errors import FinetuneError
from finetune_core.recipe import STARTER_DATA, Recipe
from finetune_core.run import Run
from finetune_core.takeaway.parquet import widened
from finetune_core.takeaway.push_data import Seen, push_data
from finetune_core.takeaway.rows_card import RowsFacts, front_matter, rows_card, size_category

ROOT = Path(__file__).resolve().parent.parent
SPLITS = ("train", "validation", "test")
CALL = {"type": "function", "function": {"name": "find", "arguments": {"order": 7, "fast": True}}}
TOOL = {"type": "function", "function": {"name": "find", "parameters": {"properties": {"order": {"type": "integer"}}}}}
WITH_TOOLS = {
    "id": "2026-01-02",  # a reader that guesses makes a date of it
    "messages": [
        {"role": "user", "content": "where is order 7?"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "in Gouda", "tool_call_id": "1"},
        {"role": "assistant", "content": "In Gouda."},
    ],
    "tools": [TOOL],
}
EMPTY = {"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": ""}]}
FIXES = ["drop-empty-answers", "drop-duplicates"]


def make_run(runs_dir: Path, rows: list[dict], **values) -> Run:
    """A run whose rows were read and written as a training does."""
    file = write_jsonl(runs_dir.parent / "acme tickets.jsonl", rows)
    recipe = Recipe(dataset_name=str(file), fixes=FIXES, **values)
    run = Run.create(runs_dir, recipe)
    passed = [{"code": "consecutive-turns", "says": "of the rows", "rows": 2}]
    write_data(prepare(recipe), run.path / "data", passed)
    return run


def plain(value):
    """Without what is None: Arrow fills in what a row does not have."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items() if each is not None}
    return [plain(each) for each in value] if isinstance(value, list) else value


# --- the card ---


def facts(**values):
    data = {
        "source": {"name": "acme/faq", "place": "hub", "config": "nl", "revision": "a" * 40, "sha256": "b" * 64},
        "rows": {"train": 8, "validation": 1, "test": 1}, "rows_read": 13, "dropped": {"duplicates": 3},
        "repaired": {"trim-labels": 2}, "own_splits": ["test"], "shapes": {"question and answer": 13},
        "warnings_passed": [{"code": "late-system", "says": "row 3 says x", "rows": 4}],
    }  # fmt: skip
    data["source"] |= values.pop("source", {})
    return RowsFacts("run-1", Recipe(seed=7), data, data["rows"], ("messages",), **values)


def test_the_card_says_where_the_rows_come_from_and_what_was_done():
    text = rows_card(facts(), "alice/faq-rows")
    for said in (
        "`acme/faq` (https://huggingface.co/datasets/acme/faq, configuration `nl`, revision `" + "a" * 40,
        "sha256 `" + "b" * 64, "Rows read: 13", "Left out: 3 `duplicates`", "Repaired: 2 `trim-labels`",
        "Splits: test as in the source; the others drawn with seed 7 (10% validation)",
        "Warnings passed: `late-system` (4 rows)", 'load_dataset("alice/faq-rows")', "run `run-1`",
    ):  # fmt: skip
        assert said in text, said


def test_the_front_matter_is_what_the_hub_reads():
    about = yaml.safe_load(front_matter(facts(languages=("nl",), source={"licence": "cc-by-4.0"})))
    assert about["configs"][0]["data_files"][0] == {"split": "train", "path": "data/train.parquet"}
    assert (about["license"], about["language"], about["size_categories"]) == ("cc-by-4.0", ["nl"], ["n<1K"])
    assert about["source_datasets"] == ["acme/faq"] and about["fijn_run"] == "run-1"


def test_a_licence_and_a_language_that_are_not_known_are_not_invented():
    about, text = yaml.safe_load(front_matter(facts())), rows_card(facts(), "alice/x")
    assert "license" not in about and "language" not in about and "Not known" in text
    several = yaml.safe_load(front_matter(facts(source={"licence": "mit, apache-2.0"})))
    assert several["license"] == ["mit", "apache-2.0"]


def test_a_file_is_named_without_its_folder():
    text = rows_card(facts(source={"name": "/home/jan/acme/faq.csv", "place": "file"}), "alice/x")
    assert "`faq.csv`" in text and "/home/jan" not in text and "source_datasets" not in text


@pytest.mark.parametrize(("count", "says"), [(1, "n<1K"), (1000, "1K<n<10K"), (10**9, "n>1B")])
def test_the_hub_has_a_word_for_every_size(count, says):
    assert size_category(count) == says


# --- types and finds ---


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["a", None, "b"], "string"),
        ([1, 2.5], "float64"),
        ([1, "1"], "json"),
        ([2**70], "json"),
        ([True, 1], "json"),
        ([[], ["a"]], ["string"]),
        ([{"a": 1}, {"b": "x"}], {"a": "int64", "b": "string"}),
        ([{"a": 1}, "x"], "json"),
        ([None], None),
    ],
)
def test_a_column_gets_the_narrowest_type_that_fits_every_row(values, kind):
    known = None
    for value in values:
        known = widened(known, value)
    assert known == kind


def test_personal_data_is_found_in_every_text_of_a_row():
    system = {"role": "system", "content": "Ask jan@winkel.nl."}
    call = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"function": {"arguments": {"to": "NL91ABNA0417164300"}}}],
    }
    seen = Seen()
    assert seen.look([{"messages": [system, call]}, {"text": "use AKIAIOSFODNN7EXAMPLE"}, {"text": "nothing"}]) == 3
    assert dict(seen.personal) == {"e-mail address": 1, "IBAN": 1, "key": 1}


def test_a_run_without_its_rows_says_where_they_are(runs_dir):
    with pytest.raises(FinetuneError) as refused:
        push_data(Run.create(runs_dir, Recipe()), "alice/x")
    assert refused.value.code == "no-rows" and refused.value.fix


# --- the whole command ---

pytest_slow = pytest.mark.slow
LOAD = """
import json, sys
from datasets import load_dataset
print(json.dumps({name: list(rows) for name, rows in load_dataset(sys.argv[1]).items()}))
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def push(hub, home):
    def go(run, repo_id, *options, token=ALICE):
        done = subprocess.run(
            [sys.executable, "-m", "finetune_core", "push-data", str(run.path), repo_id, "--json", *options],
            env=hub.environment(home, token) | {"PYTHONPATH": str(ROOT)}, cwd=ROOT, capture_output=True, text=True,
        )  # fmt: skip
        (home / "said.log").open("a").write(done.stdout + done.stderr)
        return done.returncode, json.loads(done.stdout.splitlines()[-1])

    return go


def loaded(hub, home, repo_id, token=ALICE):
    """What a stranger with this token gets."""
    done = subprocess.run(
        [sys.executable, "-c", LOAD, repo_id], env=hub.environment(home, token), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest_slow
def test_load_dataset_gives_the_rows_as_they_were_used_and_the_token_is_nowhere(runs_dir, hub, home, push, tmp_path):
    run = make_run(runs_dir, [*chat_rows(60), *chat_rows(2), EMPTY, WITH_TOOLS])
    code, said = push(run, "alice/rows")
    assert code == 0, said
    assert said["url"] == f"{hub.url}/datasets/alice/rows" and said["private"] and said["personal"] == {}
    repo = hub.repos["datasets/alice/rows"]
    assert repo.private and set(repo.files) == {".gitattributes", *said["files"]}
    rows = loaded(hub, tmp_path / "elsewhere", "alice/rows")
    kept = {name: list(open_rows(run.path / "data" / f"{name}.jsonl")) for name in SPLITS}
    assert {name: plain(each) for name, each in rows.items()} == kept
    assert said["rows"] == {name: len(each) for name, each in kept.items()} and sum(said["rows"].values()) == 61
    card = hub.object(repo.files["README.md"]).read_text()
    assert "2 `duplicates`" in card and "1 `empty-answers`" in card
    assert "acme tickets.jsonl" in card and str(run.path.parent) not in card
    before = hub.sent("PUT /_lfs")
    assert push(run, "alice/rows")[0] == 0 and hub.sent("PUT /_lfs") == before  # nothing is sent twice
    for file in (each for folder in (run.path, home) for each in folder.rglob("*") if each.is_file()):
        assert ALICE.encode() not in file.read_bytes(), file


@pytest_slow
def test_what_cannot_be_pushed_is_refused_before_anything_is_made(runs_dir, hub, push, tmp_path):
    run = make_run(runs_dir, chat_rows(20))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "data.csv").write_text("a,b\n")
    hub.add("datasets/alice/full", tmp_path / "full")
    before = hub.sent("POST ")
    for repo_id, token, code in (
        ("a/b/c", ALICE, "bad-name"),
        ("alice/x", "hf_revoked0123456789abc", "bad-token"),
        ("alice/x", ALICE_READS, "token-read-only"),
        ("alice/x", BOB, "not-yours"),
        ("alice/full", ALICE, "repo-taken"),
    ):
        exit_code, said = push(run, repo_id, token=token)
        assert (exit_code, said["error"]["code"]) == (1, code) and said["error"]["fix"]
    assert hub.sent("POST ") == before


@pytest_slow
def test_personal_data_is_said_before_the_push_and_pushed_where_it_is_agreed_to(runs_dir, hub, push):
    rows = chat_rows(20)
    rows[3]["messages"][0]["content"] += " mail jan@winkel.nl"
    run, before = make_run(runs_dir, rows), hub.sent("POST ")
    for options, code in (([], "personal-data"), (["--public"], "personal-data-public")):
        exit_code, said = push(run, "alice/people", *options)
        assert (exit_code, said["error"]["code"]) == (1, code) and "e-mail address in 1 row" in said["error"]["problem"]
    assert hub.sent("POST ") == before and "datasets/alice/people" not in hub.repos
    code, said = push(run, "alice/people", "--yes")
    assert code == 0 and said["private"] and said["personal"] == {"e-mail address": 1}


@pytest.fixture
def sign_in(hub):
    """The token of somebody who signed in; it lasts until a test says otherwise."""
    yield SIGNED_IN
    hub.ends.clear()
    hub.revoked.clear()
    hub.troubles.clear()


@pytest_slow
def test_a_sign_in_that_ended_is_said_before_anything_is_sent(runs_dir, hub, push, sign_in):
    run, before = make_run(runs_dir, chat_rows(20)), hub.sent("POST ")
    hub.ends[sign_in] = time.time() + 30  # too short for a push
    code, said = push(run, "alice/ended", token=sign_in)
    assert (code, said["error"]["code"]) == (1, "sign-in-ended") and "within a minute" in said["error"]["problem"]
    hub.revoked.add(sign_in)
    code, said = push(run, "alice/ended", token=sign_in)
    assert (code, said["error"]["code"]) == (1, "sign-in-ended")
    assert said["error"]["problem"] == "Your sign-in has ended." and "Sign in again" in said["error"]["fix"]
    assert hub.sent("POST ") == before


@pytest_slow
def test_a_sign_in_that_ends_in_the_middle_of_a_push_is_called_that_and_the_next_one_goes_on(
    runs_dir, hub, push, sign_in
):
    run = make_run(runs_dir, chat_rows(22), seed=5)
    hub.ends[sign_in] = time.time() + 1800
    hub.fail("POST .*/middle/commit/", 401, times=9)
    code, said = push(run, "alice/middle", token=sign_in)
    assert (code, said["error"]["code"]) == (1, "sign-in-ended") and "what has arrived there is kept" in str(said)
    hub.troubles.clear()
    assert push(run, "alice/middle", token=sign_in)[0] == 0


@pytest_slow
def test_rows_of_the_starter_carry_their_licence(runs_dir, hub, push):
    recipe = Recipe(dataset_name=STARTER_DATA)
    run = Run.create(runs_dir, recipe)
    write_data(prepare(recipe), run.path / "data")
    assert push(run, "acme/starter", "--public")[0] == 0
    card = hub.object(hub.repos["datasets/acme/starter"].files["README.md"]).read_text()
    assert "license: cc0-1.0" in card and "Splits: train, validation, test as in the source" in card
