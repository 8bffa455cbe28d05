"""Waiting for what another process or thread does."""

import time


def wait_for(condition, seconds=120.0, every=0.05):
    """What the condition gives once it is true; fails if that takes longer."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:.0f} seconds in vain"
        time.sleep(every)
    return found
