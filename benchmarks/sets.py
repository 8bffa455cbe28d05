"""Three public sets of rows that ship inside packages, as JSONL: for `recipe.py`, and on machines without the Hub.

python benchmarks/sets.py DIR

Fetches each package by name, version and hash with its registry's own client (pip, npm), unpacks the one file that
holds the rows, and writes DIR/<set>/{train,validation,test}.jsonl with a note about its source and licence. Nothing of
a package is installed or run. A set that lies there already is left alone, so DIR can be carried to a machine without
a network.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from finetune_core.errors import FinetuneError  # noqa: E402
from finetune_core.wheels import Wheel  # noqa: E402

SEED = 42
MOST_ROWS = 1000  # of a set
PARTS = {"train": 0.7, "validation": 0.1, "test": 0.2}

Pairs = Iterator[tuple[str, str]]  # question, answer


@dataclass(frozen=True)
class Tarball:
    """A package of npm, fetched by npm."""

    package: str
    version: str
    sha256: str

    def fetch(self, folder: Path) -> Path:
        """The package's archive in `folder`. Raises FinetuneError (no-npm, away, bad-download)."""
        if shutil.which("npm") is None:
            raise FinetuneError("The rows come by npm, which is not here.", "Install Node.js with npm.", code="no-npm")
        line = ["npm", "pack", f"{self.package}@{self.version}", "--ignore-scripts", f"--pack-destination={folder}"]
        done = subprocess.run(line, capture_output=True, text=True)
        found = list(folder.glob("*.tgz"))
        if done.returncode or len(found) != 1:
            raise away(f" (npm: {done.stderr.strip()[-200:]})")
        if hashlib.sha256(found[0].read_bytes()).hexdigest() != self.sha256:
            raise FinetuneError(
                f"The package {self.package} {self.version} is not the one that was checked.",
                "Try again; if it stays so, ask who runs your registry.",
                code="bad-download",
            )
        return found[0]

    def read(self, archive: Path, member: str) -> str:
        with tarfile.open(archive) as files:
            return files.extractfile(member).read().decode("utf-8")


class Archive(Wheel):
    """A package of PyPI, fetched by pip as a wheel."""

    def fetch(self, folder: Path) -> Path:
        return super().fetch(folder, away)

    def read(self, archive: Path, member: str) -> str:
        return zipfile.ZipFile(archive).read(member).decode("utf-8")


def away(reason: str) -> FinetuneError:
    return FinetuneError(
        f"A package cannot be fetched{reason}.", "Connect, or copy the folder of sets here.", code="away"
    )


@dataclass(frozen=True)
class PackagedSet:
    name: str
    title: str
    package: Tarball | Archive
    members: tuple[str, ...]
    pairs: Callable[[list[str]], Pairs]
    preset: str  # the card that a person with such rows would choose
    metric: str | None  # None: as the program chooses by the answers
    note: str  # source and licence


def reviews(texts: list[str]) -> Pairs:
    """npm `sentiment`: [{"text", "class": 0 or 1}, …, {}]."""
    for row in json.loads(texts[0]):
        if row.get("text"):
            answer = "positive" if row["class"] else "negative"
            yield f"Is this review positive or negative?\n\n{row['text'].strip()}", answer


def commands(texts: list[str]) -> Pairs:
    """PyPI `icalfa`: [{"query", "gold", …}], one file for each of five file systems."""
    for text in texts:
        for row in json.loads(text):
            yield f"Write one bash command. {row['query'].strip()}", row["gold"].strip()


def misspellings(texts: list[str]) -> Pairs:
    """PyPI `codespell`: lines of wrong->right. One misspelling of a word, so that no answer occurs twice."""
    lines = texts[0].splitlines()
    random.Random(SEED).shuffle(lines)
    seen: set[str] = set()
    for line in lines:
        wrong, _, right = line.partition("->")
        if wrong.isascii() and wrong.isalpha() and right.isascii() and right.isalpha() and right not in seen:
            seen.add(right)
            yield f"Correct the spelling: {wrong}", right


SETS = (
    PackagedSet(
        "yelp",
        "Yelp sentences, positive or negative",
        Tarball("sentiment", "5.0.2", "89302eb03d2005d03b214fe65814bb48adb7d3c42c8ca80bdee6a3ecb7e4480f"),
        ("package/test/fixtures/yelp.json",),
        reviews,
        "classify-or-extract",
        None,
        "1,000 sentences of restaurant reviews with a label each: “Sentiment Labelled Sentences” (Kotzias et al. "
        "2015, UCI, CC BY 4.0), as they lie in the test fixtures of the npm package sentiment 5.0.2 (MIT).",
    ),
    PackagedSet(
        "bash",
        "A request in English, the bash command for it",
        Archive("icalfa", "0.3.6", "621590a41cd843793f669c2c097adab4924132fa693776d4866c9a0846217eeb"),
        tuple(f"icalfa/assets/datasets/nl2bash_fs_{number}.json" for number in range(1, 6)),
        commands,
        "follow-instructions",
        None,
        "300 requests with their command: InterCode-ALFA, a fork of InterCode's NL2Bash rows, from the PyPI package "
        "icalfa 0.3.6 (MIT). Of two accepted commands the first one.",
    ),
    PackagedSet(
        "spelling",
        "A misspelt English word, put right",
        Archive("codespell", "2.4.3", "af2505b335e8573dbd2d384d1c4ef498f4006f4ba2d6fceca01e55b91f52628a"),
        ("codespell_lib/data/dictionary.txt",),
        misspellings,
        "follow-instructions",
        "label",  # a word is right or wrong; by themselves, a thousand different words look like text
        "1,000 misspelt words drawn from dictionary.txt of the PyPI package codespell 2.4.3, a derivative of English "
        "Wikipedia's list (CC BY-SA 3.0), each with its one correction; no correction occurs twice.",
    ),
)


def ensure(packaged: PackagedSet, folder: Path) -> Path:
    """The set's folder in `folder`, made if it is not there. Raises FinetuneError if its package cannot be had."""
    made = folder / packaged.name
    if not (made / "README.md").is_file():
        with tempfile.TemporaryDirectory() as inbox:
            archive = packaged.package.fetch(Path(inbox))
            texts = [packaged.package.read(archive, member) for member in packaged.members]
        write(list(packaged.pairs(texts)), made)
        (made / "README.md").write_text(f"# {packaged.title}\n\n{packaged.note}\n", encoding="utf-8")
    return made


def write(pairs: list[tuple[str, str]], folder: Path) -> None:
    """train, validation and test.jsonl: different questions, in a seeded order, at most MOST_ROWS."""
    rows = list(dict(pairs).items())
    random.Random(SEED).shuffle(rows)
    rows = rows[:MOST_ROWS]
    folder.mkdir(parents=True, exist_ok=True)
    start = 0
    for part, share in PARTS.items():
        end = len(rows) if part == "test" else start + round(share * len(rows))
        lines = [
            json.dumps({"id": f"{folder.name}-{start + at}", "prompt": prompt, "completion": completion}) + "\n"
            for at, (prompt, completion) in enumerate(rows[start:end])
        ]
        (folder / f"{part}.jsonl").write_text("".join(lines), encoding="utf-8")
        start = end


def main() -> int:
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print(__doc__)
        return 2
    for packaged in SETS:
        try:
            made = ensure(packaged, Path(sys.argv[1]))
        except FinetuneError as error:
            print(f"{packaged.name}: {error}", file=sys.stderr)
            return 1
        counts = {part: len((made / f"{part}.jsonl").read_text().splitlines()) for part in PARTS}
        print(f"{made}: {counts}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
