"""A training on rented hardware, against a Hub here that really runs the job: followed, stopped, lost, resumed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import chat_rows, write_jsonl
from hub_jobs import JobsDouble
from hub_store import ALICE, ALICE_READS, BOB
from waiting import wait_for

from finetune_core.events import read_events
from finetune_core.jobs.inside import event_in
from finetune_core.jobs.sent import Sent, sent_of
from finetune_core.progress import summarize
from finetune_core.run import Run, list_runs

ROOT = Path(__file__).resolve().parent.parent


def test_a_diary_s_line_is_told_from_any_other():
    assert event_in('fijn-event 3 {"kind": "step", "step": 1}') == ("3", {"kind": "step", "step": 1})
    for other in ("Downloading…", "fijn-event x {}", "fijn-event 3 {", 'fijn-event 3 ["kind"]', "fijn-event "):
        assert event_in(other) is None


def test_what_travels_holds_the_program_and_neither_rows_nor_settings(recipe):
    import io
    import zipfile

    from finetune_core.jobs.sent import source_archive

    archive = zipfile.ZipFile(io.BytesIO(source_archive(recipe.replace(method="qlora"))))
    names = archive.namelist()
    assert {"finetune_core/jobs/inside.py", "finetune_core/train.py", "requirements.txt"} <= set(names)
    assert all(name.endswith((".py", ".yaml")) or name == "requirements.txt" for name in names)
    packages = archive.read("requirements.txt").decode()
    assert "torch==" in packages and "bitsandbytes" in packages and "gradio" not in packages


pytest_slow = pytest.mark.slow


@pytest.fixture(scope="module")
def hub(tmp_path_factory, tiny_model_dir):
    with JobsDouble(tmp_path_factory.mktemp("hub")) as double:
        double.add("alice/tiny", tiny_model_dir)
        yield double


@pytest.fixture(autouse=True)
def calm(request):
    if "hub" in request.fixturenames:
        double = request.getfixturevalue("hub")
        double.troubles.clear()
        double.ends.clear()
        double.holds, double.beside = False, None


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_jsonl(tmp_path_factory.mktemp("rented") / "rows.jsonl", chat_rows(40))


@pytest.fixture
def start(hub, home, rows, runs_dir):
    """Start the command line in a process of its own: `start("train", …)`; what it prints is in .said and .told."""
    begun = []

    def go(verb, *words, token=ALICE, **environment):
        count = len(begun)
        out, told = runs_dir.parent / f"out-{count}", runs_dir.parent / f"told-{count}"
        with out.open("wb") as stdout, told.open("wb") as stderr:
            child = subprocess.Popen(
                [sys.executable, "-m", "finetune_core", verb, *words, "--json", "--runs-dir", str(runs_dir)],
                stdout=stdout, stderr=stderr, cwd=ROOT,
                env=hub.environment(home, token) | {"FIJN_CACHE": str(home), "OMP_NUM_THREADS": "1"} | environment,
            )  # fmt: skip
        child.said, child.told = out, told
        begun.append(child)
        return child

    yield go
    for child in begun:
        if child.poll() is None:
            child.kill()
            child.wait()


@pytest.fixture
def do(start):
    """The same, to its end: (exit code, last JSON on stdout)."""

    def go(*words, **options):
        child = start(*words, **options)
        code = child.wait(timeout=150)
        lines = child.said.read_text().splitlines()
        assert lines, child.told.read_text()[-3000:]
        return code, json.loads(lines[-1])

    return go


@pytest.fixture
def recipe_words(rows):
    """A tiny training, as overrides of the command line."""

    def go(**values):
        chosen = {
            "model_name_or_path": "alice/tiny", "dataset_name": str(rows), "max_steps": 8, "evaluate": False,
            "logging_steps": 1, "eval_steps": 1000, "save_steps": 4, "packing": False, "learning_rate": 1e-2,
        } | values  # fmt: skip
        return ["quick-look", *(f"{name}={value}" for name, value in chosen.items())]

    return go


LONG = {"max_steps": 3000, "save_steps": 25}
RENT = ("--on", "jobs:cpu-basic", "--yes")


def only_run(runs_dir) -> Run:
    wait_for(lambda: list_runs(runs_dir))
    return list_runs(runs_dir)[0]


def step_of(run):
    return summarize(run.events()).step


def steps(run):
    return [event.data["step"] for event in run.events() if event.kind == "step"]


@pytest_slow
def test_the_hardware_is_listed_with_its_price_of_now(do):
    code, found = do("hardware")
    assert code == 0
    assert [each["flavor"] for each in found] == ["cpu-basic", "t4-small", "l4x1", "l4x4"]
    assert found[2]["dollars_per_hour"] == 0.8 and found[3]["gpus"] == 4 and found[1]["gpu_memory_gb"] == 16


@pytest_slow
def test_nothing_is_made_before_the_price_was_agreed_to(do, hub, runs_dir, recipe_words):
    before = set(hub.repos), len(hub.jobs)
    code, said = do("train", *recipe_words(), "--on", "jobs")
    assert code == 1 and said["error"]["code"] == "not-agreed"
    assert "Nvidia T4" in said["error"]["problem"] and "$0.40 an hour" in said["error"]["problem"]
    assert "40 rows go to a private repository of alice" in said["error"]["problem"]
    assert "--yes" in said["error"]["fix"]
    assert "token ends" not in said["error"]["problem"]
    hub.ends[ALICE] = time.time() + 600
    assert "Your token ends in 10 minutes" in do("train", *recipe_words(), "--on", "jobs")[1]["error"]["problem"]
    assert (set(hub.repos), len(hub.jobs)) == before and list_runs(runs_dir) == []


@pytest_slow
def test_a_run_on_rented_hardware_comes_home_complete(do, hub, runs_dir, recipe_words):
    code, said = do("train", *recipe_words(), *RENT)
    run, job = only_run(runs_dir), hub.newest()
    assert (code, said["kind"], said["outcome"]) == (0, "done", "finished"), job.log.read_text()[-3000:]
    assert run.status() == "finished" and steps(run) == list(range(1, 9)) and run.has_result()
    assert {"tokenizer.json", "chat_template.jinja"} <= {path.name for path in run.result_dir.iterdir()}
    assert not [event for event in run.events() if event.kind == "start" and "pid" in event.data]

    repo = hub.repos[f"alice/fijn-{run.id.rpartition('-')[2]}"]
    assert repo.private and {"source.zip", "run/data/train.jsonl", "run/events.jsonl"} <= set(repo.files)
    assert [path for path in repo.files if "checkpoint-" in path and "checkpoint-8/" not in path] == []
    assert not [path for path in repo.files if path.endswith("training_args.bin")]

    asked = job.said
    assert asked["secrets"] == {"HF_TOKEN": ALICE}
    assert ALICE not in json.dumps({name: value for name, value in asked.items() if name != "secrets"})
    assert asked["timeoutSeconds"] >= 1800 and asked["flavor"] == "cpu-basic"
    for path in [*run.path.rglob("*"), *(hub.object(sha) for sha in repo.files.values())]:
        assert not path.is_file() or ALICE.encode() not in path.read_bytes(), path

    jobs = len(hub.jobs)
    assert do("train", run.id)[0] == 0 and len(hub.jobs) == jobs  # finished is finished


@pytest_slow
def test_a_follower_that_was_killed_leaves_the_job_and_the_next_one_takes_it_up(start, do, hub, runs_dir, recipe_words):
    follower = start("train", *recipe_words(**LONG), *RENT)
    run = only_run(runs_dir)
    wait_for(lambda: step_of(run) >= 5)
    follower.send_signal(signal.SIGKILL)
    follower.wait()
    assert run.status() == "interrupted" and hub.newest().stage == "RUNNING"
    jobs, seen = len(hub.jobs), step_of(run)

    hub.fail("GET /api/jobs/alice/[^/]+/logs", 500)  # and a hiccup of the Hub does not end it
    follower = start("train", run.id)
    wait_for(lambda: step_of(run) > seen + 5)
    assert run.status() == "running" and len(hub.jobs) == jobs and hub.troubles[-1].times == 0
    assert do("stop", run.id)[0] == 0
    assert follower.wait(timeout=90) == 3
    assert run.status() == "stopped" and run.has_result() and hub.newest().stage == "COMPLETED"
    assert steps(run) == list(range(1, step_of(run) + 1))  # no line twice, none lost


@pytest_slow
def test_a_job_that_dies_loses_at_most_one_checkpoint(start, do, hub, runs_dir, recipe_words):
    follower = start("train", *recipe_words(**LONG), *RENT)
    run = only_run(runs_dir)
    wait_for(lambda: any(path.startswith("run/checkpoints/") for path in files_of(hub, run)))
    hub.newest().end()
    assert follower.wait(timeout=60) == 1
    error = summarize(run.events()).error
    assert run.status() == "failed" and error["code"] == "job-died" and "Resume" in error["fix"]
    saved = max(int(path.split("checkpoint-")[1].split("/")[0]) for path in files_of(hub, run) if "checkpoint-" in path)

    jobs = len(hub.jobs)
    follower = start("train", run.id)
    wait_for(lambda: len(began(run)) == 2 and step_of(run) > saved)
    assert began(run) == [0, saved] and len(hub.jobs) == jobs + 1
    assert do("stop", run.id)[0] == 0
    assert follower.wait(timeout=90) == 3 and run.status() == "stopped"
    assert [step for step, _ in summarize(run.events()).loss] == list(range(1, step_of(run) + 1))


@pytest_slow
def test_a_training_that_is_killed_in_its_job_is_told_from_a_job_that_ends(start, do, hub, runs_dir, recipe_words):
    import psutil

    from finetune_core.errors import KILLED
    from finetune_core.jobs.around import memory_kills

    follower = start("train", *recipe_words(**LONG), *RENT)
    run = only_run(runs_dir)
    wait_for(lambda: step_of(run) >= 1)
    (child,) = psutil.Process(hub.newest().process.pid).children()
    child.kill()
    assert follower.wait(timeout=60) == 1
    error = summarize(run.events()).error
    assert hub.newest().stage == "ERROR" and "killed on the rented machine" in error["problem"]
    assert error["code"] == (KILLED if memory_kills() is None else "job-died")  # a kernel that counts knows of no need
    assert run.status() == "failed" and [event.kind for event in run.events()].count("error") == 1


@pytest_slow
def test_what_the_hub_says_of_an_end_is_read(start, hub, runs_dir, recipe_words):
    follower = start("train", *recipe_words(**LONG), *RENT)
    run = only_run(runs_dir)
    wait_for(lambda: step_of(run) >= 1)
    hub.newest().message = "Job failed with exit code: 137. Reason: OOMKilled"
    hub.newest().end()
    assert follower.wait(timeout=60) == 1
    error = summarize(run.events()).error
    assert error["code"] == "killed-for-memory" and "OOMKilled" in error["problem"]


def began(run):
    """The steps from which its workers trained on."""
    return [event.data["step"] for event in run.events() if event.kind == "stage" and event.data["name"] == "training"]


def files_of(hub, run):
    repo = hub.repos.get(f"alice/fijn-{run.id.rpartition('-')[2]}")
    return list(repo.files) if repo else []


@pytest_slow
def test_a_sign_in_that_ends_loses_neither_the_job_nor_its_result(do, hub, runs_dir, recipe_words):
    hub.fail("GET /api/jobs/alice/[0-9a-f]+$", 401)  # asked when the log has ended
    code, said = do("train", *recipe_words(), *RENT)
    run = only_run(runs_dir)
    assert code == 1 and said["error"]["code"] == sent_of(run).left["code"] == "bad-token"
    assert run.status() == "finished" and not run.has_result()
    jobs = len(hub.jobs)
    assert do("train", run.id, token="hf_nobody0123456789")[0] == 1 and sent_of(run).left
    assert do("train", run.id)[0] == 0 and len(hub.jobs) == jobs  # nothing is paid twice
    assert run.has_result() and sent_of(run).left is None and steps(run) == list(range(1, 9))


@pytest_slow
def test_a_job_that_still_waits_for_its_hardware_is_cancelled_by_a_stop(start, do, hub, runs_dir, recipe_words):
    hub.holds = True
    follower = start("train", *recipe_words(), *RENT)
    run = only_run(runs_dir)
    wait_for(lambda: "job " in str(run.events()[-1:] and run.events()[-1].data.get("says")))
    assert do("stop", run.id)[0] == 0
    assert follower.wait(timeout=60) == 3
    assert hub.newest().stage == "CANCELED" and run.status() == "stopped"


@pytest_slow
def test_deleting_a_run_ends_its_job(start, do, hub, runs_dir, recipe_words):
    follower = start("train", *recipe_words(**LONG), *RENT)
    run = only_run(runs_dir)
    wait_for(lambda: step_of(run) >= 1)
    follower.send_signal(signal.SIGKILL)
    follower.wait()
    assert do("delete", run.id)[0] == 0
    assert hub.newest().stage == "CANCELED" and not run.path.exists()


@pytest_slow
@pytest.mark.parametrize(
    ("changes", "options", "code"),
    [
        ({}, {"token": BOB}, "no-credit"),
        ({}, {"token": ALICE_READS}, "token-read-only"),
        ({}, {"token": "hf_nobody0123456789"}, "bad-token"),
        ({}, {"HF_HUB_OFFLINE": "1"}, "hub-away"),
        ({"model_name_or_path": "./presets"}, {}, "model-not-on-hub"),
        ({"max_length": 20}, {"flavor": "h9000"}, "no-flavor"),
    ],
)
def test_what_cannot_be_rented_ends_with_what_to_do(do, hub, recipe_words, runs_dir, changes, options, code):
    options = dict(options)
    flavor = options.pop("flavor", "cpu-basic")
    before = len(hub.jobs)
    exit_code, said = do("train", *recipe_words(**changes), "--on", f"jobs:{flavor}", "--yes", **options)
    error = said.get("error") or said  # before a run was made, or the last line of its diary
    assert exit_code == 1 and error["code"] == code and error["fix"], said
    assert len(hub.jobs) == before


@pytest_slow
def test_a_token_without_the_right_to_jobs_is_told_so(do, hub, recipe_words):
    hub.fail("POST /api/jobs/alice", 403)
    code, said = do("train", *recipe_words(), *RENT)
    assert code == 1 and said["kind"] == "error" and said["code"] == "no-jobs-scope" and "“jobs”" in said["fix"]


def test_a_rented_run_is_followed_by_whatever_name_it_has_and_never_trained_here(recipe, runs_dir, monkeypatch):
    from finetune_core import verbs_jobs
    from finetune_core.cli import main

    run = Run.create(runs_dir, recipe)
    Sent("l4x1", "1x Nvidia L4", 1800, "alice", "alice/fijn-x", job_id="j1").save(run)
    followed = []
    monkeypatch.setattr(verbs_jobs, "train", lambda run, options, out: followed.append(run.id) or 0)
    for name in (run.id, str(run.path), run.id.rpartition("-")[2]):
        assert main(["train", name, "--runs-dir", str(runs_dir)]) == 0
    assert followed == [run.id] * 3
    assert main(["train", run.id, "lora_r=8", "--runs-dir", str(runs_dir)]) == 2  # its recipe is never changed


def test_a_log_that_is_not_there_yet_is_no_end_of_a_job(recipe, runs_dir, monkeypatch):
    from types import SimpleNamespace

    from finetune_core.jobs import follow

    class NotFound(Exception):
        response = SimpleNamespace(status_code=404)

    def fetch_job_logs(**_):
        if answers:
            raise NotFound
        return iter(())

    run, answers = Run.create(runs_dir, recipe), [("SCHEDULING", ""), ("RUNNING", "")]
    sent = Sent("l4x1", "1x Nvidia L4", 1800, "alice", "alice/fijn-x", job_id="j1")
    api = SimpleNamespace(fetch_job_logs=fetch_job_logs)
    monkeypatch.setattr(follow.hub_jobs, "client", lambda token: api)
    monkeypatch.setattr(follow, "_stage", lambda *_: answers.pop(0) if answers else ("COMPLETED", ""))
    monkeypatch.setattr(follow.time, "sleep", lambda seconds: None)
    assert follow._watch(run, sent, ALICE, follow.Mirror(run, None)) == ("COMPLETED", "")
    assert answers == []


def test_a_result_that_did_not_come_to_the_repository_is_said_and_learned_again(recipe, runs_dir, monkeypatch):
    from finetune_core.errors import FinetuneError
    from finetune_core.jobs import follow

    run = Run.create(runs_dir, recipe)
    Sent("l4x1", "1x Nvidia L4", 1800, "alice", "alice/fijn-x", job_id="j1").save(run)
    run.tell("done", outcome="finished", seconds=9.0, remote="j1:9")
    monkeypatch.setattr(follow, "_require_token", lambda sent, token: ALICE)
    monkeypatch.setattr(follow, "_stage", lambda sent, token: ("COMPLETED", ""))
    monkeypatch.setattr(follow, "_watch", lambda *_: ("COMPLETED", ""))
    monkeypatch.setattr(follow, "_fetch_result", lambda *_: None)
    with pytest.raises(FinetuneError, match="its result did not come"):
        follow.follow(run)
    assert run.status() == "failed" and follow.next_start(run) == "new" and sent_of(run).left is None


def test_the_follower_s_lock_is_the_run_s(recipe, runs_dir):
    """A run of rented hardware looks like any other to the page: held while somebody follows, else not."""
    run = Run.create(runs_dir, recipe)
    assert sent_of(run) is None
    Sent("l4x1", "1x Nvidia L4", 1800, "alice", "alice/fijn-x", pid=os.getpid()).save(run)
    assert sent_of(run).flavor == "l4x1" and run.status() == "new" and read_events(run.diary) == []
