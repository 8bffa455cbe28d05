"""Files that were uploaded are kept, once, and no others."""

from __future__ import annotations

import pytest

from finetune_core.errors import FinetuneError
from finetune_ui import uploads


def test_an_upload_is_kept_in_the_runs_folder_under_its_own_name(tmp_path, runs_dir):
    source = tmp_path / "up" / "My tickets.csv"
    source.parent.mkdir()
    source.write_text("question,answer\na,b\n")
    kept = uploads.keep_file(runs_dir, str(source), tmp_path / "up")
    source.unlink()
    assert kept.name == "My tickets.csv" and kept.read_text() == "question,answer\na,b\n"
    assert kept.is_relative_to(runs_dir)


def test_the_same_upload_twice_is_kept_once(tmp_path, runs_dir):
    source = tmp_path / "rows.csv"
    source.write_text("a,b\n1,2\n")
    assert uploads.keep_file(runs_dir, str(source), tmp_path) == uploads.keep_file(runs_dir, str(source), tmp_path)


@pytest.mark.parametrize("path", ["/etc/passwd", "../secret.txt", "nowhere.csv"])
def test_only_files_that_were_uploaded_are_taken(path, tmp_path, runs_dir):
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "up").mkdir()
    with pytest.raises(FinetuneError):
        uploads.keep_file(runs_dir, str(tmp_path / "up" / path), tmp_path / "up")
