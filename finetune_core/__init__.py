"""Fijn's core: fine-tune a language model and see whether it was worth it. Never imports gradio; cheap to import."""

from .errors import FinetuneError, explain
from .events import Event
from .presets import list_presets, recipe_from_preset
from .progress import Progress, summarize
from .recipe import Recipe, Suggestion
from .run import Run, default_runs_dir, list_runs

__all__ = [
    "Event",
    "FinetuneError",
    "Progress",
    "Recipe",
    "Run",
    "Suggestion",
    "default_runs_dir",
    "explain",
    "list_presets",
    "list_runs",
    "recipe_from_preset",
    "summarize",
]
