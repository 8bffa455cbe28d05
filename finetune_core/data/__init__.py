"""Rows from any source, ready to render: read, recognised, mapped, repaired, split."""

from .prepared import (
    FIXES,
    Prepared,
    Source,
    SourceFile,
    choices,
    prepare,
    readiness,
    save_pasted,
    write_data,
    write_rows,
    write_splits,
)

__all__ = [
    "FIXES",
    "Prepared",
    "Source",
    "SourceFile",
    "choices",
    "prepare",
    "readiness",
    "save_pasted",
    "write_data",
    "write_rows",
    "write_splits",
]
