"""What the page shows: `Screen` for the run that is held, `Draft` for the choices of a run that is not made yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from finetune_core.errors import FinetuneError
from finetune_core.run import Run

from . import (
    beforehand,
    begin,
    check,
    choose,
    form,
    frame,
    hubpicks,
    looking,
    measuring,
    place,
    renting,
    trials,
    words,
    words_place,
    words_prove,
)
from .words import STEPS

DRAFT_STEPS = ("choose", "check")


def _asked(request: gr.Request) -> tuple[str | None, str | None, bool]:
    """Run, step and “new” of the page's address."""
    asked = request.query_params
    return asked.get("run"), asked.get("step"), "new" in asked


@dataclass(frozen=True)
class Screen:
    """Panels of a held run by step: what was built, and the function that fills it."""

    runs_dir: Path
    panels: Mapping[str, tuple[Any, Callable[[Run], tuple[Any, ...]]]]

    @property
    def outputs(self) -> list[Any]:
        """Each panel, then everything that the panels fill."""
        built = [panel for panel, _ in self.panels.values()]
        return [*(panel.panel for panel in built), *(output for panel in built for output in panel.outputs)]

    def arrive(self, request: gr.Request) -> tuple[str, str]:
        return frame.arrive(self.runs_dir, *_asked(request))

    def pick(self, event: gr.EventData) -> tuple[str, str]:
        """A run in the rail."""
        run = frame.find(self.runs_dir, str(event.run))
        return (run.id, frame.natural_step(run)) if run else ("", "choose")

    def go(self, event: gr.EventData, held: str, step: str) -> str:
        """A step of the path, if it has something to show."""
        run = frame.find(self.runs_dir, held)
        return event.to if event.to in frame.reachable_steps(run) else step

    def draw(self, held: str | None, step: str | None, seen: Sequence[Any]) -> list[Any]:
        """Everything around the panels and in the open one; nothing at all while nothing changed."""
        if held is None or step is None:  # the page has not arrived yet
            return [gr.skip()] * (9 + len(self.outputs))
        asked = held, step
        run = frame.find(self.runs_dir, held)
        if run is None and held:  # deleted, here or elsewhere
            held, step = "", "choose"
        if step not in STEPS or (run is None and step not in DRAFT_STEPS):
            step = "choose"
        rails, version, drawn = seen if len(seen) == 3 else ((), (), ())
        now = (frame.rail_version(self.runs_dir), (run.version() if run else (), held, step))
        if now == (rails, version):
            return [gr.skip()] * (9 + len(self.outputs))
        looks = [
            frame.draw_rail(self.runs_dir, held),
            frame.draw_path(run, step),
            frame.draw_folds(run, step),
            step == "choose",
            step == "check",
            step in DRAFT_STEPS,
            *(step == name for name in self.panels),
        ]
        return [
            # written back only when it is corrected: a slow answer must not undo a click made meanwhile
            held if held != asked[0] else gr.skip(),
            step if step != asked[1] else gr.skip(),
            (*now, looks),
            *_changed(looks, drawn),
            *self._fill(run if now[1] != version else None, step),
        ]

    def _fill(self, run: Run | None, step: str) -> list[Any]:
        filled: list[Any] = []
        for name, (panel, show) in self.panels.items():
            filled += show(run) if run is not None and name == step else [gr.skip()] * len(panel.outputs)
        return filled


def _changed(looks: Sequence[str | bool], drawn: Sequence[str | bool]) -> list[Any]:
    """Html and visibility as updates, where they differ from what is drawn: each takes the browser some time."""
    before = drawn or [None] * len(looks)
    return [
        gr.skip() if now == then else gr.update(visible=now) if isinstance(now, bool) else now
        for now, then in zip(looks, before, strict=True)
    ]


@dataclass(frozen=True)
class Draft:
    """Choose, Check and Start over one set of boxes."""

    runs_dir: Path
    looks: looking.Looks
    picks: hubpicks.HubPicks
    chosen: choose.Chosen
    checked: check.Checked
    begun: begin.Begin
    tried: beforehand.Before
    placing: place.Placing
    renting: renting.Renting

    def fill(self, held: str | None, step: str | None, filled: str) -> list[Any]:
        """When Choose or Check is opened for another run, its choices go into the boxes."""
        if held is None or step not in DRAFT_STEPS or held == filled:
            return [gr.skip()] * (8 + len(self.chosen.boxes))
        run = frame.find(self.runs_dir, held)
        values = choose.reopen(run.recipe) if run else choose.fresh()
        return [held, *self._begun(), place.of_run(run), *values]

    def fresh(self) -> list[Any]:
        """“New”."""
        return ["", "choose", "", *self._begun(), place.HERE, *choose.fresh()]

    def advised(self, held: str | None) -> list[Any]:
        """A proved run's recipe with what its curves advise, in the boxes of Check, where Undo takes that back."""
        run = frame.find(self.runs_dir, held or "")
        report = (run.report() if run else None) or {}
        if run is None or not (changes := words_prove.advised(report)):
            return [gr.skip()] * (9 + len(self.chosen.boxes))
        preset, *boxes = choose.reopen(run.recipe)
        undo, *boxes = check.changed((), boxes, changes, words_prove.set_up_done(changes))
        draft, _, *rest = self._begun()
        return ["check", run.id, draft, undo, *rest, place.of_run(run), preset, *boxes]

    @staticmethod
    def _begun() -> list[Any]:
        """A draft that nothing was done to yet: its name, nothing to undo, the first row, no trouble on the page."""
        return [begin.new_draft(), (), 0, "", ""]

    def restore(self, kept: Mapping[str, Any] | None, request: gr.Request) -> list[Any]:
        """A draft that was being written when the page was loaded again."""
        is_draft = frame.arrive(self.runs_dir, *_asked(request))[0] == ""
        if not is_draft or not kept or not isinstance(kept.get("boxes"), dict):
            return [gr.skip()] * (2 + len(self.chosen.boxes))
        known = {preset.name for preset in form.presets()}
        preset = kept.get("preset") if kept.get("preset") in known else choose.FIRST_PRESET
        return [place.from_kept(kept.get("on")), preset, *form.from_kept(kept["boxes"])]

    def press(self, step: str, draft: str, on: str, agreed: Sequence[Any], *boxes: Any) -> tuple[Any, ...]:
        return begin.press(self.looks, self.runs_dir, step, draft, *boxes, on=on, agreed=agreed, renting=self.renting)

    def review(
        self,
        request: gr.Request,  # first: gradio hands none to a parameter behind *boxes
        held: str | None,
        step: str | None,
        filled: str,
        preset: str,
        wrong: Sequence[str],
        row: int,
        said: check.Said,
        undo: Sequence[Any],
        trial: trials.Trial | None,
        measured: measuring.Drawn,
        drawn: beforehand.Drawn,
        on: str,
        *boxes: Any,
    ) -> list[Any]:
        """What the boxes say now, in the open panel and in the bar; the timer goes on while rows are being read."""
        parts = (self.chosen, self.checked, self.begun, self.tried, self.checked.measured, self.placing)
        chosen, checked, _, before, *_ = counts = [len(part.outputs) for part in parts]
        if held is None or step not in DRAFT_STEPS:
            return [*[gr.skip()] * sum(counts), gr.Timer(active=False), gr.skip()]
        problems = form.problems(boxes)
        recipe = None if problems else form.read(boxes)
        look, who = None, request.session_hash or ""
        if recipe is not None:
            look = self.looks.ask(recipe, who=who, wait_seconds=0.15)
        tried = trials.show(self.looks, look, trial, who) if step == "check" else None
        read, placed = look, place.settle(look, on, self.renting)
        look = placed.look
        line = choose.command_line(recipe, preset, placed.where, placed.must_say) if recipe is not None else ""
        here = look if step == "check" and not placed.is_rented else None
        shown, *clock = measuring.show(self.runs_dir, here, measured)
        if placed.is_rented:  # the clock's next tick rests it: one may be on its way with this machine's plan
            clock = [gr.skip()] * len(clock)
        problem = form.first_problem(problems) if problems else None
        run = frame.find(self.runs_dir, filled)
        picks, asking = self.picks.of(recipe) if recipe is not None and step == "choose" else ({}, False)
        made = words.short_data(run.recipe.dataset_name) if run else ""
        costs = looking.preset_costs(read)
        return [
            *(
                choose.show(boxes, preset, wrong, look, costs, made, picks, line, read)
                if step == "choose"
                else [gr.skip()] * chosen
            ),
            *(
                check.show(look, problem, row, said, undo, tried, shown, words_place.planned_for(placed))
                if step == "check"
                else [gr.skip()] * checked
            ),
            *begin.show(self.runs_dir, step, look, list(problems), problem, placed),
            *(beforehand.show(self.runs_dir, recipe, look, drawn) if step == "check" else [gr.skip()] * before),
            *clock,
            *place.show(read, placed, recipe, line, is_open=step == "check"),
            gr.Timer(active=_is_waiting(look) or asking or placed.pending or (tried is not None and tried.pending)),
            gr.skip() if filled else {"preset": preset, "boxes": form.as_kept(boxes), "on": on},
        ]


def _is_waiting(look: looking.Look | None) -> bool:
    return look is not None and (look.pending or is_on_its_way(look.error))


def is_on_its_way(error: FinetuneError | None) -> bool:
    """The starter model is being fetched: ask again until it is there."""
    return error is not None and error.code == "starter-not-here"
