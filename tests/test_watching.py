"""The clocks of a training."""

import time
from types import SimpleNamespace

import pytest
import torch


@pytest.mark.parametrize("which", ["diary", "probe"])
def test_a_step_lasts_until_the_gpu_has_done_it(tmp_path, monkeypatch, which):
    from finetune_core.speed import _Clock
    from finetune_core.watching import Diary

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda: time.sleep(0.05))
    clock = Diary(SimpleNamespace(path=tmp_path), None, None, []) if which == "diary" else _Clock(10, print, bool)
    args, state, control = SimpleNamespace(device="cpu"), SimpleNamespace(global_step=2), SimpleNamespace()
    clock.on_step_begin(args, state, control)
    clock.on_step_end(args, state, control)
    assert (clock.busy_seconds if which == "diary" else clock.seconds) >= 0.05
