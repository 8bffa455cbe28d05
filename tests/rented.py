"""Runs on rented hardware for tests of the page: made with the lines of their job, nothing goes on anywhere."""

from __future__ import annotations

from finetune_core.jobs.sent import Sent
from finetune_core.recipe import Recipe
from finetune_core.run import Run
from finetune_ui import watch

HEAD, PROBLEM, START, STOP, QUESTION = 0, 1, 6, 8, 10
SENT = Sent("l4x1", "1x Nvidia L4", 1800, "alice", "alice/fijn-x", "job1", dollars_per_minute=0.0133)
BEGAN = ("start", {"machine": "L4"}), ("stage", {"name": "training", "total_steps": 20})
STEP = ("step", {"step": 5, "total_steps": 20, "loss": 2.0}), ("checkpoint", {"step": 5})
LOST = ("error", {"code": "job-died", "problem": "Lost.", "fix": "Resume."})


def make_run(runs_dir, *events, owner="", **sent):
    """events: kind and data of the job's lines, after the two stages that the follower tells."""
    run = Run.create(runs_dir, Recipe(), {"steps": 20}, owner=owner)
    Sent(**(vars(SENT) | sent)).save(run)
    run.tell("stage", name="waiting for its turn")
    for number, (kind, data) in enumerate(events):
        run.tell(kind, **data, remote=f"job1:{number}")
    return run


def shown(run):
    parts = watch.show(run)
    return {
        "head": parts[HEAD],
        "problem": parts[PROBLEM]["value"],
        "start": parts[START]["value"] if parts[START]["visible"] else "",
        "stop": parts[STOP]["value"] if parts[STOP]["visible"] else "",
        "question": parts[QUESTION],
    }
