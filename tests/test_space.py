"""A Hugging Face Space: whose it is, who may do what, which paths may be named, where runs stay, its README."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import gradio as gr
import pytest
import yaml
from hub_store import ALICE
from space_people import HOST, SPACE, asked_by

from finetune_core import children, launch, space
from finetune_core.presets import DATA_DIR, PRESETS_DIR
from finetune_core.recipe import STARTER_DATA, Recipe
from finetune_core.run import Run, default_runs_dir
from finetune_core.space import Identity, Space, may_open, may_use_machine, read_identity, this_space
from finetune_ui import on_space, uploads, words_space

ROOT = Path(__file__).resolve().parent.parent
ACME = Space("acme/fijn", (HOST,), True)


# --- where this is ---


def test_off_a_space_there_is_no_space():
    assert this_space({"SYSTEM": "spaces", "SPACE_HOST": HOST}) is None


@pytest.mark.parametrize("missing", [None, "SYSTEM", *space.SIGN_IN])
def test_one_can_sign_in_only_where_the_hub_set_everything_for_it(missing):
    found = this_space({name: value for name, value in SPACE.items() if name != missing})
    assert found == Space("acme/fijn", (), missing is None)


@pytest.mark.parametrize(
    ("said", "who"),
    [
        ({"type": "user", "name": "ann"}, Identity("ann")),
        ({"type": "user", "name": "ann", "orgs": [{"name": "acme", "roleInOrg": "write"}, {"name": "x"}]},
         Identity("ann", {"acme": "write", "x": ""})),
        ({"type": "org", "name": "acme"}, Identity()),
        ({"type": "user", "name": "../ann"}, Identity()),
        ({"type": "user", "name": ""}, Identity()),
        ({"name": "ann"}, Identity()),
        ({}, Identity()),
    ],
)  # fmt: skip
def test_only_a_user_with_a_plain_name_is_somebody(said, who):
    assert read_identity(said) == who


@pytest.mark.parametrize(
    ("who", "may"),
    [
        (Identity(), False),
        (Identity("bob"), False),
        (Identity("acme"), True),
        (Identity("bob", {"other": "admin"}), False),
        (Identity("bob", {"acme": "read"}), False),
        (Identity("bob", {"acme": "contributor"}), False),
        (Identity("bob", {"acme": ""}), False),
        (Identity("bob", {"acme": "write"}), True),
        (Identity("bob", {"acme": "admin"}), True),
    ],
)
def test_a_spaces_machine_is_for_its_owner_and_who_writes_for_them(who, may):
    assert may_use_machine(ACME, who) is may


def test_off_a_space_the_machine_is_everybodys():
    assert may_use_machine(None, Identity())


@pytest.mark.parametrize(
    ("origin", "host", "same"),
    [
        (f"https://{HOST}", HOST, True),
        (f"https://{HOST}", "10.1.2.3:7860", True),
        ("https://tune.acme.org", "tune.acme.org", True),
        (None, HOST, True),
        ("https://evil.example", HOST, False),
        (f"https://{HOST}.evil.example", HOST, False),
        ("null", HOST, False),
        ("null", None, False),
    ],
)
def test_a_cookie_counts_only_on_the_spaces_own_page(origin, host, same):
    assert space.is_same_site(ACME, origin, host) is same


# --- paths ---


@pytest.fixture
def uploaded(runs_dir, on_acme):
    """Paths of rows that Alice and somebody without a name pasted."""
    paths = []
    for token in (ALICE, None):
        with asked_by(token):
            paths.append(uploads.keep_text(runs_dir, '{"prompt": "a", "completion": "b"}'))
    return paths


def test_an_upload_on_a_space_has_a_folder_that_nobody_can_guess(uploaded):
    folders = [path.parent.name for path in uploaded]
    assert all(re.fullmatch("[0-9a-f]{32}", name) for name in folders) and folders[0] != folders[1]


@pytest.mark.parametrize(("name", "hers", "anyones"), [("alice", True, True), ("bob", False, True), ("", False, True)])
def test_an_upload_is_for_who_brought_it(uploaded, runs_dir, name, hers, anyones):
    assert [may_open(path, runs_dir, name) for path in uploaded] == [hers, anyones]


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "/", "~", "~root", "", ".", "..", "app.py", "finetune_core", "{runs}", "{runs}/.uploads",
     "{runs}/.uploads/anyone", "{runs}/.uploads/@alice", "{runs}/.uploads/@alice/../@bob/x",
     "{runs}/.uploads/anyone/../@bob/x", "{presets}/../app.py", "{runs}/some-run/data", "/proc/self/environ"],
)  # fmt: skip
def test_no_other_path_of_the_machine_can_be_named(path, runs_dir):
    (runs_dir / ".uploads" / "anyone").mkdir(parents=True)
    assert not may_open(Path(path.format(runs=runs_dir, presets=PRESETS_DIR)), runs_dir, "alice")


def test_a_link_does_not_lead_out_of_the_uploads(runs_dir):
    folder = runs_dir / ".uploads" / "@alice" / "x"
    folder.mkdir(parents=True)
    (folder / "rows.jsonl").symlink_to("/etc/passwd")
    assert not may_open(folder / "rows.jsonl", runs_dir, "alice")


def test_rows_that_come_with_the_program_are_everybodys(runs_dir):
    assert may_open(DATA_DIR / STARTER_DATA, runs_dir, "")


def test_rows_of_visitors_without_a_name_are_thrown_away_after_a_day(runs_dir, on_acme, uploaded):
    hers, anyones = uploaded
    old = time.time() - uploads.KEPT_SECONDS - 60
    for path in uploaded:
        os.utime(path.parent, (old, old))
    stray = anyones.parent.parent / ".DS_Store"
    stray.touch()
    os.utime(stray, (old, old))
    with asked_by(None):
        kept = uploads.keep_text(runs_dir, "new rows\nof somebody")
    assert hers.is_file() and kept.is_file() and not anyones.exists()


# --- where runs stay, and secrets ---


def test_runs_go_to_the_mounted_bucket_of_a_space(monkeypatch, tmp_path):
    monkeypatch.delenv("FINETUNE_RUNS_DIR")
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) in (space.BUCKET, Path("/")))
    monkeypatch.setattr(os, "access", lambda *_: True)
    assert default_runs_dir() == Path("runs").absolute()  # an own machine's /data is not asked for
    monkeypatch.setenv("SPACE_ID", "acme/fijn")
    assert default_runs_dir() == Path("/data/runs")
    assert space.survives_restart(Path("/data/runs/new")) and not space.survives_restart(Path("/home/user/app/runs"))
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert default_runs_dir() == Path("runs").absolute()
    monkeypatch.setenv("FINETUNE_RUNS_DIR", str(tmp_path))
    assert default_runs_dir() == tmp_path


def test_without_a_bucket_the_page_says_that_everything_goes_with_the_space():
    assert "lost when the Space sleeps or restarts" in words_space.strip(ACME, is_kept=False)
    assert "lost" not in words_space.strip(ACME, is_kept=True)


def test_a_spaces_own_token_is_dropped_and_ones_own_is_kept():
    own = {"HF_TOKEN": "t", "HUGGING_FACE_HUB_TOKEN": "t"}
    there = own | {"SPACE_ID": "acme/fijn"}
    space.forget_own_token(own)
    space.forget_own_token(there)
    assert own == {"HF_TOKEN": "t", "HUGGING_FACE_HUB_TOKEN": "t"} and there == {"SPACE_ID": "acme/fijn"}


def test_a_child_gets_the_visitors_token_and_no_secret_of_the_space(on_acme, runs_dir, monkeypatch):
    given = []
    monkeypatch.setattr(children.subprocess, "Popen", lambda line, env, **_: given.append((line, env)))
    monkeypatch.setattr(launch, "spawn_until", lambda _begun, line, log, secrets, _: children.spawn(line, log, secrets))
    run = Run.create(runs_dir, Recipe(), owner="alice")
    with pytest.raises(AttributeError):  # there is no process
        launch.start(run, ALICE)
    (line, environment) = given[0]
    assert environment["HF_TOKEN"] == ALICE and "OAUTH_CLIENT_SECRET" not in environment
    assert ALICE not in " ".join(line) + run.log_path.read_text()


@pytest.mark.parametrize(("left", "seconds", "warns"), [(None, 9e9, False), (7200, 60, False), (7200, 9000, True)])
def test_a_training_that_outlasts_the_sign_in_is_told_before_it_starts(left, seconds, warns):
    assert ("sign-in ends in 2 h" in words_space.ends_first(left, seconds)) is warns


# --- the line under the header ---


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (words_space.strip(ACME), "sign in if that is you"),
        (words_space.strip(ACME, "bob"), "Signed in as <b>bob</b>"),
        (words_space.strip(ACME, "alice", True), "yours to use"),
        (words_space.strip(Space("acme/fijn")), "hf_oauth: true"),
    ],
)
def test_the_line_says_who_you_are_here(line, says):
    assert says in line


def test_the_line_follows_the_sign_in(on_acme):
    with asked_by(ALICE):
        assert "yours to use" in on_space.now(True)
    with asked_by(None):
        assert "sign in if that is you" in on_space.now(True)


# --- README and pins ---


def front_matter():
    return yaml.safe_load((ROOT / "README.md").read_text(encoding="utf-8").split("---")[1])


def test_the_readme_asks_the_hub_for_what_the_page_needs_and_no_more():
    about = front_matter()
    assert about["hf_oauth"] is True
    assert set(about["hf_oauth_scopes"]) == {"contribute-repos", "gated-repos", "jobs", "read-memberships"}
    assert 1440 <= about["hf_oauth_expiration_minutes"] <= 43200


def test_the_space_is_built_with_the_gradio_that_is_tested():
    pins = (ROOT / "requirements.txt").read_text()
    assert f"gradio[oauth]=={front_matter()['sdk_version']}" in pins
    assert gr.__version__ == front_matter()["sdk_version"]
