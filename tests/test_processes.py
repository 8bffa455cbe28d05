"""A training that several processes share is the training of one: its numbers, its diary, its ends."""

import os
import shutil
import signal
import time

import psutil
import pytest
from conftest import chat_rows, write_jsonl
from test_launch import wait_for, worker_pid
from tuned import QUESTIONS, float32, prompts

from finetune_core import launch, preflight
from finetune_core.errors import FinetuneError
from finetune_core.facts import ModelFacts
from finetune_core.machine import Gpu, Machine
from finetune_core.preflight import create_run, look
from finetune_core.progress import summarize
from finetune_core.recipe import Recipe
from finetune_core.run import Run
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


def test_the_plan_proposes_the_other_gpus_and_counts_on_them_when_they_are_asked_for(recipe):
    four = look(recipe, machine=machine(4)).plan
    assert any("num_processes=4" in reason for reason in four.reasons) and four.recipe.num_processes == 1
    shared = look(recipe.replace(num_processes=4), machine=machine(4)).plan
    assert shared.seconds == pytest.approx(four.seconds / 4) and shared.steps == four.steps
    assert shared.memory_gb["activations"] < four.memory_gb["activations"]
    assert not any("num_processes" in reason for reason in look(recipe, machine=machine(1)).plan.reasons)


def test_processes_on_a_cpu_share_its_memory(recipe):
    one, two = (look(recipe.replace(num_processes=n), machine=machine(0)).plan for n in (1, 2))
    assert two.available_gb == one.available_gb / 2 and two.seconds == one.seconds


@pytest.fixture
def big_facts(monkeypatch):
    """The model is of eight billion parameters, for the plan."""
    facts = ModelFacts(8_030_261_248, 4096, 32, 128_256, 14336, 32, 8, 128, False, 8192, model_type="llama")
    monkeypatch.setattr(preflight, "_facts", lambda folder, recipe: facts)


@pytest.mark.parametrize(("method", "gb"), [("lora", 16), ("full", 60)])
def test_weights_are_shared_where_a_copy_does_not_fit_and_only_there(recipe, method, gb, big_facts):
    asked = recipe.replace(method=method, num_processes=4)
    roomy, tight = (look(asked, machine=machine(4, gb=gb)).plan for gb in (2000, gb))
    assert (roomy.recipe.fsdp, tight.recipe.fsdp, tight.fits) == (False, True, "fits")
    assert tight.memory_gb["weights"] < roomy.memory_gb["weights"] / 3.9 and tight.memory_gb["gathered"] > 0
    moved = tight.memory_gb["optimizer"] / roomy.memory_gb["optimizer"]
    assert moved == pytest.approx(0.25 if method == "full" else 1, rel=0.01)  # an adapter lies whole in each
    assert any("1/4" in reason and "would not fit" in reason for reason in tight.reasons)
    assert not any("FSDP" in reason for reason in roomy.reasons)


def test_a_person_decides_whether_weights_are_shared(recipe, big_facts):
    asked = recipe.replace(num_processes=4)
    assert look(asked.replace(fsdp=True), machine=machine(4, gb=2000)).plan.recipe.fsdp is True
    refused = look(asked.replace(fsdp=False), machine=machine(4, gb=14)).plan
    assert refused.recipe.fsdp is False and refused.fits == "no"
    assert refused.suggestions[0].changes == {"num_processes": 4, "fsdp": True}


@pytest.mark.parametrize(("gb", "says"), [(14, True), (16, False)])
def test_the_plan_says_where_one_gpu_cannot_answer_with_what_several_train(recipe, gb, says, big_facts):
    plan = look(recipe.replace(num_processes=4, fsdp=True), machine=machine(4, gb=gb)).plan
    assert any("chat" in reason for reason in plan.reasons) is says


def test_what_one_gpu_does_not_hold_is_proposed_to_all_of_them(recipe, big_facts):
    plan = look(recipe, machine=machine(4, gb=14)).plan
    assert plan.fits == "no" and plan.recipe.fsdp is False
    assert look(recipe.replace(**plan.suggestions[0].changes), machine=machine(4, gb=14)).plan.fits != "no"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"num_processes": 1}, "num_processes is 1"),
        ({"method": "qlora", "num_processes": 2}, "4 bits"),
        ({"use_dora": True, "num_processes": 2}, "DoRA"),
    ],
    ids=str,
)
def test_weights_that_cannot_be_shared_are_refused(recipe, values, words):
    with pytest.raises(FinetuneError) as refused:
        look(recipe.replace(fsdp=True, **values), machine=machine(2))
    assert refused.value.code == "no-fsdp" and words in refused.value.problem


def test_a_model_whose_layers_transformers_cannot_share_is_refused(tiny_model_dir):
    from finetune_core.model import load_base
    from finetune_core.together import require_shares

    with pytest.raises(FinetuneError, match="type llama") as refused:  # it was not loaded in shares
        require_shares(load_base(tiny_model_dir, dtype="float32", device="cpu"))
    assert refused.value.code == "no-fsdp"


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
    assert asked == [8, 4]
    assert [event.data["code"] for event in run.events() if event.kind == "warning"] == ["stepped-down"]


# --- with real processes ---


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_jsonl(tmp_path_factory.mktemp("shared") / "rows.jsonl", chat_rows(40))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_model_dir, rows):
    """`trained(processes, field=value, …)`: (run, lines handed on, seconds). Twenty steps, five epochs; once each.

    In float32: in bfloat16 a batch of four rows is rounded otherwise than one of eight.
    """
    from finetune_core.train import train

    made = {}

    def go(processes, **values):
        recipe = Recipe(
            model_name_or_path=str(tiny_model_dir), dataset_name=str(rows), max_steps=20, evaluate=False,
            num_processes=processes, logging_steps=1, eval_steps=10, save_steps=10, learning_rate=1e-2, dtype="float32",
            **values,
        )  # fmt: skip
        if recipe.as_yaml() not in made:
            run = create_run(recipe, tmp_path_factory.mktemp("runs"))
            seen, began = [], time.monotonic()
            assert train(run, on_event=seen.append) == "finished"
            made[recipe.as_yaml()] = run, seen, time.monotonic() - began
        return made[recipe.as_yaml()]

    return go


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


SHARED = {"adapter": {}, "all weights": {"method": "full", "early_stopping": True, "early_stopping_patience": 9}}


@pytest.mark.slow
@pytest.mark.parametrize("values", SHARED.values(), ids=SHARED)
def test_shared_weights_learn_the_loss_curve_of_one_process_and_leave_the_same_run(trained, values):
    (one, _, _), (two, _, _) = trained(1, packing=False, **values), trained(2, packing=False, fsdp=True, **values)
    ours, theirs = summarize(two.events()), summarize(one.events())
    assert apart(ours.loss, theirs.loss) < 1e-3 and ours.loss[-1][1] < ours.loss[0][1] - 0.3
    assert apart(ours.eval_loss, theirs.eval_loss) < 1e-3
    assert any("1/2" in event.data.get("says", "") for event in two.events() if event.kind == "stage")
    answers = [[event.data["answer"] for event in run.events() if event.kind == "sample"] for run in (one, two)]
    assert answers[0] == answers[1] and len(answers[0]) > 1
    assert files_of(one.result_dir) == files_of(two.result_dir)
    assert said_by(one) == said_by(two)
    assert [path.name for path in two.checkpoints()] == ["checkpoint-10", "checkpoint-20"]


def files_of(folder):
    """Names, and shapes of the tensors: what there is to load."""
    from safetensors import safe_open

    with safe_open(next(folder.glob("*.safetensors")), "pt") as tensors:
        shapes = {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
    return sorted(path.name for path in folder.iterdir()), shapes


def said_by(run):
    """What the result answers when it is loaded as the chat loads it."""
    chatter = float32(run)
    return [answer.text for answer in chatter.generate("tuned", prompts(chatter, QUESTIONS[:1]), max_new_tokens=16)]


@pytest.mark.slow
@pytest.mark.parametrize("values", SHARED.values(), ids=SHARED)
def test_shared_weights_go_on_from_a_checkpoint_as_one_process_does(trained, values, tmp_path):
    (one, _, _), (two, _, _) = trained(1, packing=False, **values), trained(2, packing=False, fsdp=True, **values)
    theirs, ours = gone_on(one, tmp_path / "one"), gone_on(two, tmp_path / "two")
    assert [step for step, _ in ours] == list(range(11, 21)) and apart(ours, theirs) < 1e-3


def gone_on(run, folder):
    """The losses of a copy of this run that lost everything after step 10 and went on."""
    from finetune_core.train import train

    again = Run(shutil.copytree(run.path, folder / run.id))
    shutil.rmtree(again.path / "checkpoints" / "checkpoint-20")
    shutil.rmtree(again.result_dir)
    before = len(again.events())
    assert train(again) == "finished" and files_of(again.result_dir) == files_of(run.result_dir)
    return [(event.data["step"], event.data["loss"]) for event in again.events()[before:] if event.kind == "step"]


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
    assert error["code"] == "process-died" and "of 2" in error["problem"] and "Resume" in error["fix"]


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
