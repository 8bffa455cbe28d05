"""A judge that is asked in both orders, played by a little server."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from finetune_core.errors import FinetuneError
from finetune_core.proof.judge import choice_in, judge_report, tally


@pytest.fixture
def endpoint():
    """An OpenAI-compatible server: `endpoint.decide(text) -> word` is the judge; `endpoint.seen` what it was sent."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.seen.append((self.path, dict(self.headers), body))
            word = server.decide(body["messages"][-1]["content"])
            if word is None:
                return self.send_error(401)
            answer = json.dumps({"choices": [{"message": {"content": word}}]}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.seen, server.decide = [], lambda text: "A"
    server.url = f"http://127.0.0.1:{server.server_port}/v1"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


ANSWERS = {"tuned": "good", "examples": "bad"}
REPORT = {
    "verdict": {"against": "examples"},
    "rivals": [{"name": "examples", "phrase": "four examples in the prompt"}, {"name": "tuned", "phrase": "tuning"}],
    "rows": [
        {"prompt": [{"role": "user", "content": f"q{i}"}], "reference": "r", "answers": ANSWERS} for i in range(20)
    ],
}


def prefers_good(text):
    return "A." if "good" in text.split("<answer-A>")[1].split("</answer-A>")[0] else "Answer: B"


def test_the_same_choice_in_both_orders_is_a_win(endpoint):
    endpoint.decide = prefers_good
    found = judge_report(REPORT, url=endpoint.url, model="judge")
    assert (found["wins"], found["ties"], found["losses"]) == (20, 0, 0) and found["low"] > 0.5
    assert "four examples in the prompt 0 times" in found["sentence"] and len(endpoint.seen) == 40


@pytest.mark.parametrize("word", ["A", "B", "tie", "I cannot say", ""])
def test_a_judge_that_goes_by_the_order_gives_ties(endpoint, word):
    endpoint.decide = lambda text: word
    assert judge_report(REPORT, url=endpoint.url, model="judge")["ties"] == 20


def test_equal_answers_are_ties_and_cost_nothing(endpoint):
    rows = [row | {"answers": {"tuned": "same ", "examples": "same"}} for row in REPORT["rows"]]
    assert judge_report(REPORT | {"rows": rows}, url=endpoint.url, model="judge")["ties"] == 20
    assert endpoint.seen == []


def test_the_key_goes_into_the_header_and_nowhere_else(endpoint, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-key-1234567890abcdef")
    found = judge_report(REPORT, url=endpoint.url, model="judge")
    path, headers, body = endpoint.seen[0]
    assert path == "/v1/chat/completions" and headers["Authorization"].endswith("abcdef")
    assert "abcdef" not in json.dumps(body) + json.dumps(found)


def test_a_judge_that_refuses_is_told_with_what_to_do(endpoint):
    endpoint.decide = lambda text: None
    with pytest.raises(FinetuneError, match="401"):
        judge_report(REPORT, url=endpoint.url, model="judge")


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/v1", "file:///etc/passwd", "nonsense"])
def test_an_address_without_a_judge_is_told(url):
    with pytest.raises(FinetuneError) as caught:
        judge_report(REPORT, url=url, model="judge")
    assert caught.value.code == "judge-away"


def test_a_report_without_answers_is_refused():
    with pytest.raises(FinetuneError, match="no answers to judge"):
        judge_report({"rows": []}, url="http://127.0.0.1:9/v1", model="judge")


def test_few_opinions_show_no_preference():
    assert "no preference that 6 rows can show" in tally([1, 1, -1, 0, 0, 1], "base")["sentence"]


def test_the_key_is_not_carried_on_to_another_host(endpoint):
    """urllib follows a redirect with all headers; a judge that sends on is refused instead."""

    class Sender(BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_response(302)
            self.send_header("Location", endpoint.url + "/chat/completions")
            self.end_headers()

        do_GET = do_POST

        def log_message(self, *args):
            pass

    sender = ThreadingHTTPServer(("127.0.0.1", 0), Sender)
    threading.Thread(target=sender.serve_forever, args=(0.01,), daemon=True).start()
    try:
        with pytest.raises(FinetuneError, match="refused: 302"):
            judge_report(REPORT, url=f"http://127.0.0.1:{sender.server_port}/v1", model="judge", key="sk-secret")
    finally:
        sender.shutdown()
        sender.server_close()
    assert endpoint.seen == []


def test_a_few_opinions_show_no_preference():
    assert tally([1] * 5, "the untuned model")["sentence"].endswith("no preference that 5 rows can show.")


@pytest.mark.parametrize(("said", "choice"), [("A", "A"), (" B!", "B"), ("TIE", "TIE"), ("It is a tie.", "TIE")])
def test_the_judge_is_taken_at_its_word(said, choice):
    assert choice_in(said) == choice
