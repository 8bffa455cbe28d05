"""What is downloaded, and what is refused before a byte of it is."""

from types import SimpleNamespace

import huggingface_hub
import pytest

from finetune_core import snapshot
from finetune_core.errors import FinetuneError

GOOD = {
    "README.md": 9,
    "config.json": 1,
    "tokenizer.json": 2,
    "merges.txt": 3,
    "chat_template.jinja": 4,
    "model-00001-of-00002.safetensors": 100,
    "model-00002-of-00002.safetensors": 100,
    "model.safetensors.index.json": 5,
    "consolidated.safetensors": 10**15,
    "pytorch_model.bin": 10**15,
    "onnx/model.safetensors": 10**15,
}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub with one repository; `asked` says what was downloaded."""
    there = SimpleNamespace(files=dict(GOOD), asked=None, error=None)

    def model_info(self, name, **options):
        if there.error:
            raise there.error
        files = [SimpleNamespace(rfilename=file, size=size) for file, size in there.files.items()]
        return SimpleNamespace(siblings=files)

    def snapshot_download(name, *, revision, allow_patterns, token):
        there.asked = set(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return there


def test_only_what_training_needs_is_downloaded(hub):
    snapshot.download("owner/name")
    assert hub.asked == set(GOOD) - {
        "README.md",
        "consolidated.safetensors",
        "pytorch_model.bin",
        "onnx/model.safetensors",
    }


@pytest.mark.parametrize(
    ("without", "code"),
    [("config.json", "not-a-model"), ("tokenizer.json", "not-a-model"), ("model-0", "not-a-model")],
)
def test_a_repository_that_lacks_something_is_refused_before_the_download(hub, without, code):
    hub.files = {name: size for name, size in GOOD.items() if not name.startswith(without)}
    with pytest.raises(FinetuneError, match="owner/name") as caught:
        snapshot.download("owner/name")
    assert caught.value.code == code and hub.asked is None


def test_a_model_that_the_disk_cannot_hold_is_refused_before_the_download(hub):
    hub.files["model-00002-of-00002.safetensors"] = 10**15
    with pytest.raises(FinetuneError) as caught:
        snapshot.download("owner/name")
    assert caught.value.code == "disk-full" and hub.asked is None


@pytest.mark.parametrize(
    ("error", "code"),
    [(TimeoutError("timed out"), "hub-away"), (type("GatedRepoError", (Exception,), {})("403"), "gated")],
)
def test_the_hubs_own_errors_name_the_model_and_a_way_on(hub, error, code):
    hub.error = error
    with pytest.raises(FinetuneError, match="owner/name") as caught:
        snapshot.download("owner/name")
    assert caught.value.code == code


def test_an_error_that_nobody_foresaw_is_not_dressed_up(hub):
    hub.error = KeyError("sha")
    with pytest.raises(KeyError):
        snapshot.download("owner/name")


def test_progress_follows_the_bytes_that_arrive(tmp_path):
    import time

    told = []
    with snapshot.watched_bytes(tmp_path, 1000, "downloading", lambda fraction, words: told.append((fraction, words))):
        (tmp_path / "half").write_bytes(b"x" * 500)
        time.sleep(0.7)
    assert told[0][0] == 0.5 and told[0][1].startswith("downloading")
