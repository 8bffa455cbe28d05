"""What Choose says: presets, boxes, settings. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_core.amounts import count, gib, many
from finetune_core.errors import FinetuneError
from finetune_core.presets import Preset
from finetune_core.recipe import Recipe

from .words import esc, icon, join

TITLE = "What should it learn?"
SUBTITLE = "Pick what comes closest. Everything below is filled in; change what you like."
MODEL_TITLE = "Model"
MODEL_HELP = "Where to start: a model on the Hugging Face Hub, or in a folder here."
MODEL_HELP_ON_SPACE = "Where to start: a model on the Hugging Face Hub."
DATA_TITLE = "Data"
DATA_HELP = "What to learn from: a file of yours, or a data set on the Hub."
ROWS_STAY = "Your rows stay on this machine, unless you share them, name a judge or train elsewhere."
DATA_FILES = (
    ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".tab", ".xlsx", ".xlsm", ".xls", ".ods", ".parquet", ".pq",
    ".arrow", ".feather", ".txt", ".text", ".md", ".gz", ".zst", ".zip",
)  # fmt: skip
LEFT_OPEN = "chosen for you"
SETTINGS_TITLE = "All settings"
COMMAND_TITLE = "The same as a command"
NO_COMMAND = "First correct the settings that are marked."

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


# --- presets ---


def preset_cards(presets: Sequence[Preset], chosen: str, costs: Mapping[str, str]) -> str:
    """The cards; `costs`: preset → how long here, or why not here (a missing one is still being computed)."""
    cards = []
    names = [preset.name for preset in presets]
    stop = chosen if chosen in names else names[0]  # where Tab goes; arrows go on from there
    for preset in presets:
        checked = "true" if preset.name == chosen else "false"
        cost = costs.get(preset.name)
        foot = (
            f'<span class="preset-cost">{esc(cost)}</span>'
            if cost is not None
            else '<span class="preset-cost"><span class="skeleton">about 3 minutes here</span></span>'
        )
        cards.append(
            f'<button type="button" class="preset" role="radio" aria-checked="{checked}" '
            f'data-preset="{esc(preset.name)}" tabindex="{0 if preset.name == stop else -1}"><b>{esc(preset.title)}</b>'
            f'<i class="preset-tick">{icon("check")}</i><span>{esc(preset.description)}</span>{foot}</button>'
        )
    return f'<div class="presets" role="radiogroup" aria-label="{TITLE}">{"".join(cards)}</div>'


def fitting(preset: Preset, why: str) -> str:
    """One click to the preset that fits the rows."""
    return (
        f'<div class="notice info" role="status">{icon("info")}<div><p class="notice-title">{esc(why)} '
        f"“{esc(preset.title)}” fits them better.</p>"
        '<p class="notice-text">Quick look is made for the starter model and its rows: few passes in large steps. '
        "What you have set yourself stays. "
        f'<button type="button" class="btn" data-fit="{esc(preset.name)}">Use “{esc(preset.title)}”</button></p>'
        "</div></div>"
    )


def heading() -> str:
    return f'<h1 class="lead">{TITLE}</h1><p class="sub">{SUBTITLE}</p>'


def reopened(run_title: str) -> str:
    """Above the boxes when they show a run that is already made."""
    return (
        f'<div class="notice">{icon("info")}<p>These are the choices of <b>{esc(run_title)}</b>. '
        "That run stays as it is; what you change here starts a new one.</p></div>"
    )


# --- model and data ---


def model_note(says: str = "", tone: str = "", facts: str = "") -> str:
    """Under the model box: its badge and a few facts; a place that keeps its height while nothing is known."""
    if not says:
        return '<p class="box-note"><span class="skeleton">Fits · 1.2 of 20 GB</span></p>'
    badge = f'<span class="badge {esc(tone)}">{esc(says)}</span>'
    return f'<p class="box-note">{badge}<span>{esc(facts)}</span></p>'


def data_note(says: str = "", tone: str = "", facts: str = "") -> str:
    return model_note(says, tone, facts)


def drop_zone(note: str) -> str:
    """One place for a file and for pasted rows, and where they stay."""
    return (
        '<div class="drop" data-drop>'
        f'<label class="drop-file">{icon("file")}<span><b>Drop a file</b> or choose one</span>'
        '<input type="file" class="visually-hidden" aria-label="Choose a data file" '
        f'accept="{",".join(DATA_FILES)}"></label>'
        '<button type="button" class="btn quiet" data-paste>Paste rows</button></div>'
        '<div class="paste" hidden><label class="visually-hidden" for="paste-rows">Rows to learn from</label>'
        '<textarea id="paste-rows" rows="6" spellcheck="false" placeholder="Paste rows here: JSON lines, a JSON list, '
        'CSV with a header, or plain text"></textarea><div class="paste-foot">'
        '<button type="button" class="btn" data-use>Use these rows</button>'
        '<button type="button" class="btn quiet" data-cancel>Cancel</button></div></div>'
        '<p class="drop-says" role="status" aria-live="polite"></p>'
        + (f'<p class="drop-note">{note}</p>' if note else "")
    )


def command(line: str, why_not: str = "") -> str:
    """The line that Start runs, with a copy button."""
    if why_not:
        return f'<p class="muted">{esc(why_not)}</p>'
    return (
        f'<div class="command"><code>{esc(line)}</code>'
        f'<button type="button" class="btn" data-copy="{esc(line)}">{icon("copy")}<span>Copy</span></button></div>'
    )


def settings_title(changed: int) -> str:
    """
    >>> settings_title(0), settings_title(2)
    ('All settings', 'All settings · 2 changed')
    """
    return f"{SETTINGS_TITLE} · {many(changed, 'changed', 'changed')}" if changed else SETTINGS_TITLE


def settings_search() -> str:
    return (
        f'<label class="settings-search">{icon("search")}<span class="visually-hidden">Search the settings</span>'
        '<input type="search" placeholder="Search the settings" autocomplete="off"></label>'
        '<p class="settings-none" hidden>No setting has that word.</p>'
    )


def settings_group(title: str) -> str:
    return f'<h3 class="settings-group">{esc(title)}</h3>'


def left_open(chosen: Any) -> str:
    """In an empty box: what the plan chose for it.

    >>> left_open("1e-3"), left_open("")
    ('chosen for you: 1e-3', 'chosen for you')
    """
    words = {"true": "on", "false": "off"}.get(str(chosen), str(chosen))
    return f"{LEFT_OPEN}: {words}" if words else LEFT_OPEN


def model_facts(plan: Any, facts: Any) -> tuple[str, str, str]:
    """(badge, tone, facts) for a model whose plan is known."""
    need = "as measured" if plan.ran_out else f"{gib(plan.memory_gb['total'])} of {gib(plan.available_gb)}"
    badge, tone = {"fits": (f"Fits · {need}", "good"), "tight": (f"Tight · {need}", "warn")}.get(
        plan.fits, (f"Too large · {need}", "bad")
    )
    known = [f"{parameters(facts.parameters)} parameters", f"reads up to {many(facts.context, 'token')}"]
    return badge, tone, join(known)


def parameters(number: int) -> str:
    """
    >>> parameters(134_515_008), parameters(4_020_000_000)
    ('135 million', '4.0 billion')
    """
    return f"{number / 1e6:.0f} million" if number < 1e9 else f"{number / 1e9:.1f} billion"


def data_facts(diagnosis: Any) -> tuple[str, str, str]:
    """(badge, tone, facts) for rows that were read and checked."""
    tone = {"ready": "good", "warnings": "good"}.get(diagnosis.verdict, "bad")
    splits = join(
        [
            f"{count(diagnosis.train_rows)} to learn",
            f"{count(diagnosis.validation_rows)} to check along the way" if diagnosis.validation_rows else "",
            f"{count(diagnosis.test_rows)} to prove" if diagnosis.test_rows else "",
        ]
    )
    return many(diagnosis.rows, "row"), tone, splits


def unknown_model(error: FinetuneError | None) -> tuple[str, str, str]:
    """(badge, tone, facts) when no plan could be made."""
    if error is not None and error.code == "starter-not-here":
        return "Starter model", "", "is being brought to this machine"
    return "Not known yet", "", ""


UNKNOWN_DATA = ("Not read yet", "", "")
