"""A runs folder on a mounted bucket, which may lack locks, maps, appending and renaming: another way, or a word."""

from __future__ import annotations

import errno
import io
import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import chat_rows, write_jsonl

from finetune_core import files, locks
from finetune_core.answers.generate import Likelihood
from finetune_core.data.rows import open_rows
from finetune_core.encoded import open_encoded
from finetune_core.errors import FinetuneError
from finetune_core.events import append_event, read_events
from finetune_core.files import move, read_json, write_json
from finetune_core.jobs import follow
from finetune_core.jobs.sent import Sent
from finetune_core.locks import lock_at
from finetune_core.proof.kept_answers import KeptAnswers
from finetune_core.recipe import Recipe
from finetune_core.run import Run
from finetune_ui import uploads

LACKS = [errno.ENOTSUP, errno.EINVAL, errno.ENOSYS]


def refusing(code):
    def refuse(*_, **__):
        raise OSError(code, os.strerror(code))

    return refuse


@pytest.fixture
def no_locks(runs_dir, monkeypatch):
    """No file under the runs folder can be locked, and each file system is asked anew."""
    fcntl = pytest.importorskip("fcntl")
    runs_dir.mkdir(parents=True)
    kept = fcntl.flock

    def lack(code, under=runs_dir):
        def flock(file, how):
            number = file if isinstance(file, int) else file.fileno()
            if Path(os.readlink(f"/proc/self/fd/{number}")).is_relative_to(under):
                raise OSError(code, os.strerror(code))
            return kept(file, how)

        monkeypatch.setattr(fcntl, "flock", flock)
        # here the runs folder and the cache are on one disk
        monkeypatch.setattr(locks, "_device_of", lambda path: int(path.is_relative_to(runs_dir)))
        monkeypatch.setattr(locks, "_known", {})

    return lack


@pytest.mark.parametrize("code", LACKS)
def test_without_locks_in_the_runs_folder_a_run_is_held_by_one_all_the_same(runs_dir, no_locks, code):
    no_locks(code)
    run = Run.create(runs_dir, Recipe())
    assert not run.is_alive() and run.status() == "new"
    with run.lock():
        assert run.status() == "running"
        with pytest.raises(FinetuneError) as refused, run.lock():
            pass
        assert refused.value.code == "running"
    assert not run.is_alive()


def test_a_stand_in_for_a_lock_is_freed_however_its_holder_dies(runs_dir, no_locks):
    no_locks(errno.ENOSYS)
    run = Run.create(runs_dir, Recipe())
    with run.lock():
        pass
    standing = locks._stand_in(run.path / "worker.lock")
    assert standing.is_file() and standing.is_relative_to(files.cache_dir())
    code = (
        "import sys,time; from filelock import FileLock; lock = FileLock(sys.argv[1]); lock.acquire();"
        "print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(standing)], stdout=subprocess.PIPE)
    assert holder.stdout.readline().strip() == b"held" and run.is_alive()
    holder.kill()
    holder.wait()
    assert not run.is_alive()


def test_a_run_takes_what_stood_for_its_locks_along(runs_dir, no_locks):
    no_locks(errno.ENOTSUP)
    run, other = Run.create(runs_dir, Recipe()), Run.create(runs_dir, Recipe())
    for each in (run, other):
        with each.lock(), lock_at(each.path / ".start.lock"):
            pass
    run.delete()
    assert not run.is_alive() and not run.path.exists()
    left = {file.parent for file in (files.cache_dir() / "locks").rglob("*.lock")}
    assert left == {locks._stand_ins(runs_dir), locks._stand_ins(other.path)}


@pytest.mark.parametrize("code", LACKS)
def test_a_lock_file_that_cannot_even_be_opened_has_a_stand_in(runs_dir, no_locks, monkeypatch, code):
    no_locks(code)
    kept = os.open

    def opened(path, flags, *more, **how):
        if flags & os.O_CREAT and Path(path).is_relative_to(runs_dir):
            raise OSError(code, os.strerror(code))
        return kept(path, flags, *more, **how)

    monkeypatch.setattr(os, "open", opened)
    with lock_at(runs_dir / ".create.lock"):
        assert locks.is_held(runs_dir / ".create.lock")


def test_where_nothing_has_locks_a_run_is_refused_with_what_to_do(runs_dir, no_locks, tmp_path):
    no_locks(errno.ENOTSUP, tmp_path)
    with pytest.raises(FinetuneError) as refused:
        Run.create(runs_dir, Recipe())
    assert refused.value.code == "no-locks" and "FINETUNE_RUNS_DIR" in refused.value.fix


@pytest.mark.parametrize("code", LACKS)
def test_a_file_that_cannot_be_renamed_over_another_is_written_into_it(tmp_path, monkeypatch, code):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    monkeypatch.setattr(os, "replace", refusing(code))
    write_json(path, {"a": 2})
    assert read_json(path) == {"a": 2} and list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_not_taken_for_a_bucket(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "replace", refusing(errno.ENOSPC))
    with pytest.raises(OSError, match="space"):
        write_json(tmp_path / "a.json", {"a": 2})


@pytest.mark.parametrize("code", LACKS)
def test_a_run_whose_folder_cannot_be_renamed_is_copied_with_its_recipe_last(runs_dir, monkeypatch, code):
    monkeypatch.setattr(os, "rename", refusing(code))
    monkeypatch.setattr(os, "replace", refusing(code))
    order, kept = [], files.shutil.copyfile
    monkeypatch.setattr(files.shutil, "copyfile", lambda one, to, **how: order.append(Path(to)) or kept(one, to, **how))
    run = Run.create(runs_dir, Recipe(), {"steps": 3}, fill=lambda folder: (folder / "data").mkdir())
    assert run.plan() == {"steps": 3} and (run.path / "data").is_dir() and run.recipe == Recipe()
    assert order[-1] == run.path / "recipe.yaml"
    assert [each.name for each in runs_dir.iterdir() if each.name.startswith(".making")] == []
    (run.path / "adapter.part").mkdir()
    move(run.path / "adapter.part", run.path / "adapter")
    assert (run.path / "adapter").is_dir() and not (run.path / "adapter.part").exists()


def test_a_copied_folder_keeps_every_file_of_the_last_one_s_name_and_writes_over_what_a_killed_copy_left(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(os, "rename", refusing(errno.EXDEV))
    folder, to = tmp_path / "made", tmp_path / "kept"
    for place in (folder, folder / "deep", folder / "deep" / "deeper"):
        place.mkdir()
        (place / "recipe.yaml").write_text(place.name)
    to.mkdir()
    (to / "recipe.yaml").write_text("hal")
    move(folder, to, last="recipe.yaml")
    kept = {str(file.relative_to(to)): file.read_text() for file in to.rglob("*") if file.is_file()}
    assert kept == {"recipe.yaml": "made", "deep/recipe.yaml": "deep", "deep/deeper/recipe.yaml": "deeper"}
    assert not folder.exists()


@pytest.fixture(params=LACKS)
def bucket(runs_dir, request, monkeypatch):
    """Nothing under the runs folder can be appended to, renamed, or renamed over."""
    kept = io.open

    def lacks(*paths):
        if any(Path(path).is_relative_to(runs_dir) for path in paths):
            raise OSError(request.param, os.strerror(request.param))

    def opened(file, mode="r", *more, **how):
        if "a" in mode:
            lacks(file)
        return kept(file, mode, *more, **how)

    def renamed(rename):
        return lambda one, to, **how: lacks(one, to) or rename(one, to, **how)

    monkeypatch.setattr(io, "open", opened)
    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, renamed(getattr(os, name)))


def test_a_diary_that_cannot_be_appended_to_keeps_every_line(runs_dir, bucket):
    path = runs_dir / "events.jsonl"
    runs_dir.mkdir()
    path.write_bytes(b'{"kind": "step", "time": 1, "step": 1}\n{"kind": "st')  # by a writer that was killed
    append_event(path, "step", step=2)
    append_event(path, "step", step=3)
    assert [event.data["step"] for event in read_events(path)] == [1, 2, 3]


def test_the_base_model_s_answers_are_kept_where_nothing_can_be_appended(runs_dir, bucket):
    runs_dir.mkdir()
    for place in range(2):
        kept = KeptAnswers(runs_dir, (), {"model": "x"})
        kept._keep_likelihood([place], [1], Likelihood(-1.0, 1, 1))
        kept._write()
    assert len(KeptAnswers(runs_dir, (), {"model": "x"})._known) == 2


def test_an_upload_is_kept_where_it_cannot_be_renamed(runs_dir, bucket, tmp_path):
    source = tmp_path / "rows.csv"
    source.write_text("a,b\n1,2\n")
    kept = [uploads.keep_file(runs_dir, str(source), tmp_path) for _ in range(2)]
    assert kept[0] == kept[1] and kept[0].read_text() == "a,b\n1,2\n"


def test_a_job_s_result_comes_to_a_bucket_whole_and_over_an_earlier_one(runs_dir, bucket, monkeypatch):
    def download(repo_id, local_dir, **_):
        """As huggingface_hub: what has come is appended to and renamed when it is whole."""
        folder = Path(local_dir) / "run" / "adapter"
        folder.mkdir(parents=True)
        (folder.parent / "report.json").write_text('{"n": 2}')
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            with (folder / f"{name}.incomplete").open("ab") as file:
                file.write(b"new")
            (folder / f"{name}.incomplete").replace(folder / name)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.setattr(follow.hub_jobs, "ask", lambda question, **_: question())
    run = Run.create(runs_dir, Recipe())
    run.result_dir.mkdir()
    (run.result_dir / "of-an-earlier-job").touch()
    run.write_report({"n": 1})
    follow._fetch_result(run, Sent("l4x1", "L4", 1800, "alice", "alice/fijn-x"), "token")
    assert {file.name for file in run.result_dir.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    assert run.has_result() and run.report() == {"n": 2}
    assert not run.inbox.exists() and not list(run.path.glob("*.part"))


@pytest.mark.parametrize("code", [*LACKS, errno.ENODEV])
def test_rows_that_cannot_be_mapped_are_read(runs_dir, monkeypatch, code):
    import datasets.table
    import pyarrow as pa

    from finetune_core import encoded

    path = write_jsonl(runs_dir / "rows.jsonl", chat_rows(5))
    run = Run.create(runs_dir, Recipe())
    folder = run.path / ".rows" / "64"
    folder.mkdir(parents=True)
    for name in ("train", "validation"):
        batch = pa.record_batch([pa.array([[1, 2]], pa.large_list(pa.int32()))] * 2, schema=encoded.SCHEMA)
        with pa.OSFile(str(folder / f"{name}.arrow"), "wb") as file, pa.ipc.new_stream(file, encoded.SCHEMA) as writer:
            writer.write_batch(batch)
    monkeypatch.setattr(mmap, "mmap", refusing(code))
    monkeypatch.setattr(datasets.table.pa, "memory_map", refusing(code))
    assert list(open_rows(path)) == chat_rows(5)
    train, validation = open_encoded(run, 64)
    assert train[0]["input_ids"] == validation[0]["labels"] == [1, 2]


def test_a_run_that_could_not_be_copied_whole_leaves_nothing(runs_dir, monkeypatch):
    monkeypatch.setattr(os, "rename", refusing(errno.EXDEV))
    monkeypatch.setattr(files.shutil, "copyfile", refusing(errno.ENOSPC))
    with pytest.raises(OSError, match="space"):
        Run.create(runs_dir, Recipe(), fill=lambda folder: (folder / "data").mkdir())
    assert [each.name for each in runs_dir.iterdir() if each.is_dir()] == []
