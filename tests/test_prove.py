"""The Prove and Share panels: a report in words and bars, its rows, and what can be downloaded."""

from __future__ import annotations

import csv
import io
import json
import zipfile

import pytest

from finetune_core.recipe import Recipe
from finetune_core.run import Run
from finetune_ui import prove, share, words_prove, words_rows, words_run, words_share

EVIL = "<img src=x onerror=alert(1)>${alert(2)}{{3}}"
TITLES = {"base": "Base model", "examples": "4 examples in the prompt", "tuned": "Tuned"}


def make_report(scores=((0, 1, 1), (1, 1, 0), (0, 0, 0), (0, 1, 1)), **changes):
    """One tuple a row: base, examples, tuned."""
    rows = [
        {
            "id": f"row-{index}",
            "prompt": f"question {index} {EVIL}",
            "reference": f"right {EVIL}",
            "answers": {
                name: f"right {EVIL}" if each else f"wrong {EVIL}" for name, each in zip(TITLES, row, strict=True)
            },
            "scores": {name: float(each) for name, each in zip(TITLES, row, strict=True)},
        }
        for index, row in enumerate(scores)
    ]
    rivals = [
        {"name": name, "title": title, "score": 0.5, "low": 0.4, "high": 0.6, "tokens_per_request": tokens,
         "stop_rate": 1.0, "mean_length": 9.0, "seconds": 1.0}
        for (name, title), tokens in zip(TITLES.items(), (40, 250, 40), strict=True)
    ]  # fmt: skip
    return {
        "n": len(rows), "split": "test", "metric": "Exact match", "rivals": rivals, "rows": rows, "seconds": 60.0,
        "verdict": {"sentence": f"Tuning answers 2 of 4 {EVIL}. More.", "difference": 0.25, "low": 0.1, "high": 0.4,
                    "better": "tuning", "needed_rows": None, "against": "examples"},
        "loss": {"base": 3.1, "tuned": 0.4}, "forgetting": None, "curves": None, "settings": {},
    } | changes  # fmt: skip


@pytest.fixture
def run(runs_dir):
    run = Run.create(runs_dir, Recipe(), tail="proof")
    run.tell("start", command="train")
    run.result_dir.mkdir()
    (run.result_dir / "adapter_model.safetensors").write_bytes(b"weights")
    (run.result_dir / "adapter_config.json").write_text("{}")
    run.write_report(make_report())
    run.tell("done", outcome="finished", seconds=3.0)
    return run


def test_nothing_of_a_report_is_markup(run):
    shown = "".join(text for each in prove.show(run) for text in [_text(each)] if isinstance(text, str))
    assert "<img" not in shown and "&lt;img" in shown


def _text(update):
    return update.get("value") if isinstance(update, dict) else update


def test_the_panel_shows_as_many_values_as_it_has_outputs(run, runs_dir):
    import gradio as gr

    from finetune_ui.frame import Page

    with gr.Blocks():
        page = Page(runs_dir, gr.State(""), gr.State(""))
        built, shared = prove.build(page), share.build(page)
    assert len(prove.show(run)) == len(built.outputs)
    assert len(share.show(run)) == len(shared.outputs)
    (run.path / "report.json").unlink()
    (run.result_dir / "adapter_model.safetensors").unlink()
    assert len(prove.show(run)) == len(built.outputs)
    assert len(share.show(run)) == len(shared.outputs)


@pytest.mark.parametrize(
    ("which", "expected"),
    [("all", [0, 1, 2, 3]), ("wrong", [1, 2]), ("fixed", [0, 3]), ("broke", [1])],
)
def test_filters_compare_tuned_with_right_and_with_base(which, expected):
    assert [index for index, _ in words_rows.wanted(make_report(), which)] == expected


def test_worst_first_begins_with_what_the_tuned_model_got_wrong():
    report = make_report()
    found = words_rows.wanted(report, "all")
    assert [index for index, _ in words_rows.ordered(report, found, "worst")] == [1, 2, 0, 3]
    assert [index for index, _ in words_rows.ordered(report, found, "best")] == [0, 3, 1, 2]


def test_of_a_loss_the_highest_is_the_worst_and_less_is_fixed():
    report = make_report(metric="Loss", metric_kind="loss")
    for row, (base, tuned) in zip(report["rows"], ((3.0, 0.1), (3.0, 4.0), (3.0, 2.0), (3.0, 3.0)), strict=True):
        row |= {"scores": {"base": base, "tuned": tuned}, "answers": {}, "reference": ""}
    found = words_rows.wanted(report, "all")
    assert [index for index, _ in words_rows.ordered(report, found, "worst")] == [1, 3, 2, 0]
    assert [index for index, _ in words_rows.wanted(report, "fixed")] == [0, 2]
    assert [key for _, key in words_rows.filter_choices(report)] == ["all", "fixed", "broke"]
    assert "data-use" not in words_rows.rows(report)


def test_where_answers_are_more_or_less_alike_none_is_called_fixed():
    report = make_report(metric="chrF", metric_kind="text")
    for row, (base, tuned) in zip(report["rows"], ((0.03, 0.06), (0.3, 0.2), (0.1, 0.9), (0.2, 0.2)), strict=True):
        row |= {"scores": {"base": base, "tuned": tuned}}
    labels = [label for label, _ in words_rows.filter_choices(report)]
    assert labels == ["All (4)", "Tuned is far off (3)", "Tuning is nearer (2)", "Tuning is further off (1)"]


def test_shuffled_rows_come_in_the_same_order_for_the_same_run():
    report = make_report(((0, 0, 1),) * 30)
    found = words_rows.wanted(report, "all")
    first, again = (words_rows.ordered(report, found, "shuffled", "run-a") for _ in range(2))
    assert first == again != found
    assert sorted(index for index, _ in first) == list(range(30))


def test_no_more_rows_are_drawn_than_asked_for():
    report = make_report(((0, 0, 1),) * 50)
    drawn = words_rows.rows(report, limit=10)
    assert drawn.count('class="proof-row"') == 10 and "10 of 50 rows" in drawn


def test_an_empty_filter_says_so():
    report = make_report(((0, 1, 1),))
    assert "made worse" in words_rows.rows(report, "broke") and "every row right" in words_rows.rows(report, "wrong")


def test_differences_from_the_reference_are_marked_and_escaped():
    assert words_rows.marked('{"a": "x<"}', '{"a": "y<"}') == "{&quot;a&quot;: &quot;<mark>x</mark>&lt;&quot;}"
    assert words_rows.marked("something else entirely", "{}") == "something else entirely"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1+1", "=cmd|' /C calc'!A0"])
def test_a_cell_that_begins_like_a_formula_is_text(text):
    report = make_report()
    report["rows"][0] |= {"prompt": text, "reference": text, "id": text, "answers": {"tuned": text}}
    cells = list(csv.reader(io.StringIO(words_rows.as_csv(report).removeprefix("\ufeff"))))[1]
    assert [each for each in cells if each.lstrip(" ")[:1] in tuple("=+-@\t\r")] == []
    assert cells[1] == "'" + text


def test_jsonl_gives_the_rows_as_they_are():
    report = make_report()
    assert [json.loads(line) for line in words_rows.as_jsonl(report).splitlines()] == report["rows"]


@pytest.mark.parametrize(
    ("verdict", "short"),
    [
        ({"difference": 0.294, "better": "tuning"}, "+29 points"),
        ({"difference": -0.05, "better": "the untuned model"}, "−5 points"),
        ({"difference": 0.02, "better": None}, "no clear gain"),
        ({}, ""),
    ],
)
def test_the_verdict_in_two_words(verdict, short):
    assert words_run.verdict_short({"verdict": verdict}) == short


@pytest.mark.parametrize(
    ("better", "difference", "tone"), [("tuning", 0.2, "good"), ("base", -0.2, "bad"), (None, 0.1, "even")]
)
def test_the_verdict_has_the_tone_of_its_result(better, difference, tone):
    report = make_report()
    report["verdict"] |= {"better": better, "difference": difference}
    assert f'class="verdict {tone}"' in words_prove.verdict(report)


def test_a_report_with_nothing_but_a_verdict_is_shown():
    report = {"verdict": {"sentence": "It helped."}}
    shown = words_prove.verdict(report) + words_prove.bars(report) + words_prove.facts(report) + words_rows.rows(report)
    assert "It helped." in shown


def test_likeness_of_texts_is_shown_in_points_not_percent():
    report = make_report(metric="chrF", metric_kind="text")
    assert "50%" not in words_prove.bars(report) and ">50<" in words_prove.bars(report)
    report["rows"][0]["scores"]["tuned"] = 0.62
    assert [index for index, _ in words_rows.wanted(report, "wrong")] == [1, 2]


def test_what_was_forgotten_and_what_the_curves_say_is_shown():
    report = make_report(
        forgetting={"state": "lost", "sentence": "It forgot capitals."},
        curves={"kind": "overfitting", "sentence": "By heart.", "fix": "Fewer epochs.", "overfit": True},
    )
    facts = words_prove.facts(report)
    assert "It forgot capitals." in facts and "By heart. Fewer epochs." in facts and "Overfitting" in facts


def test_a_loss_is_not_shown_as_a_share():
    report = make_report(metric="Loss", metric_kind="loss")
    for rival, score in zip(report["rivals"], (3.1, 2.5, 0.4), strict=True):
        rival |= {"score": score, "low": score - 0.1, "high": score + 0.1}
    drawn = words_prove.bars(report)
    assert "3.100" in drawn and "310%" not in drawn


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"status": "running", "stage": "evaluating", "fraction": 0.4}, "Comparing now."),
        ({"status": "running", "stage": "training"}, "The proof comes after training."),
        ({"status": "failed"}, "Nothing to prove yet."),
        ({"test_rows": 0}, "There are no test rows."),
        ({"asked": False}, "The comparison was switched off."),
        ({}, "Not compared yet."),
    ],
)
def test_without_a_report_it_says_why_and_what_leads_to_one(changes, says):
    state = {"status": "finished", "asked": True, "test_rows": 9, "stage": "saving", "fraction": None} | changes
    assert says in words_prove.nothing(state.pop("status"), **state)


def test_downloads_are_copies_of_this_run_only(run, runs_dir, tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir()
    assert prove.write_csv(runs_dir, run.id, folder).parent == folder
    outside = tmp_path / "outside"
    outside.mkdir()
    Recipe().save(outside / "recipe.yaml")
    for write in (prove.write_csv, prove.write_jsonl, share.write_zip):
        with pytest.raises(Exception, match="shows no run"):
            write(runs_dir, str(outside), folder)
    assert "shows no run" in prove.draw_rows(runs_dir, "../outside", "all", "rows", 10)[0]


def test_the_zip_holds_the_result_its_recipe_and_how_to_load_it(run, runs_dir, tmp_path):
    with zipfile.ZipFile(share.write_zip(runs_dir, run.id, tmp_path)) as content:
        names = {name.partition("/")[2] for name in content.namelist()}
        readme = content.read(f"{run.id}/README.md").decode()
        assert content.read(f"{run.id}/adapter_model.safetensors") == b"weights"
    assert names == {"README.md", "recipe.yaml", "adapter_model.safetensors", "adapter_config.json"}
    assert "AutoPeftModelForCausalLM" in readme and Recipe().model_name_or_path in readme
    compile(readme.split("```python\n")[1].split("```")[0], "readme", "exec")


def test_a_run_without_a_result_has_nothing_to_share(runs_dir, tmp_path):
    run = Run.create(runs_dir, Recipe(), tail="fresh")
    assert share.show(run)[1]["visible"] and not share.show(run)[2]["visible"]
    with pytest.raises(Exception, match="saved nothing yet"):
        share.write_zip(runs_dir, run.id, tmp_path)


def test_lines_to_copy_survive_quotes_in_a_question():
    import shlex

    question = 'It\'s "here" \\ $(rm) `x`'
    words = shlex.split(words_share.curl_line("http://127.0.0.1:1", question, ""))
    assert json.loads(words[-1])["messages"][-1]["content"] == question
    compile(words_share.python_lines("http://127.0.0.1:1", question, "be brief"), "lines", "exec")


def test_advice_has_a_button_and_what_needs_no_change_has_none():
    curves = {"kind": "unfinished", "sentence": "More to learn.", "fix": "Longer.",
              "changes": {"num_train_epochs": 3.0, "max_minutes": None}}  # fmt: skip
    assert "data-advised>Set up a run with 3 epochs<" in words_prove.facts(make_report(curves=curves))
    for changes in ({}, {"dataset_name": "x"}, {"num_train_epochs": EVIL}, "x"):
        assert "data-advised" not in words_prove.facts(make_report(curves=curves | {"changes": changes}))


def test_how_a_rival_was_asked_and_what_counts_need_no_mouse():
    report = make_report(metric_explains="Letter for letter.")
    report["rivals"][1]["note"] = f"Answer briefly. {EVIL}"
    shown = words_prove.verdict(report) + words_prove.bars(report)
    assert "title=" not in shown and "<details><summary>How it was asked</summary><p>Answer briefly." in shown
    assert "Letter for letter. The same 4 rows" in shown and "<img" not in shown
