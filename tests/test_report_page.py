"""The report as one page to mail: whole, safe to open, and silent about whose folder it was."""

import json
import re

import pytest

from finetune_core.proof.report_page import report_page
from finetune_core.recipe import Recipe


@pytest.fixture(scope="module")
def page(proof_report, proof_run):
    from finetune_core.progress import Progress

    nasty = json.loads(json.dumps(proof_report))
    nasty["rows"][0]["answers"]["tuned"] = "<script>alert(1)</script>"
    nasty["rows"][0]["prompt"] = [{"role": "user", "content": "<img src=x onerror=alert(1)>"}]
    nasty["rivals"][1]["note"] = '"><iframe src="//evil">'
    loss = tuple((step, 3.0 / step) for step in range(1, 30))
    recipe = proof_run.recipe.replace(dataset_name="/home/ada/secret/rows.jsonl")
    return report_page(nasty, Progress(loss=loss, eval_loss=loss[::6]), recipe, proof_run.id)


def test_the_page_needs_nothing_from_outside(page):
    assert not re.search(r"<(script|link|img|iframe|object)\b", page)
    assert not re.search(r"(?:src|href|url)\s*[=(]\s*[\"']?(?:https?:)?//", re.sub(r"&quot;.*", "", page))


def test_words_from_data_are_escaped_on_the_page(page):
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page and "onerror=alert(1)&gt;" in page


def test_the_page_holds_the_verdict_the_rivals_the_curves_and_the_rows(page, proof_report):
    assert proof_report["verdict"]["sentence"].replace("'", "&#x27;") in page
    assert page.count("<tr class=") == len(proof_report["rivals"])
    assert '<svg class="curves"' in page and page.count('<article class="row') == 12
    assert "prefers-color-scheme: dark" in page


def test_answers_that_are_more_or_less_alike_are_called_nearer_not_fixed(proof_report):
    from finetune_core.progress import Progress

    report = json.loads(json.dumps(proof_report)) | {"metric_kind": "text"}
    report["rows"] = [row | {"scores": {"base": 0.2, "tuned": 0.6}} for row in report["rows"]]
    page = report_page(report, Progress(), Recipe(), "run")
    assert "Tuning is nearer" in page and "Tuning fixed" not in page
    assert 'class="row fixed"' in page and 'class="row wrong' not in page


def test_a_mailed_page_does_not_tell_whose_folder_it_was(page):
    assert "/home/ada" not in page and "rows.jsonl" in page


def test_the_page_of_a_report_without_rows_is_still_a_page():
    from finetune_core.progress import Progress

    page = report_page({"verdict": {"sentence": "Nothing."}, "rivals": [], "rows": []}, Progress(), Recipe(), "run")
    assert "Nothing." in page and page.endswith("</html>\n")


def test_numbers_that_are_none_do_not_become_markup():
    from finetune_core.progress import Progress

    areas = {"facts": {"before": "<script>", "after": 1, "n": 2}}
    report = {"verdict": {}, "rivals": [], "rows": [], "forgetting": {"sentence": "It lost.", "areas": areas}}
    with pytest.raises(ValueError, match="invalid literal"):
        report_page(report, Progress(), Recipe(), "run")
