"""What the boxes for a model and for rows ask the Hub, with the real clients against one on this machine."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import write_jsonl
from hub_double import HubDouble
from hub_store import ALICE, SIGNED_IN

from finetune_core.facts import read_facts

ROOT = Path(__file__).resolve().parent.parent
ROW = {"question": "How?", "answer": "So."}
SAID = {401: "bad-token", 402: "unreadable-data", 403: "forbidden", 404: "unreadable-data", 409: "unreadable-data",
        429: "hub-busy"}  # fmt: skip
CARD = """---
license: cc-by-4.0
size_categories: [n<1K]
configs:
- config_name: en
  data_files: [{split: train, path: en.jsonl}, {split: test, path: en-test.jsonl}]
- config_name: nl
  data_files: [{split: train, path: nl.jsonl}]
---
"""
ASK = """
import json, os, sys, time
from dataclasses import asdict
from finetune_core import hub
from finetune_core.data import choices
from finetune_core.errors import FinetuneError
from finetune_core.facts import read_facts

answers = []
for kind, name, token in json.loads(sys.argv[1]):
    hub.forget()
    began = time.monotonic()
    try:
        if kind == "parts":
            said = asdict(choices(name, None, None, token or None))
        elif kind == "config":
            said = read_facts(*hub.small_files(name, token=token or None)).parameters
        else:
            said = [asdict(item) for item in hub.search(kind, name, token=token or None, own="alice" if token else "")]
    except FinetuneError as error:
        said = error.as_dict()
    answers.append([said, time.monotonic() - began])
print(json.dumps(answers), flush=True)
os._exit(0)  # a question that the client asks again and again is not waited for
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory, tiny_model_dir):
    data = tmp_path_factory.mktemp("faq")
    (data / "README.md").write_text(CARD)
    for name in ("en", "en-test", "nl"):
        write_jsonl(data / f"{name}.jsonl", [ROW])
    with HubDouble(tmp_path_factory.mktemp("hub")) as double:
        for number, owner in enumerate(("acme", "bob", "alice")):
            double.add(f"{owner}/tiny", tiny_model_dir, private=owner == "alice").downloads = 1000 // (number + 1)
        double.repos["bob/tiny"].gated = True
        double.add("datasets/acme/faq", data)
        double.add("datasets/bob/faq", data).gated = True
        for status in SAID:
            double.add(f"datasets/acme/refuses-{status}", data)
        yield double


@pytest.fixture
def ask(hub, tmp_path):
    """Questions of (kind, name, token) as a page asks them: [(answer or error, seconds)]."""

    def go(*questions):
        done = subprocess.run(
            [sys.executable, "-c", ASK, json.dumps(questions)], capture_output=True, text=True,
            env=hub.environment(tmp_path / "home") | {"PYTHONPATH": str(ROOT)}, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout.splitlines()[-1])

    yield go
    hub.troubles.clear()
    hub.revoked.clear()


pytestmark = pytest.mark.slow


def test_what_is_found_is_told_with_its_size_licence_gate_and_downloads_and_own_ones_first(ask):
    (anybody, _), (alice, _), (data, _), (parts, _), (gated, _), (missing, _) = ask(
        ("model", "tiny", ""), ("model", "tiny", ALICE), ("dataset", "faq", ""), ("parts", "acme/faq", ""),
        ("parts", "bob/faq", ""), ("parts", "acme/none", ""),
    )  # fmt: skip
    assert [item["id"] for item in anybody] == ["acme/tiny", "bob/tiny"]
    assert [item["id"] for item in alice] == ["alice/tiny", "acme/tiny", "bob/tiny"] and alice[0]["private"]
    assert [item["gated"] for item in anybody] == [False, True] and anybody[0]["downloads"] == 1000
    assert anybody[0]["parameters"] > 50_000
    assert (data[0]["licence"], data[0]["size"]) == ("cc-by-4.0", "n<1K")
    assert (parts["configs"], parts["splits"], parts["revisions"]) == (["en", "nl"], ["train", "test"], ["main"])
    assert gated["code"] == "gated" and "datasets/bob/faq" in gated["fix"]
    assert missing["code"] == "not-found"


def test_a_model_that_is_not_here_is_as_large_as_the_hub_counts(hub, ask, tiny_model_dir):
    ((parameters, _),) = ask(("config", "acme/tiny", ""))
    assert parameters == read_facts(tiny_model_dir).parameters
    assert not hub.sent("GET /acme/tiny/resolve/.*safetensors")


def test_a_refusal_of_the_hub_neither_breaks_nor_holds_up_a_box(hub, ask):
    for status in SAID:  # the client asks again after a 429 only, the last of them
        hub.fail("GET /api/models$", status, times=99 if status == 429 else 1)
        hub.fail(f"GET /api/datasets/acme/refuses-{status}", status, times=99)
    answers = ask(*(("model", f"tiny {status}", "") for status in SAID),
                  *(("parts", f"acme/refuses-{status}", "") for status in SAID))  # fmt: skip
    found, parts = answers[: len(SAID)], answers[len(SAID) :]
    assert all(said == [] and seconds < 8 for said, seconds in found)
    assert [said["code"] for said, _ in parts] == list(SAID.values()) and all(said["fix"] for said, _ in parts)
    assert hub.sent("GET /api/models$") >= len(SAID)


def test_a_sign_in_that_ended_while_a_run_waited_is_called_that(hub, ask):
    hub.revoked.add(SIGNED_IN)
    answers = ask(("config", "acme/tiny", SIGNED_IN), ("parts", "acme/faq", SIGNED_IN))
    assert [said["code"] for said, _ in answers] == ["bad-token", "bad-token"]
    assert all("has ended, or was revoked" in said["problem"] and "Sign in again" in said["fix"] for said, _ in answers)


def test_a_hub_that_hangs_or_hangs_up_is_not_waited_for(hub, ask):
    hub.hang("GET /api/models", 20)
    hub.drop("GET /api/datasets", times=99)
    (found, seconds), (data, more) = ask(("model", "tiny", ""), ("dataset", "faq", ""))
    assert found == data == [] and seconds < 8 and more < 8
