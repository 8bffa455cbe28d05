"""Rows of a stream are kept on disk for the training that follows, and no longer."""

import os
import time

from finetune_core.data.json_rows import Record
from finetune_core.data.readers import Reading
from finetune_core.data.streamed import forget_streams, kept
from finetune_core.files import cache_dir


def stream(*key):
    reading = kept(Reading("train", "hub", [Record(1, 1, {"text": "a"})]), *key)
    assert list(reading.records)


def streams():
    return list((cache_dir() / "streams").glob("*"))


def test_rows_of_yesterday_are_forgotten():
    stream("acme/private")
    [path] = streams()
    forget_streams()
    assert path.exists()
    yesterday = time.time() - 25 * 3600
    os.utime(path, (yesterday, yesterday))
    forget_streams()
    assert not path.exists()


def test_the_cache_is_where_the_hubs_is_and_a_home_is_spelled_out(monkeypatch):
    monkeypatch.setenv("FIJN_CACHE", "~/elsewhere")
    assert cache_dir() == cache_dir().home() / "elsewhere"
    monkeypatch.delenv("FIJN_CACHE")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HOME", "/big/disk/huggingface")
    assert str(cache_dir()) == "/big/disk/fijn"
