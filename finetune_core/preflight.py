"""Everything that can be known before the training starts: access, data, plan. Refuses what cannot work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from . import hub, measured
from .amounts import many
from .elsewhere import Offer, elsewhere
from .errors import FinetuneError
from .facts import ModelFacts, read_facts
from .machine import Machine, this_machine
from .plan import Plan, make_plan
from .precision import FUSED, IN_8_BITS, PAGED, Formats, first_that_fits
from .recipe import Recipe
from .run import Run
from .sharing import can_share_weights

if TYPE_CHECKING:
    from .check import Diagnosis
    from .data import Prepared
    from .render import ChatTokenizer


READING = 0.4  # share of a look's time that reading takes; the rest is counting tokens


@dataclass(frozen=True)
class Preflight:
    """What a look before a training found: its rows, what is wrong with them, and the plan."""

    recipe: Recipe  # as asked; plan.recipe has every value filled in
    diagnosis: Diagnosis
    plan: Plan
    tokenizer: ChatTokenizer
    prepared: Prepared
    facts: ModelFacts


def look(
    recipe: Recipe,
    *,
    token: str | None = None,
    on_progress: Callable[..., None] | None = None,
    machine: Machine | None = None,
    earlier: Preflight | None = None,
) -> Preflight:
    """Read the data as the trainer will, check it, and plan the training. No weights are read or downloaded.

    earlier: of a recipe that reads the same (`data.again.reads_as`); then no source is read again.

    Raises FinetuneError for a wrong name, an unreadable file, or a model that cannot be had here.
    """
    from .check import check
    from .data import prepare
    from .data.again import prepare_again
    from .render import load_tokenizer

    refuse_impossible(recipe, machine)
    machine = machine or this_machine()
    folder, parameters = model_folder(recipe, token)
    tokenizer = load_tokenizer(folder)
    facts = _facts(folder, recipe, parameters)
    _refuse_few_bits(recipe, facts)
    tell = on_progress or (lambda fraction, says: None)

    def part(start: float, end: float) -> Callable[[float | None, str], None]:
        return lambda share, says: tell(None if share is None else start + (end - start) * share, says)

    reading = part(0.0, READING)
    if earlier is not None and (measures := earlier.diagnosis.measures) is not None:
        prepared = prepare_again(earlier.prepared, measures, recipe, tokenizer, reading)
    else:
        prepared = prepare(recipe, token=token, tokenizer=tokenizer, on_progress=reading)
    diagnosis = check(prepared, tokenizer, recipe, on_progress=part(READING, 1.0))
    plan = plan_for(recipe, facts, diagnosis, machine)
    return Preflight(recipe, diagnosis, plan, tokenizer, prepared, facts)


def look_again(seen: Preflight, recipe: Recipe) -> Preflight:
    """The same rows and model under other settings of how it learns: no row is read, only the plan is made anew.

    Raises FinetuneError for a setting that this machine cannot do.
    """
    refuse_impossible(recipe)
    _refuse_few_bits(recipe, seen.facts)
    return replace(seen, recipe=recipe, plan=plan_for(recipe, seen.facts, seen.diagnosis, this_machine()))


def plan_for(recipe: Recipe, facts: ModelFacts, diagnosis: Diagnosis, machine: Machine) -> Plan:
    """What this recipe costs with the rows that were looked at, corrected by what earlier runs here really took."""
    recipe = _within_context(recipe, facts)
    lengths, validation = diagnosis.split_lengths(recipe.max_length)
    machine = measured.with_products(machine)

    def make(kept_in: Formats) -> Plan:
        return make_plan(
            recipe,
            facts,
            lengths,
            machine,
            measured.speed_here(machine, kept_in.dtype, facts.parameters),
            validation,
            diagnosis.trained_tokens,
            measured.memory_here(machine, kept_in, facts.parameters, recipe.method),
            kept_in,
            diagnosis.shared_tokens,
        )

    plan = first_that_fits(recipe, machine, make)
    if measured.ran_out(plan.as_dict(), plan.recipe, facts.parameters, machine):
        return replace(plan, fits="no", ran_out=True)
    return plan


def offers(seen: Preflight) -> list[Offer]:
    """The same training on the usual GPUs."""
    recipe = _within_context(seen.recipe, seen.facts)
    lengths, _ = seen.diagnosis.split_lengths(recipe.max_length)
    return elsewhere(recipe, seen.facts, lengths, seen.diagnosis.trained_tokens)


def _within_context(recipe: Recipe, facts: ModelFacts) -> Recipe:
    """No row is longer than the model was made for."""
    return recipe if recipe.max_length <= facts.context else recipe.replace(max_length=facts.context)


def create_run(recipe: Recipe, runs_dir: Path, *, token: str | None = None, owner: str = "") -> Run:
    """A run ready to start. Nothing is made on disk when the data is blocked or anything else is refused."""
    seen = look(recipe, token=token)
    return create_run_from(seen, runs_dir, owner=owner)


def create_run_from(
    seen: Preflight,
    runs_dir: Path,
    tail: str | None = None,
    owner: str = "",
    more: Callable[[Path], None] = lambda folder: None,
) -> Run:
    """The run for what was looked at, with its rows: what was checked is what is learned, and is not read again.

    more: puts more into the folder before it counts as a run.
    """
    from .data import write_data

    refuse_blocked(seen)
    warnings = [finding for finding in seen.diagnosis.findings if finding.level == "warning"]
    promised = seen.plan.as_dict() | {
        "warnings": [finding.says for finding in warnings],
        "passed": [{"code": finding.code, "says": finding.says, "rows": finding.count} for finding in warnings],
    }

    def fill(folder: Path) -> None:
        write_data(seen.prepared, folder / "data", promised["passed"])
        more(folder)

    return Run.create(runs_dir, seen.plan.recipe, promised, tail, owner, fill)


def refuse_blocked(seen: Preflight) -> None:
    """Raise FinetuneError (data-blocked) for rows from which nothing can be learned as they are."""
    if seen.diagnosis.verdict == "blocked":
        errors = [finding for finding in seen.diagnosis.findings if finding.level == "error"]
        raise FinetuneError(
            " ".join(finding.says for finding in errors[:3]),
            errors[0].fix if errors else "Look at the check.",
            code="data-blocked",
        )


def model_folder(recipe: Recipe, token: str | None = None) -> tuple[Path, int | None]:
    """Where the model's small files are, and what the Hub counts in its weights if they are not here.

    Raises FinetuneError if they cannot be had.
    """
    name = recipe.model_name_or_path
    found = hub.local_model(name, recipe.model_revision)
    if found is not None:
        return found, None
    if hub.looks_local(name):
        raise FinetuneError(
            f"{name} is no model folder: it has no config.json.",
            "Choose the folder that holds config.json, tokenizer.json and .safetensors files.",
            code="not-found",
        )
    from .recipe import STARTER_MODEL

    if name == STARTER_MODEL and recipe.model_revision is None:
        raise FinetuneError(
            "The starter model is not on this machine yet.",
            "It is being prepared (about a minute, once); or run `python -m finetune_core fetch`.",
            code="starter-not-here",
        )
    return hub.small_files(name, recipe.model_revision, token=token)


def _facts(folder: Path, recipe: Recipe, parameters: int | None) -> ModelFacts:
    try:
        return read_facts(folder, parameters)
    except (KeyError, TypeError, ValueError, AttributeError, FileNotFoundError):
        raise FinetuneError(
            f"{recipe.model_name_or_path} is no language model that Fijn can read.",
            "Choose a decoder model (text-generation), such as a Llama, Qwen, Gemma, Mistral or SmolLM one.",
            code="not-a-language-model",
        ) from None


def _refuse_few_bits(recipe: Recipe, facts: ModelFacts) -> None:
    """Raise FinetuneError (few-bits) for weights that are stored in a format in which they cannot be trained on here.

    transformers makes bfloat16 of mxfp4; bitsandbytes' own are what QLoRA trains on.
    """
    by_bits = facts.stored_as == "bitsandbytes"
    if facts.stored_as in ("", "mxfp4") or (by_bits and recipe.method == "qlora"):
        return
    raise FinetuneError(
        f"The weights of {recipe.model_name_or_path} are stored in few bits ({facts.stored_as}), from which "
        f"{'only qlora' if by_bits else 'Fijn'} can{'' if by_bits else 'not'} train.",
        f"Choose the model that it was made from{', or method: qlora' if by_bits else ''}.",
        code="few-bits",
    )


def refuse_impossible(recipe: Recipe, machine: Machine | None = None) -> None:
    """Raise FinetuneError for what this machine (None), or one that could be rented, cannot do whatever the rows."""
    is_here, machine = machine is None, machine or this_machine()
    places = len(machine.gpus) if machine.gpus else 1 if machine.kind == "mps" else machine.cores
    if recipe.num_processes > places:
        has = many(places, "GPU" if machine.kind != "cpu" else "core")
        raise FinetuneError(
            f"{recipe.num_processes} processes need as many places to compute; {'this' if is_here else 'that'} machine "
            f"has {has}.",
            f"Set num_processes to {places} or less.",
            code="too-many-processes",
        )
    if recipe.fsdp and recipe.num_processes == 1:
        raise FinetuneError(
            "fsdp shares the weights among several processes, and num_processes is 1.",
            "Set num_processes to the number of GPUs, or leave fsdp empty.",
            code="no-fsdp",
        )
    if recipe.fsdp and not can_share_weights(recipe):
        raise FinetuneError(
            "FSDP is known to work neither with weights in 4 bits (QLoRA) nor with DoRA, nor with moments in 8 bits.",
            "Choose method lora without use_dora, or method full with optim adamw_torch_fused; or leave fsdp empty.",
            code="no-fsdp",
        )
    if recipe.use_liger_kernel and not machine.has_liger:
        raise FinetuneError(
            "Liger kernels need an NVIDIA GPU and the package liger-kernel.",
            "Run `pip install liger-kernel` on such a machine, or leave use_liger_kernel empty.",
            code="no-liger",
        )
    if recipe.method == "qlora" and machine.kind != "cuda":
        raise FinetuneError(
            "QLoRA keeps the weights in 4 or 8 bits, which needs an NVIDIA GPU; "
            f"{'this' if is_here else 'that'} machine has none.",
            "Choose the method lora, or a machine with a GPU.",
            code="no-gpu",
        )
    if recipe.method == "qlora" and not machine.bitsandbytes:
        raise FinetuneError(
            "QLoRA keeps the weights in 4 or 8 bits by the package bitsandbytes, which is not installed.",
            "Run `pip install bitsandbytes`, or choose the method lora.",
            code="no-quantization",
        )
    if recipe.optim in (IN_8_BITS, PAGED) and not machine.has_low_bits:
        lacks = "this machine has none" if machine.kind != "cuda" else "bitsandbytes is not installed"
        raise FinetuneError(
            f"{recipe.optim} keeps the moments in 8 bits by the package bitsandbytes on an NVIDIA GPU; {lacks}.",
            f"{'Choose' if machine.kind != 'cuda' else 'Run `pip install bitsandbytes`, or choose'} "
            f"optim: {FUSED}, or leave it empty.",
            code="no-gpu" if machine.kind != "cuda" else "no-quantization",
        )
