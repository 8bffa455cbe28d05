"""Fijn: one page to fine-tune a language model and see whether it was worth it. Run: python app.py

How it hangs together. The page holds one run id and one open step (two gr.State). `draw` turns them into everything
around the panels and into the open panel; a timer asks it again and again, and it answers only when something changed.
So a reload, a second tab and a restart of this program are one and the same path. Choose and Check are a draft: their
truth is in their boxes, and `review` shows what the boxes say now, looking at the rows in the background.
Training never runs here: it is a process of its own (finetune_core/launch.py), and a run is a folder.
"""

from __future__ import annotations

import argparse
import os
import threading
from pathlib import Path

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before gradio is imported: no request leaves this machine
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # the terminal shows one calm line

import gradio as gr

from finetune_core import default_runs_dir, hub, launch, space
from finetune_core.leftovers import sweep_leftovers
from finetune_core.recipe import STARTER_MODEL
from finetune_ui import beforehand, begin, check, choose, frame, look, names, on_space, place, prove, share, talk, watch
from finetune_ui.held import QUICK
from finetune_ui.hubpicks import HubPicks
from finetune_ui.looking import Looks
from finetune_ui.pages import Draft, Screen
from finetune_ui.renting import Renting


def build_page(runs_dir: Path) -> gr.Blocks:
    looks = Looks(runs_dir=runs_dir)
    with gr.Blocks(title="Fijn", fill_width=True, analytics_enabled=False, delete_cache=(3600, 86400)) as demo:
        held, step, seen, filled = gr.State(None), gr.State(None), gr.State(()), gr.State("")
        kept = gr.BrowserState({}, storage_key="fijn-draft", secret="fijn")  # no secret: a draft holds none
        page = frame.Page(runs_dir, held, step)
        header = frame.build_header()
        if here := space.this_space():
            on_space.build(demo, here, runs_dir)
        with gr.Row(elem_id="shell"):
            rail = frame.build_rail()
            with gr.Column(elem_id="main"):
                path, folds = frame.build_path()
                chosen = choose.build(page)
                on = gr.State(place.HERE)
                checked = check.build(page, looks, chosen.boxes, on)
                with checked.panel:
                    placing = place.build(chosen.boxes, on)
                    tried = beforehand.build(page, chosen.boxes)
                watched, proved, talked, shared = (panel.build(page) for panel in (watch, prove, talk, share))
                begun = begin.build(page)
        clock = gr.Timer(2.0)  # a redraw takes the browser time, which a training on this machine needs
        polling = gr.Timer(0.5, active=False)  # while rows are being read

        # everything that a held run shows
        screen = Screen(runs_dir, {"train": (watched, watch.show), "prove": (proved, prove.show),
                                   "chat": (talked, talk.show), "share": (shared, share.show)})  # fmt: skip
        drawn = [held, step, seen, rail, path, folds, chosen.panel, checked.panel, begun.bar, *screen.outputs]
        gr.on([held.change, step.change, clock.tick], screen.draw, [held, step, seen], drawn, **QUICK)

        # everything that a draft shows
        picks = HubPicks(runs_dir=runs_dir)
        draft = Draft(runs_dir, looks, picks, chosen, checked, begun, tried, placing, Renting())
        inputs = [
            held,
            step,
            filled,
            chosen.preset,
            chosen.wrong,
            checked.row,
            checked.said,
            checked.undo,
            checked.trial,
            checked.measured.drawn,
            tried.drawn,
            placing.on,
            *chosen.boxes,
        ]
        outputs = [*chosen.outputs, *checked.outputs, *begun.outputs, *tried.outputs, *checked.measured.outputs]
        outputs += [*placing.outputs, polling, kept]
        review = {"fn": draft.review, "inputs": inputs, "outputs": outputs, **QUICK}
        fill = [filled, begun.draft, checked.undo, checked.row, chosen.trouble, begun.problem]
        fill += [placing.on, chosen.preset, *chosen.boxes]
        gr.on([held.change, step.change], draft.fill, [held, step, filled], fill, **QUICK).then(**review)
        gr.on([*chosen.edits, polling.tick], trigger_mode="always_last", **review)
        rung = check.on_apply(begun.says, looks, checked.undo, chosen.boxes)
        for event in (*chosen.fills, *checked.fills, *checked.turns, *checked.again, placing.picked, rung):
            event.then(**review)
        placing.picked.then(lambda: "", None, begun.problem, queue=False, **QUICK)
        start = begun.start.click(begin.starting, None, begun.start, queue=False, **QUICK)
        start = start.then(
            draft.press,
            [step, begun.draft, placing.on, placing.agreed, *chosen.boxes],
            [held, step, begun.draft, begun.problem],
            **QUICK,
        )
        start.then(**review)
        begun.see.click(lambda: "check", None, step, **QUICK)

        # moving about
        rail.pick(screen.pick, None, [held, step], **QUICK)
        rail.fresh(draft.fresh, None, [held, step, *fill], **QUICK).then(**review)
        for steps in (path, folds):
            steps.go(screen.go, [held, step], step, **QUICK)
        proved.advised(draft.advised, held, [step, *fill], **QUICK).then(**review)
        proved.use_row(talked.take_row, held, talked.taken, **QUICK).then(lambda: "chat", None, step, **QUICK)

        demo.load(draft.restore, kept, [placing.on, chosen.preset, *chosen.boxes], **QUICK)
        demo.load(screen.arrive, None, [held, step], **QUICK)
        demo.load(lambda: frame.chips(runs_dir), None, header, **QUICK)
        demo.load(lambda draft: names.first_choices(runs_dir, draft), kept, [chosen.model, chosen.data], **QUICK)

    # Gradio marks every output of an event as pending. A part that is hidden meanwhile asks the browser for frames for
    # ever after (gradio 6.31), and a page that was open for an hour slows the training: so only the header is marked.
    for event in demo.fns.values():
        event.show_progress_on = [header]
    return demo


def main() -> None:
    parser = argparse.ArgumentParser(description="Open the page on which a language model is fine-tuned.")
    here = "127.0.0.1" if space.this_space() is None else "0.0.0.0"  # a Space is reached from outside its container
    parser.add_argument("--host", default=here, help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=None, help="port (default: 7860, or the next that is free)")
    parser.add_argument("--runs-dir", type=Path, default=None, help="where runs are kept (default: ./runs)")
    asked = parser.parse_args()
    space.forget_own_token()  # before anything can use it for a visitor
    runs_dir = (asked.runs_dir or default_runs_dir()).absolute()
    demo = build_page(runs_dir)
    demo.queue(max_size=32)
    _, url, _ = demo.launch(
        server_name=asked.host,
        server_port=asked.port,
        theme=look.theme(),
        css=look.css(),
        head=look.HEAD,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        show_error=False,
        enable_monitoring=False,
        max_file_size="2gb" if space.this_space() is None else "200mb",
        blocked_paths=[str(runs_dir)],
        quiet=True,
        prevent_thread_lock=True,
    )
    print(f"Fijn is open at {url}", flush=True)
    threading.Thread(target=bring_starter, args=(runs_dir,), daemon=True).start()
    threading.Thread(target=sweep_leftovers, args=(runs_dir,), daemon=True).start()
    if space.this_space() is None:  # on a Space a job is followed with the sign-in of who started it, who must be there
        threading.Thread(target=launch.follow_jobs, args=(runs_dir,), daemon=True).start()
    demo.block_thread()


def bring_starter(runs_dir: Path) -> None:
    """Have the starter model brought to this machine, by a process of its own, if it is not here."""
    if hub.local_model(STARTER_MODEL) is None:
        launch.fetch_starter(runs_dir)


if __name__ == "__main__":
    main()
