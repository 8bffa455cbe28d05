"""`export`: a run's result as a folder that needs nothing else, compared with the tuned model before it is kept."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..alone import WAITING, alone
from ..errors import FinetuneError
from ..files import move, require_disk
from ..machine import GIB, this_machine
from ..run import Run
from . import KINDS, TARGETS, gguf
from .card import write_card
from .facts import gather
from .kept import ABOUT, about, result_files, shareable_recipe, short_name
from .merge import BYTES, copy_licence, count_weights, merge, merged_dtype
from .modelfile import modelfile, probe_conversations, translate
from .parity import MOST_TOKENS, Parity, Trace, judge, not_kept, require, what_is_off

if TYPE_CHECKING:
    from ..answers.chatter import Chatter

Tell = Callable[..., Any]
DEFAULT_KINDS = ("f16", "q8_0")
SPARE_DISK = 200 * 2**20  # bytes that stay free
OLLAMA_CONTEXT = 4096  # tokens; what Ollama itself takes where nothing is said


@dataclass(frozen=True)
class Reference:
    """The tuned model's own answers, which every export must give too."""

    rows: list[dict[str, Any]]
    split: str
    prompts: list[list[int]]
    traces: list[Trace]


def export(
    run: Run, to: str, output: Path, *, kinds: Sequence[str] = DEFAULT_KINDS, tell: Tell | None = None
) -> dict[str, Any]:
    """Write the run's result into a new folder: {path, files, bytes, parity, …}.

    to: "adapter" (what was trained), "merged" (whole weights) or "gguf" (with an Ollama Modelfile; `kinds` of KINDS).
    `tell` gets diary lines ("stage", name=…, fraction=…, says=…). Raises FinetuneError (parity-failed, disk-full,
    not-empty, no-result, …), and then nothing is left at the output; but of several kinds those that passed, with what
    was wrong with the others in parity.json.
    """
    say = tell or (lambda kind, **data: None)
    _check(run, to, output, kinds)
    from ..model import fetch_model

    say("stage", name="fetching")
    base = fetch_model(run.recipe.model_name_or_path, run.recipe.model_revision, token=os.environ.get("HF_TOKEN"))
    needed = bytes_needed(run, base, to, kinds) + SPARE_DISK
    require_disk(output.parent, needed, "This export", "Free some space, or choose an --output on another disk.")
    making = output.with_name(f".{output.name}.{run.id[-8:]}.part")
    shutil.rmtree(making, ignore_errors=True)
    try:
        making.parent.mkdir(parents=True, exist_ok=True)
        with alone(run.path.parent, lambda: say("stage", name=WAITING)):
            made, parity = _make(run, base, to, making, kinds, say)
        say("stage", name="saving")
        shareable_recipe(run.recipe).save(making / "recipe.yaml")
        (making / ABOUT).write_text(json.dumps(about(run), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        (making / "parity.json").write_text(json.dumps(parity, indent=1) + "\n", encoding="utf-8")
        facts = gather(run, base, parity)
        write_card(making, facts, to)
        if output.exists():
            output.rmdir()
        move(making, output)
    except PermissionError:
        raise FinetuneError(
            f"{output} cannot be written to.", "Choose another --output.", code="no-permission"
        ) from None
    finally:
        shutil.rmtree(making, ignore_errors=True)
    if failed := parity.get("failed"):
        raise not_kept(list(failed.values()), str(output))
    files = sorted(str(file.relative_to(output)) for file in output.rglob("*") if file.is_file())
    size = sum((output / file).stat().st_size for file in files)
    return {"path": str(output), "to": to, "files": files, "bytes": size, "parity": parity, **made}


def bytes_needed(run: Run, base: Path, to: str, kinds: Sequence[str] = DEFAULT_KINDS) -> int:
    """Disk that an export takes while it is made, from the weights' own headers."""
    if to == "adapter":
        return sum(file.stat().st_size for file in result_files(run))
    weights = count_weights(run.result_dir if run.recipe.method == "full" else base)
    merged = weights * BYTES[merged_dtype(run)]
    if to == "merged":
        return merged
    return merged + round(weights * sum(gguf.BYTES[kind] for kind in kinds))


def _make(
    run: Run, base: Path, to: str, making: Path, kinds: Sequence[str], say: Tell
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write the files and compare them: (further keys of the answer, the parity)."""
    whole = to != "adapter" or run.recipe.method == "full"
    merged = making / ".merged" if to == "gguf" else making
    if whole:
        say("stage", name="merging")
        merge(run, base, merged)
    else:
        making.mkdir()
        for file in result_files(run):
            shutil.copyfile(file, making / file.name)
        copy_licence(base, making)
    dtype = _comparing_dtype(run, base)  # once: both sides in the same, whatever memory is free later
    reference = _ask_tuned(run, base, dtype, say)
    if to == "gguf":
        return _make_gguf(run, merged, making, kinds, reference, say)
    name = merged_dtype(run) if whole else "adapter"
    say("stage", name="comparing", fraction=0.5, says="asking the exported files")
    chatter = _whole(run, making, dtype) if whole else _with_adapter(run, base, making, dtype)
    found = _compare(run, chatter, reference, name, say)
    return {}, require(found).as_dict()


def _make_gguf(
    run: Run, merged: Path, making: Path, kinds: Sequence[str], reference: Reference, say: Tell
) -> tuple[dict[str, Any], dict[str, Any]]:
    from ..render import load_tokenizer

    tokenizer = load_tokenizer(merged)
    name = short_name(run)
    files = gguf.write_gguf(
        merged, making, name, kinds, lambda kind: say("stage", name="converting", says=f"writing {kind}")
    )
    shutil.rmtree(merged)
    probes = probe_conversations() if tokenizer.template.takes_system else []
    found: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    for place, (kind, file) in enumerate(zip(kinds, files, strict=True)):
        say("stage", name="comparing", fraction=place / len(kinds), says=f"llama.cpp answers with {file.name}")
        traces, texts = gguf.run_llama(
            file, reference.prompts, () if place else probes, tokenizer.stop_ids, _most_tokens(run)
        )
        for messages, text in zip(probes, texts, strict=False):
            if text != tokenizer.template.prompt(tokenizer.template.adapt(messages)):
                raise _another_template("llama.cpp")
        traces = gguf.shared_logprobs(reference.traces, traces)
        parity = judge(reference.traces, traces, kind, engine=gguf.ENGINE, split=reference.split)
        if parity.passed:
            found[file.name] = parity.as_dict()
        else:
            failed[file.name] = what_is_off(parity)
            file.unlink()
    if not found:
        raise not_kept(list(failed.values()))
    files = [file for file in files if file.name in found]
    # Ollama gets the nearest that is not half a copy of everything: 8 bits, else what there is
    weights = next((file for file in files if "q8_0" in file.name), files[-1])
    translation = translate(tokenizer, gguf.adds_bos(weights))
    base_name = shareable_recipe(run.recipe).model_name_or_path
    (making / "Modelfile").write_text(
        modelfile(
            weights.name,
            translation,
            stops=sorted(token for id in tokenizer.stop_ids if (token := tokenizer.backend.id_to_token(id))),
            system_prompt=run.recipe.system_prompt,
            context=min(tokenizer.model_max_length, OLLAMA_CONTEXT),
            about=f"{base_name}, tuned with Fijn as {run.id}\nollama create {name} -f Modelfile",
        ),
        encoding="utf-8",
    )
    worst = min(found.values(), key=lambda parity: (parity["same"], -parity["logprob_mean"]))
    ollama = {"template": translation.template is not None, "why": translation.why, "name": name}
    return {"ollama": ollama}, {**worst, "by_file": found} | ({"failed": failed} if failed else {})


def _ask_tuned(run: Run, base: Path, dtype: str, say: Tell) -> Reference:
    """The tuned model (adapter on base, which is not in 4 bits here) on held-out prompts. Its memory is free again."""
    from ..model import free_memory
    from .traces import held_rows, prompts_of, trace

    say("stage", name="comparing", fraction=0.0, says="asking the tuned model")
    full = run.recipe.method == "full"
    chatter = _whole(run, run.result_dir, dtype) if full else _with_adapter(run, base, run.result_dir, dtype)
    split, rows = held_rows(run)
    prompts = prompts_of(rows, chatter.tokenizer)
    if not prompts:
        raise FinetuneError(
            "No row of this run can be asked, so the export cannot be compared.",
            "Check its rows (data/test.jsonl in the run's folder).",
            code="parity-failed",
        )
    traces = trace(chatter, "tuned", prompts, max_new_tokens=_most_tokens(run), on_fraction=_telling(say, 0.0))
    del chatter
    free_memory()
    return Reference(rows, split, prompts, traces)


def _compare(run: Run, chatter: Chatter, reference: Reference, name: str, say: Tell) -> Parity:
    from .traces import prompts_of, trace

    if prompts_of(reference.rows, chatter.tokenizer) != reference.prompts:
        raise _another_template("transformers")
    traces = trace(
        chatter,
        "tuned",
        reference.prompts,
        given=reference.traces,
        max_new_tokens=_most_tokens(run),
        on_fraction=_telling(say, 0.5),
    )
    return judge(reference.traces, traces, name, engine="transformers", split=reference.split)


def _with_adapter(run: Run, base: Path, adapter: Path, dtype: str) -> Chatter:
    """The base model with an adapter over it, and the adapter folder's own tokenizer and template."""
    from ..answers.chatter import AdapterModels, Chatter
    from ..model import load_base
    from ..render import load_tokenizer

    model = load_base(base, dtype=dtype, attn_implementation=run.recipe.attn_implementation or "sdpa")
    return Chatter(AdapterModels(model, {"tuned": adapter}), load_tokenizer(adapter), ["tuned"])


def _whole(run: Run, folder: Path, dtype: str) -> Chatter:
    from .traces import chatter_of

    return chatter_of(folder, dtype, run.recipe.attn_implementation or "sdpa")


def _comparing_dtype(run: Run, base: Path) -> str:
    """What to compute in while comparing: float32 shows what the export changed and nothing else, if it fits."""
    machine = this_machine()
    free = machine.gpus[0].free_gb if machine.gpus else machine.available_gb
    weights = count_weights(run.result_dir if run.recipe.method == "full" else base)
    return "float32" if 1.3 * 4 * weights < free * GIB else merged_dtype(run)


def _most_tokens(run: Run) -> int:
    return min(run.recipe.max_new_tokens, MOST_TOKENS)


def _check(run: Run, to: str, output: Path, kinds: Sequence[str]) -> None:
    if to not in TARGETS:
        raise FinetuneError(f"There is no export {to!r}.", f"Choose one of {', '.join(TARGETS)}.", code="usage")
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise FinetuneError(f"There is no GGUF type {unknown[0]!r}.", f"Types: {', '.join(KINDS)}.", code="usage")
    if not run.has_result():
        raise FinetuneError("This run has no tuned model yet.", "Finish its training first.", code="no-result")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise FinetuneError(
            f"{output} is there already and not empty.", "Choose another --output, or empty it.", code="not-empty"
        )


def _telling(say: Tell, start: float) -> Callable[[float], None]:
    """A function that tells how far half of the stage is, at most ten times."""
    last = [-1.0]

    def tell(fraction: float) -> None:
        if fraction - last[0] >= 0.1:
            last[0] = fraction
            say("stage", name="comparing", fraction=round(start + 0.5 * fraction, 3))

    return tell


def _another_template(program: str) -> FinetuneError:
    return FinetuneError(
        f"The exported files make {program} write a conversation otherwise than in training. They were not kept.",
        "Take the adapter, which carries what was trained; if this happens again, please report the base model's name.",
        code="parity-failed",
    )
