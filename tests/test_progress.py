"""What a screen shows is a pure function of the diary."""

from finetune_core.events import Event
from finetune_core.progress import seconds_left, smooth, summarize


def diary(*lines):
    return [Event(kind, float(i), data) for i, (kind, data) in enumerate(lines)]


def step(n, loss=1.0, total=10, **more):
    return ("step", {"step": n, "total_steps": total, "loss": loss, **more})


def test_an_empty_diary_is_a_start():
    assert summarize([]).stage == "starting"


def test_the_curve_goes_on_after_a_resume():
    events = diary(
        ("start", {}), ("stage", {"name": "training", "step": 0}), step(1, 3.0), step(2, 2.0), step(3, 9.0),
        ("start", {}), ("stage", {"name": "training", "step": 2}), step(3, 1.5), step(4, 1.0),
    )  # fmt: skip
    progress = summarize(events)
    assert progress.loss == ((1, 3.0), (2, 2.0), (3, 1.5), (4, 1.0))
    assert progress.workers == 2


def test_the_pause_between_two_workers_does_not_count():
    lines = [Event("start", 0.0, {}), Event("stage", 4.0, {"name": "training"})]
    lines += [Event("start", 100.0, {}), Event("stage", 103.0, {"name": "training"})]
    assert summarize(lines).seconds == 7.0


def test_an_error_is_forgotten_when_it_is_started_again():
    events = diary(("start", {}), ("error", {"code": "c", "problem": "p", "fix": "f"}), ("start", {}))
    assert summarize(events[:2]).error == {"code": "c", "problem": "p", "fix": "f"}
    assert summarize(events).error is None


def test_time_left_counts_from_this_workers_first_step():
    assert seconds_left(30.0, 10, 20, 40) == 60.0
    assert seconds_left(1.0, 10, 11, 40) is None


def test_finished_stages_keep_their_seconds():
    events = diary(("stage", {"name": "fetching"}), ("stage", {"name": "training"}), ("done", {"outcome": "finished"}))
    assert summarize(events).stage_seconds == {"fetching": 1.0, "training": 1.0}


def test_smoothing_keeps_a_constant_and_follows_a_change():
    assert smooth(((1, 2.0), (2, 2.0), (3, 2.0)))[-1] == (3, 2.0)
    ends = smooth(tuple((i, 0.0 if i < 10 else 1.0) for i in range(40)))
    assert ends[9][1] == 0.0 or ends[9][1] < 0.3
    assert ends[-1][1] > 0.95
