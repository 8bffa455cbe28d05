"""Every choice of a training, once. The form, the flags, the YAML comments and the range checks come from here."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from .errors import FinetuneError
from .files import read_yaml, replacing

STARTER_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
STARTER_DATA = "shop-messages"

ROLES = ("messages", "prompt", "completion", "text", "system", "context", "label", "chosen", "rejected", "desired")


def option(default: Any, group: str, description: str, **limits: Any) -> Any:
    """One option: its default, the heading it stands under, what it does, and its range."""
    return Field(default, description=description, json_schema_extra={"group": group}, **limits)


class Recipe(BaseModel):
    """All choices of one training. Names are TRL's, transformers' and peft's own.

    None means "chosen for this machine": the plan fills it in before a run is made, so that a run's own
    recipe has every value written out.

    >>> Recipe(learning_rate="2e-4").learning_rate
    0.0002
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    # Model
    model_name_or_path: str = option(
        STARTER_MODEL, "Model", "Base model: a name on the Hub (owner/name) or a folder on this machine.", min_length=1
    )
    model_revision: str | None = option(None, "Model", "Branch, tag or commit of the model on the Hub.")
    dtype: Literal["bfloat16", "float16", "float32"] | None = option(
        None, "Model", "Number format of the base weights. Empty: bfloat16 where the machine is fast at it."
    )
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] | None = option(
        None, "Model", "How attention is computed. Empty: the fastest that is installed and exact."
    )

    # Data
    dataset_name: str = option(
        STARTER_DATA,
        "Data",
        "Training rows: a file or folder on this machine, a name on the Hub, or starter data.",
        min_length=1,
    )
    dataset_config: str | None = option(None, "Data", "Configuration (subset) of a Hub data set.")
    dataset_revision: str | None = option(None, "Data", "Branch, tag or commit of a Hub data set.")
    dataset_train_split: str = option("train", "Data", "Split to learn from.", min_length=1)
    columns: dict[str, str] = option(
        {}, "Data", f"Which column plays which role ({', '.join(ROLES)}). Empty: recognised from the rows."
    )
    template: str | None = option(
        None, "Data", "A line that makes the prompt from columns, such as: Translate: {sentence}"
    )
    system_prompt: str | None = option(None, "Data", "A system prompt to add to rows that have none.")
    max_rows: int | None = option(None, "Data", "Use at most this many rows, drawn with the seed.", ge=1)
    validation_size: float = option(
        0.1, "Data", "Share of the rows kept to watch for overfitting, unless the data has its own split.", ge=0, le=0.5
    )
    test_size: float = option(
        0.1,
        "Data",
        "Share of the rows kept for the proof and never trained on, unless the data has its own split.",
        ge=0,
        le=0.5,
    )
    fixes: list[str] = option([], "Data", "Repairs to apply to the rows, by the code of the finding they solve.")
    accept_warnings: bool = option(False, "Data", "Train although the check has warnings.")

    # Method
    method: Literal["lora", "qlora", "full"] = option(
        "lora",
        "Method",
        "How the weights move: a small adapter (lora), an adapter on 4-bit weights (qlora), all (full).",
    )
    load_in_8bit: bool = option(
        False,
        "Method",
        "With qlora: base weights in 8 bits instead of 4, which is nearer to the original and takes twice the memory.",
    )
    objective: Literal["sft"] = option("sft", "Method", "What is learned: the answers in the rows (sft).")
    lora_r: int = option(16, "Method", "Adapter rank. Larger learns more and needs more memory.", ge=1, le=256)
    lora_alpha: int = option(32, "Method", "Adapter scale; twice the rank is usual.", ge=1, le=1024)
    lora_dropout: float = option(0.0, "Method", "Share of adapter inputs dropped while training.", ge=0, lt=1)
    lora_target_modules: str | list[str] = option(
        "all-linear", "Method", "Layers that get an adapter: all-linear, or a list of names."
    )
    use_rslora: bool = option(False, "Method", "Rank-stabilised scale (rsLoRA); helps at ranks of 64 and above.")
    autocast_adapter_dtype: bool | None = option(
        None,
        "Method",
        "Keep the adapter in float32 beside base weights in fewer bits. Empty: yes, but with qlora in bfloat16.",
    )
    use_dora: bool = option(False, "Method", "Weight-decomposed adapter (DoRA): a little better, a good deal slower.")

    # Training
    learning_rate: float | None = option(
        None,
        "Training",
        "Size of each step. Empty: 2e-4 for adapters (more for small models), 2e-5 for all weights.",
        gt=0,
        le=1,
    )
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = option(
        "linear", "Training", "How the learning rate goes down."
    )
    warmup_steps: float = option(
        0.05, "Training", "Steps in which the learning rate goes up; below 1 it is a share of all steps.", ge=0
    )
    num_train_epochs: float = option(2.0, "Training", "How often every row is seen.", gt=0, le=100)
    max_steps: int = option(-1, "Training", "Stop after this many steps, whatever the epochs say. -1: no limit.", ge=-1)
    max_minutes: float | None = option(
        None,
        "Training",
        "Learn for about so many minutes, with fewer epochs where this machine would need longer. Empty: all epochs.",
        gt=0,
        le=100_000,
    )
    per_device_train_batch_size: int = option(8, "Training", "Rows in one pass through the model.", ge=1, le=1024)
    gradient_accumulation_steps: int = option(
        1, "Training", "Passes that are added up into one step.", ge=1, le=1048576
    )
    num_processes: int = option(
        1, "Training", "Processes of this machine, one a GPU, that share the rows of each step.", ge=1, le=64
    )
    fsdp: bool | None = option(
        None,
        "Training",
        "Share the weights among the processes too (FSDP). Empty: where a copy does not fit on each GPU.",
    )
    max_length: int = option(1024, "Training", "Tokens of a row that are read; longer rows are cut.", ge=8, le=1048576)
    packing: bool | None = option(
        None, "Training", "Put several short rows into one, without mixing them. Empty: where it is exact and pays."
    )
    packing_length: int | None = option(
        None, "Training", "Tokens in one packed row. Empty: chosen from the rows' lengths.", ge=8, le=1048576
    )
    share_prefix: bool | None = option(
        None,
        "Training",
        "Compute the tokens with which all rows begin, such as a system prompt, once for all rows that are packed "
        "together. Empty: where it is exact and pays (on a processor).",
    )
    gradient_checkpointing: bool | None = option(
        None, "Training", "Compute activations twice to save memory (slower). Empty: only when needed."
    )
    use_liger_kernel: bool | None = option(
        None, "Training", "Triton kernels of the package liger-kernel (NVIDIA). Empty: where it is installed."
    )
    optim: Literal["adamw_torch_fused", "adamw_8bit", "paged_adamw_8bit"] | None = option(
        None,
        "Training",
        "Optimizer. With 8 bits its moments need a quarter of the memory (NVIDIA GPU, bitsandbytes); paged: they may "
        "lie in the machine's own memory. Empty: 8 bits only when needed.",
    )
    train_sampling_strategy: Literal["group_by_length", "random"] | None = option(
        None, "Training", "Which rows share a batch. Empty: rows of like length, or at random where they are packed."
    )
    dataloader_num_workers: int = option(
        0,
        "Training",
        "Processes that prepare batches beside the training. The rows are token ids by then, so 0 is fast.",
        ge=0,
        le=32,
    )
    weight_decay: float = option(0.0, "Training", "Pull of all trained weights towards zero.", ge=0, le=1)
    max_grad_norm: float = option(1.0, "Training", "Longest step in any direction (gradient clipping).", ge=0)
    seed: int = option(42, "Training", "Draws the splits, the order of rows and the first adapter weights.", ge=0)

    # Watching
    logging_steps: int | None = option(None, "Watching", "Steps between two points of the loss curve.", ge=1)
    eval_steps: int | None = option(None, "Watching", "Steps between two looks at the validation rows.", ge=1)
    eval_rows: int | None = option(
        None,
        "Watching",
        "Look at no more validation rows than this, evenly spread. Empty: at all; at fewer where they would take more "
        "than a quarter of max_minutes.",
        ge=1,
    )
    save_steps: int | None = option(None, "Watching", "Steps between two checkpoints.", ge=1)
    early_stopping: bool = option(
        False, "Watching", "Stop when the validation loss no longer falls, and keep the best checkpoint."
    )
    early_stopping_patience: int = option(
        2, "Watching", "Looks at the validation rows without progress before stopping.", ge=1, le=100
    )
    sample_prompt: str | None = option(
        None, "Watching", "A message that is answered while it learns. Empty: the first validation row's."
    )

    # Proof
    evaluate: bool = option(True, "Proof", "Compare base and tuned model on the test rows when training is done.")
    evaluate_rows: int = option(100, "Proof", "Compare on at most this many test rows.", ge=1, le=100_000)
    few_shot_examples: int = option(4, "Proof", "Examples in the prompt of the rival that gets examples.", ge=0, le=64)
    rival_system_prompt: str | None = option(
        None, "Proof", "A better prompt to try on the untuned model, as a rival to tuning."
    )
    max_new_tokens: int = option(
        256, "Proof", "Longest answer, in tokens, when comparing and predicting.", ge=1, le=8192
    )

    @field_validator("columns")
    @classmethod
    def _known_roles(cls, columns: dict[str, str]) -> dict[str, str]:
        for role in columns:
            if role not in ROLES:
                raise ValueError(f"{role!r} is no role; roles are {', '.join(ROLES)}")
        return columns

    @field_validator("*", mode="before")
    @classmethod
    def _empty_is_none(cls, value: Any) -> Any:
        """An emptied box in the form means None where None is allowed; elsewhere the range check speaks."""
        return None if isinstance(value, str) and value.strip() == "" else value

    @field_validator("fixes", mode="before")
    @classmethod
    def _split_fixes(cls, fixes: Any) -> Any:
        """Repairs may be typed with commas: fixes=drop-empty-answers,drop-duplicates."""
        return [fix for word in fixes.split(",") if (fix := word.strip())] if isinstance(fixes, str) else fixes

    @field_validator("max_steps")
    @classmethod
    def _some_steps(cls, steps: int) -> int:
        if steps == 0:
            raise ValueError("in no step nothing is learned; -1 sets no limit")
        return steps

    @model_validator(mode="after")
    def _bits_have_an_adapter(self) -> Recipe:
        if self.load_in_8bit and self.method != "qlora":
            raise ValueError("load_in_8bit is for the method qlora: weights that all move are not kept in 8 bits")
        return self

    @model_validator(mode="after")
    def _shares_leave_rows(self) -> Recipe:
        if self.validation_size + self.test_size > 0.8:
            raise ValueError("validation_size and test_size together leave less than a fifth of the rows to learn from")
        return self

    @classmethod
    def make(cls, values: dict[str, Any]) -> Recipe:
        """Validate outside values; all problems at once, in words. Raises FinetuneError (code bad-recipe)."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise _bad_recipe(error, cls) from None

    @classmethod
    def load(cls, path: Path) -> Recipe:
        """Read a YAML recipe. Raises FinetuneError if it is missing, is no YAML, or holds a wrong value."""
        return cls.make(read_yaml(path))

    def save(self, path: Path) -> None:
        """Write every value under its explanation. Written beside and renamed: never half a recipe."""
        with replacing(path) as beside:
            beside.write_text(self.as_yaml(), encoding="utf-8")

    def as_yaml(self) -> str:
        lines = ["# A Fijn recipe. Run it with: python -m finetune_core train recipe.yaml"]
        group = ""
        values = self.model_dump()
        for name, field in type(self).model_fields.items():
            if group_of(name) != group:
                group = group_of(name)
                lines.append(f"\n# --- {group} ---")
            lines.append(f"# {field.description}")
            lines.append(
                yaml.safe_dump({name: values[name]}, allow_unicode=True, sort_keys=False, width=10**6).rstrip()
            )
        return "\n".join(lines) + "\n"

    def replace(self, **changes: Any) -> Recipe:
        """A copy with changes, validated again."""
        return type(self).make(self.model_dump() | changes)

    def changed(self) -> dict[str, Any]:
        """Only the values that differ from the defaults: what a command line must say."""
        defaults = {name: field.get_default(call_default_factory=True) for name, field in Recipe.model_fields.items()}
        return {name: value for name, value in self.model_dump().items() if value != defaults[name]}


def group_of(name: str) -> str:
    """The heading under which an option stands."""
    return Recipe.model_fields[name].json_schema_extra["group"]  # type: ignore[index,return-value]


@dataclass(frozen=True)
class Suggestion:
    """Something to try, one click: recipe fields to replace, validated again."""

    says: str
    changes: dict[str, Any]


def _bad_recipe(error: ValidationError, cls: type[BaseModel]) -> FinetuneError:
    problems = []
    for item in error.errors():
        name = ".".join(str(part) for part in item["loc"] if part not in ("str", "list[str]")) or "recipe"
        if item["type"] == "extra_forbidden":
            longer = [field for field in cls.model_fields if field.endswith(f"_{name}")]
            near = longer if len(longer) == 1 else difflib.get_close_matches(name, cls.model_fields, 1)
            problems.append(f"{name} is not an option" + (f" (did you mean {near[0]}?)" if near else ""))
        else:
            words = item["msg"].removeprefix("Value error, ")
            problems.append(f"{name}: {words[0].lower() + words[1:]} (given: {str(item['input'])[:60]!r})")
    return FinetuneError(
        "; ".join(problems) + ".", "Correct it in the recipe or under “All settings”.", code="bad-recipe"
    )
