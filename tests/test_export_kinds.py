"""Several GGUF kinds in one export: each is kept or not by its own comparison. llama.cpp is stood in for."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from conftest import chat_rows
from tuned import lay_rows, make_tuned_run

from finetune_core import cli, launch
from finetune_core.errors import FinetuneError
from finetune_core.takeaway import export as exporting
from finetune_ui import words_take


@pytest.fixture
def run(runs_dir, tiny_model_dir):
    run = make_tuned_run(runs_dir, tiny_model_dir, max_new_tokens=12)
    lay_rows(run, chat_rows(12)[:8], (), chat_rows(12)[8:])
    return run


@pytest.fixture
def llama(monkeypatch):
    """GGUF files and a llama.cpp that answers as the tuned model does, but for the kinds in `llama.wrong`."""
    asked, kept, fake = [], exporting._ask_tuned, SimpleNamespace(wrong=())

    def write(merged, folder, name, kinds, tell):
        files = [folder / f"{name}-{kind}.gguf" for kind in kinds]
        for file in files:
            file.write_bytes(b"GGUF")
        return files

    def answer(file, prompts, conversations, *_):
        wrong = file.stem.rpartition("-")[2] in fake.wrong
        traces = [replace(trace, logprobs=[p - 9.0 * wrong for p in trace.logprobs]) for trace in asked[-1].traces]
        return traces, []

    monkeypatch.setattr(exporting, "_ask_tuned", lambda *more: asked.append(kept(*more)) or asked[-1])
    monkeypatch.setattr(exporting.gguf, "write_gguf", write)
    monkeypatch.setattr(exporting.gguf, "run_llama", answer)
    monkeypatch.setattr(exporting.gguf, "adds_bos", lambda file: False)
    return fake


def test_a_kind_that_fails_is_removed_and_said_while_those_that_passed_are_kept(run, tmp_path, llama, capsys):
    llama.wrong = ("q8_0",)
    line = [
        "export",
        str(run.path),
        "--to",
        "gguf",
        "--output",
        str(tmp_path / "out"),
        "--types",
        "f16",
        "q8_0",
        "q4_0",
    ]
    assert cli.main([*line, "--json"]) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "parity-failed" and "(q8_0, run by llama.cpp)" in error["problem"]
    assert "off by 9 nats" in error["problem"] and str(tmp_path / "out") in error["fix"]
    assert [file.stem.rpartition("-")[2] for file in sorted((tmp_path / "out").glob("*.gguf"))] == ["f16", "q4_0"]
    parity = json.loads((tmp_path / "out" / "parity.json").read_text())
    assert len(parity["by_file"]) == 2 and all(each["passed"] for each in parity["by_file"].values())
    modelfile = (tmp_path / "out" / "Modelfile").read_text()
    assert "-q4_0.gguf" in modelfile and run.recipe.model_name_or_path not in modelfile  # a folder of this machine
    assert "q8_0" not in (tmp_path / "out" / "README.md").read_text()
    shown = words_take.made_gguf({"path": "x", "parity": parity}, "x")
    assert "off by 9 nats" in shown and "Compared before it was kept" in shown
    assert launch.taking(run, "gguf").said().outcome == "failed"


def test_where_every_kind_fails_nothing_is_kept(run, tmp_path, llama):
    llama.wrong = ("f16", "q8_0")
    with pytest.raises(FinetuneError, match=r"\(f16, .*\(q8_0, "):
        exporting.export(run, "gguf", tmp_path / "out" / "gguf")
    assert list((tmp_path / "out").iterdir()) == []
