"""Files that another process may be writing, and the disk that they go to."""

import shutil

import pytest

from finetune_core.errors import FinetuneError
from finetune_core.files import append, read_json_lines, require_disk


def test_a_line_that_a_killed_writer_left_half_costs_no_other(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"a": "\xe2\x80\xa8"}\n{"b": "\xff')
    append(path, b"3")
    assert read_json_lines(path) == [{"a": "\u2028"}, 3]
    assert read_json_lines(tmp_path / "none.jsonl") == []


def test_a_full_disk_is_told_for_a_folder_that_is_not_there_yet(tmp_path, monkeypatch):
    def usage(folder):
        assert folder.is_dir()
        return shutil._ntuple_diskusage(9e9, 8e9, 1e9)

    monkeypatch.setattr("finetune_core.files.shutil.disk_usage", usage)
    require_disk(tmp_path / "a" / "b", 10**9, "It", "Choose another.")
    with pytest.raises(FinetuneError, match=r"It needs 2\.5 GB, and only 1\.0 GB are free on the disk of") as told:
        require_disk(tmp_path / "a" / "b", 2_500_000_000, "It", "Choose another.")
    assert told.value.code == "disk-full" and str(tmp_path) in told.value.problem
