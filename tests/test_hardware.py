"""What Hugging Face Jobs rents out: which GPU, how many of it, for how much; nothing is rented here."""

import json
from types import SimpleNamespace

import pytest
from hub_store import ALICE
from planned import flavor

from finetune_core.errors import FinetuneError
from finetune_core.presets import resolve_recipe


def test_the_cheapest_gpu_on_which_it_fits_is_chosen_and_the_price_has_an_end(recipe):
    from finetune_core.jobs.hardware import choose
    from finetune_core.preflight import look

    small, large, several = flavor("small", 0.01, 0.2), flavor("large", 0.02, 24), flavor("several", 0.005, 24, 4)
    seen = look(recipe, machine=large.machine)
    made = choose(seen, [several, small, large])
    assert made.flavor is large  # the small one lacks memory, of several GPUs three would idle
    assert made.timeout_seconds >= max(1800, 2 * made.plan.seconds)
    assert made.dollars < made.dollars_at_most == pytest.approx(made.timeout_seconds / 60 * 0.02)
    shared = look(recipe.replace(num_processes=4), machine=several.machine)
    assert choose(shared, [large, several]).flavor is several
    for flavors, name in (([small], ""), ([small, large], "small")):
        with pytest.raises(FinetuneError) as refused:
            choose(seen, flavors, name)
        assert refused.value.code == "does-not-fit" and refused.value.fix


def test_all_gpus_of_what_was_asked_for_are_used_unless_a_number_was_set():
    from finetune_core.jobs.hardware import with_all_gpus

    flavors = [flavor("one", 0.01, 24), flavor("four", 0.04, 24, gpus=4)]
    for name, words, processes in (
        ("four", [], 4), ("four", ["num_processes=1"], 1), ("four", ["num_processes=2"], 2),
        ("one", [], 1), ("", [], 1), ("no-such", [], 1),
    ):  # fmt: skip
        asked = resolve_recipe("quick-look", words)
        assert with_all_gpus(asked, flavors, name).num_processes == processes, (name, words)


@pytest.mark.parametrize(("words", "idle"), [([], 0), (["num_processes=1"], 3)])
def test_gpus_that_would_idle_are_said_with_the_price(recipe, runs_dir, monkeypatch, tmp_path, capsys, words, idle):
    from finetune_core.cli import main
    from finetune_core.jobs import hardware, order, sent

    monkeypatch.setenv("HF_TOKEN", ALICE)
    monkeypatch.setattr(hardware, "list_flavors", lambda token: [flavor("four", 0.04, 24, gpus=4)])
    monkeypatch.setattr(order, "tenant", lambda token: SimpleNamespace(name="alice", ends_at=None))
    monkeypatch.setattr(sent, "require_can_travel", lambda recipe: None)
    values = {name: value for name, value in recipe.model_dump().items() if name != "num_processes"}
    file = tmp_path / "asked.yaml"
    file.write_text(json.dumps(values))
    assert main(["train", str(file), *words, "--on", "jobs:four", "--json", "--runs-dir", str(runs_dir)]) == 1
    said = json.loads(capsys.readouterr().out.splitlines()[-1])["error"]
    assert said["code"] == "not-agreed" and ("of its 4 GPUs would do nothing" in said["problem"]) == bool(idle)
    assert not idle or f"{idle} of its 4 GPUs would do nothing: num_processes=4 uses all." in said["problem"]


def test_what_was_measured_here_says_nothing_of_rented_hardware_of_the_same_kind(recipe, tiny_model_dir):
    from finetune_core import measured
    from finetune_core.jobs.hardware import flavor_of
    from finetune_core.machine import Gpu, Machine
    from finetune_core.preflight import look, plan_for

    card = SimpleNamespace(model="L4", vram="24 GB", quantity="1")
    for accelerator, here in (
        (None, Machine(2, 16, 14.4, bitsandbytes=True)),
        (card, Machine(2, 16, 14.4, (Gpu("L4", 24, 22.08, 8.9),), kind="cuda", bitsandbytes=True)),
    ):
        item = SimpleNamespace(name="x", pretty_name="x", cpu="2 vCPU", ram="16 GB", accelerator=accelerator,
                               unit_cost_usd=0.01, unit_label="minute")  # fmt: skip
        there = flavor_of(item).machine
        seen = look(recipe, machine=there)
        measured.remember(seen.plan.as_dict(), seen.plan.recipe, tiny_model_dir, here, 50_000, 100.0, 2.0)
        assert plan_for(recipe, seen.facts, seen.diagnosis, here).rate_is_measured
        again = plan_for(recipe, seen.facts, seen.diagnosis, there)
        assert not again.rate_is_measured and again.seconds == seen.plan.seconds
        assert again.memory_gb == seen.plan.memory_gb


def test_the_price_of_many_rows_is_told_from_some_of_them(recipe, monkeypatch):
    from finetune_core.jobs import hardware
    from finetune_core.preflight import look

    large = flavor("large", 0.02, 24)
    seen = look(recipe.replace(max_steps=-1, num_train_epochs=100, packing=False), machine=large.machine)
    exact = hardware.estimate(seen, large)
    monkeypatch.setattr(hardware, "SAMPLE", 8)
    few, times = hardware.few_rows(seen)
    assert few.diagnosis.train_rows <= 8 < seen.diagnosis.train_rows
    told = hardware.estimate(few, large, times)
    assert told.seconds - hardware.START_SECONDS == pytest.approx(exact.seconds - hardware.START_SECONDS, rel=0.15)
    assert hardware.choose(seen, [large]).plan == exact.plan  # what is agreed to counts all of them
