"""How fast tokens are learned: the work of one, and the rate of a machine. Arithmetic only."""

from __future__ import annotations

from .facts import ModelFacts
from .machine import Machine

# FLOP/s. A processor's products are measured (products.py), and what it does besides is counted in products: each value
# that a layer keeps for the way back is passed over so often that it takes the time of PASS_FLOPS of a float32 product.
# From trainings of 40 to 260 million weights on three processors (benchmarks/estimates.py, throughput.py).
PASS_FLOPS = 850
CHECKPOINTED = 2  # times as much where layers are computed twice, and their pages go back to the system meanwhile
BFLOAT16_TIMES = 2.4  # as many products in bfloat16, where the processor has them; AMX was not measured
UNMEASURED_CORE = 60e9  # of a processor elsewhere
# Rates that training on a GPU was seen to reach, or a third of the data sheet where we have no measurement.
APPLE_GPU_RATE = 0.8e12
GPU_RATE = {"T4": 20e12, "L4": 35e12, "A10G": 40e12, "L40S": 110e12, "A100": 120e12, "H100": 440e12, "H200": 440e12}
UNKNOWN_GPU_RATE = 30e12
# However few the tokens, a GPU waits this long for what one layer asks of it, forward and back: the measured time of
# small models on an H100 (benchmarks/gpu.md). It depends on the processor beside it more than on the GPU.
LAYER_SECONDS = {"full": 0.006, "lora": 0.0085, "qlora": 0.0125}
USUAL_PASS = {"cuda": 8192, "mps": 1024, "cpu": 1024}  # tokens
LONGER = (16_384, 32_768)  # tokens of a pass that a GPU may gain by


def usual_pass(machine: Machine) -> int:
    """Tokens that one pass through the model holds at least where a step has them."""
    return USUAL_PASS[machine.kind]


def waiting_seconds(machine: Machine, method: str, facts: ModelFacts, checkpointing: bool) -> float:
    """What a pass takes however few its tokens are."""
    return LAYER_SECONDS[method] * facts.layers * (4 / 3 if checkpointing else 1) if machine.gpus else 0.0


def expected_speed(computed: float, tokens: float, waits: float) -> float:
    """Tokens a second of one process: as fast as they are computed, in passes of so many, or as the layers are begun.

    That a longer pass of a small model is faster is worked out from the time of a layer in passes of 7,744 tokens
    (benchmarks/gpu.md); passes longer than that were not measured.

    >>> expected_speed(230_000, 8192, 0.2), expected_speed(230_000, 32_768, 0.1)
    (40960.0, 230000)
    """
    return min(computed, tokens / waits) if waits else computed


def flops_per_token(
    facts: ModelFacts,
    method: str,
    checkpointing: bool,
    trained_share: float = 1.0,
    mean_length: float = 0.0,
    computed: float = 1.0,
) -> float:
    """FLOP for one token of a row: forward 2N, backward to the activations 2N, to the weights 2N (full only); once
    more forward if checkpointed; attention 4 x length x width a layer each way. The head is met by the trained tokens
    alone: forward, again in the backward pass, and back (Kaplan et al. 2020, appendix A, for 2N a token). `computed`:
    tokens that the layers compute for it, more by padding and less by a beginning that rows share.
    """
    passes = 2 + (1 if method == "full" else 0) + (1 if checkpointing else 0)
    attention = 4 * mean_length * facts.heads * facts.head_dim * facts.layers
    head = 2.0 * facts.vocab_size * facts.hidden_size * (3 + (1 if method == "full" else 0)) * trained_share
    return (2.0 * facts.met_parameters + attention) * passes * computed + head


def expected_rate(
    machine: Machine, dtype: str, flops: float = 1.0, values: float = 0.0, checkpointing: bool = False
) -> float:
    """FLOP/s to expect in training on this machine, before anything was measured.

    `flops`: of a token, as `flops_per_token`; `values`: that all layers keep for a token (`memory.kept_values`), which
    only matter on a processor. There a training is expected to reach three fifths of the rate of its products:

    >>> laptop = Machine(cores=2, memory_gb=16, available_gb=12, product_rate=180e9)
    >>> round(expected_rate(laptop, "float32", flops=453e6, values=366e3) / 1e9)
    107
    """
    if machine.gpus:
        known = max((name for name in GPU_RATE if name in machine.gpus[0].name), key=len, default="")  # L40S, not L4
        rate = GPU_RATE.get(known, UNKNOWN_GPU_RATE)
        return rate if dtype != "float32" else rate / 4
    if machine.kind == "mps":
        return APPLE_GPU_RATE
    products = machine.product_rate or machine.cores * UNMEASURED_CORE
    times = 1.0 if dtype == "float32" else BFLOAT16_TIMES if machine.cpu_bf16 else 0.1
    return products * flops / (flops / times + PASS_FLOPS * values * (CHECKPOINTED if checkpointing else 1))
