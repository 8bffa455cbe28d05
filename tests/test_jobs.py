"""A training on rented hardware, against a Hub here that really runs the job: followed, stopped, lost, resumed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import chat_rows, write_jsonl
from hub_jobs import JobsDouble
from hub_store import ALICE, ALICE_READS, BOB
from test_launch import wait_for

from finetune_core.errors import FinetuneError
from finetune_core.events import read_events
from finetune_core.jobs.inside import event_in
from finetune_core.jobs.sent import Sent, sent_of
from finetune_core.progress import summarize
from finetune_core.recipe import resolve_recipe
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


def flavor(name, dollars, gpu_gb, gpus=1):
    from finetune_core.jobs.hardware import Flavor
    from finetune_core.machine import Gpu, Machine

    card = Gpu(name, gpu_gb, gpu_gb, 8.9)
    return Flavor(name, name, dollars, Machine(8, 32, 30, (card,) * gpus, kind="cuda", bitsandbytes=True))


def test_the_cheapest_gpu_on_which_it_fits_is_chosen_and_the_price_has_an_end(recipe):
    from finetune_core.jobs.hardware import choose
    from finetune_core.preflight import look

    small, large, several = flavor("small", 0.01, 0.2), flavor("large", 0.02, 24), flavor("several", 0.005, 24, 4)
    seen = look(recipe, machine=large.machine)
    made = choose(seen, [several, small, large])
    assert made.flavor is large  # the small one lacks memory, of several GPUs three would idle
    assert made.timeout_seconds >= max(1800, 2 * made.plan.seconds)
    assert made.dollars < made.dollars_at_most == pytest.approx(made.timeout_seconds / 60 * 0.02)
    shared = look(recipe.replace(num_processes=4), machine=several.machine)
    assert choose(shared, [large, several]).flavor is several
    for flavors, name in (([small], ""), ([small, large], "small")):
        with pytest.raises(FinetuneError) as refused:
            choose(seen, flavors, name)
        assert refused.value.code == "does-not-fit" and refused.value.fix


def test_all_gpus_of_what_was_asked_for_are_used_unless_a_number_was_set():
    from finetune_core.jobs.hardware import with_all_gpus

    flavors = [flavor("one", 0.01, 24), flavor("four", 0.04, 24, gpus=4)]
    for name, words, processes in (
        ("four", [], 4), ("four", ["num_processes=1"], 1), ("four", ["num_processes=2"], 2),
        ("one", [], 1), ("", [], 1), ("no-such", [], 1),
    ):  # fmt: skip
        asked = resolve_recipe("quick-look", words)
        assert with_all_gpus(asked, flavors, name).num_processes == processes, (name, words)


@pytest.mark.parametrize(("words", "idle"), [([], 0), (["num_processes=1"], 3)])
def test_gpus_that_would_idle_are_said_with_the_price(recipe, runs_dir, monkeypatch, tmp_path, capsys, words, idle):
    from finetune_core.cli import main
    from finetune_core.jobs import hardware, order, sent

    monkeypatch.setenv("HF_TOKEN", ALICE)
    monkeypatch.setattr(hardware, "list_flavors", lambda token: [flavor("four", 0.04, 24, gpus=4)])
    monkeypatch.setattr(order, "tenant", lambda token: SimpleNamespace(name="alice", ends_at=None))
    monkeypatch.setattr(sent, "require_can_travel", lambda recipe: None)
    values = {name: value for name, value in recipe.model_dump().items() if name != "num_processes"}
    file = tmp_path / "asked.yaml"
    file.write_text(json.dumps(values))
    assert main(["train", str(file), *words, "--on", "jobs:four", "--json", "--runs-dir", str(runs_dir)]) == 1
    said = json.loads(capsys.readouterr().out.splitlines()[-1])["error"]
    assert said["code"] == "not-agreed" and ("of its 4 GPUs would do nothing" in said["problem"]) == bool(idle)
    assert not idle or f"{idle} of its 4 GPUs would do nothing: num_processes=4 uses all." in said["problem"]


def test_what_was_measured_here_says_nothing_of_rented_hardware_of_the_same_kind(recipe, tiny_model_dir):
    from finetune_core import measured
    from finetune_core.jobs.hardware import flavor_of
    from finetune_core.machine import Gpu, Machine
    from finetune_core.preflight import look, plan_for

    card = SimpleNamespace(model="L4", vram="24 GB", quantity="1")
    for accelerator, here in (
        (None, Machine(2, 16, 14.4, bitsandbytes=True)),
        (card, Machine(2, 16, 14.4, (Gpu("L4", 24, 22.08, 8.9),), kind="cuda", bitsandbytes=True)),
    ):
        item = SimpleNamespace(name="x", pretty_name="x", cpu="2 vCPU", ram="16 GB", accelerator=accelerator,
                               unit_cost_usd=0.01, unit_label="minute")  # fmt: skip
        there = flavor_of(item).machine
        seen = look(recipe, machine=there)
        measured.remember(seen.plan.as_dict(), seen.plan.recipe, tiny_model_dir, here, 50_000, 100.0, 2.0)
        assert plan_for(recipe, seen.facts, seen.diagnosis, here).rate_is_measured
        again = plan_for(recipe, seen.facts, seen.diagnosis, there)
        assert not again.rate_is_measured and again.seconds == seen.plan.seconds
        assert again.memory_gb == seen.plan.memory_gb


def test_the_price_of_many_rows_is_told_from_some_of_them(recipe, monkeypatch):
    from finetune_core.jobs import hardware
    from finetune_core.preflight import look

    large = flavor("large", 0.02, 24)
    seen = look(recipe.replace(max_steps=-1, num_train_epochs=100, packing=False), machine=large.machine)
    exact = hardware.estimate(seen, large)
    monkeypatch.setattr(hardware, "SAMPLE", 8)
    few, times = hardware.few_rows(seen)
    assert few.diagnosis.train_rows <= 8 < seen.diagnosis.train_rows
    told = hardware.estimate(few, large, times)
    assert told.seconds - hardware.START_SECONDS == pytest.approx(exact.seconds - hardware.START_SECONDS, rel=0.15)
    assert hardware.choose(seen, [large]).plan == exact.plan  # what is agreed to counts all of them


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
        double.holds = False


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


def test_the_follower_s_lock_is_the_run_s(recipe, runs_dir):
    """A run of rented hardware looks like any other to the page: held while somebody follows, else not."""
    run = Run.create(runs_dir, recipe)
    assert sent_of(run) is None
    Sent("l4x1", "1x Nvidia L4", 1800, "alice", "alice/fijn-x", pid=os.getpid()).save(run)
    assert sent_of(run).flavor == "l4x1" and run.status() == "new" and read_events(run.diary) == []
