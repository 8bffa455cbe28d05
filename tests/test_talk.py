"""The chat: two models asked at once over the OpenAI protocol. The server is a small double of `serve`."""

from __future__ import annotations

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest
from filelock import FileLock

from finetune_core import launch
from finetune_core.errors import FinetuneError
from finetune_core.recipe import Recipe
from finetune_core.run import Run
from finetune_ui import asking, frame, replies, serving, talk, words_share, words_talk
from finetune_ui.replies import Piece, Request
from finetune_ui.words_talk import Answer, Suggestion, Turn

EVIL = "<script>alert(1)</script>"
SPOKEN = {"base": ["I ", "cannot ", EVIL], "tuned": ['{"a":', " 1}"]}


class Double(BaseHTTPRequestHandler):
    """Streams SPOKEN; `slow` waits between words until `hung_up` or `go_on`."""

    asked: ClassVar[list[dict]] = []
    go_on, hung_up = threading.Event(), threading.Event()

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Double.asked.append(body)
        if body["model"] not in (*SPOKEN, "slow", "broken"):
            return self._json(404, {"error": {"message": "There is no such model.", "type": "invalid_request_error"}})
        if not body.get("stream"):
            text = "".join(SPOKEN[body["model"]])
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
            return self._json(200, {"id": "c", "object": "chat.completion", "created": 0, "model": body["model"],
                                    "choices": [choice]})  # fmt: skip
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        if body["model"] == "slow":
            return self._slowly()
        for word in SPOKEN.get(body["model"], ["half "]):
            self._send({"choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]})
        if body["model"] == "broken":
            return None
        self._send({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        self._send({"choices": [], "usage": {"completion_tokens": 7}})
        self.wfile.write(b"data: [DONE]\n\n")
        return None

    def _slowly(self):
        try:
            for _ in range(400):
                self._send({"choices": [{"index": 0, "delta": {"content": "word "}}]})
                if Double.go_on.wait(0.02):
                    return
        except OSError:
            Double.hung_up.set()

    def _send(self, value):
        self.wfile.write(f"data: {json.dumps(value)}\n\n".encode())
        self.wfile.flush()

    def _json(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def url():
    Double.asked, Double.go_on, Double.hung_up = [], threading.Event(), threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Double)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    Double.go_on.set()
    server.shutdown()
    server.server_close()


ROWS = [
    {"messages": [{"role": "system", "content": "Sort."}, {"role": "user", "content": f"row {index}"},
                  {"role": "assistant", "content": f"answer {index}"}]}
    for index in range(9)
]  # fmt: skip


@pytest.fixture
def run(runs_dir):
    run = Run.create(runs_dir, Recipe(max_new_tokens=64), tail="chatty")
    run.result_dir.mkdir()
    (run.result_dir / "adapter_model.safetensors").write_bytes(b"0")
    (run.path / "data").mkdir()
    for name in ("train", "validation"):
        (run.path / "data" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return run


@pytest.fixture
def awake(run, url, monkeypatch):
    """A server that is already there for this run."""
    server = launch.Server(url, run.id, ("base", "tuned"), 0)
    monkeypatch.setattr(launch, "serving", lambda _: server)
    return server


def gather(url, *requests):
    async def all_pieces():
        return [piece async for piece in replies.replies(url, requests)]

    return asyncio.run(all_pieces())


def converse(runs_dir, run_id, question, turns=(), left="base", right="tuned", row=None, system=""):
    """One question through the page's own handlers; returns the frames that the browser would draw."""
    now = asking.ask(runs_dir, run_id, question, turns, row, left, right)[0]

    async def frames():
        return [frame async for frame in asking.stream(runs_dir, run_id, now, system, 0.0, 64)]

    return asyncio.run(frames())


def test_both_models_are_asked_and_each_answer_is_its_own(url):
    pieces = gather(url, Request("base", [{"role": "user", "content": "hi"}]), Request("tuned", []))
    said = ["".join(piece.text for piece in pieces if piece.index == index) for index in (0, 1)]
    assert said == ["".join(SPOKEN["base"]), "".join(SPOKEN["tuned"])]
    ends = [piece for piece in pieces if piece.finish]
    assert [(end.finish, end.tokens) for end in ends] == [("stop", 7), ("stop", 7)]
    assert all(asked["stream"] for asked in Double.asked)


@pytest.mark.parametrize(("model", "ticked"), [("tuned", True), ("broken", False)])
def test_the_path_ticks_chat_once_something_was_answered(run, runs_dir, awake, model, ticked):
    assert "chat" not in frame.finished_steps(run)
    converse(runs_dir, run.id, "hi", left=model, right=model)
    assert ("chat" in frame.finished_steps(run)) is ticked
    assert ("You talked to it" in frame.draw_folds(run, "share")) is ticked


@pytest.mark.parametrize(("model", "says"), [("nobody", "There is no such model."), ("broken", "broke off")])
def test_an_answer_that_fails_says_why_and_leaves_the_other_alone(url, model, says):
    pieces = gather(url, Request(model, []), Request("tuned", []))
    ends = {piece.index: piece for piece in pieces if piece.finish}
    assert ends[0].finish == "error" and says in ends[0].problem
    assert ends[1].finish == "stop"


def test_a_server_that_is_gone_is_a_sentence_and_no_traceback():
    (end,) = gather("http://127.0.0.1:9", Request("base", []))
    assert end.finish == "error" and "Ask again" in end.problem


def test_hanging_up_ends_the_answer_on_the_server(url):
    async def first_words():
        stream = replies.replies(url, [Request("slow", [])])
        async for _ in stream:
            break
        await stream.aclose()

    asyncio.run(first_words())
    assert Double.hung_up.wait(5)


def test_a_question_streams_into_both_columns(run, awake, runs_dir):
    frames = converse(runs_dir, run.id, "hello?", system="Sort.")
    turns, html = frames[-1]
    assert [answer.state for answer in turns[-1].answers] == ["done", "done"]
    assert turns[-1].answers[1].text == '{"a": 1}'
    assert EVIL not in html and "&lt;script&gt;" in html
    assert Double.asked[0]["messages"] == [
        {"role": "system", "content": "Sort."},
        {"role": "user", "content": "hello?"},
    ]
    assert Double.asked[0]["max_tokens"] == 64


def test_each_column_remembers_its_own_answers(run, awake, runs_dir):
    turns, _ = converse(runs_dir, run.id, "one")[-1]
    converse(runs_dir, run.id, "two", turns)
    second = {asked["model"]: asked["messages"] for asked in Double.asked[2:]}
    assert second["tuned"][1] == {"role": "assistant", "content": '{"a": 1}'}
    assert second["base"][1] == {"role": "assistant", "content": "".join(SPOKEN["base"])}


def test_a_server_that_sleeps_is_woken_and_the_page_says_so(run, runs_dir, url, monkeypatch):
    woken = []
    monkeypatch.setattr(launch, "serving", lambda _: None)
    monkeypatch.setattr(
        launch, "start_serving", lambda run, _token: woken.append(run.id) or launch.Server(url, run.id, (), 0)
    )
    frames = converse(runs_dir, run.id, "hello?")
    assert woken == [run.id]
    assert "Loading the model" in frames[0][1]
    assert frames[-1][0][-1].answers[1].state == "done"


def test_a_server_of_another_run_does_not_answer_for_this_one(run, runs_dir, url, monkeypatch):
    woken = []
    monkeypatch.setattr(launch, "serving", lambda _: launch.Server("http://127.0.0.1:9", "another", (), 0))
    monkeypatch.setattr(
        launch, "start_serving", lambda run, _token: woken.append(run.id) or launch.Server(url, run.id, (), 0)
    )
    converse(runs_dir, run.id, "hello?")
    assert woken == [run.id]


def test_a_server_that_cannot_start_gives_the_question_back(run, runs_dir, monkeypatch):
    def refuse(_run, _token):
        raise FinetuneError("No memory.", "Close something.", code="chat-failed")

    monkeypatch.setattr(launch, "serving", lambda _: None)
    monkeypatch.setattr(launch, "start_serving", refuse)
    turns, html = converse(runs_dir, run.id, "hello?")[-1]
    assert "No memory. Close something." in html
    assert asking.rest(runs_dir, run.id, turns)[0]["value"] == "hello?"
    assert words_talk.messages_for((*turns, Turn("again")), 0, "") == [{"role": "user", "content": "again"}]


def test_an_empty_question_and_one_too_many_ask_nothing(run, runs_dir):
    waiting = (Turn("first", (Answer("base"), Answer("tuned"))),)
    for question, turns in (("  \n", ()), ("second", waiting)):
        assert all(
            not isinstance(each, tuple) for each in asking.ask(runs_dir, run.id, question, turns, None, "a", "b")
        )


def test_stop_keeps_what_was_said():
    turns = (Turn("q", (Answer("base", "half an ans", "writing"), Answer("tuned", "all", "done"))),)
    stopped, html, box = asking.stop_answers(turns)
    assert [answer.state for answer in stopped[0].answers] == ["stopped", "done"]
    assert "half an ans" in html and "stopped by you" in html
    assert box["submit_btn"] == "Ask" and box["stop_btn"] is False


def test_suggestions_are_rows_that_were_kept_out_of_training(run, runs_dir):
    found = serving.suggestions(run)
    assert found[0] == Suggestion("row 0", "Sort.", "answer 0")
    assert len(found) == serving.SUGGESTIONS
    assert talk.pick(runs_dir, run.id, 2) == ("row 2", "Sort.", Suggestion("row 2", "Sort.", "answer 2"))


@pytest.mark.parametrize("place", [99, -99, "x", None, {}])
def test_a_chip_that_is_not_there_picks_nothing(run, runs_dir, place):
    assert talk.pick(runs_dir, run.id, place)[2] is None
    assert talk.take_row(runs_dir, run.id, place)[2] is None


def test_a_row_of_the_proof_comes_with_its_answer_and_what_came_before(run, runs_dir):
    several = [*ROWS[1]["messages"], {"role": "user", "content": "and then?"}]
    run.write_report({"rows": [{"prompt": "why?", "reference": "because"}, {"prompt": several, "reference": "then"}]})
    assert talk.take_row(runs_dir, run.id, 0)[2] == Suggestion("why?", "", "because")
    question, system, row = talk.take_row(runs_dir, run.id, 1)
    assert (question, system, row.reference) == ("and then?", "Sort.", "then")
    assert row.before == (("user", "row 1"), ("assistant", "answer 1"))


def test_a_row_is_asked_without_what_was_said_above(run, awake, runs_dir):
    turns, _ = converse(runs_dir, run.id, "small talk")[-1]
    row = Suggestion("row 0", "Sort.", "answer 0", before=(("user", "a"), ("assistant", "b")))
    turns, html = converse(runs_dir, run.id, "row 0", turns, row=row, system="Sort.")[-1]
    assert [message["content"] for message in Double.asked[-1]["messages"]] == ["Sort.", "a", "b", "row 0"]
    assert "a new conversation" in html and "answer 0" in html
    converse(runs_dir, run.id, "go on", turns)
    assert Double.asked[-1]["messages"][2]["content"] == "row 0"


def test_a_row_that_was_edited_in_the_box_is_no_row_any_more(run, runs_dir):
    row = Suggestion("row 0", "Sort.", "answer 0")
    turn = asking.ask(runs_dir, run.id, "row 0, but different", (), row, "base", "tuned")[0][-1]
    assert turn.reference == "" and not turn.fresh


def test_a_half_written_data_file_gives_fewer_suggestions_and_no_error(run):
    (run.path / "data" / "validation.jsonl").write_text(json.dumps(ROWS[0]) + '\n{"messages": [{"ro')
    assert len(serving.suggestions(run)) == 1


def test_another_run_begins_a_fresh_conversation_with_its_own_system_prompt(run, runs_dir):
    turns, html, _, _, _, system, length, left, right, offered = talk.begin(runs_dir, run.id)
    assert offered == ("base", "tuned")
    assert (turns, system, length, left["value"], right["value"]) == ((), "Sort.", 64, "base", "tuned")
    assert "Ask both the same thing." in html
    assert "nothing to talk to yet" in talk.begin(runs_dir, "")[1]


def test_checkpoints_can_be_chosen_newest_first(run):
    for step in (5, 20):
        folder = run.path / "checkpoints" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "trainer_state.json").write_text("{}")
    assert serving.models(run) == ["base", "tuned", "checkpoint-20", "checkpoint-5"]
    assert ("Tuned, step 20", "checkpoint-20") in words_talk.model_choices(serving.models(run), "a/b")


def test_a_training_that_broke_off_can_be_talked_to_by_its_checkpoint(runs_dir):
    run = Run.create(runs_dir, Recipe(), tail="broken")
    assert not serving.can_talk(run)
    folder = run.path / "checkpoints" / "checkpoint-8"
    folder.mkdir(parents=True)
    (folder / "trainer_state.json").write_text("{}")
    assert serving.models(run) == ["base", "checkpoint-8"]
    assert talk.begin(runs_dir, run.id)[-2]["value"] == "checkpoint-8"
    assert talk.show(run)[1]["visible"]


def test_the_page_says_when_other_work_has_the_machine(run, runs_dir):
    assert serving.state_of(run) == "asleep"
    with FileLock(runs_dir / ".gpu.lock"):  # held by a training, a comparison, a trial of prompts alike
        assert serving.state_of(run) == "training"


def test_the_box_does_not_wake_the_server_while_other_work_has_the_machine(run, runs_dir, monkeypatch):
    monkeypatch.setattr(launch, "start_serving", lambda *_: pytest.fail("woken"))
    with FileLock(runs_dir / ".gpu.lock"):
        assert "Other work has the machine" in [*asking.wake(runs_dir, run.id)][-1][0]


def test_the_panel_shows_as_many_values_as_it_has_outputs(run, runs_dir):
    import gradio as gr

    from finetune_ui.frame import Page

    with gr.Blocks():
        built = talk.build(Page(runs_dir, gr.State(""), gr.State("")))
    assert len(talk.show(run)) == len(built.outputs)
    assert len(built.take_row(run.id, gr.EventData(None, {"row": 0}))) == len(built.taken)


def test_an_answer_as_in_the_data_is_marked():
    turn = Turn("q", (Answer("base", "no", "done"), Answer("tuned", '{"a":1}', "done")), '{"a": 1}')
    assert words_talk.conversation((turn,)).count("as in your data") == 1


def test_a_cut_answer_says_that_it_was_cut():
    changed = asking._said(Answer("base", "x", "writing"), Piece(0, finish="length", tokens=64, seconds=1.0))
    assert changed["state"] == "cut"
    assert "cut at the length limit" in words_talk.conversation((Turn("q", (Answer("base", "x", **changed),)),))


def test_the_openai_lines_on_the_share_page_run_as_they_are(url, capsys):
    exec(compile(words_share.python_lines(url, "hello?", "Sort."), "lines", "exec"), {})
    assert capsys.readouterr().out.strip() == '{"a": 1}'
    assert Double.asked[0]["messages"][0] == {"role": "system", "content": "Sort."}


def test_a_page_that_watched_the_training_puts_the_tuned_model_beside_the_base(run, runs_dir):
    left, right, offered, chat = talk.opened(runs_dir, run.id, "chat", (), ("base",))  # as it was when the page came
    assert (left["value"], right["value"]) == ("base", serving.models(run)[1])
    assert offered == tuple(serving.models(run))
    assert "Ask both the same thing." in chat  # no longer "There is nothing to talk to yet."


@pytest.mark.parametrize("step", ["train", "chat"])
def test_opening_the_chat_keeps_two_models_that_were_chosen(run, runs_dir, step):
    import gradio as gr

    said = (Turn("q", (Answer("base", "no", "done"), Answer("tuned", "yes", "done"))),)
    assert talk.opened(runs_dir, run.id, step, said, tuple(serving.models(run))) == (gr.skip(),) * 4


def test_going_to_another_step_never_hands_over_a_model_that_is_no_longer_offered(runs_dir):
    """gradio refuses a dropdown's value that is not among its choices, with an error over the page."""
    import gradio as gr

    with gr.Blocks() as blocks:
        talk.build(frame.Page(runs_dir, gr.State(""), gr.State("")))
    opening = next(each for each in blocks.fns.values() if getattr(each.fn, "func", None) is talk.opened)
    assert not [each for each in opening.inputs if isinstance(each, gr.Dropdown)]
