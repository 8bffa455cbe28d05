"""What the page's handlers are called with: clicks, boxes filled in, and runs as the rail lists them."""

import gradio as gr

from finetune_core import Recipe, Run
from finetune_ui import form


def said(**data):
    """What gradio hands to a handler when something on the page was clicked."""
    return gr.EventData(None, data)


def boxes_of(**values):
    return form.to_boxes(Recipe(**values))


def box_at(name):
    """The place of a field's box among all boxes."""
    return form.boxed().index(name)


def make_run(runs_dir, tail="abcd", **values):
    return Run.create(runs_dir, Recipe(**values), {"steps": 4, "seconds": 60.0}, tail)
