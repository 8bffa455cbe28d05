"""What strangers wrote stays text on a card: names, licences, scores and settings of a model or of rows."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace

import pytest
import yaml
from huggingface_hub import repocard
from markdown_it import MarkdownIt
from test_card import DATA, FACTS, REPORT, front
from test_push_data import facts as rows_facts

from finetune_core.progress import Progress
from finetune_core.recipe import Recipe
from finetune_core.takeaway.card import card
from finetune_core.takeaway.facts import Licence
from finetune_core.takeaway.rows_card import rows_card

OURS = {"<details><summary>The template</summary>\n", "</details>\n"}
EVIL = (
    "a\n---\n\n# Owned\n\n[click](http://evil.org) ![x](http://evil.org/i.png) <script>x</script> <img src=x> | b | "
    "``` ` ** www.evil.org me@evil.org https://evil.org <http://evil.org>"
)
HEADINGS = {
    "Was it worth it?", "Load it", "What it learned from", "How it was trained", "How it is asked", "Limits", "Licence",
    "Are these files what was trained?", "Load them", "What is in them", "Where they come from", "Personal data",
}  # fmt: skip


def flat(tokens):
    for token in tokens:
        yield token
        yield from flat(token.children or ())


def require_harmless(text: str, title: str) -> None:
    """No image, no HTML, no heading of a stranger's, no link but to the Hub; and the metadata is one block."""
    _, block, body = re.split(r"(?m)^\s*---$\n", text, maxsplit=2)
    about = yaml.safe_load(block)
    assert repocard.REGEX_YAML_BLOCK.search(text).group(2).strip() == block.strip() and isinstance(about, dict)
    tokens = list(flat(MarkdownIt("commonmark").enable("table").parse(body)))
    html = {token.content for token in tokens if token.type in ("html_block", "html_inline")}
    links = [token.attrs.get("href") or token.attrs.get("src") for token in tokens if token.attrs and token.type in
             ("link_open", "image")]  # fmt: skip
    headings = [after.content for token, after in itertools.pairwise(tokens) if token.type == "heading_open"]
    assert html <= OURS and all(str(link).startswith("https://huggingface.co/") for link in links)
    assert set(headings[1:]) <= HEADINGS and title in headings[0]
    words = "".join(line for line in body.splitlines(True))
    words = re.sub(r"(?ms)^(`{3,})[^\n]*\n.*?^\1$", "", words)  # blocks of code
    words = re.sub(r"(`+)[^`\n]+\1", "", words)
    assert not re.search(r"(?i)(?<!\\)://evil|www\.evil|[^\\]@evil", words)  # of which GitHub makes links


def of(value):
    """A stranger's text in every place of a model's facts."""
    rival = {**REPORT["rivals"][1], "title": value}
    data = DATA | {
        "source": {"name": value, "place": "hub", "config": value, "revision": value, "licence": value,
                   "sha256": value},
        "rows": {"train": 3, value: 3}, "own_splits": [value], "dropped": {value: 1}, "repaired": {value: 1},
        "shapes": {value: 1}, "warnings_passed": [{"code": value, "rows": 2}],
    }  # fmt: skip
    return replace(
        FACTS,
        run_id=value,
        recipe=Recipe(system_prompt=value, model_name_or_path=value, lora_target_modules=[value]),
        base_revision=value,
        licence=Licence(value, value, value),
        template=value,
        stop_tokens=(value,),
        data=data,
        report=REPORT | {"rivals": [rival], "metric": value, "split": value, "verdict": {"sentence": value},
                         "forgetting": {"sentence": value}},
        progress=Progress(machine=value),
        versions={value: value},
    )  # fmt: skip


@pytest.mark.parametrize("to", ["adapter", "merged", "gguf"])
@pytest.mark.parametrize("repo_id", [None, "alice/acme"])
@pytest.mark.parametrize("is_local", [True, False])
def test_nothing_of_a_stranger_s_becomes_more_than_text_on_a_model_s_card(to, repo_id, is_local):
    text = card(replace(of(EVIL), base_is_local=is_local), to, repo_id, ("tuned-q8_0.gguf",))
    require_harmless(text, "acme" if repo_id else "tuned on")
    if to != "gguf":
        compile(text.split("```python\n")[1].split("\n```")[0], "snippet", "exec")


def test_nothing_of_a_stranger_s_becomes_more_than_text_on_a_card_of_rows():
    evil = rows_facts(source={"name": EVIL, "config": EVIL, "revision": EVIL, "licence": EVIL, "sha256": EVIL})
    evil.data.update(rows={EVIL: 1}, own_splits=[EVIL], dropped={EVIL: 1}, shapes={EVIL: 1})
    require_harmless(rows_card(replace(evil, run_id=EVIL, columns=(EVIL,)), "alice/rows"), "rows")


@pytest.mark.parametrize(
    ("link", "kept"), [("https://x.org/a~b", True), ("LICENSE", True), ("javascript:alert(1)", False), ("a b", False)]
)
def test_only_an_address_or_a_file_is_a_licence_s_link(link, kept):
    about = front(card(replace(FACTS, licence=Licence("other", "mine", link)), "merged"))
    assert about.get("license_link") == (link if kept else None)


def test_plain_names_stay_as_they_are():
    plain = replace(
        FACTS, licence=Licence("other", "llama3.2", "https://example.org/l"), recipe=Recipe(optim="adamw_8bit")
    )
    text = card(plain, "adapter")
    assert "[HuggingFaceTB/SmolLM2-135M-Instruct](https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct)" in text
    assert "llama3.2 (https://example.org/l), inherited from" in text and "| optim | adamw_8bit |" in text
