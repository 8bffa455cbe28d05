"""Runs side by side: paired where the rows are the same, and only the settings that differ."""

import json

import pytest
from test_prove import EVIL, make_report

from finetune_core.cli import main
from finetune_core.proof.side_by_side import differences, look_at, pair_up, side_by_side
from finetune_core.recipe import Recipe
from finetune_core.run import Run
from finetune_ui import beside, words_beside
from finetune_ui.held import settings_of

WORSE, BETTER = ((0, 0, 0),) * 30, ((0, 0, 1),) * 30


def make_run(runs_dir, tail, scores, losses=(3.0, 2.0), **values):
    run = Run.create(runs_dir, Recipe(**values), tail=tail)
    run.tell("start", command="train")
    for step, loss in enumerate(losses, start=1):
        run.tell("step", step=step, total_steps=2, loss=loss, memory_gb=1.5)
        run.tell("eval", step=step, loss=loss + 0.1)
    run.tell("done", outcome="finished", seconds=3.0)
    if scores is not None:
        report = make_report(scores, metric_kind="label")
        share = sum(row[2] for row in scores) / len(scores)
        report["rivals"][-1] |= {"score": share, "low": max(0, share - 0.1), "high": min(1, share + 0.1)}
        run.write_report(report)
    return run


@pytest.fixture
def runs(runs_dir):
    return [
        make_run(runs_dir, "worse", WORSE, learning_rate=1e-4, system_prompt=EVIL),
        make_run(runs_dir, "better", BETTER, learning_rate=1e-3),
        make_run(runs_dir, "unproved", None, learning_rate=1e-3),
    ]


def test_only_what_differs_is_told():
    recipes = [Recipe(lora_r=8), Recipe(lora_r=16), Recipe(lora_r=8, evaluate=False)]
    assert differences(recipes) == {"lora_r": [8, 16, 8]}
    assert differences(recipes[:1]) == {}


def test_the_best_comes_first_and_what_was_not_proved_last(runs):
    found = side_by_side([look_at(run) for run in runs])
    assert [run["id"].rpartition("-")[2] for run in found["runs"]] == ["better", "worse", "unproved"]
    assert found["settings"]["learning_rate"] == [1e-3, 1e-4, 1e-3]
    assert found["sentence"] == (
        "The first is better than the second, by more than chance. The third was not proved on the same rows in the "
        "same way."
    )


def test_the_best_of_several_is_said_to_be_flattered(runs_dir):
    names = {"worst": WORSE, "worse": WORSE, "better": BETTER}
    sentence = side_by_side([seen(runs_dir, name, scores) for name, scores in names.items()])["sentence"]
    assert sentence == (
        "The first is better than every other, by more than chance. These very rows made it the best of 3, which "
        "flatters it a little."
    )


def test_the_difference_is_paired_over_the_rows_that_both_answered(runs):
    pair = pair_up(look_at(runs[1]), look_at(runs[0]))
    assert pair["n"] == 30 and pair["difference"] == 1.0 and pair["better"] is True


def test_runs_that_were_scored_differently_are_not_paired(runs):
    report = runs[0].report() | {"metric_kind": "text"}
    runs[0].write_report(report)
    assert pair_up(look_at(runs[1]), look_at(runs[0])) is None
    assert pair_up(look_at(runs[1]), look_at(runs[2])) is None


def seen(runs_dir, tail, scores=BETTER, kind="label", **values):
    run = make_run(runs_dir, tail, scores, **values)
    run.write_report(run.report() | {"metric_kind": kind})
    return look_at(run)


def test_scores_of_different_metrics_are_not_ranked_together(runs_dir):
    """A loss of 0.3 nats is neither better nor worse than 100 % right."""
    runs = [seen(runs_dir, "loss", kind="loss"), seen(runs_dir, "worse", WORSE), seen(runs_dir, "better")]
    found = side_by_side(runs)
    assert [run["id"].rpartition("-")[2] for run in found["runs"]] == ["better", "worse", "loss"]
    assert [pair["second"] for pair in found["pairs"]] == [runs[1].id]


def test_losses_of_different_base_models_are_not_compared(runs_dir):
    """Nats per token say nothing where the tokens are others."""
    one = seen(runs_dir, "this", WORSE, "loss", model_name_or_path="a/one")
    other = seen(runs_dir, "other", BETTER, "loss", model_name_or_path="b/other")
    same = seen(runs_dir, "same", BETTER, "loss", model_name_or_path="a/one")
    assert pair_up(one, other) is None and pair_up(one, same)["better"] is True


def test_a_run_that_does_better_on_the_common_rows_is_told(runs_dir):
    fewer = WORSE[:20]
    long = seen(runs_dir, "long", fewer + ((0, 0, 1),) * 90)
    short = seen(runs_dir, "short", ((0, 0, 1),) * 10 + WORSE[:10])
    said = side_by_side([long, short])
    assert said["pairs"][0]["better"] is False
    assert said["sentence"] == "On the rows that both answered, the second did better than the first."


def test_equal_runs_are_told_to_be_equal(runs_dir):
    same = [look_at(make_run(runs_dir, tail, BETTER)) for tail in ("first", "second")]
    assert "No difference that 30 rows can show" in side_by_side(same)["sentence"]


def test_the_verb_gives_the_same_as_json(runs, runs_dir, capsys):
    assert main(["compare", *(run.id for run in runs), "--json", "--runs-dir", str(runs_dir)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["runs"]) == 3 and found["runs"][0]["curves"]["validation"] == [[1, 3.1], [2, 2.1]]
    assert main(["compare", runs[0].id, runs[0].id, "--runs-dir", str(runs_dir)]) == 2


def test_the_page_shows_scores_curves_and_a_button_for_each_and_no_markup_of_the_data(runs, runs_dir):
    shown = beside.compare(runs_dir, runs[0].id, [run.id for run in runs[1:]])
    assert shown.count("data-settings=") == 3 and "Learning rate" in shown and "curve-area" in shown
    assert "<img" not in shown and "this run" in shown


def test_the_others_are_offered_and_never_the_run_itself(runs, runs_dir):
    fold, *_ = beside.show(runs[0])
    offered = [value for _, value in beside.offer(runs_dir, runs[0].id)["choices"]]
    assert fold["visible"] and offered == [runs[1].id]


def test_drawing_a_proof_reads_no_other_report(runs, monkeypatch):
    monkeypatch.setattr(Run, "report", lambda run: pytest.fail(f"{run.id} was read"))
    assert beside.show(runs[0])[0]["visible"]


def test_a_run_that_cannot_be_read_is_not_offered(runs, runs_dir):
    (runs[1].path / "recipe.yaml").write_text("a_field_of_tomorrow: 1\n")
    assert beside.offer(runs_dir, runs[0].id)["choices"] == []


def test_a_run_that_is_gone_shows_a_card(runs, runs_dir):
    assert "shows no run" in beside.compare(runs_dir, runs[0].id, ["../x"])


def test_its_settings_open_in_choose(runs, runs_dir):
    assert settings_of(runs_dir, runs[1].id) == (runs[1].id, "choose")
    assert settings_of(runs_dir, "../x")[1] != "choose"


def test_a_run_is_named_by_its_time():
    assert words_beside.choice("2026-11-22-1403-m-x-abcd", Recipe(), "+9 points").startswith("22 Nov 14:03 · shop")
