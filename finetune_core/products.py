"""How fast this machine multiplies matrices, measured in a moment. numpy alone, so that the page may ask."""

from __future__ import annotations

import time
from functools import cache

import numpy as np

SHAPE = (512, 576, 1536)  # rows of a pass, and a layer of the starter model
REPEATS = 5


@cache
def product_rate() -> float:
    """FLOP/s of float32 matrix products on all cores: the best of a few, 5 to 50 ms each, once a process.

    While something else computes, less is measured: `measured.with_products` keeps the best.
    """
    rows, inputs, outputs = SHAPE
    left, right = (np.full(shape, 0.5, dtype=np.float32) for shape in ((rows, inputs), (inputs, outputs)))
    out = np.empty((rows, outputs), dtype=np.float32)
    np.matmul(left, right, out=out)  # the first one starts the threads
    least = float("inf")
    for _ in range(REPEATS):
        began = time.perf_counter()
        np.matmul(left, right, out=out)
        least = min(least, time.perf_counter() - began)
    return 2.0 * rows * inputs * outputs / least
