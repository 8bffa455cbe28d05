"""A card that a stranger can use: nothing invented, nothing private, and every number where it was measured."""

import json
from dataclasses import replace

import pytest
import yaml
from conftest import chat_rows, write_jsonl

from finetune_core.progress import Progress
from finetune_core.recipe import STARTER_MODEL, Recipe
from finetune_core.run import Run
from finetune_core.takeaway.card import card
from finetune_core.takeaway.facts import Facts, Licence, base_licence, gather
from finetune_core.takeaway.kept import about

REPORT = {
    "n": 50,
    "split": "test",
    "metric": "Exact match",
    "metric_kind": "label",
    "verdict": {"sentence": "Tuning answers 41 of 50 correctly where the untuned model answers 12."},
    "rivals": [
        {"name": "base", "title": "Base model", "score": 0.24, "low": 0.13, "high": 0.38, "tokens_per_request": 55.2},
        {"name": "tuned", "title": "Tuned model", "score": 0.82, "low": 0.69, "high": 0.91, "tokens_per_request": 51.0},
    ],
    "loss": {"base": 3.1, "tuned": 0.4},
}
PARITY = {
    "compared": 20, "same": 20, "ties": 0, "logprob_mean": 0.0001, "format": "float32", "engine": "transformers",
    "split": "test",
}  # fmt: skip
DATA = {
    "source": {"name": "/home/jan/clients/acme.csv", "place": "file", "sha256": "ab" * 32},
    "rows": {"train": 240, "validation": 30, "test": 50},
    "dropped": {"duplicates": 3},
    "own_splits": [],
}
FACTS = Facts(
    run_id="2026-11-23-0120-smol-acme-x7Kq",
    recipe=Recipe(system_prompt="Be brief."),
    base_is_local=False,
    base_revision="a" * 40,
    licence=Licence("apache-2.0"),
    template="{{ messages }} ``` fence",
    stop_tokens=("<|im_end|>",),
    data=DATA,
    report=REPORT,
    parity=PARITY,
    progress=Progress(loss=((1, 3.0), (10, 1.0)), eval_loss=((5, 1.5), (10, 1.2)), machine="CPU · 2 cores · 24 GB"),
    versions={"torch": "2.13.0"},
    languages=("nl", "en"),
    train_seconds=300.0,
    steps=10,
)


def front(text):
    return yaml.safe_load(text.split("---\n")[1])


@pytest.mark.parametrize(
    ("to", "relation", "library"),
    [("adapter", "adapter", "peft"), ("merged", "finetune", "transformers"), ("gguf", "finetune", "gguf")],
)
def test_the_metadata_says_what_the_hub_reads(to, relation, library):
    found = front(card(FACTS, to))
    assert (found["base_model"], found["base_model_relation"]) == (STARTER_MODEL, relation)
    assert (found["library_name"], found["pipeline_tag"]) == (library, "text-generation")
    assert found["license"] == "apache-2.0" and found["language"] == ["nl", "en"]
    assert {"trl", "sft", "lora"} <= set(found["tags"])


def test_the_hub_client_reads_the_card_and_its_scores():
    from huggingface_hub import ModelCard

    data = ModelCard(card(FACTS, "adapter", "alice/acme")).data
    [result, loss] = data.eval_results
    assert (data.model_name, result.metric_value, loss.metric_value) == ("acme", 0.82, 0.4)


def test_the_proof_stands_there_with_its_intervals():
    text = card(FACTS, "adapter")
    assert "Tuning answers 41 of 50 correctly" in text
    assert "| **Tuned model** | 82 % [69, 91] | 51 |" in text and "| Base model | 24 % [13, 38] | 55 |" in text


def test_the_parity_stands_there():
    assert "20 of 20" in card(FACTS, "merged") and "Are these files" not in card(replace(FACTS, parity=None), "merged")


def test_a_card_of_a_training_in_4_bits_does_not_call_the_full_precision_model_the_one_that_was_trained():
    four_bits = card(replace(FACTS, recipe=Recipe(method="qlora")), "adapter")
    assert "on its base model in full precision" in four_bits and "as it was trained was asked" not in four_bits
    assert "as it was trained was asked" in card(FACTS, "adapter")


def test_a_licence_is_inherited_and_never_invented():
    text = card(replace(FACTS, licence=Licence()), "merged")
    assert "license" not in front(text) and "Not known." in text
    llama = card(replace(FACTS, licence=Licence("other", "llama3.2", "https://example.org/l")), "merged")
    assert front(llama)["license_name"] == "llama3.2" and "Built with Llama" in llama


def test_no_folder_of_this_machine_stands_on_a_card():
    local = Recipe(model_name_or_path="/home/jan/models/secret-base", dataset_name="/home/jan/clients/acme.csv")
    text = card(replace(FACTS, recipe=local, base_is_local=True), "merged")
    assert "/home/jan" not in text and "base_model" not in front(text)


def test_data_sets_are_named_in_the_metadata_only_where_the_hub_has_them():
    assert "datasets" not in front(card(FACTS, "adapter"))
    there = {**DATA, "source": {"name": "acme/rows", "place": "hub", "revision": "b" * 40}}
    assert front(card(replace(FACTS, data=there), "adapter"))["datasets"] == ["acme/rows"]


def test_a_card_without_a_proof_says_so():
    text = card(replace(FACTS, report=None), "adapter")
    assert "Not measured" in text and "model-index" not in front(text)


def test_text_from_elsewhere_cannot_break_out_of_its_block():
    text = card(FACTS, "adapter")
    assert "````\n{{ messages }} ``` fence\n````" in text
    evil = {**DATA, "dropped": {"a` | b\n# Heading": 1}}
    assert "\n# Heading" not in card(replace(FACTS, data=evil), "adapter")


@pytest.mark.parametrize("to", ["adapter", "merged"])
def test_the_snippet_is_a_program(to):
    text = card(FACTS, to, "alice/acme")
    code = text.split("```python\n")[1].split("```")[0]
    compile(code, "snippet", "exec")
    assert '.from_pretrained("alice/acme")' in code and "Be brief." in code


def test_no_word_of_the_rows_leaves_beside_the_weights(runs_dir):
    secret = "zaak-Jansen-4711"
    run = Run.create(runs_dir, Recipe())
    rivals = [{**REPORT["rivals"][0], "name": "system", "note": f"Answer with exactly one of these: {secret}."}]
    said = {"note": f"Your check: KeyError: {secret}", "metric_kind": "check", "judge": {"error": {"problem": secret}}}
    run.write_report({**REPORT, **said, "rivals": rivals, "rows": [{"prompt": secret}]})
    passed = [{"code": "rare-label", "says": f"{secret} stands in one row.", "rows": 1}]
    write_jsonl(run.path / "data" / "train.jsonl", [])
    (run.path / "data" / "card.json").write_text(json.dumps(DATA | {"labels": {secret: 3}, "warnings_passed": passed}))
    left = about(run)
    assert secret not in json.dumps(left)
    assert left["report"]["rivals"][0]["score"] == 0.24
    assert left["data"]["warnings_passed"] == [{"code": "rare-label", "rows": 1}]


def test_facts_are_read_from_a_run(runs_dir):
    run = Run.create(runs_dir, Recipe())
    dutch = "Ik heb het pakket nog niet, en wij wachten ook op een brief van de winkel."
    rows = [{"messages": [{"role": "user", "content": dutch}]}] * 20
    write_jsonl(run.path / "data" / "train.jsonl", rows + chat_rows(2))
    (run.path / "data" / "card.json").write_text(json.dumps(DATA))
    run.tell("start", versions={"torch": "2"}, machine="CPU")
    run.tell("done", outcome="finished", seconds=9.0, train_seconds=7.5, steps=4)
    facts = gather(run, None, None)
    assert (facts.steps, facts.train_seconds, facts.versions) == (4, 7.5, {"torch": "2"})
    assert facts.languages == ("nl",) and facts.data_name == "acme.csv"


def test_the_licence_comes_from_the_card_beside_the_weights(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: gemma\nlicense_link: https://x.org\n---\n# Hi\n")
    assert base_licence(str(tmp_path), tmp_path) == Licence("gemma", None, "https://x.org")
    (tmp_path / "README.md").write_text("no front matter")
    assert base_licence(str(tmp_path), tmp_path) == Licence()
