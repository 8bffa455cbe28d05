"""The command line: JSON lines for programs, and what cannot work refused within seconds."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def command(*arguments, runs_dir, **env):
    return subprocess.run(
        [sys.executable, "-m", "finetune_core", *arguments, "--runs-dir", str(runs_dir)],
        capture_output=True, text=True, cwd=ROOT, env=os.environ | env, timeout=120,
    )  # fmt: skip


@pytest.mark.slow
def test_train_on_the_command_line_speaks_json_lines(recipe, runs_dir, tmp_path):
    recipe.save(tmp_path / "recipe.yaml")
    done = command("train", str(tmp_path / "recipe.yaml"), "max_steps=3", "--json", runs_dir=runs_dir)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[0]["kind"] == "start"
    assert lines[-1]["kind"] == "done" and lines[-1]["outcome"] == "finished"
    listed = json.loads(command("runs", "--json", runs_dir=runs_dir).stdout)
    assert listed[0]["id"] == lines[-1]["run"] and listed[0]["status"] == "finished" and listed[0]["step"] == 3


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"model_name_or_path": "nobody/no-such-model"}, "hub-away"),
        ({"model_name_or_path": "./no/such/folder"}, "not-found"),
        ({"dataset_name": "./nothing.jsonl"}, None),
        ({"method": "qlora"}, "no-gpu"),
    ],
)
def test_what_cannot_work_is_refused_within_seconds_and_makes_no_run(recipe, runs_dir, tmp_path, change, code):
    recipe.replace(**change).save(tmp_path / "recipe.yaml")
    began = time.monotonic()
    refused = command("train", str(tmp_path / "recipe.yaml"), "--json", runs_dir=runs_dir)
    assert refused.returncode == 1
    assert time.monotonic() - began < 15  # the process itself takes seconds on a busy machine
    error = json.loads(refused.stdout)["error"]
    assert error["problem"] and error["fix"]
    assert code is None or error["code"] == code
    assert "Traceback" not in refused.stderr
    assert not list(runs_dir.glob("*/recipe.yaml"))


@pytest.mark.parametrize("name", ["tail", "id", "folder"])
def test_train_takes_a_run_by_its_folder_its_id_or_its_end(recipe, runs_dir, monkeypatch, name):
    from finetune_core import cli
    from finetune_core.run import Run

    run, trained = Run.create(runs_dir, recipe, tail="x7Kq"), []
    monkeypatch.setattr("finetune_core.train.train", lambda run, **_: trained.append(run.id) or "finished")
    given = {"tail": "x7Kq", "id": run.id, "folder": str(run.path)}[name]
    assert cli.main(["train", given, "--runs-dir", str(runs_dir)]) == 0
    assert trained == [run.id]


def test_a_training_in_a_terminal_ends_with_what_it_was_worth(recipe, runs_dir, monkeypatch, capsys):
    from finetune_core import cli
    from finetune_core.run import Run

    def work(run, **_):
        (run.path / "report.json").write_text(json.dumps({"verdict": {"sentence": "Better by 3 points."}}))
        return "finished"

    run = Run.create(runs_dir, recipe)
    monkeypatch.setattr("finetune_core.train.train", work)
    cli.main(["train", run.id, "--runs-dir", str(runs_dir)])
    assert capsys.readouterr().out.endswith(
        f"Better by 3 points. All of it: python -m finetune_core evaluate {run.id}\n"
    )
    cli.main(["runs", "--runs-dir", str(runs_dir)])
    assert "Better by 3 points." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "system"), [((), "Be brief."), (("--system", "Rhyme."), "Rhyme."), (("--system", ""), None)]
)
def test_chat_asks_with_the_system_prompt_that_the_rows_were_given(recipe, runs_dir, monkeypatch, words, system):
    from types import SimpleNamespace

    from finetune_core import cli
    from finetune_core.run import Run

    run, asked = Run.create(runs_dir, recipe), []
    run.result_dir.mkdir()
    (run.result_dir / "adapter_model.safetensors").touch()
    chatter = SimpleNamespace(system_prompt="Be brief.", tokenizer=None, stream=lambda *_, **__: iter(["Hi"]))
    monkeypatch.setattr("finetune_core.model.load_for_chat", lambda run: chatter)
    monkeypatch.setattr("finetune_core.render.render_prompt", lambda messages, tokenizer: asked.append(messages) or [1])
    assert cli.main(["chat", run.id, "--message", "Hello", *words, "--runs-dir", str(runs_dir)]) == 0
    before = [{"role": "system", "content": system}] if system else []
    assert asked == [[*before, {"role": "user", "content": "Hello"}]]


def test_a_presets_name_is_never_a_run(recipe, runs_dir):
    from finetune_core import cli
    from finetune_core.presets import list_presets
    from finetune_core.run import Run
    from finetune_core.verbs_train import run_to_go_on

    name = list_presets()[0].name
    (runs_dir / f"run-{name}").mkdir(parents=True)
    recipe.save(runs_dir / f"run-{name}" / "recipe.yaml")
    asked = cli.parser().parse_args(["train", name, "--runs-dir", str(runs_dir)])
    assert Run.find(runs_dir, name) and run_to_go_on(asked) is None


def test_a_wrong_verb_is_a_usage_error(runs_dir):
    assert command("fly", runs_dir=runs_dir).returncode == 2


def test_a_step_whose_loss_is_no_number_is_a_line_too():
    from finetune_core.events import Event, plain
    from finetune_core.verbs_train import line_of

    told = plain({"step": 1, "total_steps": 3, "loss": float("nan"), "tokens_per_second": 5.0})  # as the diary has it
    assert line_of(Event("step", 0.0, told)) == "step 1/3  loss not a number  5 tokens/s"


def test_a_value_may_stand_behind_a_flag():
    from finetune_core import cli

    options = cli.parse(["check", "quick-look", "lora_r=8", "--json", "max_length=64"])
    assert (options.json, options.overrides) == (True, ["lora_r=8", "max_length=64"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["check"], "required: RECIPE\n"),
        (["check", "quick-look", "--jsn"], "--jsn"),
        (["check", "quick-look", "--json", "word"], "word"),
        (["runs", "--json", "lora_r=8"], "lora_r=8"),
    ],
)
def test_what_no_verb_takes_is_a_usage_error_that_names_it(arguments, says, capsys):
    from finetune_core import cli

    with pytest.raises(SystemExit) as ended:
        cli.parse(arguments)
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


def test_a_check_says_how_each_repair_is_typed(tmp_path, runs_dir, tiny_model_dir, capsys):
    from finetune_core import cli

    (tmp_path / "faq.csv").write_text("question,answer\n" + "How?,So.\nWhere?,\n,Here.\n" * 8)
    line = ["check", "follow-instructions", f"dataset_name={tmp_path}/faq.csv", f"model_name_or_path={tiny_model_dir}"]
    assert cli.main([*line, "--runs-dir", str(runs_dir)]) == 1
    assert "Leave them out: fixes=drop-empty-answers\n" in capsys.readouterr().out
    cli.main([*line, "fixes=drop-empty-answers,drop-missing-prompts", "--runs-dir", str(runs_dir)])
    assert "empty answer" not in capsys.readouterr().out


def test_who_reads_json_is_told_of_a_refusal_that_is_in_no_diary(recipe, runs_dir, capsys):
    from finetune_core import cli
    from finetune_core.run import Run

    run = Run.create(runs_dir, recipe, fill=lambda folder: (folder / "data").mkdir())
    (run.path / "data" / "card.json").write_text("{}")  # pulled from the Hub, without its rows
    assert cli.main(["train", run.id, "--json", "--runs-dir", str(runs_dir)]) == 1
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (last["error"]["code"], last["run"]) == ("no-rows", run.id) and run.events() == []


def test_a_long_run_id_stands_apart_from_its_status(recipe, runs_dir, capsys):
    from finetune_core import cli
    from finetune_core.run import Run

    run = Run.create(runs_dir, recipe, tail="x" * 40)
    cli.main(["runs", "--runs-dir", str(runs_dir)])
    assert capsys.readouterr().out.split()[:2] == [run.id, "new"]
