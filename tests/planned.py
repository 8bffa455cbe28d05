"""Machines and models that plans are made for, in tests."""

import dataclasses

from finetune_core.facts import ModelFacts
from finetune_core.jobs.hardware import Flavor
from finetune_core.machine import Gpu, Machine
from finetune_core.plan import make_plan
from finetune_core.recipe import Recipe

PLAIN = {"packing": False, "use_liger_kernel": False}
LAPTOP = Machine(cores=2, memory_gb=24, available_gb=20)
T4 = Machine(cores=4, memory_gb=16, available_gb=12, gpus=(Gpu("Tesla T4", 15, 14.6, 7.5),), kind="cuda")
A100 = Machine(cores=8, memory_gb=64, available_gb=60, gpus=(Gpu("A100", 80, 79, 8.0),), kind="cuda")
H100 = Machine(cores=16, memory_gb=128, available_gb=120, gpus=(Gpu("NVIDIA H100", 80, 78, 9.0),), kind="cuda")
WITH_BITS = dataclasses.replace(A100, bitsandbytes=True)
SMALL = ModelFacts(134_515_008, 576, 30, 49152, 1536, 9, 3, 64, True, 8192, model_type="llama")
LARGE = ModelFacts(8_030_261_248, 4096, 32, 128_256, 14336, 32, 8, 128, False, 8192, model_type="llama")
MIXED = tuple(100 + (index * 7919) % 300 for index in range(2000))  # tokens, 250 in the mean


def plan(facts=SMALL, machine=LAPTOP, lengths=(60,) * 240, **changes):
    return make_plan(Recipe(**changes), facts, list(lengths), machine)


def flavor(name, dollars, gpu_gb, gpus=1):
    card = Gpu(name, gpu_gb, gpu_gb, 8.9)
    return Flavor(name, name, dollars, Machine(8, 32, 30, (card,) * gpus, kind="cuda", bitsandbytes=True))
