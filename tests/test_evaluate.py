"""The proof as a whole, on a real model: the same rows for every rival, and a report that leaves nothing open."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import chat_rows, write_jsonl
from tuned import lay_rows, make_tuned_run

from finetune_core.errors import FinetuneError
from finetune_core.events import Event
from finetune_core.proof.contest import held_out
from finetune_core.proof.probe import AREAS
from finetune_core.recipe import Recipe
from finetune_core.render import render_prompt
from finetune_core.verbs_proof import reported


@pytest.fixture
def proved_again(proof_run, proof_chatter, proof_report):
    """`proved_again(…)`: a quick comparison of the same run; behind it, the whole report is written back."""
    from finetune_core.evaluate import Asked, evaluate

    yield lambda **asked: evaluate(proof_run, proof_chatter, asked=Asked(quick=True, **asked))
    proof_run.write_report(proof_report)


@pytest.fixture
def checked_by(proved_again, tmp_path):
    """`checked_by(expression)`: the same with a person's own check of `answer`, `reference` and `row`."""

    def checked(expression: str):
        file = tmp_path / "check.py"
        file.write_text(f"def check(answer, reference, row):\n    return {expression}\n")
        return proved_again(check_file=file)

    return checked


def test_every_rival_answers_the_same_rows(proof_report):
    names = [rival["name"] for rival in proof_report["rivals"]]
    assert names == ["base", "system", "examples", "retrieved", "tuned"]
    assert proof_report["n"] == 12 and proof_report["split"] == "test"
    for row in proof_report["rows"]:
        assert set(row["answers"]) == set(row["scores"]) == set(names)


def test_the_report_is_written_as_json_that_any_program_reads(proof_run, proof_report):
    text = (proof_run.path / "report.json").read_text()
    assert "NaN" not in text and "Infinity" not in text
    assert json.loads(text) == proof_report


def test_the_report_says_what_a_reader_must_know(proof_report):
    assert proof_report["metric"] == "Exact match" and proof_report["metric_kind"] == "label"
    assert proof_report["verdict"]["sentence"].startswith("Tuning answers")
    assert proof_report["verdict"]["against"] in ("base", "system", "examples", "retrieved")
    assert {"base", "tuned"} <= set(proof_report["loss"])
    assert proof_report["forgetting"]["n"] == 150 and set(proof_report["forgetting"]["areas"]) == set(AREAS)
    assert 0 <= proof_report["forgetting"]["drift"]["same"] <= 1
    assert proof_report["curves"]["kind"] == "short" and proof_report["complete"] is True
    for rival in proof_report["rivals"]:
        assert rival["low"] <= rival["score"] <= rival["high"]
        assert rival["tokens_per_request"] == pytest.approx(rival["prompt_tokens"] + rival["answer_tokens"], abs=0.2)


def test_at_a_terminal_every_rival_has_a_line_with_its_interval(proof_report):
    sentence, *lines, scale = reported(proof_report)
    assert sentence == proof_report["verdict"]["sentence"]
    told = iter(lines)
    for rival in proof_report["rivals"]:
        line = next(told)
        assert rival["title"] in line and f"({100 * rival['low']:.0f} to {100 * rival['high']:.0f})" in line
        assert not rival["note"] or rival["note"] in next(told)  # the prompt that was tried
    assert scale == "Exact match, from 0 to 100, with 95 % intervals, on 12 test rows."


def test_the_time_of_a_request_is_that_of_one_asked_alone(proof_report):
    assert all(rival["seconds_per_request"] > 0 for rival in proof_report["rivals"])


def test_progress_is_told_from_nothing_to_all(proof_told, proof_report):
    fractions = [data["fraction"] for kind, data in proof_told if kind == "stage" and data["name"] == "evaluating"]
    assert fractions[0] == 0 and fractions[-1] == 1 and fractions == sorted(fractions)


def test_answers_written_in_batches_are_those_written_alone(proof_report, proof_chatter):
    for row in proof_report["rows"][:4]:
        prompt = render_prompt(row["prompt"], proof_chatter.tokenizer)
        for name in ("base", "tuned"):
            stream = proof_chatter.stream(name, prompt, max_new_tokens=proof_report["settings"]["max_new_tokens"])
            assert "".join(stream) == row["answers"][name]


def test_the_loss_is_the_one_that_training_would_report(proof_report, proof_run, proof_chatter):
    import torch

    from finetune_core.render import render

    losses = []
    for row in held_out(proof_run.path / "data")[1]:
        rendered = render(row, proof_chatter.tokenizer)
        with proof_chatter.borrow("tuned") as model, torch.inference_mode():
            ids, labels = torch.tensor([rendered.input_ids]), torch.tensor([rendered.labels])
            losses.append(float(model(input_ids=ids, labels=labels).loss))
    assert proof_report["loss"]["tuned"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)


def test_a_training_that_minutes_cut_short_is_told_to_have_been(proved_again, proof_run, monkeypatch):
    plan, ended = {"shortened": {"epochs": 1.7, "asked": 3, "minutes": 2}}, {"step": 9, "total_steps": 9}
    monkeypatch.setattr(type(proof_run), "plan", lambda run: plan)
    monkeypatch.setattr(type(proof_run), "events", lambda run: [Event("step", 1.0, ended)])
    assert "1.7 of 3 epochs were taken: as many as" in proved_again()["note"]


def test_quick_asks_base_and_tuned_only(proved_again):
    quick = proved_again(rows=5)
    assert [rival["name"] for rival in quick["rivals"]] == ["base", "tuned"]
    assert quick["forgetting"] is None and quick["n"] == 5 and quick["available"] == 12


def test_a_stop_ends_the_comparison_and_keeps_what_is_done(proof_run, proof_chatter, proof_report, monkeypatch):
    from finetune_core.evaluate import Asked, evaluate

    turns, generate = [], proof_chatter.generate

    def counted(*values, **more):
        turns.extend([values[0]] * (len(values[1]) > 1))  # those asked one by one belong to the turn before
        return generate(*values, **more)

    monkeypatch.setattr(proof_chatter, "generate", counted)
    try:
        stopped = evaluate(proof_run, proof_chatter, asked=Asked(again=True), should_stop=lambda: len(turns) > 2)
    finally:
        proof_run.write_report(proof_report)
    assert stopped["complete"] is False and [rival["name"] for rival in stopped["rivals"]] == ["base", "tuned"]


def test_one_stopped_before_the_tuned_model_spoke_leaves_the_earlier_report(proof_run, proof_chatter, proof_report):
    from finetune_core.evaluate import evaluate

    assert evaluate(proof_run, proof_chatter, should_stop=lambda: True) == proof_report == proof_run.report()


def test_plain_texts_are_compared_by_loss(tmp_path, tiny_model_dir, proof_chatter):
    from finetune_core.evaluate import Asked, evaluate

    run = make_tuned_run(tmp_path, tiny_model_dir)
    lay_rows(run, test=[{"text": f"the cat sat on the mat {i}"} for i in range(12)])
    report = evaluate(run, proof_chatter, asked=Asked(forgetting=False))
    assert report["metric"] == "Loss" and [rival["name"] for rival in report["rivals"]] == ["base", "tuned"]
    assert "nats per token" in report["verdict"]["sentence"]
    assert report["rivals"][0]["score"] == pytest.approx(report["loss"]["base"], abs=1e-4)


def test_a_check_of_ones_own_decides_what_is_right(checked_by):
    checked = checked_by("reference.startswith('defect') and bool(row)")
    assert checked["metric"] == "Your own check" and [rival["score"] for rival in checked["rivals"]] == [1, 1]


def test_a_check_that_breaks_is_told_and_not_taken_for_wrong_answers(checked_by):
    checked = checked_by("nobody_knows_this")
    assert "24 of 24 answers" in checked["note"] and "nobody_knows_this" in checked["note"]


def test_a_judge_that_is_away_does_not_cost_the_comparison(proved_again):
    judged = proved_again(rows=6, judge_url="http://127.0.0.1:9/v1", judge_model="judge")
    assert judged["judge"]["error"]["code"] == "judge-away" and judged["verdict"]["sentence"]


def test_the_best_checkpoint_competes_where_the_last_one_was_kept(tmp_path, tiny_model_dir, proof_chatter):
    from finetune_core.answers.chatter import AdapterModels, Chatter
    from finetune_core.evaluate import Asked, evaluate

    run = make_tuned_run(tmp_path, tiny_model_dir, max_new_tokens=8)
    lay_rows(run, chat_rows(20), (), chat_rows(26)[20:])
    run.tell("done", outcome="finished", best_step=20)
    with proof_chatter.borrow("base") as base:
        pass
    best = run.checkpoints()[-1]
    models = AdapterModels(base, {"tuned": run.result_dir, best.name: best, "checkpoint-40": run.result_dir})
    three = Chatter(models, proof_chatter.tokenizer, ["tuned", "base", best.name, "checkpoint-40"])
    report = evaluate(run, three, asked=Asked(rivals=("base", "tuned", "best"), forgetting=False))
    assert [rival["title"] for rival in report["rivals"]] == ["Base model", "Tuned, best (20)", "Tuned model"]


def test_the_last_checkpoint_competes_where_an_earlier_one_was_kept(tmp_path, tiny_model_dir, proof_chatter):
    from finetune_core.answers.chatter import AdapterModels, Chatter
    from finetune_core.evaluate import Asked, evaluate

    run = make_tuned_run(tmp_path, tiny_model_dir, early_stopping=True, max_new_tokens=8)
    lay_rows(run, chat_rows(20), (), chat_rows(26)[20:])
    run.tell("done", outcome="finished", best_step=10)
    with proof_chatter.borrow("base") as base:
        pass
    last = run.checkpoints()[-1]
    models = AdapterModels(base, {"tuned": run.result_dir, last.name: last})
    both = Chatter(models, proof_chatter.tokenizer, ["tuned", "base", last.name])
    report = evaluate(run, both, asked=Asked(rivals=("base", "tuned", "last"), forgetting=False))
    assert [rival["name"] for rival in report["rivals"]] == ["base", "last", "tuned"]
    assert report["rivals"][1]["title"] == "Tuned, last (20)" and report["verdict"]["against"] == "base"


def test_without_test_rows_the_validation_rows_are_used_and_it_says_so(tmp_path, tiny_model_dir, proof_chatter):
    from finetune_core.evaluate import Asked, evaluate

    run = make_tuned_run(tmp_path, tiny_model_dir)
    lay_rows(run, chat_rows(20), chat_rows(30)[20:])
    report = evaluate(run, proof_chatter, asked=Asked(quick=True))
    assert report["split"] == "validation" and "validation rows were used" in report["note"]


def test_without_any_rows_there_is_a_report_that_says_so(tmp_path, tiny_model_dir, proof_chatter):
    from finetune_core.evaluate import Asked, evaluate

    run = make_tuned_run(tmp_path, tiny_model_dir)
    report = evaluate(run, proof_chatter, asked=Asked(quick=True))
    assert report["n"] == 0 and "no rows" in report["verdict"]["sentence"] and report["verdict"]["better"] is None


def test_a_run_without_a_result_is_refused(tmp_path, tiny_model_dir):
    from finetune_core.evaluate import evaluate

    run = make_tuned_run(tmp_path, tiny_model_dir, result=False)
    with pytest.raises(FinetuneError, match="no tuned model"):
        evaluate(run)


def test_should_i_says_what_is_left_to_win_before_any_training(tmp_path, tiny_model_dir):
    from finetune_core.evaluate import should_i

    data = write_jsonl(tmp_path / "rows.jsonl", chat_rows(120))
    recipe = Recipe(model_name_or_path=str(tiny_model_dir), dataset_name=str(data), max_new_tokens=8)
    report = should_i(recipe)
    assert "points are left to win" in reported(report)[0]
    assert {rival["model"] for rival in report["rivals"]} == {"base"} and len(report["rivals"]) == 4


def test_the_light_files_of_the_proof_leave_torch_alone():
    files = "metrics intervals verdict rivals contest report report_page probe"
    names = ", ".join("finetune_core.proof." + name for name in files.split())
    code = f"import sys, {names}; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert out.stdout.strip() == "False", out.stderr
