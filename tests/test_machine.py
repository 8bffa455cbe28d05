"""What this machine has: what nvidia-smi tells, what CUDA_VISIBLE_DEVICES leaves of it, and what torch can use."""

import json
import subprocess

import pytest

from finetune_core import machine
from finetune_core.errors import FinetuneError
from finetune_core.machine import Gpu, Machine, this_machine

TWO = "NVIDIA A100, 81920, 1024, 8.0, GPU-aaaa-1\nNVIDIA A100, 81920, 80000, 8.0, GPU-bbbb-2\n"
SPARK = "NVIDIA GB10, [N/A], [N/A], 12.1, GPU-cccc-3\n"
WITH_GPU = Machine(cores=4, memory_gb=16, available_gb=12, gpus=(Gpu("Tesla T4", 15, 14.6, 7.5),), kind="cuda")
WITHOUT = Machine(cores=4, memory_gb=16, available_gb=12)


@pytest.fixture
def nvidia_smi(monkeypatch):
    """`nvidia_smi(lines, "0,1")`: the machine whose nvidia-smi says this, with that in CUDA_VISIBLE_DEVICES."""

    def look(says, visible=None):
        monkeypatch.setattr(machine.shutil, "which", lambda name: name)
        answer = subprocess.CompletedProcess([], 0, stdout=says)
        monkeypatch.setattr(machine.subprocess, "run", lambda *_, **__: answer)
        monkeypatch.delenv("LOCAL_RANK", raising=False)
        if visible is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        return this_machine()

    return look


def test_the_gpu_with_the_most_free_memory_comes_first(nvidia_smi):
    assert [gpu.uuid for gpu in nvidia_smi(TWO).gpus] == ["GPU-bbbb-2", "GPU-aaaa-1"]


@pytest.mark.parametrize(
    ("visible", "left"),
    [("1", ["2"]), ("0,1", ["1", "2"]), (" 1 , 0", ["2", "1"]), ("GPU-aaaa", ["1"]), ("", []), ("-1", []),
     ("1,7,0", ["2"])],
)  # fmt: skip
def test_only_the_gpus_that_cuda_shows_count(nvidia_smi, visible, left):
    assert [gpu.uuid[-1] for gpu in nvidia_smi(TWO, visible).gpus] == left


def test_a_machine_whose_gpus_are_hidden_trains_on_the_processor(nvidia_smi):
    assert nvidia_smi(TWO, "").kind == "cpu"


def test_a_gpu_that_shares_the_machines_memory_has_the_machines(nvidia_smi):
    seen = nvidia_smi(SPARK)
    assert seen.kind == "cuda" and seen.gpus[0].total_gb == seen.memory_gb and seen.gpus[0].has_bf16


def test_a_worker_sees_one_gpu(nvidia_smi):
    nvidia_smi(TWO)
    machine.take_gpus()
    assert machine.os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-bbbb-2"


@pytest.mark.parametrize(("count", "taken"), [(2, "GPU-bbbb-2,GPU-dddd-4"), (3, None)])
def test_several_workers_get_the_gpus_with_the_most_free_memory(nvidia_smi, count, taken):
    nvidia_smi(TWO + "NVIDIA A100, 81920, 40000, 8.0, GPU-dddd-4\n")
    machine.take_gpus(count)
    assert machine.os.environ.get("CUDA_VISIBLE_DEVICES") == taken


def test_a_worker_of_several_sees_the_gpus_that_its_launcher_left(nvidia_smi, monkeypatch):
    nvidia_smi(TWO)
    monkeypatch.setenv("LOCAL_RANK", "1")
    machine.take_gpus()
    assert "CUDA_VISIBLE_DEVICES" not in machine.os.environ


@pytest.mark.parametrize(
    ("planned", "torch_sees", "code"),
    [(WITH_GPU, False, "gpu-unusable"), (WITHOUT, True, "gpu-unknown")],
)
def test_a_training_is_refused_where_torch_and_the_plan_see_different_gpus(monkeypatch, planned, torch_sees, code):
    import torch

    from finetune_core.model import require_same_gpu

    monkeypatch.setattr(torch.cuda, "is_available", lambda: torch_sees)
    with pytest.raises(FinetuneError) as refused:
        require_same_gpu(planned)
    assert refused.value.code == code and "CUDA_VISIBLE_DEVICES" in refused.value.fix


def test_a_worker_that_cannot_use_the_gpu_says_so(recipe, runs_dir, monkeypatch):
    from finetune_core import train
    from finetune_core.preflight import create_run

    run = create_run(recipe, runs_dir)
    monkeypatch.setattr(train, "this_machine", lambda: WITH_GPU)
    with pytest.raises(FinetuneError, match="cannot use it"):
        train.train(run)


def test_env_says_that_torch_cannot_use_the_gpu(runs_dir, monkeypatch, capsys):
    from finetune_core import verbs
    from finetune_core.cli import main

    monkeypatch.setattr(verbs, "this_machine", lambda folder: WITH_GPU)
    assert main(["env", "--json", "--runs-dir", str(runs_dir)]) == 0
    assert json.loads(capsys.readouterr().out)["gpu_problem"]["code"] == "gpu-unusable"


def test_several_gpus_in_sight_are_no_reason_for_data_parallel(recipe, tmp_path, monkeypatch):
    import torch

    from finetune_core.preflight import look
    from finetune_core.trainer import sft_config

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert sft_config(look(recipe).plan.recipe, tmp_path, WITH_GPU, False).n_gpu == 1


@pytest.mark.parametrize(
    ("vendor", "flags", "fast"),
    [("GenuineIntel", "avx512f amx_bf16 amx_tile", True), ("GenuineIntel", "avx512f avx512_bf16", False),
     ("AuthenticAMD", "avx512f avx512_bf16", True), ("AuthenticAMD", "avx2 fma", False)],
)  # fmt: skip
def test_bfloat16_is_fast_with_amx_or_on_an_amd_that_has_it(vendor, flags, fast):
    one = f"processor\t: 0\nvendor_id\t: {vendor}\nmodel name\t: X\nflags\t\t: fpu {flags}\n"
    assert machine.multiplies_bf16(f"{one}\n{one}") is fast
    assert not machine.multiplies_bf16("processor : 0\nBogoMIPS : 100\nFeatures : asimd bf16\n")
