"""A training to its end in the test's own process, and what its diary says of it."""

from finetune_core.preflight import create_run
from finetune_core.progress import summarize


def run_in_process(recipe, runs_dir):
    """The run, trained."""
    from finetune_core.train import train

    run = create_run(recipe, runs_dir)
    train(run)
    return run


def steps(run):
    """Those that the loss curve has, in order."""
    return [step for step, _ in summarize(run.events()).loss]
