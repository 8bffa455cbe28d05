"""Exports that lie in a run's own folder (exports/adapter, merged, gguf), and how large each kind is. Without torch."""

from __future__ import annotations

import json
import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from .. import hub
from ..files import read_json
from ..recipe import Recipe
from ..run import Run
from .gguf import BYTES as GGUF_BYTES
from .merge import BYTES, count_weights, merged_dtype

# the only files that ever leave: no training_args.bin, optimizer, log or row
RESULT_FILES = (
    "*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "README.md", "LICENSE*", "LICENCE*", "NOTICE*",
    "USE_POLICY*", "recipe.yaml",
)  # fmt: skip


ABOUT = "fijn.json"  # what a card is written from, so that a run can be opened elsewhere (pull.py)


def shareable_recipe(recipe: Recipe) -> Recipe:
    """The recipe without folders of this machine, which may say whose data it was."""
    named = {"model_name_or_path": recipe.model_name_or_path, "dataset_name": recipe.dataset_name}
    return recipe.model_copy(update={field: Path(name).name for field, name in named.items() if _is_here(name)})


def about(run: Run) -> dict[str, Any]:
    """The report without its rows, the data card, when and where: numbers about the run, nothing of its data."""
    events = run.events()
    last = {kind: [event.data for event in events if event.kind == kind][-1:] for kind in ("start", "done")}
    start, done = ((last[kind] or [{}])[0] for kind in ("start", "done"))
    report = _without_words(run, report) if (report := run.report()) else None
    data = read_json(run.path / "data" / "card.json") or {}
    source = data.get("source") or {}
    if source.get("place") not in ("hub", "starter"):
        data["source"] = {**source, "name": Path(str(source.get("name", ""))).name, "files": []}
    return {
        "run": run.id,
        "report": report,
        "data": {**data, "labels": None, "warnings_passed": _codes(data)} if data else None,
        "start": {key: start[key] for key in ("machine", "versions") if key in start},
        "done": {
            key: done[key] for key in ("outcome", "seconds", "steps", "best_step", "train_seconds") if key in done
        },
    }


def _without_words(run: Run, report: dict[str, Any]) -> dict[str, Any]:
    """A report without its rows and without what may quote them: what rivals were told, what a check or judge said."""
    base = shareable_recipe(run.recipe).model_name_or_path
    return {
        **report,
        "rows": [],
        "rivals": [{**rival, "note": ""} for rival in report.get("rivals") or ()],
        "note": "" if report.get("metric_kind") == "check" else report.get("note", ""),
        "judge": None if "error" in (report.get("judge") or ()) else report.get("judge"),
        "settings": {**(report.get("settings") or {}), "model_name_or_path": base},
    }


def _codes(data: dict[str, Any]) -> list[dict[str, Any]]:
    """The warnings that were passed by their codes; in their words they quote answers."""
    return [{"code": passed.get("code"), "rows": passed.get("rows")} for passed in data.get("warnings_passed") or ()]


def result_files(run: Run) -> list[Path]:
    """What of the run's result leaves; its card and recipe are written anew."""
    found = (file for file in sorted(run.result_dir.iterdir()) if file.is_file())
    return [
        file
        for file in found
        if file.name not in ("README.md", "recipe.yaml") and any(fnmatch(file.name, each) for each in RESULT_FILES)
    ]


def exports_dir(run: Run, to: str) -> Path:
    """Where the page and `push` keep an export: with its run, so that it goes when the run goes."""
    return run.path / "exports" / to


def short_name(run: Run) -> str:
    """What files, repositories and Ollama models are called: by model and data, as the run's id is."""
    return run.id.rsplit("-", 1)[0].split("-", 4)[-1][:60].strip("-") or "tuned"


def rows_name(run: Run) -> str:
    """What a data set of a run's rows is called.

    >>> rows_name(type("", (), {"recipe": Recipe(dataset_name="/home/jan/tickets of acme.csv")}))
    'tickets-of-acme-rows'
    """
    stem = re.sub(r"[^A-Za-z0-9]+", "-", Path(run.recipe.dataset_name).stem).strip("-")
    return f"{stem[:60] or 'tuning'}-rows"


def kept(run: Run, to: str) -> dict[str, Any] | None:
    """{path, files, bytes, parity} of an export in the run's folder; None if there is none, or newer weights."""
    folder = exports_dir(run, to)
    said = folder / "parity.json"
    weights = [file.stat().st_mtime for file in run.result_dir.glob("*.safetensors")]
    if not said.is_file() or not weights or said.stat().st_mtime < max(weights):
        return None
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    return {
        "path": str(folder),
        "files": [str(file.relative_to(folder)) for file in files],
        "bytes": sum(file.stat().st_size for file in files),
        "parity": json.loads(said.read_text(encoding="utf-8")),
    }


def sizes(run: Run) -> dict[str, int]:
    """Bytes of each kind: adapter (or the fully tuned model), merged, f16, q8_0, q4_0; without those not known yet."""
    found = {"adapter": sum(file.stat().st_size for file in result_files(run))}
    recipe = run.recipe
    full = recipe.method == "full"
    base = run.result_dir if full else hub.local_model(recipe.model_name_or_path, recipe.model_revision)
    if base is None:
        return found
    weights = count_weights(base)
    found["merged"] = weights * BYTES[merged_dtype(run)]
    return found | {kind: round(weights * size) for kind, size in GGUF_BYTES.items()}


def _is_here(name: str) -> bool:
    return hub.looks_local(name) or Path(name).expanduser().exists()
