"""A Hugging Face Space: whose it is, who may use its machine, which paths a visitor may name, where runs stay.

Functions of an environment, an identity and a path; the Hub is asked in access.py. Off a Space there is no Space:
`this_space()` is None, and one person owns everything.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .presets import PRESETS_DIR

SIGN_IN = ("OAUTH_CLIENT_ID", "OAUTH_CLIENT_SECRET", "OAUTH_SCOPES", "OPENID_PROVIDER_URL")  # set by hf_oauth: true
SPENDING_ROLES = ("admin", "write")  # in the organisation that owns the Space
BUCKET = Path("/data")  # where the Hub mounts a storage bucket unless it is told otherwise
OWNER = "owner"  # file in a run's folder: the user name of who started it
UPLOADS = ".uploads"  # folder in the runs folder
ANYONE = "anyone"  # folder in UPLOADS for visitors who are not signed in; "@name" for the others
USER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}")


@dataclass(frozen=True)
class Space:
    """The Hugging Face Space that this program runs on."""

    id: str  # owner/name
    hosts: tuple[str, ...] = ()  # names that its pages are served under
    can_sign_in: bool = False

    @property
    def owner(self) -> str:
        """A user or an organisation."""
        return self.id.partition("/")[0]


@dataclass(frozen=True)
class Identity:
    """Somebody, as the Hub says; nobody without a name."""

    name: str = ""
    roles: Mapping[str, str] = field(default_factory=dict)  # organisation → role in it


def this_space(environment: Mapping[str, str] | None = None) -> Space | None:
    """The Space that this program runs in, or None."""
    environment = os.environ if environment is None else environment
    name = environment.get("SPACE_ID", "").strip()
    if not name:
        return None
    hosts = tuple(host.strip().lower() for host in environment.get("SPACE_HOST", "").split(",") if host.strip())
    # gradio makes real sign-in routes only where SYSTEM says so, and pretends elsewhere
    ready = environment.get("SYSTEM") == "spaces" and all(environment.get(name) for name in SIGN_IN)
    return Space(name, hosts, ready)


def read_identity(said: Mapping[str, Any]) -> Identity:
    """Who it is, from what whoami answers. Anything else than a user with a plain name is nobody."""
    name = said.get("name")
    if said.get("type") != "user" or not isinstance(name, str) or not USER_NAME.fullmatch(name):
        return Identity()
    roles = {str(org.get("name")): str(org.get("roleInOrg") or "") for org in said.get("orgs") or ()}
    return Identity(name, roles)


def may_use_machine(space: Space | None, who: Identity) -> bool:
    """May they spend this machine's time: everybody on their own, on a Space its owner and who writes for them.

    >>> may_use_machine(Space("ann/fijn"), Identity("ann")), may_use_machine(Space("ann/fijn"), Identity("bob"))
    (True, False)
    """
    if space is None:
        return True
    return bool(who.name) and (who.name == space.owner or who.roles.get(space.owner) in SPENDING_ROLES)


def is_same_site(space: Space, origin: str | None, host: str | None) -> bool:
    """Does a request come from the Space's own page? Its cookie travels with requests of any page, to be framed.

    >>> is_same_site(Space("a/b"), "https://a-b.hf.space", "a-b.hf.space"), is_same_site(Space("a/b"), "null", "a-b")
    (True, False)
    """
    if not origin:
        return True  # browsers send it with every request that could start something
    asked = (urlsplit(f"//{host}").hostname or "") if host else ""
    return (urlsplit(origin).hostname or "") in {*space.hosts, asked} - {""}


# --- folders ---


def bucket(environment: Mapping[str, str] | None = None, place: Path = BUCKET) -> Path | None:
    """The mounted folder that outlives the Space, if it has one that can be written to."""
    if this_space(environment) is None or not os.path.ismount(place) or not os.access(place, os.W_OK):
        return None
    return place


def survives_restart(folder: Path) -> bool:
    """Whether the folder is on a mount of its own: a Space's own disk is emptied whenever it sleeps, restarts or is
    rebuilt."""
    folder = folder.absolute()
    while not os.path.ismount(folder):
        folder = folder.parent
    return folder != Path(folder.anchor)


def owner_of(folder: Path) -> str:
    """Who started what is in this folder, or "" where nobody was asked."""
    try:
        return (folder / OWNER).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""


def upload_home(runs_dir: Path, name: str) -> Path:
    """Where this visitor's uploads go ("" for one who is not signed in)."""
    return runs_dir / UPLOADS / (f"@{name}" if name else ANYONE)


def may_open(path: Path, runs_dir: Path, name: str) -> bool:
    """May this visitor of a Space name this path: what comes with the program, and what they uploaded.

    What was uploaded without signing in belongs to whoever knows the folder's 128 random bits: that browser alone.
    """
    resolved = path.expanduser().resolve()
    if resolved.is_relative_to(PRESETS_DIR):
        return True
    home = (runs_dir / UPLOADS).resolve()
    if not resolved.is_relative_to(home):
        return False
    whose, *rest = resolved.relative_to(home).parts or ("",)
    if whose == ANYONE:
        return bool(rest) and re.fullmatch(r"[0-9a-f]{32}", rest[0]) is not None
    return bool(name and rest) and whose == f"@{name}"


# --- secrets ---


def forget_own_token(environment: MutableMapping[str, str] | None = None) -> None:
    """Drop the Space's own token: huggingface_hub would use it, silently, for whatever a visitor asks."""
    environment = os.environ if environment is None else environment
    if this_space(environment) is not None:
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH"):
            environment.pop(name, None)
