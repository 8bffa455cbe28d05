"""A Hugging Face Space: who is asking, what they may do and open, and what the page's README asks of the Hub."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import gradio as gr
import pytest
import yaml
from hub_double import ALICE, BOB, CAROL
from space_people import HOST, PEOPLE, SECRET, SPACE, asked_by, make_run, request

from finetune_core import access, launch, space
from finetune_core.errors import FinetuneError
from finetune_core.preflight import create_run_from
from finetune_core.recipe import DATA_DIR, PRESETS_DIR, STARTER_DATA, STARTER_MODEL, Recipe
from finetune_core.run import Run, default_runs_dir
from finetune_core.space import Identity, Space, may_open, may_use_machine, read_identity, this_space
from finetune_ui import beforehand, begin, form, frame, names, on_space, reading, uploads, visitor, words_space
from finetune_ui.hubpicks import HubPicks
from finetune_ui.looking import Looks

ROOT = Path(__file__).resolve().parent.parent
ACME = Space("acme/fijn", (HOST,), True)


@pytest.fixture
def on_acme(monkeypatch):
    for name, value in SPACE.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(access, "who_has", lambda token: PEOPLE.get(token, Identity()))


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


# --- who is asking ---


def test_off_a_space_everything_is_the_one_persons():
    asker = visitor.of(request(BOB))
    assert asker.may_use_machine and asker.owns(Path("anything")) and asker.token is None and asker.name == ""


def test_who_signed_in_is_who_the_hub_says_has_the_token(on_acme):
    asker = visitor.of(request(ALICE))
    assert (asker.name, asker.token, asker.may_use_machine) == ("alice", ALICE, True)
    assert 3500 < asker.seconds_left() <= 3600


@pytest.mark.parametrize(
    "asked",
    [None, request(), request("hf_unknown0123456789"), request(ALICE, seconds=-1), request(ALICE, seconds=-time.time()),
     request(ALICE, origin="https://evil.example"), gr.Request()],
    ids=["outside an event", "no cookie", "unknown token", "expired", "a token of no sign-in", "another page", "bare"],
)  # fmt: skip
def test_everybody_else_is_nobody(on_acme, asked, tmp_path):
    asker = visitor.of(asked)
    assert (asker.name, asker.token, asker.may_use_machine, asker.owns(tmp_path)) == ("", None, False, False)


def test_a_cookie_is_no_proof_where_nobody_can_sign_in(on_acme, monkeypatch):
    monkeypatch.delenv("OAUTH_CLIENT_SECRET")  # without it gradio signs cookies with a key that everybody knows
    assert visitor.of(request(ALICE)).name == ""


def test_a_hub_that_does_not_answer_makes_nobody_of_a_visitor_and_is_told(on_acme, monkeypatch):
    def away(_token):
        raise FinetuneError("The Hub cannot be reached.", "Try again.", "hub-away")

    monkeypatch.setattr(access, "who_has", away)
    asker = visitor.of(request(ALICE))
    assert not asker.may_use_machine and "cannot be reached" in words_space.strip(ACME, problem=asker.problem)
    with asked_by(ALICE), pytest.raises(FinetuneError, match="cannot be reached"):
        visitor.require_machine()


def test_a_token_does_not_stand_in_what_is_printed_of_a_visitor(on_acme):
    assert ALICE not in repr(visitor.of(request(ALICE)))


# --- asking the Hub once ---


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(access, "time", type("time", (), {"monotonic": staticmethod(lambda: now[0])}))
    return now


@pytest.fixture
def asked_hub(monkeypatch):
    """The questions that the Hub got, and what it answers to a token."""
    calls, answers = [], {}

    def ask(path, token):
        calls.append(path)
        if isinstance(answers[token], FinetuneError):
            raise answers[token]
        return answers[token]

    access.forget()
    monkeypatch.setattr(access.account, "ask_hub", ask)
    yield calls, answers
    access.forget()


AWAY = FinetuneError("Away.", "Wait.", "hub-away")


def test_the_hub_is_asked_once_in_two_minutes(asked_hub, clock):
    calls, answers = asked_hub
    answers["t"] = {"type": "user", "name": "ann"}
    assert access.who_has("t") == access.who_has("t") == Identity("ann") and len(calls) == 1
    clock[0] += access.KEPT + 1
    answers["t"] = FinetuneError("Unknown.", "", "bad-token")
    assert access.who_has("t") == Identity() and len(calls) == 2


def test_a_known_visitor_stays_known_for_ten_minutes_without_the_hub(asked_hub, clock):
    _, answers = asked_hub
    answers["t"] = {"type": "user", "name": "ann"}
    access.who_has("t")
    answers["t"] = AWAY
    clock[0] += access.KEPT + 1
    assert access.who_has("t") == Identity("ann")
    clock[0] += access.GRACE
    with pytest.raises(FinetuneError, match="Away"):
        access.who_has("t")


def test_a_hub_that_is_away_is_not_asked_by_every_tick(asked_hub, clock):
    calls, answers = asked_hub
    answers["t"] = AWAY
    for _ in range(3):
        with pytest.raises(FinetuneError):
            access.who_has("t")
    assert len(calls) == 1


# --- what may be opened ---


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


REFUSED = [
    {"dataset_name": "/etc/passwd"},
    {"dataset_name": "app.py"},
    {"dataset_name": "finetune_core/data"},
    {"dataset_name": "./presets/../tests"},
    {"dataset_name": "file:///etc/passwd"},
    {"dataset_name": "rows.csv"},
    {"model_name_or_path": "/data/runs/a-run/adapter"},
    {"model_name_or_path": "finetune_core/data"},
    {"model_name_or_path": "~/model"},
    {"dataset_name": "acme/faq", "dataset_config": "../../alice___private/default"},
    {"dataset_name": "acme/faq", "dataset_revision": "../x"},
    {"model_name_or_path": "acme/it", "model_revision": "../../models--alice--private/snapshots/1"},
]


@pytest.mark.parametrize("values", REFUSED, ids=str)
def test_a_path_in_a_box_is_refused_before_anything_is_opened(values, on_acme, runs_dir, monkeypatch):
    monkeypatch.setattr(access, "_ask", lambda *_: None)  # the Hub would say yes to everything
    opened = []
    looks = Looks(lambda recipe, **_: opened.append(recipe), runs_dir=runs_dir)
    with asked_by(ALICE):
        look = looks.ask(Recipe(**values), wait_seconds=10)
    assert look.error.code in ("not-yours", "bad-choice") and opened == []


def test_the_same_paths_are_fine_off_a_space(runs_dir):
    for values in REFUSED:
        reading.require_readable(visitor.of(None), Recipe(**values), runs_dir)


def test_the_starters_need_no_hub(on_acme, runs_dir, monkeypatch):
    monkeypatch.setattr(access, "_ask", lambda *_: pytest.fail("asked"))
    reading.require_readable(visitor.of(request()), Recipe(), runs_dir)
    assert Recipe().model_name_or_path == STARTER_MODEL


def test_what_one_visitor_may_read_is_asked_anew_for_another(on_acme, runs_dir, monkeypatch):
    """Both would find the files in the shared cache."""

    def ask(_kind, name, token):
        if (name, token) != ("alice/private", ALICE):
            raise FinetuneError("The Hub knows no such thing.", "", "not-found")

    access.forget()
    monkeypatch.setattr(access, "_ask", ask)
    read = []
    looks = Looks(lambda recipe, token=None, **_: read.append(token), runs_dir=runs_dir)
    recipe = Recipe(dataset_name="alice/private")
    found = {}
    for who, token in (("alice", ALICE), ("bob", BOB), ("nobody", None), ("carol", CAROL)):
        with asked_by(token):
            look = looks.ask(recipe, wait_seconds=10)
            found[who] = look.error.code if look.error else "read"
    access.forget()
    assert found == {"alice": "read", "bob": "not-found", "nobody": "not-found", "carol": "not-found"}
    assert read == [ALICE]


def test_what_a_data_set_has_to_choose_from_is_each_visitors_own(on_acme, runs_dir, monkeypatch):
    def ask(_kind, _name, token):
        if token != ALICE:
            raise FinetuneError("The Hub knows no such thing.", "", "not-found")

    class Choices:
        configs, splits, revisions = (SECRET,), ("train",), ("main",)

    access.forget()
    monkeypatch.setattr(access, "_ask", ask)
    picks, recipe = HubPicks(lambda *_: Choices, runs_dir=runs_dir), Recipe(dataset_name="alice/private")

    def answered(token):
        with asked_by(token):
            deadline = time.monotonic() + 5
            found, waits = picks.of(recipe)
            while waits and time.monotonic() < deadline:
                time.sleep(0.01)
                found, waits = picks.of(recipe)
        return found

    assert answered(ALICE)["dataset_config"] == (SECRET,)
    assert answered(BOB) == answered(None) == {}
    access.forget()


def test_the_boxes_offer_no_others_models_and_say_nothing_about_files(on_acme, runs_dir, monkeypatch):
    make_run(runs_dir, "alice")
    monkeypatch.setattr(names, "cached_models", lambda: [SECRET])
    with asked_by(BOB):
        offered = names.first_choices(runs_dir, {"boxes": {"dataset_name": "/etc/passwd"}})
    assert SECRET not in repr(offered) and "passwd" not in repr(offered)
    with asked_by(ALICE):
        assert SECRET in repr(names.first_choices(runs_dir))


def test_rows_of_visitors_without_a_name_are_thrown_away_after_a_day(runs_dir, on_acme, uploaded):
    hers, anyones = uploaded
    old = time.time() - uploads.KEPT_SECONDS - 60
    for path in uploaded:
        os.utime(path.parent, (old, old))
    with asked_by(None):
        kept = uploads.keep_text(runs_dir, "new rows\nof somebody")
    assert hers.is_file() and kept.is_file() and not anyones.exists()


# --- runs ---


def test_a_run_on_a_space_cannot_be_guessed_and_knows_only_its_owners_name(runs_dir):
    run = Run.create(runs_dir, Recipe(), owner="alice")
    assert re.search(r"-[0-9a-f]{32}$", run.id)
    assert (run.path / "owner").read_text() == "alice\n" and "owner" not in {f.name for f in Run.create(
        runs_dir, Recipe()).path.iterdir()}  # fmt: skip


def test_a_run_that_nobody_owns_is_not_shown_on_a_space(on_acme, runs_dir):
    run = Run.create(runs_dir, Recipe())
    with asked_by(ALICE):
        assert frame.find(runs_dir, run.id) is None and visitor.own_runs(runs_dir) == []


@pytest.mark.parametrize(("token", "sees"), [(ALICE, True), (CAROL, False), (BOB, False), (None, False)])
def test_the_rail_holds_ones_own_runs(on_acme, runs_dir, token, sees):
    run = make_run(runs_dir, "alice")
    with asked_by(token):
        assert (run.id in frame.draw_rail(runs_dir, "")) is sees
        assert frame.arrive(runs_dir, run.id, "train")[0] == (run.id if sees else "")


class Seen:
    """A look that is done, for a press."""

    seen, error, pending = None, None, False

    def ask(self, *_, **__):
        return self


@pytest.fixture
def pressed(on_acme, runs_dir, monkeypatch):
    """What Start does for a visitor: (answer, what was started)."""
    started = []
    monkeypatch.setattr(begin.launch, "start", lambda run, token=None: started.append((run, token)))
    monkeypatch.setattr(begin.preflight, "create_run_from", lambda _seen, *more: Run.create(
        more[0], Recipe(), None, *more[1:]))  # fmt: skip
    looks = Seen()
    looks.seen = object()

    def press(token, draft="d"):
        with asked_by(token):
            return begin.press(looks, runs_dir, "check", draft, *form.to_boxes(Recipe())), started

    return press


def test_start_makes_a_run_of_its_own_for_each_member(pressed):
    (first, *_), _ = pressed(ALICE)
    (again, *_), _ = pressed(ALICE)
    (other, *_), started = pressed(CAROL)
    assert first == again != other
    assert [(space.owner_of(run.path), token) for run, token in started] == [
        ("alice", ALICE), ("alice", ALICE), ("carol", CAROL)]  # fmt: skip
    assert re.search(r"-[0-9a-f]{32}$", first)


@pytest.mark.parametrize("token", [BOB, None])
def test_start_gives_the_others_the_ways_to_do_it_themselves(pressed, token):
    answer, started = pressed(token)
    assert started == []
    for said in ("for its owner, acme", "duplicate=true", "git clone https://huggingface.co/spaces/acme/fijn",
                 "python app.py"):  # fmt: skip
        assert said in answer[3]


@pytest.mark.parametrize("token", [BOB, None])
def test_no_look_at_prompts_or_settings_is_started_for_others(on_acme, runs_dir, monkeypatch, token):
    monkeypatch.setattr(launch, "_spawn", lambda *_, **__: pytest.fail("started"))
    boxes = form.to_boxes(Recipe())
    with asked_by(token):
        assert "for its owner" in beforehand.ask_prompts(runs_dir, *boxes)[1]
        assert "for its owner" in beforehand.ask_settings(runs_dir, "1e-4", "", "", "2", *boxes)[1]


def test_a_look_at_prompts_is_its_owners(on_acme, runs_dir):
    job = launch.before_training(runs_dir, "should-i", launch.key_of(Recipe(), "alice"))
    assert launch.key_of(Recipe(), "carol") != job.folder.name
    job.folder.mkdir(parents=True)
    (job.folder / "owner").write_text("alice\n")
    with asked_by(CAROL), pytest.raises(FinetuneError, match="nothing going on"):
        beforehand.job_of(runs_dir, "should-i", job.folder.name)
    with asked_by(ALICE):
        assert beforehand.job_of(runs_dir, "should-i", job.folder.name) == job


def test_the_owner_of_a_run_travels_from_what_was_looked_at(runs_dir, monkeypatch):
    made = []
    monkeypatch.setattr(Run, "create", lambda *values: made.append(values))

    class Looked:
        class diagnosis:
            verdict, findings = "ready", ()

        class plan:
            recipe = Recipe()

            @staticmethod
            def as_dict():
                return {}

    create_run_from(Looked, runs_dir, "tail", "alice")
    assert made[0][-2:] == ("tail", "alice")


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
    monkeypatch.setattr(launch.subprocess, "Popen", lambda line, env, **_: given.append((line, env)))
    monkeypatch.setattr(launch, "_spawn_until", lambda _begun, line, log, secrets, _: launch._spawn(line, log, secrets))
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
