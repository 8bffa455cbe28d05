"""The Train panel: what it shows for each state of a run, and what its buttons do. No training here."""

from __future__ import annotations

import html.parser
import json
import re

import pytest

from finetune_core import launch, preflight
from finetune_core.errors import FinetuneError
from finetune_core.machine import Gpu, Machine
from finetune_core.progress import Progress, summarize
from finetune_core.recipe import Recipe
from finetune_core.run import Run
from finetune_ui import charts, held, watch, words_loss, words_run

EVIL = '<script>alert("x")</script>'


def make_run(runs_dir, steps=0, status="interrupted", **fields):
    run = Run.create(runs_dir, Recipe(**fields), {"steps": 20}, tail=f"run{steps:05}{status}")
    run.tell("start", command="train", machine="CPU", pid=0)
    run.tell("stage", name="training", total_steps=20)
    for step in range(1, steps + 1):
        run.tell("step", step=step, total_steps=20, loss=3 / step, tokens_per_second=100.0, memory_gb=1.0)
        if step % 5 == 0:
            run.tell("eval", step=step, loss=3.1 / step)
            run.tell("sample", step=step, prompt="hello?", answer=f"answer {step} {EVIL}")
            checkpoint = run.path / "checkpoints" / f"checkpoint-{step}"
            checkpoint.mkdir(parents=True)
            (checkpoint / "trainer_state.json").write_text("{}")
    if status == "failed":
        run.tell("error", code="out-of-memory", problem=f"No memory {EVIL}", fix="Halve it.")
    if status in ("finished", "stopped"):
        run.result_dir.mkdir()
        (run.result_dir / "adapter_model.safetensors").write_bytes(b"0")
        run.tell("done", outcome=status, seconds=9.0)
    return run


class Tags(html.parser.HTMLParser):
    """Every element's name and attributes, and whether all are closed."""

    def __init__(self, text: str):
        super().__init__()
        self.names, self.open, self.attributes = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.attributes += [name for name, _ in attrs]
        if tag not in ("path", "input", "br", "circle", "rect"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.names.append(tag)

    def handle_endtag(self, tag):
        if tag in self.open:
            assert self.open.pop() == tag, f"{tag} closes something else"


def text_of(update) -> str:
    return update.get("value") if isinstance(update, dict) else update


@pytest.mark.parametrize(
    "name",
    ["..", ".", "", "/etc", "../runs", "x/../../y", "a\\b", ".making-abc", "run\0", None, 7, "no-such-run", "a" * 300],
)
def test_an_id_from_the_address_bar_cannot_lead_out_of_the_runs_folder(runs_dir, tmp_path, name):
    make_run(runs_dir)
    outside = tmp_path / "outside"
    outside.mkdir()
    Recipe().save(outside / "recipe.yaml")
    for asked in (name, str(outside), f"../{outside.name}"):
        with pytest.raises(FinetuneError):
            held.held_run(runs_dir, asked)


def test_a_link_inside_the_runs_folder_does_not_lead_out_of_it(runs_dir, tmp_path):
    make_run(runs_dir)
    outside = tmp_path / "outside"
    outside.mkdir()
    Recipe().save(outside / "recipe.yaml")
    (runs_dir / "innocent").symlink_to(outside)
    with pytest.raises(FinetuneError):
        held.held_run(runs_dir, "innocent")


def test_a_handler_with_a_foreign_id_shows_a_card_and_deletes_nothing(runs_dir, tmp_path):
    run = make_run(runs_dir, 5)
    outside = tmp_path / "outside"
    outside.mkdir()
    Recipe().save(outside / "recipe.yaml")
    for handler in (watch.discard_run, watch.stop_run, watch.start_run, watch.start_gentler):
        shown = str(handler(runs_dir, str(outside)))
        assert "shows no run" in shown
    assert (outside / "recipe.yaml").exists() and run.path.exists()
    assert "empty so far" in watch.read_log(runs_dir, str(outside), "")[0]


@pytest.mark.parametrize(
    ("steps", "status", "says", "button"),
    [
        (0, "interrupted", "Interrupted.", "Start again"),
        (7, "interrupted", "Interrupted after step 7.", "Resume from step 5"),
        (7, "failed", "It failed while training.", "Resume from step 5"),
        (0, "failed", "It failed while training.", "Try again"),
        (10, "stopped", "Stopped at step 10 of 20.", "Resume from step 10"),
        (20, "finished", "Trained in 1 second.", "Talk to it"),
    ],
)
def test_every_state_has_its_sentence_and_its_way_on(runs_dir, steps, status, says, button):
    run = make_run(runs_dir, steps, status)
    head, problem, row, *rest = watch.show(run)
    buttons = rest[:6]
    assert says in head
    assert any(each["visible"] and (each.get("value") or "Talk to it") == button for each in buttons)
    assert sum(each.get("variant") == "primary" for each in buttons if each["visible"]) == 1
    assert problem["visible"] == (status == "failed")
    assert row["visible"]


def test_a_new_run_can_be_started(runs_dir):
    run = Run.create(runs_dir, Recipe(), tail="newrun")
    head, _, _, _, _, _, start, *_ = watch.show(run)
    assert "Not begun yet." in head
    assert start["value"] == "Start training" and start["variant"] == "primary"


def test_while_it_trains_there_is_only_stop(runs_dir):
    run = make_run(runs_dir, 6)
    with run.lock():
        head, _, _, *buttons = watch.show(run)
        shown = [each["value"] for each in buttons[:6] if each["visible"]]
        (run.path / "stop").touch()
        stopping = watch.show(run)[8]
    assert "Learning: step 6 of 20." in head
    assert shown == ["Stop, keep what it learned"]
    assert stopping["value"] == "Stopping after this step…" and stopping["interactive"] is False


def test_the_panel_shows_as_many_values_as_it_has_outputs(runs_dir):
    import gradio as gr

    from finetune_ui.frame import Page

    with gr.Blocks():
        built = watch.build(Page(runs_dir, gr.State(""), gr.State("")))
    assert len(watch.show(make_run(runs_dir, 6))) == len(built.outputs)


def test_texts_of_a_run_are_escaped_everywhere(runs_dir):
    run = make_run(runs_dir, 6, "failed")
    shown = "".join(text_of(each) for each in watch.show(run) if isinstance(text_of(each), str))
    run.log_path.write_text(f"line {EVIL}\n")
    shown += watch.read_log(runs_dir, run.id, "")[0]
    assert "<script" not in shown
    assert shown.count("&lt;script&gt;") >= 3


def test_the_panels_html_is_well_formed(runs_dir):
    for steps in (0, 1, 6):
        run = make_run(runs_dir, steps)
        for each in watch.show(run):
            tags = Tags(text_of(each)) if isinstance(text_of(each), str) else None
            assert tags is None or (tags.open == [] and not any(name.startswith("on") for name in tags.attributes))


def test_discard_deletes_the_folder_and_the_page_holds_nothing(runs_dir):
    run = make_run(runs_dir, 6)
    *_, now_held = watch.discard_run(runs_dir, run.id)
    assert now_held == "" and not run.path.exists()


def test_the_log_is_read_again_only_when_it_grew(runs_dir):
    run = make_run(runs_dir, 1)
    run.log_path.write_text("one\n")
    first, seen = watch.read_log(runs_dir, run.id, "")
    assert "one" in first
    assert watch.read_log(runs_dir, run.id, seen)[1] != seen  # gr.skip()
    run.log_path.write_text("one\ntwo\n")
    assert "two" in watch.read_log(runs_dir, run.id, seen)[0]


def test_where_memory_ran_out_the_ways_that_change_the_result_are_one_click_each(runs_dir, monkeypatch):
    run = make_run(runs_dir, 6, "failed", method="full", learning_rate=2e-5, model_name_or_path="Qwen/Qwen3-4B")
    problem, _, first = watch.show(run)[1:4]
    assert first["visible"] and first["value"] == "Run again with an adapter"
    assert re.findall(r'data-rung="(\d)">([^<]*)<', problem["value"]) == [
        ("1", "Run again with rows of 512 tokens"), ("2", "Run again with Qwen3-1.7B"),
    ]  # fmt: skip
    asked, started = [], []

    def create(recipe, *_, **__):
        asked.append(recipe)
        return run

    monkeypatch.setattr(preflight, "create_run", create)
    monkeypatch.setattr(launch, "start", lambda *each, **__: started.append(each))
    for place in range(3):
        assert watch.start_gentler(runs_dir, run.id, place)[2] == run.id
    adapter, shorter, smaller = asked
    assert (adapter.method, adapter.learning_rate) == ("lora", None)  # an adapter wants larger steps
    assert (shorter.max_length, shorter.learning_rate) == (512, 2e-5)
    assert (smaller.model_name_or_path, smaller.method) == ("Qwen/Qwen3-1.7B", "full")
    label, card, *_ = watch.start_gentler(runs_dir, run.id, 3)
    assert "no setting left" in card["value"] and 'data-rung="2"' in card["value"] and len(started) == 3
    assert label["value"] == first["value"]


def test_several_gpus_are_offered_before_anything_that_changes_the_result(runs_dir, monkeypatch):
    gpu = Gpu("L4", 24, 22, 8.9)
    monkeypatch.setattr(watch, "this_machine", lambda: Machine(8, 64, 60, (gpu, gpu), kind="cuda"))
    shown = watch.show(make_run(runs_dir, 6, "failed", model_name_or_path="Qwen/Qwen3-4B"))
    assert shown[3]["value"] == "Run again with the weights shared"
    assert ">Run again with rows of 512 tokens<" in shown[1]["value"]


def test_nothing_of_the_kind_is_offered_after_another_failure(runs_dir):
    other = make_run(runs_dir, 7)
    other.tell("error", code="gated", problem="Gated.", fix="Sign in.")
    shown = watch.show(other)
    assert not shown[3]["visible"] and "data-rung" not in shown[1]["value"]


# --- charts ---


def test_a_curve_keeps_its_axis_while_it_grows():
    def feet(count):
        points = tuple((step, 1.0) for step in range(1, count))
        drawn = charts.curves([charts.Line("a", "raw", points)], 100, label="x")
        return drawn[drawn.index("ticks-x") : drawn.index("</div>", drawn.index("ticks-x"))]

    assert feet(5) == feet(90)


def test_the_hover_values_are_the_points():
    lines = [charts.Line("train", "raw", ((1, 2.0), (2, 1.5))), charts.Line("validation", "validation", ((2, 1.75),))]
    drawn = charts.curves(lines, 2, label="x")
    data = json.loads(html.unescape(drawn.split('data-hover="')[1].split('"')[0]))
    assert data["steps"] == [1, 2]
    assert data["lines"][1] == {"name": "validation", "css": "validation", "values": [None, 1.75]}


def test_a_chart_is_one_stop_of_the_keyboard_however_many_points_it_has():
    line = charts.Line("train", "raw", tuple((step, 1.0) for step in range(1, 300)))
    drawn = charts.curves([line], 300, label="Loss over steps")
    assert drawn.count("tabindex") == 1 and 'aria-valuemin="1" aria-valuemax="299"' in drawn
    empty = charts.curves([], 300, label="Loss over steps")
    assert "tabindex" not in empty and 'role="img"' in empty


@pytest.mark.parametrize("values", [[1.0], [2.0, 2.0], [0.0, 0.0], [1e-9, 1e6], [5.0, 4.9999], [0.3, 0.001]])
def test_a_chart_of_any_values_stays_inside_its_frame(values):
    points = tuple(enumerate(values, start=1))
    drawn = charts.curves([charts.Line("a", "raw", points)], len(points), label="x")
    assert "nan" not in drawn and "inf" not in drawn
    for path in drawn.split(' d="')[1:]:
        numbers = path.split('"')[0].replace("M", " ").replace("L", " ").replace("H", " ").replace("h0", " ").split()
        assert all(0 <= float(each) <= 1000 for each in numbers)


@pytest.mark.parametrize(("low", "high"), [(0.37, 2.1), (0, 1), (1e-4, 2e-4), (0, 12345), (3, 3)])
def test_ticks_enclose_the_values_and_are_few(low, high):
    ticks = charts.nice_ticks(low, high)
    assert ticks[0] <= low and ticks[-1] >= high and 2 <= len(ticks) <= 8


def test_an_interval_is_drawn_where_it_is():
    bar = charts.Bar("Tuned", "tuned", 0.8, 0.7, 0.9, "80%", "70 to 90")
    drawn = charts.interval_bars([bar])
    assert "width:80.00%" in drawn and "left:70.00%;width:20.00%" in drawn


def test_smoothing_leaves_a_short_curve_alone():
    progress = Progress(step=3, total_steps=9, loss=((1, 3.0), (2, 1.0), (3, 2.0)))
    card = words_loss.loss_card("running", progress, Recipe())
    raw, smoothed = json.loads(html.unescape(card.split('data-hover="')[1].split('"')[0]))["lines"]
    assert all(abs(a - b) < 0.1 for a, b in zip(raw["values"], smoothed["values"], strict=True))


def test_a_resumed_run_draws_one_curve(runs_dir):
    run = make_run(runs_dir, 7)
    run.tell("start", command="train", machine="CPU", pid=0)
    run.tell("stage", name="training", step=5, total_steps=20)
    assert summarize(run.events()).loss[-1][0] == 5
    assert "It was resumed" in words_run.headline("running", summarize([*run.events()]))[1]
