"""A recipe's fields in plain words: their titles and choices, an empty box, what is wrong with a value. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune_core.recipe import Recipe

LEFT_OPEN = "chosen for you"

FIELD_TITLES = {
    "model_revision": "Model version",
    "dtype": "Number format",
    "attn_implementation": "Attention",
    "dataset_config": "Subset",
    "dataset_revision": "Data version",
    "dataset_train_split": "Split to learn from",
    "columns": "Columns",
    "template": "Prompt template",
    "system_prompt": "System prompt",
    "max_rows": "Most rows",
    "validation_size": "Validation share",
    "test_size": "Test share",
    "fixes": "Repairs",
    "accept_warnings": "Go on with warnings",
    "load_in_8bit": "8 bits instead of 4",
    "lora_r": "Adapter rank",
    "lora_alpha": "Adapter scale",
    "lora_dropout": "Adapter dropout",
    "lora_target_modules": "Layers with an adapter",
    "use_rslora": "Rank-stabilised scale",
    "autocast_adapter_dtype": "Adapter in float32",
    "use_dora": "DoRA",
    "lr_scheduler_type": "Learning rate curve",
    "warmup_steps": "Warm-up",
    "num_train_epochs": "Epochs",
    "max_minutes": "Most minutes",
    "max_steps": "Most steps",
    "per_device_train_batch_size": "Batch size",
    "gradient_accumulation_steps": "Batches added up",
    "num_processes": "Processes (GPUs)",
    "fsdp": "Share the weights (FSDP)",
    "max_length": "Longest row",
    "packing_length": "Length of a packed row",
    "share_prefix": "Share the beginning",
    "optim": "Optimizer",
    "train_sampling_strategy": "Rows of a batch",
    "dataloader_num_workers": "Processes for batches",
    "max_grad_norm": "Gradient clipping",
    "logging_steps": "Log every … steps",
    "eval_steps": "Validate every … steps",
    "eval_rows": "Validation rows of a look",
    "save_steps": "Save every … steps",
    "early_stopping_patience": "Patience",
    "sample_prompt": "Sample prompt",
    "evaluate": "Prove it when done",
    "evaluate_rows": "Rows to compare",
    "few_shot_examples": "Examples for the rival",
    "rival_system_prompt": "Rival's system prompt",
    "max_new_tokens": "Longest answer",
}

OPEN_MEANS = {  # what an empty box means, where the plan does not fill it in
    "model_revision": "the newest",
    "dataset_config": "the only one, or the default",
    "dataset_revision": "the newest",
    "template": "none",
    "system_prompt": "none",
    "max_rows": "all rows",
    "max_minutes": "no limit",
    "eval_rows": "all; fewer where the minutes are limited",
    "sample_prompt": "the first validation row's",
    "rival_system_prompt": "none",
}

CHOICE_TITLES = {
    "lora": "LoRA: a small adapter",
    "qlora": "QLoRA: an adapter on 4-bit (or 8-bit) weights",
    "full": "All weights",
    "group_by_length": "Of like length",
    "random": "At random",
    "adamw_torch_fused": "AdamW",
    "adamw_8bit": "AdamW, moments in 8 bits",
    "paged_adamw_8bit": "AdamW, moments in 8 bits, paged",
}

FIELD_EXAMPLES = {"columns": "prompt: question, completion: answer", "fixes": "none"}


def field_title(name: str) -> str:
    """A field in plain words.

    >>> field_title("lora_r"), field_title("weight_decay")
    ('Adapter rank', 'Weight decay')
    """
    return FIELD_TITLES.get(name) or name.replace("_", " ").capitalize()


def field_help(name: str) -> str:
    """Its description, then the name by which TRL, papers and forums know it (markdown)."""
    return f"{Recipe.model_fields[name].description} `{name}`"


def field_example(name: str) -> str:
    """What stands in an empty box."""
    return FIELD_EXAMPLES.get(name) or OPEN_MEANS.get(name, "")


def choice_title(word: str) -> str:
    return CHOICE_TITLES.get(word, word)


def field_problem(problem: Mapping[str, Any]) -> str:
    """One problem of pydantic's, as what is wrong and what would be right.

    >>> field_problem({"type": "greater_than_equal", "ctx": {"ge": 1}, "msg": "", "input": "0"})
    '“0” is too small. Write 1 or more.'
    """
    if problem.get("input") in (None, ""):
        return "This may not be empty."
    given = f"“{str(problem.get('input'))[:40]}”"
    limit = {key: _plain(value) for key, value in (problem.get("ctx") or {}).items()}
    match problem["type"]:
        case "greater_than_equal":
            return f"{given} is too small. Write {limit['ge']} or more."
        case "greater_than":
            return f"{given} is too small. Write more than {limit['gt']}."
        case "less_than_equal":
            return f"{given} is too large. Write {limit['le']} or less."
        case "less_than":
            return f"{given} is too large. Write less than {limit['lt']}."
        case "int_parsing" | "int_from_float" | "int_type":
            return f"{given} is no whole number. Write digits only."
        case "float_parsing" | "float_type":
            with_point = str(problem.get("input")).strip().replace(",", ".")
            example = with_point if _is_number(with_point) else "for example 2e-4 or 0.5"
            return f"{given} is no number. Write {example}."
        case "literal_error":
            return f"{given} is not one of {limit.get('expected', 'the choices')}."
        case _:
            words = str(problem["msg"]).removeprefix("Value error, ").rstrip(".")
            return f"{words[:1].upper()}{words[1:]}."


def _is_number(word: str) -> bool:
    return word.count(".") == 1 and word.replace(".", "").isdigit()


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def field_wrong(says: str) -> str:
    """The line under a field whose value is wrong (markdown)."""
    return "⚠ " + says.replace("`", "'")


def left_open(chosen: Any) -> str:
    """In an empty box: what the plan chose for it.

    >>> left_open("1e-3"), left_open("")
    ('chosen for you: 1e-3', 'chosen for you')
    """
    words = {"true": "on", "false": "off"}.get(str(chosen), str(chosen))
    return f"{LEFT_OPEN}: {words}" if words else LEFT_OPEN
