"""The whole walk in a real browser, with the real starter model: open, Start, watch, reload, prove, chat.

JOURNEY_SHOTS=folder keeps screenshots of every step.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from page_inputs import make_run
from waiting import wait_for

from finetune_core.events import Event, write_event
from finetune_core.progress import summarize
from finetune_core.run import list_runs

ROOT = Path(__file__).resolve().parent.parent
BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
# the walk kills the program on purpose, and what the browser says of a connection that broke is no fault of a script
CUT_OFF = ("Failed to fetch", "network error", "NetworkError")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(BROWSER is None, reason="needs chromium or Chrome"),
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class App:
    """The program of the README, in a process of its own."""

    def __init__(self, runs_dir: Path):
        self.runs_dir, self.port, self.process = runs_dir, free_port(), None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def start(self) -> None:
        line = [sys.executable, "app.py", "--port", str(self.port), "--runs-dir", str(self.runs_dir)]
        env = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        with (self.runs_dir.parent / "app.log").open("ab") as log:
            self.process = subprocess.Popen(line, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env=env)
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(self.url, timeout=2).read()
                return
            except OSError:
                assert self.process.poll() is None, (self.runs_dir.parent / "app.log").read_text()
                time.sleep(0.1)
        raise AssertionError("the page did not come up")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    from finetune_core import launch

    runs_dir = tmp_path_factory.mktemp("journey") / "runs"
    app = App(runs_dir)
    app.start()
    yield app
    app.kill()
    for run in list_runs(runs_dir):
        launch.kill(run)
    launch.stop_serving(runs_dir)


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page(browser):
    page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
    page.set_default_timeout(60_000)
    page.broken = []  # what no script of the page caught
    page.on("pageerror", lambda error: page.broken.append(str(error)))
    page.asked = []  # every address that was asked for something
    page.on("request", lambda request: page.asked.append(request.url))
    return page


def shot(page, name: str) -> None:
    if folder := os.environ.get("JOURNEY_SHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=f"{folder}/{name}.png", full_page=True)


def the_run(app):
    runs = list_runs(app.runs_dir)
    assert len(runs) == 1
    return runs[0]


@pytest.mark.starter
def test_start_is_one_click_and_a_double_click_starts_one_run(app, page):
    page.goto(app.url)
    start = page.get_by_role("button", name="Start training")
    start.wait_for(timeout=300_000)  # the very first start brings the starter model to this machine
    page.wait_for_function("!document.querySelector('#begin .turning')", timeout=120_000)
    page.get_by_text("Ready to train").wait_for()
    shot(page, "1-choose")
    start.dblclick()
    page.wait_for_url(re.compile(r"run="), timeout=120_000)
    page.get_by_role("button", name=re.compile("Stop")).wait_for()
    assert the_run(app).status() == "running"


@pytest.mark.starter
def test_a_reload_and_a_killed_page_show_the_truth_again(app, page):
    run = the_run(app)
    wait_for(lambda: summarize(run.events()).step >= 2, every=0.5)
    shot(page, "2-train")
    page.reload()
    page.get_by_text(re.compile(r"step \d+ of")).first.wait_for()
    app.kill()
    assert run.is_alive()  # the training does not notice
    app.start()
    page.goto(app.url)  # a new visit without ?run= finds the running run
    page.get_by_text(re.compile(r"step \d+ of")).first.wait_for()


@pytest.mark.starter
def test_it_ends_with_a_verdict_that_tuning_helped(app, page):
    run = the_run(app)
    wait_for(lambda: not run.is_alive(), 1200, every=1)
    assert run.status() == "finished"
    report = run.report()
    scores = {rival["name"]: rival["score"] for rival in report["rivals"]}
    assert scores["tuned"] > scores["base"] + 0.1
    shot(page, "3-done")
    page.locator(".step[data-go=prove]").click()
    page.get_by_text(report["verdict"]["sentence"]).first.wait_for()
    shot(page, "4-prove")


@pytest.mark.starter
def test_both_models_answer_side_by_side(app, page):
    page.locator(".step[data-go=chat]").click()
    box = page.get_by_placeholder(re.compile("Ask both"))
    box.fill("De waterkoker lekt, ik wil hem vandaag nog terugbrengen!")
    box.press("Enter")
    ended = ":is(.done, .cut)"
    tuned = page.locator(f".talk .reply.tuned{ended} .reply-text")
    tuned.wait_for(timeout=300_000)
    assert '"urgency"' in tuned.inner_text()
    base = page.locator(f".talk .reply.base{ended} .reply-text")
    base.wait_for(timeout=120_000)
    assert base.inner_text().strip()
    shot(page, "5-chat")
    page.locator(".step[data-go=share]").click()
    page.wait_for_timeout(1500)
    shot(page, "6-share")


@pytest.mark.starter
def test_nothing_went_to_another_host(app, page):
    assert page.asked
    assert [url for url in page.asked if url.startswith("http") and not url.startswith("http://127.0.0.1:")] == []


@pytest.mark.starter
def test_no_script_of_the_page_broke(app, page):
    assert [error for error in page.broken if not any(known in error for known in CUT_OFF)] == []


@pytest.mark.parametrize("width", [390, 1440])
def test_the_page_never_scrolls_sideways(app, browser, width):
    page = browser.new_context(viewport={"width": width, "height": 844}).new_page()
    page.goto(f"{app.url}?new=1")
    page.locator(".steps").first.wait_for(timeout=60_000)
    page.wait_for_timeout(1500)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


SEEN = """
window.seen = [];
setInterval(() => {
  const shown = [...document.querySelectorAll('#main h1, #main h2')].find((title) =>
    title.getBoundingClientRect().height && getComputedStyle(title).visibility !== 'hidden');
  if (shown && window.seen.at(-1) !== shown.innerText) window.seen.push(shown.innerText);
}, 20);
"""


def test_who_comes_back_to_a_run_is_shown_no_empty_choice_meanwhile(app, browser):
    run = make_run(app.runs_dir)
    page = browser.new_context().new_page()
    page.add_init_script(SEEN)
    for address in (f"{app.url}?run={run.id}&step=train", app.url):  # a reload, and a closed tab
        page.goto(address)
        page.get_by_text("Not begun yet.").wait_for(timeout=60_000)
        page.wait_for_function("window.seen.length > 0")
        assert page.evaluate("window.seen") == ["Not begun yet."]


TEXT_ENDS = """all => all.map((one) => {
  const text = document.createRange();
  text.selectNodeContents(one);
  return text.getBoundingClientRect().right;
})"""


def test_the_times_of_all_stages_stand_beside_each_other(app, browser):
    run = make_run(app.runs_dir)
    stages = ["waiting for its turn", "fetching", "preparing data", "loading the model", "training", "saving"]
    for place, name in enumerate(stages):
        write_event(run.diary, Event("stage", 1000.0 + 700 * place, {"name": name}))
    write_event(run.diary, Event("done", 9000.0, {"outcome": "finished", "seconds": 8000.0}))
    page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
    page.goto(f"{app.url}?run={run.id}&step=train")
    page.locator(".stage").first.wait_for(timeout=60_000)
    ends = page.eval_on_selector_all(".stage-note", TEXT_ENDS)
    begins = page.eval_on_selector_all(".stage", "all => all.map((one) => one.getBoundingClientRect().left)")
    assert len(ends) == 7 and all(end <= begin for end, begin in zip(ends, begins[1:], strict=False))


def learned(run, first, last):
    for step in range(first, last + 1):
        write_event(run.diary, Event("step", 1000.0 + step, {"step": step, "total_steps": 20, "loss": 4 / step}))


def test_the_arrow_keys_read_the_curve_and_a_redraw_leaves_them_where_they_are(app, browser):
    run = make_run(app.runs_dir, "keys")
    write_event(run.diary, Event("stage", 1000.0, {"name": "training", "total_steps": 20}))
    learned(run, 1, 8)
    page = browser.new_context().new_page()
    page.goto(f"{app.url}?run={run.id}&step=train")
    chart = page.get_by_role("slider", name=re.compile("^Training loss"))
    chart.focus()
    for key in ("ArrowLeft", "ArrowLeft", "ArrowUp"):
        chart.press(key)
    assert re.match("step 7; train 0.571", chart.get_attribute("aria-valuetext"))
    learned(run, 9, 12)
    page.wait_for_function("document.querySelector('.curve-area').ariaValueMax === '12'")
    assert page.evaluate("document.activeElement.className") == "curve-area hovering"
    assert chart.get_attribute("aria-valuenow") == "7"
    assert page.locator(".curve-tip b").inner_text() == "step 7"


def test_a_tap_on_the_curve_shows_its_values_until_another_place_is_tapped(app, browser):
    run = make_run(app.runs_dir, "tapped")
    write_event(run.diary, Event("stage", 1000.0, {"name": "training", "total_steps": 20}))
    learned(run, 1, 20)
    page = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True).new_page()
    page.goto(f"{app.url}?run={run.id}&step=train")
    chart = page.locator(".curve-area")
    chart.tap()
    page.wait_for_timeout(300)
    assert re.match(r"step 9|step 1[01]", page.locator(".hovering .curve-tip b").inner_text())
    page.locator(".run-says").tap()
    page.wait_for_function("!document.querySelector('.hovering')")


def test_what_the_curves_advise_is_one_click_from_a_new_run(app, browser):
    run = make_run(app.runs_dir, "advised", num_train_epochs=1.7)
    write_event(run.diary, Event("done", 1000.0, {"outcome": "finished", "seconds": 9.0}))
    run.result_dir.mkdir()
    (run.result_dir / "adapter_model.safetensors").write_bytes(b"0")
    changes = {"num_train_epochs": 3.0, "max_minutes": None}
    curves = {"kind": "unfinished", "sentence": "There was more to learn.", "fix": "Longer.", "changes": changes}
    run.write_report({"verdict": {"sentence": "Better."}, "rivals": [], "curves": curves})
    page = browser.new_context().new_page()
    page.goto(f"{app.url}?run={run.id}&step=prove")
    page.get_by_role("button", name="Set up a run with 3 epochs").click()
    page.get_by_text("Done: 3 epochs").wait_for(timeout=60_000)
    page.get_by_role("button", name="Undo").click()
    page.wait_for_function("!document.querySelector('.undo')")
