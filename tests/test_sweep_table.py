"""The table of a sweep's trials, as the page shows it."""

import re

from finetune_core.job import Said
from finetune_ui import words_beforehand

EVIL = "<img src=x onerror=alert(1)>"


def test_the_table_is_escaped_and_offers_the_settings(runs_dir):
    found = {
        "sentence": EVIL,
        "trials": [
            {"run": "r-1", "values": {"lora_r": EVIL}, "outcome": "failed", "validation_loss": None, "problem": EVIL}
        ],
    }
    shown = words_beforehand.sweep(Said(1, 0.0, 0.5, EVIL), found, EVIL, 100.0)
    assert "<img" not in shown and 'data-settings="r-1"' in shown and "50%" in shown


def test_a_trial_can_be_opened_where_it_is_ranked():
    trial = {"run": "r-1", "values": {"lora_r": 8}, "outcome": "finished", "validation_loss": 0.5}
    assert 'href="./?run=r-1"' in words_beforehand.sweep(None, {"trials": [trial]}, "", 0.0)


def test_why_a_trial_failed_can_be_read_without_a_pointer():
    trial = {"run": "", "values": {"lora_r": 8}, "outcome": "failed", "validation_loss": None, "problem": "No 4 bits."}
    shown = words_beforehand.sweep(None, {"trials": [trial]}, "", 0.0)
    assert ">No 4 bits.</small>" in shown and "title=" not in shown


def test_every_column_of_the_trials_has_a_name():
    trial = {"run": "r", "values": {"lora_r": 8}, "outcome": "finished", "validation_loss": 0.5}
    heads = re.findall(r"<th scope=\"col\">(.*?)</th>", words_beforehand.sweep(None, {"trials": [trial]}, "", 0.0))
    assert len(heads) == 4 and all(re.sub("<[^>]*>", "", head).strip() for head in heads)


def test_the_best_setting_is_told_in_the_words_of_the_page():
    trial = {"run": "r", "values": {"lora_r": 8}, "outcome": "finished", "validation_loss": 0.5}
    found = {"sentence": "Best of 1: lora_r 8, with a validation loss of 0.500.", "trials": [trial]}
    assert "Best of 1: Adapter rank 8, with" in words_beforehand.sweep(None, found, "", 0.0)
