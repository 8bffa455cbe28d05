"""A run's rows as token ids, in Arrow files that are mapped into memory: a million rows take next to none of it.

They lie in the run's scratch (`.rows/<max_length>/`), where the processes that share a training all open them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from .data.rows import open_rows
from .errors import FinetuneError
from .files import is_unsupported, remove, replacing
from .leftovers import ENCODED
from .render import IGNORED, Rendered, render_each
from .run import Run

if TYPE_CHECKING:
    from .data.rows import Rows
    from .render import ChatTokenizer

Sets = tuple[Dataset, Dataset | None]  # to learn from, and to watch with
COLUMNS = ("input_ids", "labels")
SCHEMA = pa.schema([(name, pa.large_list(pa.int32())) for name in COLUMNS])
AT_ONCE = 50_000  # tokens in one piece of a file


def read_rows(run: Run) -> tuple[Rows, Rows]:
    """The rows to learn from and those to watch with, as they were written for this run."""
    return open_rows(run.path / "data" / "train.jsonl"), open_rows(run.path / "data" / "validation.jsonl")


def encode_run(run: Run, tokenizer: ChatTokenizer, max_length: int) -> Sets:
    """Encode the run's rows, if that was not done for this max_length yet. Raises FinetuneError (nothing-to-learn)."""
    folder = _folder(run, max_length)
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in zip(("train", "validation"), read_rows(run), strict=True):
        if not _file(folder, name).is_file():
            encode(rows, tokenizer, max_length, _file(folder, name))
    sets = open_encoded(run, max_length)
    if len(sets[0]) == 0:
        raise FinetuneError(
            "No row has an answer within max_length, so there is nothing to learn.",
            "Raise max_length, or check the rows.",
            code="nothing-to-learn",
        )
    return sets


def open_encoded(run: Run, max_length: int) -> Sets:
    """What `encode_run` made; None instead of no rows to watch with."""
    train, validation = (_opened(_file(_folder(run, max_length), name)) for name in ("train", "validation"))
    return train, validation if len(validation) else None


def forget_encoded(run: Run) -> None:
    """Delete what was made for a training, however it ended."""
    remove(run.path / ENCODED)


def encode(rows: Iterable[dict[str, Any]], tokenizer: ChatTokenizer, max_length: int, path: Path) -> Dataset:
    """Rows as a data set of `input_ids` and `labels` (-100: not trained) in a file of this path.

    Rows that train no token are left out. They are rendered as they are read: none but the last few are in memory.
    """
    trained = (row for row in render_each(rows, tokenizer, max_length) if row.trained)
    with (
        replacing(path) as beside,
        pa.OSFile(str(beside), "wb") as file,
        pa.ipc.new_stream(file, SCHEMA) as writer,
    ):
        for some in _pieces(trained):
            writer.write_batch(_as_batch(some))
    return _opened(path)


def _opened(path: Path) -> Dataset:
    """Mapped into memory; read into it where the file system cannot do that."""
    try:
        return Dataset.from_file(str(path))
    except OSError as error:
        if not is_unsupported(error):
            raise
        return Dataset.from_file(str(path), in_memory=True)


def _pieces(rows: Iterable[Rendered]) -> Iterator[list[Rendered]]:
    piece: list[Rendered] = []
    tokens = 0
    for row in rows:
        piece.append(row)
        tokens += len(row.input_ids)
        if tokens >= AT_ONCE:
            yield piece
            piece, tokens = [], 0
    if piece:
        yield piece


def _as_batch(rows: Sequence[Rendered]) -> pa.RecordBatch:
    ends = np.cumsum([0, *(len(row.input_ids) for row in rows)], dtype=np.int64)
    columns = [
        pa.LargeListArray.from_arrays(
            ends, np.fromiter(chain.from_iterable(getattr(row, name) for row in rows), np.int32, ends[-1])
        )
        for name in COLUMNS
    ]
    return pa.record_batch(columns, schema=SCHEMA)


def token_lengths(rows: Dataset) -> list[int]:
    """The length of each row in tokens, read from where the rows begin and not from what they hold."""
    tables = rows.with_format("arrow").iter(10_000)
    return [length for table in tables for length in pc.list_value_length(table["input_ids"]).to_pylist()]


def shared_beginning(sets: Sequence[Dataset]) -> tuple[int, ...]:
    """Token ids with which every row of these sets begins, and none of which is trained, nor the one behind them."""
    found: np.ndarray | None = None
    for table in chain.from_iterable(rows.with_format("arrow").iter(10_000) for rows in sets):
        ids, labels = (table[name].combine_chunks() for name in COLUMNS)
        starts, ends = ids.offsets.to_numpy()[:-1], ids.offsets.to_numpy()[1:]
        tokens, trained = ids.values.to_numpy(), labels.values.to_numpy() != IGNORED
        if found is None:
            found = tokens[starts[0] : ends[0]]
        most = min(len(found), int((ends - starts).min()) - 1)
        same = 0
        while same < most and not trained[starts + same].any() and (tokens[starts + same] == found[same]).all():
            same += 1
        while same > 0 and trained[starts + same].any():  # the one before it would have to foresee each row's own
            same -= 1
        found = found[:same]
    return () if found is None else tuple(found.tolist())


def without_beginning(rows: Dataset, tokens: int) -> Dataset:
    """The rows without so many tokens at their beginning, in a file beside theirs; it is made once."""
    if not rows.cache_files:
        sink = pa.BufferOutputStream()
        _write_short(rows, tokens, sink)
        return Dataset(pa.ipc.open_stream(sink.getvalue()).read_all())
    path = Path(rows.cache_files[0]["filename"])
    short = path.with_name(f"{path.stem}-{tokens}.arrow")
    if not short.is_file():
        with replacing(short) as beside, pa.OSFile(str(beside), "wb") as file:
            _write_short(rows, tokens, file)
    return _opened(short)


def _write_short(rows: Dataset, tokens: int, sink: pa.NativeFile) -> None:
    with pa.ipc.new_stream(sink, SCHEMA) as writer:
        for table in rows.with_format("arrow").iter(10_000):
            lists = [table[name].combine_chunks() for name in COLUMNS]
            starts = lists[0].offsets.to_numpy()
            kept = np.ones(starts[-1] - starts[0], dtype=bool)
            kept[(starts[:-1, None] - starts[0] + np.arange(tokens)).ravel()] = False
            ends = starts - starts[0] - tokens * np.arange(len(starts))
            columns = [
                pa.LargeListArray.from_arrays(ends, each.values.to_numpy()[starts[0] : starts[-1]][kept])
                for each in lists
            ]
            writer.write_batch(pa.record_batch(columns, schema=SCHEMA))


def _folder(run: Run, max_length: int) -> Path:
    return run.path / ENCODED / str(max_length)


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.arrow"
