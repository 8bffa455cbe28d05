"""Where rows come from: a name that leads nowhere is refused with a way out."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from finetune_core.data import prepare
from finetune_core.errors import FinetuneError
from finetune_core.recipe import Recipe


@pytest.mark.parametrize("name", ["nowhere.csv", "./nowhere", "/nowhere/at/all", "https://example.com/x.csv", "a b c"])
def test_what_does_not_exist_is_refused_with_a_way_out(name):
    with pytest.raises(FinetuneError) as caught:
        prepare(Recipe(dataset_name=name))
    assert caught.value.code == "no-file"
    assert "owner/name" in caught.value.fix


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_documents_beside_the_rows_are_named_and_not_read(tmp_path, kind):
    files = {"rows.jsonl": '{"prompt": "a", "completion": "b"}\n', "CITATION.txt": "Cite us.", "LICENCE.md": "CC0."}
    place = tmp_path / ("rows.zip" if kind == "zip" else "rows")
    if kind == "zip":
        with zipfile.ZipFile(place, "w") as archive:
            for name, text in files.items():
                archive.writestr(name, text)
    else:
        place.mkdir()
        for name, text in files.items():
            (place / name).write_text(text)
    prepared = prepare(Recipe(dataset_name=str(place)))
    (note,) = [finding for finding in prepared.findings if finding.code == "documents-left-out"]
    assert prepared.rows == 1 and note.level == "note"
    assert note.says == "CITATION.txt, LICENCE.md are about the data and were not read as rows."


def test_a_folder_is_walked_once(tmp_path, monkeypatch):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    walked, walk = [], Path.rglob
    monkeypatch.setattr(Path, "rglob", lambda path, pattern: walked.append(path) or walk(path, pattern))
    prepare(Recipe(dataset_name=str(tmp_path)))
    assert walked == [tmp_path]
