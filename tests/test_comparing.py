"""The whole comparison from the page: what is asked for, what is refused, how far it is."""

import json
import time

import pytest
from conftest import chat_rows, write_jsonl
from test_prove import make_report
from tuned import make_tuned_run
from waiting import wait_for

from finetune_core import launch
from finetune_core.children import tail
from finetune_core.cli import main, parser
from finetune_core.errors import FinetuneError
from finetune_core.job import Said
from finetune_ui import comparing, words_comparing
from finetune_ui.comparing import Choices


@pytest.fixture
def run(runs_dir, tiny_model_dir):
    """A finished run with 12 test rows, compared with the untuned model only."""
    run = make_tuned_run(runs_dir, tiny_model_dir, max_new_tokens=8)
    write_jsonl(run.path / "data" / "train.jsonl", chat_rows(30)[:20])
    write_jsonl(run.path / "data" / "test.jsonl", chat_rows(32)[20:])
    run.tell("done", outcome="finished", seconds=1.0)
    run.write_report(make_report(quick=True, made=1.0))
    return run


def test_boxes_left_empty_ask_for_nothing_special():
    assert Choices(*[""] * 4, True, *[""] * 4).options() == []


@pytest.mark.parametrize(
    ("choices", "flags"),
    [
        ({"system": "Be exact."}, ["--system-prompt=Be exact."]),
        ({"examples": "8", "rows": " 40 "}, ["--examples", "8", "--rows", "40"]),
        ({"metric": "json"}, ["--metric", "json"]),
        ({"forgetting": False}, ["--no-forgetting"]),
        ({"judge_url": "http://127.0.0.1:8000/v1", "judge_model": "big", "judge_key": "sk-secret"},
         ["--judge", "http://127.0.0.1:8000/v1", "--judge-model=big"]),
    ],
)  # fmt: skip
def test_choices_become_flags_and_a_key_never_does(choices, flags):
    assert Choices(**choices).options() == flags


def test_a_prompt_that_begins_with_a_dash_is_still_a_prompt():
    flags = Choices(system="-kort", judge_url="http://x/v1", judge_model="--big").options()
    options = parser().parse_args(["evaluate", "run", *flags])
    assert (options.system_prompt, options.judge_model) == ("-kort", "--big")


@pytest.mark.parametrize(
    "choices",
    [{"examples": "65"}, {"examples": "-1"}, {"rows": "0"}, {"rows": "many"}, {"rows": "1e3"}, {"rows": "٣"},
     {"judge_url": "file:///etc/passwd", "judge_model": "x"}, {"judge_url": "http://x/v1"},
     {"judge_url": "http://x/ --html /tmp/x", "judge_model": "x"}, {"system": "x" * 30_000}, {"system": "a\0b"}],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_in_words(choices):
    with pytest.raises(FinetuneError) as caught:
        Choices(**choices).options()
    assert caught.value.fix


def test_a_metric_that_there_is_not_is_no_flag():
    assert Choices(metric="rm -rf").options() == []


def test_the_whole_comparison_runs_in_a_process_of_its_own_and_rewrites_the_report(run, runs_dir):
    job = launch.comparison(run)
    problem, *_ = comparing.press(runs_dir, run.id, ("", "2", "6", "", False, "", "", "", ""), True)
    assert problem["visible"] is False
    wait_for(lambda: job.said().outcome)
    assert job.said().outcome == "finished", tail(job.log_path)
    report = run.report()
    assert {"base", "examples", "tuned"} <= {rival["name"] for rival in report["rivals"]}
    assert report["n"] == 6 and report["settings"]["few_shot_examples"] == 2 and report["quick"] is False
    assert run.status() == "finished"


def test_a_foreign_id_starts_nothing(run, runs_dir, monkeypatch):
    monkeypatch.setattr(launch, "evaluate", lambda *_, **__: pytest.fail("it was started"))
    problem, *_ = comparing.press(runs_dir, "../" + run.id, ("",) * 4 + (True,) + ("",) * 4, True)
    assert "shows no run" in problem["value"]


CHECK = "def check(answer, reference, row):\n    return True\n"


def test_code_is_taken_from_its_own_machine_only(run):
    assert comparing.keep_check(run, CHECK, True).read_text() == CHECK
    with pytest.raises(FinetuneError, match="its own machine only"):
        comparing.keep_check(run, CHECK, False)


def test_a_check_that_is_no_python_is_told_with_its_line(run):
    with pytest.raises(FinetuneError, match="line 2"):
        comparing.keep_check(run, "def check(answer, reference, row):\n    return (", True)
    assert not (run.path / "check.py").exists()


class Asked:
    def __init__(self, host, **headers):
        self.client = type("Client", (), {"host": host})
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def test_who_sits_at_this_machine(monkeypatch):
    assert comparing.is_own_machine(Asked("127.0.0.1")) and comparing.is_own_machine(Asked("::1"))
    assert not comparing.is_own_machine(Asked("192.168.1.7"))
    assert not comparing.is_own_machine(Asked("127.0.0.1", x_forwarded_for="1.2.3.4"))
    monkeypatch.setenv("SPACE_ID", "someone/fijn")
    assert not comparing.is_own_machine(Asked("127.0.0.1"))


def test_the_button_hears_who_pressed_it(runs_dir):
    from gradio.helpers import special_args

    asked = Asked("127.0.0.1")
    inputs, *_ = special_args(comparing.starter(runs_dir), ["a-run", *("",) * 9], request=asked)
    assert inputs[:2] == [asked, "a-run"] and len(inputs) == 11


def test_a_key_goes_into_the_childs_environment_and_not_into_its_command(run, runs_dir, monkeypatch):
    seen = {}
    monkeypatch.setattr(launch, "start_job", lambda job, line, secrets=None: seen.update(line=line, secrets=secrets))
    values = ("", "", "", "", True, "http://127.0.0.1:9/v1", "big", "sk-very-secret-0123456789", "")
    comparing.press(runs_dir, run.id, values, True)
    assert seen["secrets"] == {"OPENAI_API_KEY": "sk-very-secret-0123456789"}
    assert "secret" not in " ".join(seen["line"]) and "secret" not in comparing.line(runs_dir, run.id, *values)


def test_the_line_to_copy_is_the_line_that_runs(run, runs_dir):
    shown = comparing.line(runs_dir, run.id, "", "8", "", "", True, "", "", "", "")
    assert f"evaluate {run.path} --examples 8" in shown


def test_a_judge_named_for_one_run_is_not_asked_about_the_next(run, runs_dir):
    judged = ("", "", "", "", False, "https://judge.example/v1", "big", "sk-very-secret-0123456789", CHECK)
    command, *boxes = comparing.for_another_run(runs_dir, run.id, *judged)
    now = [old if new == comparing.gr.skip() else new for old, new in zip(judged, boxes, strict=True)]
    assert Choices(*now) == Choices() and str(run.path) in command and "judge.example" not in command


def test_boxes_that_were_never_filled_in_are_left_alone(run, runs_dir):
    first = ("", "", "", "", True, "", "", "", "")
    assert comparing.for_another_run(runs_dir, run.id, *first)[1:] == [comparing.gr.skip()] * 9


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("", "stay on this machine"),
        ("htt", "stay on this machine"),
        ("http://[half", "stay on this machine"),
        ("http://127.0.0.1:8000/v1", "stay on this machine"),
        ("https://api.judge.example/v1", "go to <b>api.judge.example</b>."),
        ("https://api.judge.example@evil.example/v1", "go to <b>evil.example</b>."),
        ("http://<img>/v1", "go to <b>&lt;img&gt;</b>."),
    ],
)
def test_who_is_sent_the_rows_is_said_beside_the_button(address, says):
    assert says in words_comparing.sends(address)


def test_half_an_address_is_no_alarm(run, runs_dir):
    shown = comparing.line(runs_dir, run.id, "", "", "", "", True, "htt", "", "", "")
    assert "alert" not in shown and "http://" in shown


def test_the_line_to_copy_names_no_file_that_is_not_there(run, runs_dir):
    shown = comparing.line(runs_dir, run.id, "", "", "", "", True, "", "", "", CHECK)
    assert "--check-file check.py" in shown and "saved there as check.py" in shown


def test_what_is_too_long_is_told_apart_from_what_is_no_text():
    with pytest.raises(FinetuneError, match="Shorten it to at most 20,000"):
        Choices(system="x" * 30_000).options()
    with pytest.raises(FinetuneError, match="zero byte"):
        Choices(system="a\0b").options()


def test_while_it_goes_on_there_is_a_bar_and_a_stop(run, runs_dir):
    job = launch.comparison(run)
    with job.working() as say:
        say(0.4, "Base with 4 examples <b>")
        says, start, stop, options, seen, _ = comparing.now(runs_dir, run.id, "prove", ())
        assert "40%" in says["value"] and "&lt;b&gt;" in says["value"]
        assert not start["visible"] and stop["visible"] and not options["visible"]
        assert comparing.ask_to_stop(runs_dir, run.id)[0]["value"] == words_comparing.STOPPING
        again = comparing.now(runs_dir, run.id, "prove", seen)
        assert again[2]["interactive"] is False
    after = comparing.now(runs_dir, run.id, "prove", seen)
    assert after[1]["visible"] and not after[2]["visible"]


def test_nothing_is_redrawn_while_nothing_changed(run, runs_dir):
    *_, seen, _ = comparing.now(runs_dir, run.id, "prove", ())
    assert all("value" not in each for each in comparing.now(runs_dir, run.id, "prove", seen))


def test_one_that_failed_says_why_until_there_is_a_newer_report(run, runs_dir):
    with pytest.raises(FinetuneError), launch.comparison(run).working():
        raise FinetuneError("The check is broken <i>.", "Mend it.", code="bad-check")
    says, *_ = comparing.now(runs_dir, run.id, "prove", ())
    assert "The check is broken &lt;i&gt;." in says["value"] and "Mend it." in says["value"]
    run.write_report(make_report(quick=True, made=time.time() + 1))
    assert "Mend it." not in comparing.now(runs_dir, run.id, "prove", ())[0]["value"]


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (Said(1, 0.0, None, "waiting for its turn"), "Waiting for its turn."),
        (Said(1, 0.0, None, ""), "Starting."),
        (Said(1, 0.0, 0.5, "the loss"), "Measuring the loss. About 2 minutes left."),
    ],
)
def test_how_far_it_is_in_words(said, words):
    assert words in words_comparing.card(make_report(), said, False, 100.0)


def test_the_verb_refuses_before_the_long_work(run, runs_dir, tmp_path, capsys):
    bad = tmp_path / "bad.py"
    bad.write_text("x = 1\n")
    for flags in (["--check-file", str(bad)], ["--judge", "ftp://x", "--judge-model", "x"], ["--judge", "http://x"]):
        assert main(["evaluate", run.id, "--runs-dir", str(runs_dir), "--json", *flags]) in (1, 2)
        assert json.loads(capsys.readouterr().out)["error"]["fix"]
    assert launch.comparison(run).said() is None


def test_a_comparison_waits_in_line_behind_a_training_and_can_be_stopped_there(run, runs_dir):
    from filelock import FileLock

    job = launch.comparison(run)
    with FileLock(runs_dir / ".gpu.lock"):
        launch.evaluate(run, "--quick")
        wait_for(lambda: job.said().says == "waiting for its turn", 30)
        job.ask_to_stop()
        wait_for(lambda: job.said().outcome, 30)
    assert job.said().outcome == "stopped" and run.report()["made"] == 1.0
