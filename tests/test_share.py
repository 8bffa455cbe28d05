"""Share on the page: what can be made, how far it is, and a token that stays nowhere."""

import json
import os
import time
import zipfile

import gradio as gr
import pytest
from conftest import chat_rows, write_jsonl
from tuned import make_tuned_run
from waiting import wait_for

from finetune_core import launch
from finetune_core.amounts import size
from finetune_core.children import tail
from finetune_core.errors import FinetuneError
from finetune_core.recipe import Recipe
from finetune_core.takeaway.kept import exports_dir, kept, sizes
from finetune_ui import pressing, share, signed_in, taking, taking_rows, words_take
from finetune_ui.frame import Page

TOKEN = "hf_page0123456789abcdefghij"


@pytest.fixture(autouse=True)
def signed_out(monkeypatch):
    monkeypatch.setattr(taking, "known_account", lambda: signed_in.Known("", False))


@pytest.fixture
def run(runs_dir, tiny_model_dir):
    run = make_tuned_run(runs_dir, tiny_model_dir, max_new_tokens=6)
    write_jsonl(run.path / "data" / "test.jsonl", chat_rows(4))
    return run


@pytest.fixture
def started(monkeypatch):
    """What would have been started: a job's name, the words after the run, the token."""
    calls = []

    def start_job(job, line, secrets=None):
        calls.append((job.name, line[3], line[5:], (secrets or {}).get("HF_TOKEN")))

    monkeypatch.setattr(launch, "start_job", start_job)
    return calls


def build(runs_dir):
    with gr.Blocks() as demo:
        built = share.build(Page(runs_dir, gr.State(""), gr.State("")))
    return demo, built


def make(run, to, parity=None):
    """An export as a process leaves it."""
    folder = exports_dir(run, to)
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    found = {"compared": 4, "same": 4, "ties": 0, "logprob_mean": 0.0, "engine": "transformers", "split": "test",
             "format": "float32"}  # fmt: skip
    (folder / "parity.json").write_text(json.dumps(parity or found))


def shown(values):
    return " ".join(str(each.get("value") if isinstance(each, dict) else each) for each in values)


def test_the_panel_fills_as_many_boxes_as_it_has(run, runs_dir):
    built = build(runs_dir)[1]
    assert len(share.show(run)) == len(built.outputs)
    for file in run.result_dir.glob("*.safetensors"):
        file.unlink()
    assert len(share.show(run)) == len(built.outputs)


@pytest.mark.parametrize("step", ["train", "prove", "chat"])
def test_the_clocks_of_share_rest_on_other_steps(run, runs_dir, monkeypatch, step):
    monkeypatch.setattr(taking, "known_account", lambda: pytest.fail("the Hub was asked"))
    for *states, clock in (taking.tick(runs_dir, run.id, step, ()), share.server_now(runs_dir, run.id, step)):
        assert clock.active is False and all(state == gr.skip() for state in states)


def test_the_clocks_of_share_go_while_it_is_open(run, runs_dir):
    for *_, clock in (taking.tick(runs_dir, run.id, "share", ()), share.server_now(runs_dir, run.id, "share")):
        assert clock == gr.skip()


def test_each_card_says_how_large_it_gets(run):
    text, found = shown(share.show(run)), sizes(run)
    assert set(found) == {"adapter", "merged", "f16", "q8_0", "q4_0"} and len(set(found.values())) == 5
    for kind in ("adapter", "merged", "f16", "q8_0"):
        assert size(found[kind]) in text, kind


def test_nothing_is_sent_to_the_page_while_nothing_changed(run, runs_dir):
    states = taking.states_of(run)
    assert all(each == gr.skip() for each in taking.tick(runs_dir, run.id, "share", states[0]))
    with launch.taking(run, "merged").working():
        assert taking.tick(runs_dir, run.id, "share", states[0])[0] != states[0]


def test_a_job_shows_what_it_does_and_how_far_it_is(run):
    with launch.taking(run, "gguf").working() as say:
        say(0.4, "llama.cpp answers", stage="comparing")
        states = taking.states_of(run)
    assert "Asking both models the same questions" in states[10] and "width:40%" in states[10]
    assert not states[3]["interactive"] and not states[5]["interactive"]
    assert states[8]["value"] == "Cancel" and states[8]["interactive"]


def test_a_finished_export_shows_its_proof_and_its_download(run):
    make(run, "merged")
    states = taking.states_of(run)
    assert "4 of 4" in states[7] and states[6]["visible"] and not states[5]["visible"]


def test_an_export_of_earlier_weights_is_not_offered(run):
    make(run, "merged")
    newer = time.time() + 10
    os.utime(run.result_dir / "adapter_model.safetensors", (newer, newer))
    assert kept(run, "merged") is None and taking.states_of(run)[5]["visible"]


def test_a_failed_job_says_what_to_do(run):
    with pytest.raises(FinetuneError), launch.taking(run, "push").working():
        raise FinetuneError("It is taken.", "Choose another name.", code="repo-taken")
    assert "It is taken." in taking.states_of(run)[4] and "Choose another name." in taking.states_of(run)[4]


def test_a_button_starts_the_command_that_a_terminal_would(run, runs_dir, started):
    taking.press_export(runs_dir, "gguf", run.id)
    taking.press_push(runs_dir, run.id, "me/it", "merged", False, TOKEN)
    assert started == [
        ("take-gguf", "export", ["--to", "gguf", "--output", str(exports_dir(run, "gguf"))], None),
        ("take-push", "push", ["me/it", "--merged", "--public"], TOKEN),
    ]


def test_four_bits_are_made_where_they_are_asked_for(run, runs_dir, started):
    taking.press_export(runs_dir, "gguf", run.id, True)
    assert started[0][2][-4:] == ["--types", "f16", "q8_0", "q4_0"]


def test_a_second_press_cancels_and_a_double_click_does_not(run, runs_dir, started, monkeypatch):
    ended = []
    monkeypatch.setattr(launch, "end_job", ended.append)
    with launch.taking(run, "merged").working():
        taking.press_export(runs_dir, "merged", run.id)
        assert ended == []
        monkeypatch.setattr(pressing, "DOUBLE_CLICK", -1.0)
        taking.press_export(runs_dir, "merged", run.id)
    assert ended == [launch.taking(run, "merged")] and started == []


def test_a_push_is_private_unless_it_was_switched_off(run, runs_dir, started):
    taking.press_push(runs_dir, run.id, "me/it", "adapter", True, TOKEN)
    assert started == [("take-push", "push", ["me/it"], TOKEN)]


@pytest.mark.parametrize(("name", "token", "says"), [("a b", TOKEN, "no name"), ("me/it", "", "not signed in")])
def test_what_cannot_be_pushed_is_said_at_once(name, token, says, run, runs_dir, started, monkeypatch):
    monkeypatch.setattr(pressing.account, "find_token", lambda: None)
    answer = taking.press_push(runs_dir, run.id, name, "adapter", True, token)
    assert says in answer[0]["value"] and started == []


def test_a_visitor_of_a_space_does_not_push_with_its_owners_token(run, runs_dir, started, monkeypatch):
    monkeypatch.setenv("SPACE_ID", "owner/space")
    monkeypatch.setattr(pressing.account, "find_token", lambda: TOKEN)
    assert "shows no run" in taking.press_push(runs_dir, run.id, "me/it", "adapter", True, "")[0]["value"]
    assert started == []


def test_the_token_box_is_emptied_and_the_token_stands_nowhere_on_the_page(run, runs_dir, started):
    demo, _ = build(runs_dir)
    answer = taking.press_push(runs_dir, run.id, "me/it", "adapter", True, TOKEN)
    assert answer[3]["value"] == ""
    assert TOKEN not in shown(answer) and TOKEN not in json.dumps(demo.get_config_file(), default=str)


def test_no_handler_reaches_a_run_outside_of_the_runs_folder(run, runs_dir, started, tmp_path):
    for bad in (str(run.path), "../x", "", None):
        assert "shows no run" in taking.press_export(runs_dir, "merged", bad)[0]["value"]
        assert "shows no run" in taking.press_push(runs_dir, bad, "me/it", "adapter", True, TOKEN)[0]["value"]
        with pytest.raises(Exception, match="shows no run"):
            taking.write_export_zip(runs_dir, "merged", bad, tmp_path)
    assert started == []


def test_the_rows_have_a_card_where_they_are(run, runs_dir, started):
    assert taking_rows.show(run)[0] == gr.update(visible=False)
    (run.path / "data" / "card.json").write_text('{"rows": {"train": 40, "validation": 0, "test": 4}}')
    write_jsonl(run.path / "data" / "train.jsonl", chat_rows(4))
    shown_now, head, name, private = taking_rows.show(run)
    assert shown_now == gr.update(visible=True) and "<b>40</b><span>train</span>" in head and "validation" not in head
    assert (name, private) == ("shop-messages-rows", True)
    taking.press_rows(runs_dir, run.id, "me/rows", True, TOKEN)
    taking.press_rows(runs_dir, run.id, "me/rows", False, TOKEN)
    assert started == [
        ("take-push-data", "push-data", ["me/rows"], TOKEN),
        ("take-push-data", "push-data", ["me/rows", "--public"], TOKEN),
    ]


@pytest.mark.parametrize(
    ("code", "private", "options"),
    [
        ("personal-data", True, ["--yes"]),
        ("personal-data", False, ["--public"]),
        ("personal-data-public", False, ["--public", "--yes"]),
        ("hub-away", True, []),
    ],
)
def test_a_second_press_agrees_to_what_the_first_was_refused_for(code, private, options, run, runs_dir, started):
    with pytest.raises(FinetuneError), launch.taking(run, "push-data").working():
        raise FinetuneError("Some rows seem to hold personal data.", "If they may, agree.", code=code)
    states = taking.states_of(run)
    assert "Some rows seem to hold personal data." in states[-1]
    assert (states[-2]["value"] == taking_rows.AGREE) is code.startswith("personal")
    taking.press_rows(runs_dir, run.id, "me/rows", private, TOKEN)
    assert started == [("take-push-data", "push-data", ["me/rows", *options], TOKEN)]


def test_rows_on_the_hub_are_shown_with_the_line_that_loads_them(run):
    with launch.taking(run, "push-data").working() as say:
        say(1.0, made={"url": "https://hub/datasets/me/rows", "repo_id": "me/rows", "private": True})
    assert "load_dataset(&quot;me/rows&quot;)" in taking.states_of(run)[-1]


def test_a_token_for_the_rows_is_typed_once_and_its_box_emptied_when_nothing_is_left_to_ask(
    run, runs_dir, started, monkeypatch
):
    """While the rows are looked through, and while a question is open, what was typed stays in the browser's box."""
    job, box, seen = launch.taking(run, "push-data"), taking.ROWS_TOKEN, ()

    def press():
        answer = taking.press_rows(runs_dir, run.id, "me/rows", True, TOKEN)
        assert TOKEN not in shown(answer)
        return answer[1:]

    def tick():
        return taking.tick(runs_dir, run.id, "share", seen)

    assert press()[box]["value"] == ""  # it was over at once
    with pytest.raises(FinetuneError), job.working():
        monkeypatch.setattr(taking, "cancelled", lambda run, what: False)
        states = press()
        assert "value" not in states[box]
        seen = states[0]
        raise FinetuneError("Some rows seem to hold personal data.", "If they may, agree.", code="personal-data")
    states = tick()
    assert states[-2 - 1]["value"] == taking_rows.AGREE and "value" not in states[box]
    assert "value" not in taking._with_rows_token(run, taking.states_of(run))[box]
    with job.working():
        seen = press()[0]
    assert tick()[box]["value"] == ""
    seen = tick()[0]
    make(run, "merged")
    assert "value" not in tick()[box]  # what is typed for the next push stays


def test_an_export_is_downloaded_as_one_file(run, runs_dir, tmp_path):
    make(run, "merged")
    with zipfile.ZipFile(taking.write_export_zip(runs_dir, "merged", run.id, tmp_path)) as content:
        assert {name.rpartition("/")[2] for name in content.namelist()} == {"model.safetensors", "parity.json"}


def test_an_export_works_through_a_process_of_its_own(run, runs_dir):
    taking.press_export(runs_dir, "adapter", run.id)
    job = launch.taking(run, "adapter")
    wait_for(lambda: not job.is_alive())
    made = job.said().made
    assert made and made["parity"]["same"] == 4, (job.said(), tail(job.log_path, 20))


def test_a_cancelled_export_leaves_nothing_that_looks_finished(run, runs_dir):
    taking.press_export(runs_dir, "merged", run.id)
    job = launch.taking(run, "merged")
    assert job.is_alive()
    launch.end_job(job)
    assert not job.is_alive() and kept(run, "merged") is None
    assert job.said().error["code"] == "interrupted"


def test_files_of_an_earlier_version_are_ignored(run):
    (run.path / "takeaway.jsonl").write_text('{"kind": "start", "time": 1.0, "what": "push"}\n')
    launch.taking(run, "push").folder.joinpath("take-push.json").write_text('{"what": "push", "busy": true}')
    assert taking.states_of(run)[3]["value"] == taking.PUSH


def test_vllm_is_given_the_trained_template_and_a_rank_that_it_takes():
    text = words_take.elsewhere(Recipe(lora_r=64), "/runs/x y/adapter", None)
    assert "--chat-template &#x27;/runs/x y/adapter/chat_template.jinja&#x27;" in text and "--max-lora-rank 64" in text
    assert "--max-lora-rank" not in words_take.elsewhere(Recipe(), "/runs/adapter", None)


def test_words_of_a_proof_name_each_file():
    one = {"compared": 20, "same": 18, "ties": 2, "logprob_mean": 0.005, "engine": "llama.cpp", "split": "test"}
    text = words_take.proof({**one, "by_file": {"m-q8_0.gguf": one}})
    assert "q8_0" in text and "18 of 20" in text and "2 differ where the model itself was undecided" in text
    assert "nearly as sure of each word (0.005 nats a token off)" in text
