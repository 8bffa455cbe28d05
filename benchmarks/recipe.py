"""Are the defaults good? Fijn with only model and rows chosen, against five settings of a plain TRL script.

python benchmarks/recipe.py --sets-dir DIR --out DIR [--model DIR] [--sets starter yelp] [--settings 2] …

For the starter rows and the three sets of `sets.py` (made in --sets-dir, or found there on a machine without a
network): the same training rows, the same unseen rows, the score that the program itself chooses for them. Of each set
also the whole table of rivals (untuned, a better prompt, examples, similar rows, tuned) with n, intervals and seconds.
DIR/results.jsonl grows by a line after every training, DIR/table.md by a set; both come on stdout too. With --dev the
unseen rows are taken from the training rows, and nothing is shown of the test rows: for choosing better defaults, with
--also "learning_rate=5e-4 lora_r=32" for other settings of Fijn.
The defaults take minutes on one GPU; on two cores say --seconds 36000, or fewer sets, rows and steps.

The difference to the best of the five has a 95 % interval of paired rows (Tango's; studentised for graded scores). The
best was picked by these very rows, which flatters it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sets

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from finetune_core.data.rows import open_rows  # noqa: E402
from finetune_core.evaluate import Asked, evaluate  # noqa: E402
from finetune_core.machine import this_machine  # noqa: E402
from finetune_core.preflight import create_run  # noqa: E402
from finetune_core.presets import DATA_DIR, resolve_recipe  # noqa: E402
from finetune_core.proof.contest import RIVALS, Contest, prepare_contest  # noqa: E402
from finetune_core.proof.intervals import difference_interval, mean_interval  # noqa: E402
from finetune_core.proof.rivals import Rival, question  # noqa: E402
from finetune_core.recipe import STARTER_DATA, STARTER_MODEL, Recipe  # noqa: E402
from finetune_core.run import Run  # noqa: E402
from finetune_core.train import train, versions  # noqa: E402

BY_HAND = (  # as an engineer would try them: the usual one, gentler, bolder, boldest, shorter
    {"learning_rate": 2e-4, "lora_r": 16, "num_train_epochs": 3},
    {"learning_rate": 1e-3, "lora_r": 16, "num_train_epochs": 3},
    {"learning_rate": 5e-4, "lora_r": 32, "num_train_epochs": 3},
    {"learning_rate": 1e-4, "lora_r": 8, "num_train_epochs": 3},
    {"learning_rate": 1e-3, "lora_r": 8, "num_train_epochs": 1},
)


@dataclass
class Score:
    """One trained model on the unseen rows."""

    setting: str
    rows: list[float]  # by row, of the score that decides
    line: dict[str, Any] = field(default_factory=dict)  # as it is told


class Told:
    """What came out, as it comes: lines on stdout and in a file."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self.lines = folder / "results.jsonl", []
        self.path.write_text("")

    def __call__(self, **line: Any) -> dict[str, Any]:
        self.lines.append(line)
        text = json.dumps(line)
        with self.path.open("a") as file:
            file.write(text + "\n")
        print(text, flush=True)
        return line


class ByHand:
    """The plain script's process: it loads its libraries while Fijn trains, and waits for jobs."""

    def __init__(self):
        script = Path(__file__).with_name("by_hand.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def train(self, job: dict[str, Any]) -> dict[str, Any]:
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError("The plain TRL script ended; what it said stands above.")
        return json.loads(answer)

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def lay(name: str, given: argparse.Namespace) -> tuple[Path, str, str | None]:
    """A set's rows, at most so many to learn from and to prove on; its preset, and its metric if it brings one."""
    packaged = next((one for one in sets.SETS if one.name == name), None)
    source = sets.ensure(packaged, given.sets_dir) if packaged else DATA_DIR / STARTER_DATA
    part = {one: (source / f"{one}.jsonl").read_text("utf-8").splitlines(keepends=True) for one in sets.PARTS}
    if given.dev:
        part["test"], part["train"] = part["train"][-given.test_rows :], part["train"][: -given.test_rows]
    most = {"train": given.train_rows, "validation": max(10, given.train_rows // 7), "test": given.test_rows}
    folder = given.out / "rows" / name
    folder.mkdir(parents=True, exist_ok=True)
    for one, count in most.items():
        (folder / f"{one}.jsonl").write_text("".join(part[one][:count]), encoding="utf-8")
    preset = given.preset or (packaged.preset if packaged else "quick-look")
    return folder, preset, packaged.metric if packaged else None


def trained(preset: str, rows: Path, given: argparse.Namespace, overrides: Sequence[str] = ()) -> Run:
    """Trained here, in this process, with nothing chosen but the card, the model and the rows; and the overrides."""
    chosen = [f"model_name_or_path={given.model}", f"dataset_name={rows}", f"max_steps={given.max_steps}",
              f"evaluate_rows={given.test_rows}", "accept_warnings=true"]  # fmt: skip
    recipe = resolve_recipe(preset, [*chosen, *overrides])
    recipe = recipe.replace(max_new_tokens=min(recipe.max_new_tokens, given.max_new_tokens))
    run = create_run(recipe, given.out / "runs")
    train(run, evaluate=False)
    return run


def settings_of(recipe: Recipe) -> dict[str, Any]:
    names = ("learning_rate", "lora_r", "num_train_epochs", "per_device_train_batch_size", "packing_length",
             "gradient_accumulation_steps", "lr_scheduler_type", "early_stopping", "dtype")  # fmt: skip
    return recipe.model_dump(include=set(names))


def chatter_of(run: Run, adapters: dict[str, Path]) -> Any:
    """Base, tuned and the adapters that are still to come, each loaded when it is first asked."""
    from finetune_core.answers.chatter import AdapterModels, Chatter
    from finetune_core.model import chat_dtype, fetch_model, load_base
    from finetune_core.render import load_tokenizer

    base = load_base(fetch_model(run.recipe.model_name_or_path), dtype=chat_dtype(run.recipe.dtype))
    models = AdapterModels(base, {"tuned": run.result_dir, **adapters})
    return Chatter(models, load_tokenizer(run.result_dir), ["base", "tuned", *adapters])


def ask(chatter: Any, contest: Contest, model: str, max_length: int) -> list[float]:
    """The score of each row, asked and scored just as the comparison does with the tuned model."""
    from finetune_core.proof.answering import find_targets, hold

    targets = find_targets(chatter, contest, max_length)
    [entry] = hold(chatter, contest, [Rival("tuned", model, model, model, question)], targets=targets)
    return entry.scores[contest.metric.main]


def compare_set(name: str, given: argparse.Namespace, hand: ByHand, tell: Told, left: Callable[[], float]) -> None:
    """One set: Fijn's defaults, the table of rivals, the settings by hand, and the difference."""
    rows, preset, metric = lay(name, given)
    run = trained(preset, rows, given)
    tried = BY_HAND[: given.settings]
    adapters = {f"by-hand-{number}": given.out / "by-hand" / f"{name}-{number}" for number in range(1, len(tried) + 1)}
    chatter = chatter_of(run, adapters)
    known = open_rows(run.path / "data" / "train.jsonl")[:500]
    contest = prepare_contest(
        open_rows(run.path / "data" / "test.jsonl"), "test", run.recipe, chatter.tokenizer, metric=metric, known=known
    )

    def score(
        setting: str, model: str, settings: dict[str, Any], steps: int, seconds: float, asked: Any = chatter
    ) -> Score:
        found = ask(asked, contest, model, run.recipe.max_length)
        low, high = mean_interval(found)
        return Score(setting, found, tell(
            kind="training", set=name, setting=setting, settings=settings, steps=steps, seconds=round(seconds, 1),
            metric=contest.metric.title, n=len(found), score=round(sum(found) / len(found), 4),
            low=round(low, 4), high=round(high, 4),
        ))  # fmt: skip

    done = run.events()[-1].data
    ours = score(f"Fijn, {preset}", "tuned", settings_of(run.recipe), done["steps"], done["train_seconds"])
    if not given.no_table:
        tell_table(name, evaluate(run, chatter, asked=Asked(RIVALS, quick=True, forgetting=False, metric=metric)), tell)
    for also in given.also:
        other = trained(preset, rows, given, also.split())
        done = other.events()[-1].data
        score(f"Fijn, {preset}, {also}", "tuned", settings_of(other.recipe), done["steps"], done["train_seconds"],
              chatter_of(other, {}))  # fmt: skip
    others: list[Score] = []
    for (model, out), settings in zip(adapters.items(), tried, strict=True):
        if left() <= 0:
            tell(kind="left out", set=name, setting=in_words(settings), why="the time was up")
            continue
        job = {"model": given.model, "rows": str(run.path / "data" / "train.jsonl"), "out": str(out)}
        said = hand.train(job | settings | {"max_steps": given.max_steps})
        others.append(score(in_words(settings), model, settings, said["steps"], said["seconds"]))
    if others:
        tell_difference(name, ours, others, tell)
    (given.out / "table.md").write_text(markdown(tell.lines), encoding="utf-8")


def tell_table(name: str, report: dict[str, Any], tell: Told) -> None:
    for rival in report["rivals"]:
        tell(
            kind="rival", set=name, rival=rival["title"], n=report["n"], metric=report["metric"],
            score=round(rival["score"], 4), low=round(rival["low"], 4), high=round(rival["high"], 4),
            tokens_per_request=rival["tokens_per_request"], seconds=rival["seconds"],
        )  # fmt: skip
    tell(kind="verdict", set=name, sentence=report["verdict"]["sentence"])


def tell_difference(name: str, ours: Score, others: list[Score], tell: Told) -> None:
    """Fijn's defaults minus the best of those tried by hand, in points of the score."""
    best = max(others, key=lambda other: sum(other.rows))
    low, high = difference_interval(ours.rows, best.rows)
    difference = (sum(ours.rows) - sum(best.rows)) / len(ours.rows)
    tell(
        kind="difference", set=name, of=len(others), best_by_hand=best.setting, n=len(ours.rows),
        difference=round(difference, 4), low=round(low, 4), high=round(high, 4), within=high >= 0,
    )  # fmt: skip


def in_words(settings: dict[str, Any]) -> str:
    """
    >>> in_words({"learning_rate": 2e-4, "lora_r": 16, "num_train_epochs": 3})
    'by hand, learning rate 0.0002, r 16, 3 epochs'
    """
    epochs = settings["num_train_epochs"]
    return f"by hand, learning rate {settings['learning_rate']:g}, r {settings['lora_r']}, {epochs} epochs"


def markdown(lines: list[dict[str, Any]]) -> str:
    """The same as tables: rivals of each set, then its trainings and the difference."""
    found = [f"`{lines[0]['machine']}`", ""] if lines else []
    for name in dict.fromkeys(line["set"] for line in lines if "set" in line):
        mine = [line for line in lines if line.get("set") == name]
        found += [f"## {name}", ""]
        for kind, title in (("rival", "rival"), ("training", "setting")):
            some = [line for line in mine if line["kind"] == kind]
            if not some:
                continue
            found += [f"| {title} | n | {some[0]['metric']}, % | 95 % interval | seconds |", "|---|--:|--:|---|--:|"]
            found += [
                f"| {line[title]} | {line['n']} | {100 * line['score']:.1f} | {100 * line['low']:.1f} to "
                f"{100 * line['high']:.1f} | {line['seconds']:.0f} |"
                for line in some
            ]
            found.append("")
        found += [
            f"Fijn's defaults minus the best of {line['of']} ({line['best_by_hand']}): "
            f"{100 * line['difference']:+.1f} points ({100 * line['low']:+.1f} to {100 * line['high']:+.1f})."
            for line in mine
            if line["kind"] == "difference"
        ]
        found += [line["sentence"] for line in mine if line["kind"] == "verdict"]
        found.append("")
    return "\n".join(found)


def main() -> int:
    names = ["starter", *(packaged.name for packaged in sets.SETS)]
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--sets-dir", type=Path, required=True, help="where the sets of sets.py lie, or are put")
    options.add_argument("--out", type=Path, required=True, help="an empty folder for runs and results")
    options.add_argument("--model", default=STARTER_MODEL, help="a folder, or a name")
    options.add_argument("--sets", nargs="+", choices=names, default=names)
    options.add_argument("--train-rows", type=int, default=200)
    options.add_argument("--test-rows", type=int, default=100)
    options.add_argument("--settings", type=int, default=len(BY_HAND), help="how many of those by hand")
    options.add_argument("--max-steps", type=int, default=-1, help="of every training, for a trial")
    options.add_argument("--max-new-tokens", type=int, default=96, help="of an answer, at most")
    options.add_argument("--also", nargs="+", default=[], metavar="'FIELD=VALUE …'", help="Fijn with these, too")
    options.add_argument("--dev", action="store_true", help="prove on training rows that are left out")
    options.add_argument("--preset", help="instead of each set's own")
    options.add_argument("--no-table", action="store_true", help="without the table of rivals")
    options.add_argument("--seconds", type=float, default=280.0, help="after these, no further training by hand")
    given = options.parse_args()
    from finetune_core.model import fetch_model

    given.model = str(fetch_model(given.model))
    began = time.monotonic()
    tell, hand = Told(given.out), ByHand()
    tell(kind="start", machine=this_machine().title, versions=versions(), model=given.model,
         train_rows=given.train_rows, test_rows=given.test_rows, max_steps=given.max_steps, dev=given.dev)  # fmt: skip
    failed = False
    for name in given.sets:
        try:
            compare_set(name, given, hand, tell, lambda: given.seconds - (time.monotonic() - began))
        except Exception as error:  # the other sets still count
            failed = True
            traceback.print_exc()
            tell(kind="failed", set=name, why=f"{type(error).__name__}: {error}")
    hand.end()
    tell(kind="end", seconds=round(time.monotonic() - began, 1))
    print(markdown(tell.lines))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
