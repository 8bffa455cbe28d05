"""A training that several processes share is the training of one: its numbers, its diary, its ends."""

import os
import signal

import psutil
import pytest
from planned import SMALL
from test_launch import worker_pid
from waiting import wait_for

from finetune_core import launch, pace
from finetune_core.errors import FinetuneError
from finetune_core.ladder import step_down
from finetune_core.machine import Gpu, Machine
from finetune_core.plan import make_plan
from finetune_core.preflight import create_run, look
from finetune_core.progress import summarize
from finetune_core.recipe import Recipe
from finetune_core.sharing import share


@pytest.mark.parametrize(
    ("batch", "accumulation", "processes", "each"),
    [
        (8, 1, 2, (4, 1, 8)),  # nothing is left to add up: the batch is shared
        (8, 4, 2, (8, 2, 32)),  # accumulation goes first
        (8, 3, 2, (6, 2, 24)),  # rows of a step before rows of a pass
        (1, 16, 4, (1, 4, 16)),
        (8, 1, 3, (3, 1, 9)),  # cannot be dealt out
        (1, 1, 2, (1, 1, 2)),
    ],
)
def test_a_step_keeps_its_rows(batch, accumulation, processes, each):
    asked = Recipe(per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation, num_processes=processes)
    shared = share(asked)
    found = shared.recipe.per_device_train_batch_size, shared.recipe.gradient_accumulation_steps, shared.rows
    assert found == each
    assert ("as asked" in shared.says) == (each[2] == batch * accumulation)


def machine(gpus, cores=8, gb=22):
    card = Gpu("L4", gb + 2, gb, 8.9)
    return Machine(cores, 64, 60, (card,) * gpus, kind="cuda" if gpus else "cpu")


@pytest.mark.parametrize(("gpus", "cores", "places"), [(1, 8, "1 GPU."), (0, 2, "2 cores.")])
def test_more_processes_than_places_are_refused(recipe, gpus, cores, places):
    with pytest.raises(FinetuneError) as refused:
        look(recipe.replace(num_processes=3), machine=machine(gpus, cores))
    assert refused.value.code == "too-many-processes" and places in refused.value.problem


def test_the_plan_proposes_the_other_gpus_and_counts_on_them_when_they_are_asked_for(recipe, monkeypatch):
    monkeypatch.setattr(pace, "LAYER_SECONDS", {"lora": 1e-9})  # so few tokens would wait for the layers alone
    four = look(recipe, machine=machine(4)).plan
    assert any("num_processes=4" in reason for reason in four.reasons) and four.recipe.num_processes == 1
    shared = look(recipe.replace(num_processes=4), machine=machine(4)).plan
    assert shared.seconds == pytest.approx(four.seconds / 4) and shared.steps == four.steps
    assert shared.memory_gb["activations"] < four.memory_gb["activations"]
    assert not any("num_processes" in reason for reason in look(recipe, machine=machine(1)).plan.reasons)


def test_when_memory_runs_out_each_process_takes_fewer_rows_and_a_step_keeps_its_rows():
    asked = Recipe(per_device_train_batch_size=8, num_processes=2, packing=False)
    lower, rung = step_down(asked, 60, machine(2))
    one = share(lower)
    assert (one.recipe.per_device_train_batch_size, one.rows) == (2, 8) and share(asked).rows == 8
    assert rung.says == "Smaller batches, more of them in a step"
    assert step_down(asked.replace(num_processes=8), 60, machine(8))[1].changes == {"fsdp": True}


def test_steps_are_counted_with_the_rows_that_processes_share():
    """Nine rows cannot be dealt out to two, and one row not to four."""
    for rows, processes, steps in ((9, 2, 30), (1, 4, 60)):
        asked = Recipe(per_device_train_batch_size=rows, num_processes=processes, packing=False, num_train_epochs=1)
        assert make_plan(asked, SMALL, [60] * 240, machine(4)).steps == steps
    assert share(Recipe(per_device_train_batch_size=2, num_processes=2)).says.startswith(
        "2 processes share each step: 1 row each;"
    )


def test_a_probe_takes_the_rows_of_one_process_as_the_plan_counts_them(recipe, monkeypatch):
    from finetune_core import speed

    class Seen(Exception):
        pass

    def build(recipe, *_):
        raise Seen(recipe.num_processes, recipe.per_device_train_batch_size)

    monkeypatch.setattr(speed, "build_trainer", build)
    seen = look(recipe.replace(per_device_train_batch_size=8, num_processes=2, packing=False), machine=machine(2))
    with pytest.raises(Seen) as built:
        speed.probe(seen, 1.0)
    assert built.value.args == (1, 4)


def test_processes_on_a_cpu_share_its_memory(recipe):
    one, two = (look(recipe.replace(num_processes=n), machine=machine(0)).plan for n in (1, 2))
    assert two.available_gb == one.available_gb / 2 and two.seconds == pytest.approx(one.seconds)


def test_memory_that_runs_out_in_one_of_them_goes_a_rung_down_the_ladder(recipe, runs_dir, monkeypatch):
    from finetune_core import train

    asked = []

    def learn_together(run, recipe, folder, on_event):
        asked.append(recipe.per_device_train_batch_size)
        if len(asked) == 1:
            raise FinetuneError("The accelerator ran out of memory.", "Halve.", code="out-of-memory")
        return "finished", {}

    monkeypatch.setattr(train, "learn_together", learn_together)
    run = create_run(recipe.replace(num_processes=2), runs_dir)
    assert train.train(run) == "finished"
    assert asked == [8, 2]  # four rows in each of them, then two
    assert [event.data["code"] for event in run.events() if event.kind == "warning"] == ["stepped-down"]


# --- with real processes ---


def apart(one, other):
    assert len(one) == len(other) > 0
    return max(abs(a - b) for (_, a), (_, b) in zip(one, other, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    "values",
    [
        {"packing": False},
        {"packing": False, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 4},
        {"packing": True, "packing_length": 64, "gradient_accumulation_steps": 4},
        {"packing": False, "method": "full"},
    ],
    ids=["batches", "accumulated", "packed", "all weights"],
)
def test_two_processes_learn_the_loss_curve_of_one(trained, values, capsys):
    (one, _, alone), (two, seen, together) = trained(1, **values), trained(2, **values)
    ours, theirs = summarize(two.events()), summarize(one.events())
    assert apart(ours.loss, theirs.loss) < 1e-3 and ours.loss[-1][1] < ours.loss[0][1] - 0.3
    assert apart(ours.eval_loss, theirs.eval_loss) < 1e-3
    tokens = [[event.data["tokens"] for event in run.events() if event.kind == "step"] for run in (one, two)]
    assert tokens[0] == tokens[1]  # of both processes, and padding is none
    assert [event.as_json() for event in seen] == [event.as_json() for event in two.events()]  # one diary, in order
    assert two.has_result() and [path.name for path in two.checkpoints()] == ["checkpoint-10", "checkpoint-20"]
    assert not (two.path / ".processes").exists()
    with capsys.disabled():
        spent = [next(event.data["train_seconds"] for event in run.events() if event.kind == "done")
                 for run in (one, two)]  # fmt: skip
        print(f"\n{values}: {spent[1] / spent[0]:.2f} of the seconds in steps, {together / alone:.1f} of all")


@pytest.mark.slow
def test_every_row_is_seen_once_an_epoch_although_processes_drop_out_at_random(trained):
    run, _, _ = trained(2, packing=False, lora_dropout=0.3)
    tokens = [event.data["tokens"] for event in run.events() if event.kind == "step"]
    assert tokens[19] == 5 * tokens[3]  # four steps see the 32 rows once


@pytest.fixture
def slow(recipe):
    return recipe.replace(max_steps=2000, eval_steps=500, save_steps=5, num_processes=2)


def processes_of(run):
    """The processes that share the training; the parent is not among them."""
    found = psutil.Process(worker_pid(run)).children(recursive=True)
    return [each for each in found if "finetune_core.rank" in " ".join(each.cmdline())]


def started(run, step=1):
    launch.start(run)
    wait_for(lambda: summarize(run.events()).step >= step)
    return processes_of(run)


@pytest.mark.slow
def test_a_stop_ends_all_of_them_after_the_same_step_and_a_resume_goes_on(slow, runs_dir):
    run = create_run(slow, runs_dir)
    ranks = started(run, 7)
    launch.stop(run)
    wait_for(lambda: run.status() == "stopped")
    psutil.wait_procs(ranks, timeout=20)
    assert len(ranks) == 2 and not any(each.is_running() for each in ranks)
    stopped = summarize(run.events()).step
    started(run, stopped + 2)
    launch.stop(run)
    wait_for(lambda: run.status() == "stopped")
    progress = summarize(run.events())
    assert [step for step, _ in progress.loss] == list(range(1, progress.step + 1))
    assert run.has_result()


@pytest.mark.slow
def test_they_do_not_outlive_a_parent_that_was_killed(slow, runs_dir):
    run = create_run(slow, runs_dir)
    ranks = started(run)
    os.kill(worker_pid(run), signal.SIGKILL)
    _, alive = psutil.wait_procs(ranks, timeout=20)
    assert not alive and run.status() == "interrupted"


@pytest.mark.slow
def test_kill_ends_all_of_them_and_the_run_is_interrupted(slow, runs_dir):
    run = create_run(slow, runs_dir)
    ranks = started(run)
    launch.kill(run)
    assert not any(each.is_running() for each in ranks) and run.status() == "interrupted"


@pytest.mark.slow
def test_one_that_dies_ends_the_others_and_the_run_says_so(slow, runs_dir):
    run = create_run(slow, runs_dir)
    ranks = started(run)
    ranks[1].kill()
    wait_for(lambda: run.status() == "failed")
    psutil.wait_procs(ranks, timeout=20)
    assert not any(each.is_running() for each in ranks)
    error = summarize(run.events()).error
    assert error["code"] == "killed-for-memory" and "of 2" in error["problem"] and "Resume" in error["fix"]


@pytest.mark.slow
def test_what_went_wrong_in_one_of_them_is_the_run_s_error_with_its_traceback_in_the_log(
    recipe, runs_dir, tiny_model_dir, tmp_path
):
    import shutil

    from safetensors.torch import load_file, save_file

    broken = shutil.copytree(tiny_model_dir, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][:] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    run = create_run(recipe.replace(model_name_or_path=str(broken), num_processes=2), runs_dir)
    launch.start(run)
    wait_for(lambda: run.status() == "failed")
    assert summarize(run.events()).error["code"] == "loss-not-finite", run.log_path.read_text()[-6000:]
    assert "Traceback" in run.log_path.read_text()
