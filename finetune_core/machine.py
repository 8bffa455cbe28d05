"""What this machine has: GPUs, memory, number formats, cores, disk. Without torch, so that the page may ask."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .amounts import many
from .files import existing

GIB = 1024**3


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU."""

    name: str
    total_gb: float  # GiB
    free_gb: float  # GiB
    capability: float  # CUDA compute capability, 0 where unknown
    uuid: str = ""  # as nvidia-smi and CUDA_VISIBLE_DEVICES name it

    @property
    def has_bf16(self) -> bool:
        return self.capability >= 8.0


@dataclass(frozen=True)
class Machine:
    """What there is to train on: cores, memory, GPUs and what they can do."""

    cores: int
    memory_gb: float  # GiB, of the machine or of its container
    available_gb: float  # GiB
    gpus: tuple[Gpu, ...] = ()
    cpu_bf16: bool = False  # bfloat16 matrix products are faster than float32's
    kind: str = "cpu"  # "cuda" | "mps" | "cpu"
    disk_free_gb: float = 0.0
    bitsandbytes: bool = False  # whether the package is installed
    liger: bool = False  # whether the package liger-kernel is installed
    rented: bool = False  # another machine, of which nothing was measured here
    product_rate: float | None = None  # measured FLOP/s of float32 matrix products on all cores (products.py)

    @property
    def has_bf16(self) -> bool:
        """bfloat16 is real here: hardware does the products in it."""
        return self.gpus[0].has_bf16 if self.gpus else (self.cpu_bf16 or self.kind == "mps")

    @property
    def has_low_bits(self) -> bool:
        """Weights in 4 bits and moments in 8 are possible."""
        return self.kind == "cuda" and self.bitsandbytes

    @property
    def has_liger(self) -> bool:
        """Its Triton kernels can run here."""
        return self.kind == "cuda" and self.liger

    def autocasts(self, method: str, dtype: str) -> bool:
        """Whether float32 weights are multiplied in bfloat16: where all of them move, on a GPU with bfloat16."""
        return self.kind == "cuda" and self.has_bf16 and method == "full" and dtype == "float32"

    @property
    def title(self) -> str:
        """A short name for a chip on the page.

        >>> Machine(cores=2, memory_gb=23.6, available_gb=20).title
        'CPU · 2 cores · 24 GB'
        """
        if self.gpus:
            gpu = self.gpus[0]
            times = f"{len(self.gpus)} × " if len(self.gpus) > 1 else ""
            return f"{times}{gpu.name} · {gpu.free_gb:.0f} of {gpu.total_gb:.0f} GB free"
        chip = "Apple GPU" if self.kind == "mps" else "CPU"
        return f"{chip} · {many(self.cores, 'core')} · {self.memory_gb:.0f} GB"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"title": self.title, "has_bf16": self.has_bf16}


def this_machine(folder: Path | None = None) -> Machine:
    """Look at the machine; about 5 ms without a GPU. `folder`: whose disk to measure."""
    total, available = _memory()
    gpus = _cuda_gpus(total / GIB, available / GIB)
    kind = "cuda" if gpus else "mps" if platform.system() == "Darwin" and platform.machine() == "arm64" else "cpu"
    return Machine(
        cores=_cores(),
        memory_gb=total / GIB,
        available_gb=available / GIB,
        gpus=gpus,
        cpu_bf16=_cpu_bf16(),
        kind=kind,
        disk_free_gb=shutil.disk_usage(existing(folder or Path.cwd())).free / GIB,
        bitsandbytes=find_spec("bitsandbytes") is not None,
        liger=find_spec("liger_kernel") is not None,
    )


def take_gpus(count: int = 1) -> None:
    """Let this process see so many GPUs only, before torch is imported: TRL trains on one in a process.

    Those with the most free memory, which the plan was made for; the first of several processes gets the first. Whoever
    set CUDA_VISIBLE_DEVICES has chosen, and so has a launcher of several processes (LOCAL_RANK).
    """
    if "CUDA_VISIBLE_DEVICES" in os.environ or "LOCAL_RANK" in os.environ:
        return
    gpus = this_machine().gpus
    if len(gpus) > count and all(gpu.uuid for gpu in gpus[:count]):
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpu.uuid for gpu in gpus[:count])


def visible(gpus: Sequence[Gpu], asked: str | None) -> tuple[Gpu, ...]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves, in its order; where it is not set, all, most free memory first.

    Numbers or beginnings of UUIDs, up to the first that is neither, as CUDA reads them. A part of a GPU (MIG) is not
    told from the whole.
    """
    if asked is None:
        return tuple(sorted(gpus, key=lambda gpu: -gpu.free_gb))
    if asked.startswith("MIG-"):
        return tuple(gpus)
    found: list[Gpu] = []
    for name in map(str.strip, asked.split(",")):
        named = name.startswith("GPU-")
        match = [gpu for place, gpu in enumerate(gpus) if (gpu.uuid.startswith(name) if named else str(place) == name)]
        if not match:
            break
        found.append(match[0])
    return tuple(found)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cuda_gpus(memory_gb: float, available_gb: float) -> tuple[Gpu, ...]:
    """NVIDIA's GPUs, asked from nvidia-smi, because a CUDA context in the page's process would cost half a gigabyte.

    A GPU that shares the machine's memory (DGX Spark) has "[N/A]" for its own; it is given the machine's.
    """
    program = shutil.which("nvidia-smi")
    if not program:
        return ()
    query = "--query-gpu=name,memory.total,memory.free,compute_cap,uuid"
    try:
        answer = subprocess.run(
            [program, query, "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=10, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    gpus = []
    for line in answer.strip().splitlines():
        name, total, free, capability, uuid = (part.strip() for part in line.split(","))
        total_mb, free_mb = _number(total), _number(free)
        gpus.append(
            Gpu(
                name.removeprefix("NVIDIA "),
                memory_gb if total_mb is None else total_mb / 1024,
                available_gb if free_mb is None else free_mb / 1024,
                _number(capability) or 0.0,
                uuid,
            )
        )
    return visible(gpus, os.environ.get("CUDA_VISIBLE_DEVICES"))


def _number(text: str) -> float | None:
    """What nvidia-smi wrote as a number; None for "[N/A]" and its like."""
    try:
        return float(text)
    except ValueError:
        return None


def _memory() -> tuple[float, float]:
    """(total, available) bytes; the smaller of the machine's and the container's."""
    import psutil

    memory = psutil.virtual_memory()
    total, available = float(memory.total), float(memory.available)
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            cap, now = float(Path(limit).read_text()), float(Path(used).read_text())
        except (OSError, ValueError):  # no such file, or "max"
            continue
        if cap < total:
            total, available = cap, min(available, cap - now)
    return total, available


def _cpu_bf16() -> bool:
    try:
        return multiplies_bf16(Path("/proc/cpuinfo").read_text())
    except OSError:
        return False


def multiplies_bf16(cpuinfo: str) -> bool:
    """Whether bfloat16 products are faster than float32's: AMX, or AVX512-BF16 on an AMD (Zen 4 and later).

    Measured with oneDNN: 2.3 to 2.6 times float32's rate on an EPYC with AVX512-BF16; 0.55 of it on a Xeon whose AMX
    was hidden and AVX512-BF16 was not.
    """
    first = dict(line.split(":", 1) for line in cpuinfo.split("\n\n")[0].splitlines() if ":" in line)
    known = {name.strip(): value.split() for name, value in first.items()}
    flags, vendor = known.get("flags", ()), known.get("vendor_id", ())
    return "amx_bf16" in flags or ("AuthenticAMD" in vendor and "avx512_bf16" in flags)
