"""What a check says about rows, on files that go wrong elsewhere and on clean ones."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import chat_rows, save_tiny_model, write_jsonl
from make_bad_inputs import CASES, chat, chats, lines, sentence

from finetune_core import preflight
from finetune_core.check import Diagnosis, check
from finetune_core.data import FIXES, prepare
from finetune_core.data.lengths import length_findings
from finetune_core.data.measure import measure
from finetune_core.data.problems import PROBLEMS
from finetune_core.data.rewriting import masked
from finetune_core.data.rows import RowWriter
from finetune_core.errors import FinetuneError
from finetune_core.recipe import Recipe
from finetune_core.render import load_tokenizer, render

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    """A small tokenizer with a chat template, made without torch."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    folder = tmp_path_factory.mktemp("tokenizer")
    backend = Tokenizer(models.BPE(unk_token=None))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([sentence(i, 20) for i in range(50)], trainer)
    backend.save(str(folder / "tokenizer.json"))
    named = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "model_max_length": 2048, "chat_template": CHATML}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 2048, "eos_token_id": 2}))
    return load_tokenizer(folder)


@pytest.fixture
def look(tmp_path, tokenizer):
    """Rows (or the text of a file), and recipe fields → their diagnosis."""

    def look(content, name: str = "rows.jsonl", **fields) -> Diagnosis:
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else lines(content), encoding="utf-8")
        recipe = Recipe(dataset_name=str(path), **fields)
        return check(prepare(recipe, tokenizer=tokenizer), tokenizer, recipe)

    return look


def codes(diagnosis: Diagnosis, *levels: str) -> list[str]:
    return [finding.code for finding in diagnosis.findings if not levels or finding.level in levels]


def found(diagnosis: Diagnosis, code: str):
    return next(finding for finding in diagnosis.findings if finding.code == code)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_bad_file_gets_its_answer(case, tmp_path, tokenizer):
    path = tmp_path / case.name
    case.make(path)
    recipe = Recipe(dataset_name=str(path))
    began = time.monotonic()
    try:
        diagnosis = check(prepare(recipe), tokenizer, recipe)
    except FinetuneError as error:
        assert case.verdict == "refused", error
        assert error.code == case.code
        said = f"{error.problem} {error.fix}"
    else:
        assert diagnosis.verdict == case.verdict, diagnosis.findings
        said = " ".join(f"{finding.says} {finding.fix}" for finding in diagnosis.findings if finding.code == case.code)
        assert case.code == "" or said
        assert case.rows is None or diagnosis.rows == case.rows
        sizes = diagnosis.train_rows + diagnosis.validation_rows + diagnosis.test_rows
        assert case.usable is None or sizes == case.usable
        json.dumps(diagnosis.as_dict(), allow_nan=False).encode()
    for words in case.says:
        assert words in said
    assert time.monotonic() - began < 5


def test_no_archive_leaves_a_file_outside_its_folder(tmp_path):
    for case in CASES:
        if case.name.endswith(".zip"):
            (tmp_path / "in").mkdir(exist_ok=True)
            case.make(tmp_path / "in" / case.name)
            with pytest.raises(FinetuneError):
                prepare(Recipe(dataset_name=str(tmp_path / "in" / case.name)))
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    assert not Path("/tmp/evil.jsonl").exists()


def test_a_clean_set_has_no_findings_at_all(look):
    diagnosis = look([chat(sentence(i, 12), sentence(i + 5000, 9)) for i in range(200)])
    assert diagnosis.findings == ()
    assert diagnosis.verdict == "ready"
    assert diagnosis.stop_token_trained


def test_the_starter_rows_are_clean(tokenizer):
    recipe = Recipe()
    diagnosis = check(prepare(recipe), tokenizer, recipe)
    assert codes(diagnosis, "error", "warning") == []
    assert (diagnosis.train_rows, diagnosis.validation_rows, diagnosis.test_rows) == (240, 30, 50)


@pytest.mark.parametrize(
    ("code", "content"),
    [
        ("broken-lines", lines(chats(30)) + "{oops\n"),
        ("missing-answers", lines([*chats(30), {"messages": [{"role": "user", "content": "?"}]}])),
        ("empty-answers", lines([*chats(30), chat("?", "")])),
        ("spreadsheet-errors", lines([*chats(30), chat("?", "#N/B")])),
        ("unknown-roles", lines([*chats(30), {"messages": [{"role": "cat", "content": "?"}]}])),
        ("bad-messages", lines([*chats(30), {"messages": ["?"]}])),
        ("not-text", lines([*chats(30), chat("?", {"a": 1})])),
        ("unknown-shape", lines([*chats(30), {"x": 1}])),
        ("missing-prompts", lines([*chats(30), {"prompt": "", "completion": "x"}])),
    ],
)
def test_one_click_after_another_unblocks_and_counts_what_it_left_out(look, code, content):
    diagnosis = look(content)
    fixes: list[str] = []
    while (finding := next((f for f in diagnosis.findings if f.code == code), None)) is not None:
        assert finding.level == "error"
        fixes = finding.suggestion.changes["fixes"]
        diagnosis = look(content, fixes=fixes)
    assert diagnosis.verdict != "blocked"
    assert diagnosis.dropped[code] == 1
    assert diagnosis.rows == diagnosis.train_rows + diagnosis.validation_rows + diagnosis.test_rows + 1


def test_numbers_become_text_when_asked(look):
    content = [chat(sentence(i), [True, 5, ["a", "b"]][i % 3]) for i in range(30)]
    assert look(content).verdict == "blocked"
    assert "not-text" not in codes(look(content, fixes=["numbers-to-text"]))


def test_every_repair_that_is_offered_exists():
    offered = {code for problem in PROBLEMS.values() for code, _ in problem.repairs}
    assert offered <= FIXES.keys()


def test_a_repair_that_does_not_exist_is_refused(look):
    with pytest.raises(FinetuneError, match="no repair"):
        look(chats(20), fixes=["make-it-good"])


def test_lengths_are_what_the_renderer_gives(look, tokenizer, tmp_path):
    rows = [chat(sentence(i, 5 + i % 40), sentence(i + 900)) for i in range(40)]
    diagnosis = look(rows)
    prepared = prepare(Recipe(dataset_name=str(tmp_path / "rows.jsonl")))
    lengths = [
        len(render(row, tokenizer).input_ids) for part in prepared.splits().values() for row in part
    ]  # fmt: skip
    assert list(diagnosis.token_lengths) == lengths
    assert diagnosis.lengths["max"] == max(lengths)
    assert diagnosis.split_lengths(1024)[0] == lengths[: diagnosis.train_rows]


@pytest.mark.parametrize("max_length", [8, 20, 40, 60, 100, 2000])
def test_recounting_for_another_max_length_equals_rendering_again(look, tokenizer, tmp_path, max_length):
    diagnosis = look([chat(sentence(i, 5 + i % 40), sentence(i + 900)) for i in range(40)])
    prepared = prepare(Recipe(dataset_name=str(tmp_path / "rows.jsonl")))
    rendered = [render(row, tokenizer, max_length) for part in prepared.splits().values() for row in part]
    cut = sum(bool(row.dropped) for row in rendered)
    lost = sum(bool(row.dropped) and row.trained == 0 for row in rendered)
    counted = zip(diagnosis.token_lengths, diagnosis.answer_starts, strict=True)
    starts = [start for length, start in counted if length > max_length]
    assert (len(starts), sum(start >= max_length for start in starts)) == (cut, lost)


def test_trained_tokens_count_only_what_max_length_leaves(look, tokenizer, tmp_path):
    rows = [chat(sentence(i, 5 + i % 40), sentence(i + 900)) for i in range(40)]
    diagnosis = look(rows, max_length=30)
    prepared = prepare(Recipe(dataset_name=str(tmp_path / "rows.jsonl"), max_length=30))
    assert diagnosis.trained_tokens == sum(render(row, tokenizer, 30).trained for row in prepared.train)


def test_rows_that_are_too_long_can_be_left_out(look):
    rows = [*chats(30), chat(sentence(1, 400), "good")]
    assert "too-long" in codes(look(rows, max_length=200))
    diagnosis = look(rows, max_length=200, fixes=["drop-too-long"])
    assert diagnosis.dropped == {"too-long": 1}
    assert diagnosis.verdict == "ready"
    assert max(diagnosis.token_lengths) <= 200


def test_a_max_length_under_which_most_answers_are_lost_blocks(look):
    diagnosis = look([chat(sentence(i, 60), "good" if i % 2 else "bad") for i in range(40)], max_length=40)
    assert found(diagnosis, "too-long").level == "error"
    assert found(diagnosis, "too-long").suggestion.changes["max_length"] > 100


def test_a_stop_token_that_is_not_trained_is_an_error(tokenizer, tmp_path):
    (tmp_path / "rows.jsonl").write_text(lines(chats(30)))
    recipe = Recipe(dataset_name=str(tmp_path / "rows.jsonl"))
    prepared = prepare(recipe)
    measures = measure(prepared.splits(), tokenizer, recipe.max_length)
    assert length_findings(prepared, measures, tokenizer, recipe) == []
    measures.stops[:] = False
    [finding] = length_findings(prepared, measures, tokenizer, recipe)
    assert (finding.code, finding.level, finding.count) == ("stop-not-trained", "error", 30)
    measures.stops[1:] = True
    [finding] = length_findings(prepared, measures, tokenizer, recipe)
    assert (finding.level, finding.count) == ("warning", 1)


def test_warnings_can_be_passed(look):
    assert look([*chats(40), *chats(10)]).verdict == "warnings"
    assert look([*chats(40), *chats(10)], accept_warnings=True).verdict == "ready"


def test_warnings_that_are_passed_are_still_listed(look):
    assert "duplicates" in codes(look([*chats(40), *chats(10)], accept_warnings=True))


def test_rows_with_personal_data_are_listed_in_the_order_of_the_file_whatever_split_they_are_in(look):
    diagnosis = look([chat(f"Write to piet{i}@winkel.nl about {i}", f"I do that for {i}.") for i in range(60)])
    (found,) = [finding for finding in diagnosis.findings if finding.code == "personal-data"]
    assert found.rows == tuple(range(1, 21)) and diagnosis.test_rows


def test_masking_takes_personal_data_and_keys_out(look, tmp_path):
    rows = [*chats(30), chat("mail jan@dewinkel.nl or AKIAIOSFODNN7EXAMPLE", "odd")]
    diagnosis = look(rows, fixes=["mask-personal-data"])
    assert not {"secrets", "personal-data"} & set(codes(diagnosis))


def test_masking_reaches_the_calls_of_tools_and_what_they_are_offered(look):
    arguments = {"to": "jan@dewinkel.nl", "key": ["AKIAIOSFODNN7EXAMPLE"]}
    calls = [
        {"type": "function", "function": {"name": "send", "arguments": given}}
        for given in (arguments, json.dumps(arguments))
    ]
    tool = {"type": "function", "function": {"name": "send", "description": "Ask piet@dewinkel.nl."}}
    row = chat("send it", "done") | {"tools": [tool], "id": "kees@dewinkel.nl"}
    row["messages"][1:1] = [
        {"role": "assistant", "content": "", "tool_calls": calls},
        {"role": "tool", "content": "sent"},
    ]
    rows = [*chats(30), row]
    assert {"secrets", "personal-data"} <= set(codes(look(rows)))
    assert not {"secrets", "personal-data"} & set(codes(look(rows, fixes=["mask-personal-data"])))
    left = masked(row)
    assert "dewinkel" not in str(left) and "AKIA" not in str(left)
    one, other = (call["function"]["arguments"] for call in left["messages"][1]["tool_calls"])
    assert one == json.loads(other) == {"to": "[e-mail address]", "key": ["[key]"]}


def test_two_languages_are_noted(look):
    english = [chat(f"the {sentence(i)} is not in the box and that was it", "good") for i in range(30)]
    dutch = [chat(f"het {sentence(i)} zit niet in een doos maar ook niet van mijn", "bad") for i in range(30)]
    assert "English 50%, Dutch 50%" in found(look(english + dutch), "languages").says


def test_findings_come_with_the_worst_first(look):
    diagnosis = look(lines([*chats(40), *chats(10)]) + "{oops\n")
    levels = [finding.level for finding in diagnosis.findings]
    assert levels == sorted(levels, key=["error", "warning", "note"].index)


def test_the_json_of_a_check_has_the_keys_of_the_contract(look):
    answer = look(chats(60)).as_dict()
    assert {"verdict", "shape", "rows", "train_rows", "validation_rows", "test_rows", "dropped", "lengths",
            "trained_tokens", "stop_token_trained", "findings"} <= answer.keys()  # fmt: skip
    assert {"p50", "p95", "max"} <= answer["lengths"].keys()
    assert {"code", "level", "says", "rows", "fix"} <= answer["findings"][0].keys()


def test_cancelling_a_check_ends_it(look, tokenizer, tmp_path):
    class Cancelled(Exception):
        pass

    def stop(fraction, words):
        raise Cancelled

    look(chats(20))
    recipe = Recipe(dataset_name=str(tmp_path / "rows.jsonl"))
    with pytest.raises(Cancelled):
        check(prepare(recipe), tokenizer, recipe, on_progress=stop)


def test_a_very_long_cell_is_estimated_and_not_rendered(tokenizer):
    writer = RowWriter()
    long = " ".join(sentence(i) for i in range(3000))
    writer.append(chat(long, "good"))
    measures = measure({"train": writer.finish()}, tokenizer, max_length=256)
    assert measures.estimated == {0}
    assert measures.lengths[0] == pytest.approx(len(render(chat(long, "good"), tokenizer).input_ids), rel=0.2)
    assert np.all(measures.trained_kept == 0)


def test_checking_never_loads_torch():
    program = (
        "import sys, finetune_core.data, finetune_core.check\n"
        "from finetune_core.recipe import Recipe\n"
        "finetune_core.data.prepare(Recipe())\n"
        "print([name for name in ('torch', 'datasets', 'pandas', 'scipy', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_template_that_refuses_every_row_is_told_and_not_an_error_of_ours(tmp_path):
    template = "{% if messages | length > 2 %}{{ raise_exception('One question, one answer') }}{% endif %}"
    template += "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + eos_token }}{% endfor %}"
    model = save_tiny_model(tmp_path / "model", template)
    rows = [{"messages": [*row["messages"][-2:], *row["messages"][-2:]]} for row in chat_rows(40)]
    recipe = Recipe(model_name_or_path=str(model), dataset_name=str(write_jsonl(tmp_path / "rows.jsonl", rows)))
    seen = preflight.look(recipe)
    assert seen.diagnosis.verdict == "blocked" and seen.plan.steps >= 1
    assert any("One question, one answer" in finding.says for finding in seen.diagnosis.findings)
