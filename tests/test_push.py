"""On the Hub, with the real client, against a Hub on this machine: private, checked first, resumable, and no token left
anywhere."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import chat_rows, write_jsonl
from hub_double import HubDouble
from hub_store import ALICE, ALICE_READS, BOB, CAROL
from tuned import make_tuned_run

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def hub(tmp_path_factory, tiny_model_dir):
    with HubDouble(tmp_path_factory.mktemp("hub")) as double:
        double.add("alice/tiny", tiny_model_dir)
        yield double


@pytest.fixture(autouse=True)
def calm(hub):
    hub.troubles.clear()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """What the child processes take for the Hub's cache."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_model_dir):
    """A run whose base model is on the Hub by the name alice/tiny."""
    run = make_tuned_run(tmp_path_factory.mktemp("runs"), tiny_model_dir, max_new_tokens=8)
    recipe = (run.path / "recipe.yaml").read_text().replace(str(tiny_model_dir), "alice/tiny")
    (run.path / "recipe.yaml").write_text(recipe)
    config = run.result_dir / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": "alice/tiny"}))
    (run.result_dir / "training_args.bin").write_bytes(b"a pickle")
    (run.result_dir / "optimizer.pt").write_bytes(b"a pickle")
    write_jsonl(run.path / "data" / "test.jsonl", chat_rows(6))
    return run


@pytest.fixture
def push(hub, home, run):
    """Push as a child process does: (exit code, JSON on stdout, seconds)."""

    def go(repo_id, *options, token=ALICE):
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "finetune_core", "push", str(run.path), repo_id, "--json", *options],
            env=hub.environment(home, token) | {"PYTHONPATH": str(ROOT)}, cwd=ROOT, capture_output=True, text=True,
        )  # fmt: skip
        said = json.loads(done.stdout.splitlines()[-1]) if done.stdout.strip() else {"stderr": done.stderr}
        (home / "said.log").open("a").write(done.stdout + done.stderr)
        return done.returncode, said, time.monotonic() - began

    return go


def elsewhere(hub, home, code, *arguments, token=ALICE):
    """Run lines in a process that knows nothing of the run, and return what they print as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=hub.environment(home, token), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


ASK = """
import json, sys, torch
from transformers import AutoTokenizer
if sys.argv[1] == "adapter":
    from peft import AutoPeftModelForCausalLM as Model
else:
    from transformers import AutoModelForCausalLM as Model
model, tokenizer = Model.from_pretrained(sys.argv[2]).eval(), AutoTokenizer.from_pretrained(sys.argv[2])
answers = []
for messages in json.loads(sys.argv[3]):
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    out = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    answers.append(tokenizer.decode(out[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
print(json.dumps(answers))
"""


def own_answers(run, tiny_model_dir, questions):
    from finetune_core.answers.chatter import AdapterModels, Chatter
    from finetune_core.model import load_base
    from finetune_core.render import load_tokenizer, render_prompt

    models = AdapterModels(load_base(tiny_model_dir, dtype="float32"), {"tuned": run.result_dir})
    chatter = Chatter(models, load_tokenizer(run.result_dir), ["tuned"])
    prompts = [render_prompt(messages, chatter.tokenizer) for messages in questions]
    return [answer.text for answer in chatter.generate("tuned", prompts, max_new_tokens=8)]


def from_root(hub, home, code, *arguments):
    """Run lines in a child process that has Fijn."""
    environment = hub.environment(home, ALICE) | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


QUESTIONS = [row["messages"][:1] for row in chat_rows(4)]


@pytest.mark.parametrize("kind", ["adapter", "merged"])
def test_what_is_pushed_answers_the_same_elsewhere(kind, hub, run, push, tmp_path, tiny_model_dir):
    code, said, _ = push(f"alice/pushed-{kind}", *(["--merged"] if kind == "merged" else []))
    assert code == 0, said
    assert said["url"] == f"{hub.url}/alice/pushed-{kind}" and said["private"]
    assert hub.repos[f"alice/pushed-{kind}"].private
    answers = elsewhere(hub, tmp_path / "elsewhere", ASK, kind, f"alice/pushed-{kind}", json.dumps(QUESTIONS))
    assert answers == own_answers(run, tiny_model_dir, QUESTIONS)


def test_only_the_result_is_sent(hub, push):
    assert push("alice/only")[0] == 0
    sent = set(hub.repos["alice/only"].files)
    assert {"adapter_model.safetensors", "adapter_config.json", "README.md", "recipe.yaml"} <= sent
    assert not [name for name in sent if name.endswith((".bin", ".pt", ".log", ".jsonl"))]


def test_the_card_on_the_hub_loads_the_repository_by_its_name(hub, push):
    assert push("alice/carded")[0] == 0
    text = hub.object(hub.repos["alice/carded"].files["README.md"]).read_text()
    assert 'AutoPeftModelForCausalLM.from_pretrained("alice/carded")' in text
    assert "base_model: alice/tiny" in text and "base_model_relation: adapter" in text


def test_a_second_push_sends_no_file_again(hub, push):
    assert push("alice/twice")[0] == 0
    before = hub.sent("PUT /_lfs")
    code, said, _ = push("alice/twice")
    assert code == 0, said
    assert hub.sent("PUT /_lfs") == before


def test_a_push_that_was_cut_off_goes_on(hub, push):
    assert push("alice/cut-a")[0] == 0  # the weights are there for all repositories of this Hub: take them out
    sha = hub.repos["alice/cut-a"].files["adapter_model.safetensors"]
    hub.object(sha).unlink()
    hub.drop("PUT /_lfs", times=9)
    code, said, _ = push("alice/cut-b")
    assert (code, said["error"]["code"]) == (1, "hub-away") and "not sent twice" in said["error"]["fix"]
    hub.troubles.clear()
    code, said, _ = push("alice/cut-b")
    assert code == 0 and hub.object(sha).exists()


@pytest.mark.parametrize(
    ("repo_id", "token", "code"),
    [
        ("not a name!", ALICE, "bad-name"),
        ("a/b/c", ALICE, "bad-name"),
        ("alice/x", "", "no-token"),
        ("alice/x", "hf_revoked0123456789abc", "bad-token"),
        ("alice/x", ALICE_READS, "token-read-only"),
        ("alice/x", BOB, "not-yours"),
        ("carol/x", CAROL, "token-read-only"),
        ("alice/tiny", ALICE, "repo-taken"),
    ],
)
def test_what_cannot_be_pushed_is_refused_before_anything_is_made(repo_id, token, code, hub, push):
    before = hub.sent("POST ")
    exit_code, said, _ = push(repo_id, token=token)
    assert (exit_code, said["error"]["code"]) == (1, code)
    assert hub.sent("POST ") == before and said["error"]["fix"]


def test_a_fine_grained_token_may_write_where_it_says(hub, push):
    code, said, _ = push("acme/fine", token=CAROL)
    assert code == 0, said


def test_a_token_of_one_repository_may_write_there_and_nowhere_else(hub, push, tmp_path):
    hub.add("carol/one", tmp_path, private=True)
    code, said, _ = push("carol/one", token=CAROL)
    assert code == 0, said


def test_a_name_without_an_owner_goes_to_the_own_account(push):
    assert push("short")[1]["repo_id"] == "alice/short"


def test_a_public_repository_is_not_filled_by_a_private_push(hub, push, tmp_path):
    hub.add("alice/open", tmp_path)
    assert push("alice/open")[1]["error"]["code"] == "repo-public"
    code, said, _ = push("alice/open", "--public")
    assert code == 0 and said["private"] is False


def test_a_public_push_into_a_private_repository_says_that_it_is_private(hub, push):
    assert push("alice/hidden")[0] == 0
    code, said, _ = push("alice/hidden", "--public")
    assert code == 0 and said["private"] is hub.repos["alice/hidden"].private is True


def test_merged_weights_take_the_place_of_the_adapter_and_the_other_way_round(hub, push):
    kinds = {"adapter_config.json", "adapter_model.safetensors"}, {"config.json", "model.safetensors"}
    assert push("alice/both")[0] == 0
    hub.repos["alice/both"].files["notes.md"] = hub.store(b"mine")
    for options, (here, gone) in ((["--merged"], kinds[::-1]), ([], kinds)):
        assert push("alice/both", *options)[0] == 0
        files = set(hub.repos["alice/both"].files)
        assert here <= files and not gone & files and "notes.md" in files


MANY = """
import json, sys
from pathlib import Path
from finetune_core.errors import FinetuneError
from finetune_core.run import Run
from finetune_core.takeaway.push import push
said = {}
for repo_id in sys.argv[2:]:
    try:
        said[repo_id] = push(Run(Path(sys.argv[1])), repo_id)["url"]
    except FinetuneError as error:
        said[repo_id] = error.as_dict()
print(json.dumps(said))
"""
REFUSALS = {401: "bad-token", 402: "payment", 403: "forbidden", 404: "not-found", 409: "conflict", 429: "hub-busy"}


def test_every_refusal_of_the_hub_has_words_of_its_own(hub, home, run):
    for status in REFUSALS:
        hub.fail(f"POST .*/trouble-{status}/commit/", status, times=9)
    said = from_root(hub, home, MANY, str(run.path), *(f"alice/trouble-{status}" for status in REFUSALS))
    assert {int(name[-3:]): error["code"] for name, error in said.items()} == REFUSALS
    assert all(error["fix"] and "Traceback" not in error["problem"] for error in said.values())


def test_a_hub_that_hangs_is_said_within_five_seconds(hub, run, home):
    hub.hang("GET /api/whoami", 20)
    code = (
        "import time, json; began = time.monotonic()\n"
        "from finetune_core.takeaway import account\n"
        "from finetune_core.errors import FinetuneError\n"
        "try: account.sign_in(account.find_token())\n"
        "except FinetuneError as error: print(json.dumps([error.code, time.monotonic() - began]))\n"
    )
    said, seconds = from_root(hub, home, code)
    assert said == "hub-slow" and seconds < 5


def test_the_token_is_in_no_file_and_in_nothing_that_was_said(run, home, push):
    assert push("alice/secret")[0] == 0
    for folder in (run.path, home):
        for file in folder.rglob("*"):
            if file.is_file():
                assert ALICE.encode() not in file.read_bytes(), file


def test_an_adapter_on_a_local_base_is_not_pushed(hub, home, tiny_model_dir, runs_dir):
    local = make_tuned_run(runs_dir, tiny_model_dir, max_new_tokens=4)
    done = subprocess.run(
        [sys.executable, "-m", "finetune_core", "push", str(local.path), "alice/local", "--json"],
        env=hub.environment(home, ALICE) | {"PYTHONPATH": str(ROOT)}, cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert json.loads(done.stdout)["error"]["code"] == "base-not-on-hub"


PULL = """
import json, sys
from pathlib import Path
from finetune_core.errors import FinetuneError
from finetune_core.takeaway.pull import pull
try:
    run = pull(sys.argv[1], Path(sys.argv[2]))
    print(json.dumps({"path": str(run.path), "status": run.status(), "has": run.has_result()}))
except FinetuneError as error:
    print(json.dumps(error.as_dict()))
"""


def test_a_pushed_run_is_opened_on_another_machine(hub, push, tmp_path, run):
    run.write_report({"n": 6, "rivals": [], "rows": [{"prompt": "private words"}]})
    shutil.rmtree(run.path / "exports", ignore_errors=True)
    assert push("alice/opened")[0] == 0
    said = from_root(hub, tmp_path / "home", PULL, "alice/opened", str(tmp_path / "runs"))
    assert (said["status"], said["has"]) == ("finished", True)
    opened = Path(said["path"])
    report = (opened / "report.json").read_text()
    assert '"n": 6' in report and "private words" not in report
    weights = "adapter/adapter_model.safetensors"
    assert (opened / weights).read_bytes() == (run.path / weights).read_bytes()
    assert not list(opened.glob("data/*.jsonl"))


def test_a_repository_without_a_run_is_not_opened(hub, tmp_path):
    said = from_root(hub, tmp_path / "home", PULL, "alice/tiny", str(tmp_path / "runs"))
    assert said["code"] == "not-a-run" and not list((tmp_path / "runs").glob("*/recipe.yaml"))
