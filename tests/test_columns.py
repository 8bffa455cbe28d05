"""Which column is the question and which the answer: known by name, proposed, or said by the person."""

from __future__ import annotations

import pytest
from make_bad_inputs import lines, sentence
from prepared_rows import PAIRS, prepared_from, said

from finetune_core.check import check
from finetune_core.data import columns, readiness
from finetune_core.recipe import Recipe


@pytest.mark.parametrize(
    "row",
    [
        {"my_question": "a", "final_answer": "b"},  # a part of a name is no name
        {"questions": "a", "answers": "b"},
        {"context_text": "a", "label_id": "b"},
        {"prompt": "a", "question": "b", "answer": "c"},  # two could be the prompt
    ],
)
def test_columns_are_known_by_their_whole_name_only(row):
    assert columns.recognise(row) is None


def test_a_proposal_names_only_real_columns():
    rows = [{"body": sentence(i), "n": i, "kind": "ab"[i % 2]} for i in range(50)]
    proposal = columns.propose(rows)
    assert dict(proposal.roles) == {"prompt": "body", "completion": "kind"}


def test_a_proposal_is_not_taken_for_granted(tmp_path):
    (tmp_path / "x.csv").write_text("body,verdict\n" + "".join(f"{sentence(i)},{'ab'[i % 2]}\n" for i in range(40)))
    prepared = prepared_from(tmp_path / "x.csv")
    finding = next(finding for finding in prepared.findings if finding.code == "columns-guessed")
    assert finding.suggestion.changes == {"columns": {"prompt": "body", "completion": "verdict"}}
    assert readiness(prepared)["sft"][0] == "needs-mapping"
    agreed = prepared_from(tmp_path / "x.csv", **finding.suggestion.changes)
    assert agreed.findings == ()
    assert readiness(agreed)["sft"][0] == "ready"


@pytest.mark.parametrize("answer", ["Modelantwoord", "model_answer", "Antwoord docent"])
def test_a_topic_is_not_taken_for_the_answer_beside_a_column_of_answers(tmp_path, answer):
    topics = ("klimaat", "breuken")
    cells = "".join(f"{i};{sentence(i)};{sentence(i + 50)};{topics[i % 2]}\n" for i in range(40))
    (tmp_path / "toets.csv").write_text(f"Nr;Vraag;{answer};Onderwerp\n{cells}")
    finding = next(each for each in prepared_from(tmp_path / "toets.csv").findings if each.code == "columns-guessed")
    assert finding.suggestion.changes == {"columns": {"prompt": "Vraag", "completion": answer}}
    assert finding.says.startswith(f"Is “Vraag” the question and “{answer}” the answer? ")


def test_columns_of_the_recipe_go_first(tmp_path):
    rows = [{"prompt": "a", "completion": "b", "extra": f"{sentence(i)}"} for i in range(5)]
    (tmp_path / "x.jsonl").write_text(lines(rows))
    prepared = prepared_from(tmp_path / "x.jsonl", columns={"prompt": "extra"})
    assert said(prepared.train[0]) == [("user", rows[0]["extra"]), ("assistant", "b")]


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path):
    (tmp_path / "x.jsonl").write_text(lines(PAIRS))
    finding = prepared_from(tmp_path / "x.jsonl", columns={"completion": "reply"}).findings[0]
    assert (finding.code, finding.level) == ("no-such-column", "error")
    assert "'reply'" in finding.says and "question, answer" in finding.says


def test_a_template_makes_the_prompt(tmp_path):
    (tmp_path / "x.jsonl").write_text(lines([{"word": "cat", "target": "kat", "language": "Dutch"}]))
    prepared = prepared_from(tmp_path / "x.jsonl", template="Say {word} in {language}: {{x}}")
    assert said(prepared.train[0])[0] == ("user", "Say cat in Dutch: {{x}}")


def test_a_template_with_an_unknown_column_is_an_error(tmp_path):
    (tmp_path / "x.jsonl").write_text(lines([{"word": "cat", "target": "kat"}]))
    assert prepared_from(tmp_path / "x.jsonl", template="{wrod}").findings[0].code == "no-such-column"


def test_pairs_of_a_better_and_a_worse_answer_can_have_any_column_names(tmp_path):
    rows = [{"vraag": sentence(i), "beste": f"goed {i}", "slechtste": "nee"} for i in range(6)]
    (tmp_path / "x.jsonl").write_text(lines(rows))
    named = {"prompt": "vraag", "chosen": "beste", "rejected": "slechtste"}
    prepared = prepared_from(tmp_path / "x.jsonl", columns=named)
    assert said(prepared.train[0]) == [("user", rows[0]["vraag"]), ("assistant", "goed 0")]
    assert dict(prepared.mapping) == named and readiness(prepared)["dpo"][0] == "ready"


def test_of_answers_with_a_verdict_the_good_ones_are_learned_whatever_the_columns_are_called(tmp_path):
    rows = [{"ask": sentence(i), "told": f"answer {i}", "thumb": "ja" if i % 2 else "nee"} for i in range(8)]
    (tmp_path / "x.jsonl").write_text(lines(rows))
    named = {"prompt": "ask", "completion": "told", "desired": "thumb"}
    prepared = prepared_from(tmp_path / "x.jsonl", columns=named)
    learned = {said(row)[-1][1] for row in prepared.train}
    assert learned == {f"answer {i}" for i in range(1, 8, 2)} and readiness(prepared)["kto"][0] == "ready"


def test_a_verdict_without_a_question_and_an_answer_still_needs_its_columns():
    assert columns.as_wished({"desired": "thumb"}, None, {"thumb": "ja"}) is None


def test_words_of_longer_names_say_which_column_is_proposed():
    row = {"vraag_leerling": "Hoe laat is het?", "antwoord_a": "Drie uur.", "antwoord_b": "Geen idee.", "klas": "3B"}
    assert columns.propose([row] * 5).roles == {"prompt": "vraag_leerling", "completion": "antwoord_a"}


@pytest.mark.parametrize(
    ("more", "level"),
    [({"soort": lambda i: ("klacht", "vraag")[i % 2]}, "warning"), ({"reactie": lambda i: sentence(i, 20)}, "warning"),
     ({"url": lambda i: f"https://a.nl/{i}", "when": lambda i: f"2024-{i}"}, "note")],
)  # fmt: skip
def test_a_text_beside_what_may_be_its_answer_is_asked_about(tmp_path, more, level):
    rows = [{"tekst": sentence(i)} | {name: value(i) for name, value in more.items()} for i in range(20)]
    (tmp_path / "x.jsonl").write_text(lines(rows))
    finding = next(f for f in prepared_from(tmp_path / "x.jsonl").findings if f.code == "plain-text")
    assert finding.level == level
    if level == "warning":
        answered = prepared_from(tmp_path / "x.jsonl", **finding.suggestion.changes)
        assert said(answered.train[0])[1] == ("assistant", rows[0][next(iter(more))])


VERDICTS = {"prompt": "ask", "completion": "told", "desired": "thumb"}


def verdicts(tmp_path, *thumbs, **recipe):
    rows = [{"ask": sentence(i), "told": f"answer {i}", "thumb": thumbs[i % len(thumbs)]} for i in range(12)]
    (tmp_path / "x.jsonl").write_text(lines(rows))
    return prepared_from(tmp_path / "x.jsonl", **recipe)


def test_a_verdict_that_is_neither_good_nor_bad_is_asked_about(tmp_path):
    prepared = verdicts(tmp_path, "Prima", "onvoldoende", "zozo", columns=VERDICTS)
    finding = prepared.findings[1]
    assert (finding.code, finding.level, finding.count) == ("unknown-verdict", "error", 4) and "'zozo'" in finding.says
    assert prepared.dropped == {"not-desired": 4}
    left = verdicts(tmp_path, "Prima", "zozo", columns=VERDICTS, **finding.suggestion.changes)
    assert left.dropped == {"unknown-verdict": 6} and len(left.train) == 6


def test_where_every_verdict_is_bad_that_is_what_is_said(tmp_path, tiny_tokenizer):
    prepared = verdicts(tmp_path, "nee", columns=VERDICTS)
    found = check(prepared, tiny_tokenizer, Recipe(columns=VERDICTS)).findings
    assert found[0].code == "nothing-to-learn" and "marked good" in found[0].says


def test_a_role_that_still_lacks_its_column_is_named(tmp_path):
    finding = verdicts(tmp_path, "ja", columns={"prompt": "ask", "desired": "thumb"}).findings[0]
    assert finding.code == "no-columns" and "which column is the answer" in finding.says
