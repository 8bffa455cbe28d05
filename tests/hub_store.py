"""What the Hub double holds, and who may what: accounts, repositories, the contents of their files."""

from __future__ import annotations

import hashlib
import math
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from starlette.requests import Request

LARGE = (".safetensors", ".bin", ".gguf", ".model", ".parquet")
ALICE, ALICE_READS, BOB, CAROL = (f"hf_{name}0123456789abcdefghij" for name in ("alice", "reads", "bob", "carol"))
SIGNED_IN = "hf_oauth_alice0123456789abcdefghij"  # made by signing in on a Space; it ends
ACCOUNTS = {  # token → account
    ALICE: {"name": "alice", "role": "write", "orgs": ["acme"]},
    ALICE_READS: {"name": "alice", "role": "read", "orgs": ["acme"]},
    SIGNED_IN: {"name": "alice", "role": "", "orgs": ["acme"]},
    BOB: {"name": "bob", "role": "write", "orgs": []},
    CAROL: {
        "name": "carol",
        "role": "fineGrained",
        "orgs": ["acme"],
        "may": {"acme": ["repo.write"], "carol/one": ["repo.write"]},
    },
}


class Refused(Exception):
    def __init__(self, status: int, says: str, code: str = ""):
        self.status, self.says, self.code = status, says, code


@dataclass
class Repo:
    id: str  # owner/name, or datasets/owner/name
    private: bool
    files: dict[str, str] = field(default_factory=dict)  # path → sha256 of its content
    commits: list[str] = field(default_factory=list)
    downloads: int = 0
    gated: bool = False

    @property
    def name(self) -> str:
        return self.id.removeprefix("datasets/")

    @property
    def owner(self) -> str:
        return self.name.partition("/")[0]


class HubStore:
    """Files by their sha256 in a folder, repositories in memory."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.repos: dict[str, Repo] = {}
        self.revoked: set[str] = set()  # tokens that are not taken any more
        self.ends: dict[str, float] = {}  # token → when it ends, in seconds since 1970
        (folder / "objects").mkdir(parents=True, exist_ok=True)

    def add(self, repo_id: str, folder: Path, private: bool = False) -> Repo:
        """Put a folder there, without the client."""
        repo = self.repos[repo_id] = Repo(repo_id, private, commits=[sha1(repo_id)])
        for file in folder.rglob("*"):
            if file.is_file():
                repo.files[str(file.relative_to(folder))] = self.store(file.read_bytes())
        return repo

    def store(self, content: bytes) -> str:
        sha = hashlib.sha256(content).hexdigest()
        self.object(sha).write_bytes(content)
        return sha

    def object(self, sha: str) -> Path:
        return self.folder / "objects" / sha

    def entry(self, path: str, sha: str) -> dict[str, Any]:
        size = self.object(sha).stat().st_size
        lfs = {"lfs": {"oid": sha, "size": size, "pointerSize": 134}} if path.endswith(LARGE) else {}
        return {"type": "file", "path": path, "size": size, "oid": self.oid(path, sha), **lfs}

    def oid(self, path: str, sha: str) -> str:
        content = self.object(sha).read_bytes()
        return sha if path.endswith(LARGE) else hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    def card(self, repo: Repo) -> dict[str, Any]:
        return front_matter(self.object(repo.files["README.md"]).read_text() if "README.md" in repo.files else "")

    # --- who may what ---

    def account(self, request: Request) -> dict[str, Any]:
        token = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        if not token:
            raise Refused(401, "Invalid username or password.")
        if token not in ACCOUNTS or token in self.revoked or self.ends.get(token, math.inf) <= time.time():
            raise Refused(401, "Invalid credentials in Authorization header")
        return ACCOUNTS[token]

    def names(self, request: Request) -> tuple[str, ...]:
        """The asker's own and those of their organisations; none for who is not signed in."""
        if "authorization" not in request.headers:
            return ()
        who = self.account(request)
        return who["name"], *who["orgs"]

    def writer(self, request: Request, owner: str, repo_id: str = "") -> None:
        who = self.account(request)
        mine = owner == who["name"] or owner in who["orgs"]
        may = who["role"] in ("write", "") or any(
            "repo.write" in who.get("may", {}).get(n, ()) for n in (owner, repo_id)
        )
        if not (mine and may):
            raise Refused(403, f"Forbidden: you don't have the right to write to {owner}")

    def repo(self, request: Request, write: bool = False) -> Repo:
        parts = request.path_params
        repo = self.repos.get(_id(request.url.path, f"{parts['owner']}/{parts['name']}"))
        mine = self.names(request)
        if repo is None or (repo.private and repo.owner not in mine):
            raise Refused(404 if mine else 401, "Repository not found", "RepoNotFound")
        if write:
            self.writer(request, parts["owner"], repo.name)
        return repo


def front_matter(text: str) -> dict[str, Any]:
    found = re.match(r"---\s*\n(.*?)\n---\s*(?:\n|$)", text, re.S)
    value = yaml.safe_load(found[1]) if found else {}
    return value if isinstance(value, dict) else {}


def _id(address: str, name: str) -> str:
    return f"datasets/{name}" if re.match(r"/(api/)?datasets/", address) else name


def sha1(text: str) -> str:
    return hashlib.sha1(text.encode()).hexdigest()
