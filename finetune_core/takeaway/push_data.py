"""`push-data`: the rows of a run as it used them, as a data set on the Hub with its card. Private unless asked
otherwise, checked first, and personal data in them is said before anything is made or sent."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ..data.personal import find_personal, find_secrets, texts_of
from ..data.rows import open_rows
from ..data.split import SPLITS
from ..errors import FinetuneError
from ..files import read_json
from ..run import Run
from . import PERSONAL, PERSONAL_PUBLIC
from .facts import languages_of
from .parquet import Type, widened, write_parquet
from .place import CARD, Place, claim, upload
from .rows_card import RowsFacts, file_of, in_words, rows_card

Tell = Callable[..., Any]


def push_data(
    run: Run,
    repo_id: str,
    *,
    private: bool = True,
    agreed: bool = False,
    token: str | None = None,
    tell: Tell | None = None,
) -> dict[str, Any]:
    """Put the rows into a data set repository: {url, repo_id, private, rows, personal, files, bytes}.

    agreed: to rows going there that seem to hold personal data or keys. token and private: as in push. Raises
    FinetuneError: no-rows, personal-data or personal-data-public (nothing was made), and whatever `claim` refuses.
    """
    say = tell or (lambda kind, **data: None)
    say("stage", name="checking", says="asking the Hub")
    data = read_json(run.path / "data" / "card.json")
    paths = {split: run.path / "data" / f"{split}.jsonl" for split in SPLITS}
    if data is None or not any(map(_has_rows, paths.values())):
        raise FinetuneError(
            "This run has no rows on this machine: it has not read them yet, or was trained elsewhere.",
            "Train it first, or push the rows from where it was trained.",
            code="no-rows",
        )
    place = claim(run, repo_id, private=private, token=token, kind="dataset")
    say("stage", name="reading", says="looking for personal data")
    seen = Seen()
    rows = {split: count for split, path in paths.items() if (count := seen.look(open_rows(path)))}
    if seen.personal and not agreed:
        raise _not_agreed(seen.personal, place)
    facts = RowsFacts(run.id, run.recipe, data, rows, tuple(seen.columns), dict(seen.personal), languages_of(run))
    with tempfile.TemporaryDirectory(prefix="fijn-rows-") as made:
        folder = Path(made)
        (folder / "data").mkdir()
        for split in rows:
            write_parquet(open_rows(paths[split]), seen.columns, folder / file_of(split))
        (folder / CARD).write_text(rows_card(facts, place.repo_id), encoding="utf-8")
        files = [CARD, *map(file_of, rows)]
        n_bytes = sum((folder / file).stat().st_size for file in files)
        say("stage", name="uploading", says=place.sending(n_bytes))
        upload(folder, place, run, files[1:], ["data/*.parquet"])
    return {
        "url": place.url,
        "repo_id": place.repo_id,
        "private": place.is_private,
        "rows": rows,
        "personal": dict(seen.personal),
        "files": files,
        "bytes": n_bytes,
    }


class Seen:
    """What rows hold, as they pass by."""

    def __init__(self) -> None:
        self.columns: dict[str, Type] = {}
        self.personal: Counter[str] = Counter()  # kind → rows

    def look(self, rows: Iterable[dict[str, Any]]) -> int:
        """Take note of every row; returns how many there were."""
        count = 0
        for row in rows:
            count += 1
            for name, value in row.items():
                self.columns[name] = widened(self.columns.get(name), value, name)
            texts = list(texts_of(row))
            kinds = {kind for text in texts for kind, *_ in find_personal(text)}
            self.personal.update(kinds | ({"key"} if any(map(find_secrets, texts)) else set()))
        return count


def _has_rows(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _not_agreed(found: Counter[str], place: Place) -> FinetuneError:
    who = "a private repository" if place.is_private else "a repository that everyone can see"
    return FinetuneError(
        f"Some rows seem to hold personal data or keys ({in_words(found)}), and they would go to {who} "
        f"({place.repo_id}).",
        "If they may, agree with --yes. If not, train with the repair mask-personal-data first.",
        code=PERSONAL if place.is_private else PERSONAL_PUBLIC,
    )
