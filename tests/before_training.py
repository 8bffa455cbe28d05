"""A recipe whose prompts and trials take seconds."""

from pathlib import Path

from conftest import chat_rows, write_jsonl

from finetune_core.recipe import Recipe


def quick_recipe(folder: Path, model_dir: Path) -> Recipe:
    rows = write_jsonl(folder / "rows.jsonl", chat_rows(60))
    return Recipe(
        model_name_or_path=str(model_dir), dataset_name=str(rows), max_new_tokens=6, evaluate_rows=6,
        max_length=64, accept_warnings=True, evaluate=False,
    )  # fmt: skip
