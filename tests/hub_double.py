"""A Hub on this machine, for the real huggingface_hub client: accounts, models, data sets, uploads over LFS, trouble.

    with HubDouble(folder) as hub:
        environment = hub.environment(tmp_path)     # for a child process: the client reads it at import
        hub.fail("POST .*/commit/", 429)            # trouble on request

A data set is a repository whose id begins with "datasets/". Not covered: Xet (the environment switches it off); jobs
are in hub_jobs.py, what it holds and who may what in hub_store.py.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import re
import socket
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import uvicorn
import yaml
from hub_store import LARGE, HubStore, Refused, Repo, front_matter, sha1
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from finetune_core.facts import safetensors_parameters


@dataclass
class Trouble:
    match: str  # a pattern for "METHOD /path"
    status: int = 0
    seconds: float = 0.0  # hang so long
    drop: bool = False  # close the connection in the middle
    times: int = 1


class HubDouble(HubStore):
    """Starts a server on a free port and stops it at the end of the block."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.requests: list[str] = []
        self.tokens: set[str] = set()  # that came with them
        self.troubles: list[Trouble] = []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        config = uvicorn.Config(_Door(self, self._app()), port=self.port, log_level="error", lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self) -> HubDouble:
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(5)

    def environment(self, home: Path, token: str | None = None) -> dict[str, str]:
        """For a child process that shall meet this Hub and nothing else."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        extra = {"HF_TOKEN": token} if token else {}
        return {**kept, "HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1",
                "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", **extra}  # fmt: skip

    def fail(self, match: str, status: int, times: int = 1) -> None:
        self.troubles.append(Trouble(match, status=status, times=times))

    def hang(self, match: str, seconds: float) -> None:
        self.troubles.append(Trouble(match, seconds=seconds))

    def drop(self, match: str, times: int = 1) -> None:
        self.troubles.append(Trouble(match, drop=True, times=times))

    def sent(self, pattern: str) -> int:
        """How many requests matched."""
        return sum(1 for line in self.requests if re.search(pattern, line))

    # --- routes ---

    def _app(self) -> Starlette:
        repos = [route for kind in ("models", "datasets") for route in self._routes(f"/api/{kind}/{{owner}}/{{name}}")]
        resolve = "/{owner}/{name}/resolve/{revision}/{path:path}"
        batch = "/{owner}/{name}.git/info/lfs/objects/batch"
        routes = [
            Route("/api/whoami-v2", self._whoami),
            Route("/api/{kind}/{owner}/{name}/auth-check", self._auth_check),
            Route("/api/models", self._list),
            Route("/api/datasets", self._list),
            Route("/api/repos/create", self._create, methods=["POST"]),
            Route("/api/validate-yaml", self._validate, methods=["POST"]),
            *repos,
            *(Route(kind + batch, self._batch, methods=["POST"]) for kind in ("", "/datasets")),
            Route("/_lfs/{sha}", self._put, methods=["PUT"]),
            Route("/_lfs/{sha}/verify", self._verify, methods=["POST"]),
            *(Route(kind + resolve, self._resolve, methods=["GET", "HEAD"]) for kind in ("/datasets", "")),
        ]
        return Starlette(routes=routes, exception_handlers={Refused: _refusal})

    def _routes(self, repo: str) -> list[Route]:
        return [
            Route(repo, self._info),
            Route(repo + "/refs", self._refs),
            Route(repo + "/revision/{revision}", self._info),
            Route(repo + "/tree/{revision}", self._tree),
            Route(repo + "/tree/{revision}/{path:path}", self._tree),
            Route(repo + "/paths-info/{revision}", self._paths, methods=["POST"]),
            Route(repo + "/preupload/{revision}", self._preupload, methods=["POST"]),
            Route(repo + "/commit/{revision}", self._commit, methods=["POST"]),
        ]

    async def _whoami(self, request: Request) -> Response:
        who = self.account(request)
        access: dict[str, Any] = {"displayName": "test", "role": who["role"]}
        if "may" in who:
            access["fineGrained"] = {
                "scoped": [{"entity": {"name": name}, "permissions": may} for name, may in who["may"].items()]
            }
        auth: dict[str, Any] = {"accessToken": access} if who["role"] else {}
        if end := self.ends.get(request.headers["authorization"].removeprefix("Bearer ").strip()):
            says = datetime.fromtimestamp(end, UTC).isoformat().replace("+00:00", "Z")
            (access if auth else auth)["expiration" if auth else "expiresAt"] = says
        orgs = [{"name": name, "roleInOrg": "write"} for name in who["orgs"]]
        return JSONResponse({"type": "user", "name": who["name"], "orgs": orgs, "auth": auth})

    async def _auth_check(self, request: Request) -> Response:
        self.repo(request)
        return JSONResponse({})

    async def _create(self, request: Request) -> Response:
        said = await request.json()
        owner = said.get("organization") or self.account(request)["name"]
        self.writer(request, owner)
        repo_id = f"{'datasets/' if said.get('type') == 'dataset' else ''}{owner}/{said['name']}"
        if repo_id in self.repos:
            there = {"error": "You already created this repo", "url": f"{self.url}/{repo_id}"}
            return JSONResponse(there, 409)
        private = said.get("visibility") == "private" or bool(said.get("private"))
        self.repos[repo_id] = Repo(repo_id, private, commits=[sha1(repo_id)])
        self.repos[repo_id].files[".gitattributes"] = self.store(b"*.safetensors filter=lfs\n")
        return JSONResponse({"url": f"{self.url}/{repo_id}"})

    async def _validate(self, request: Request) -> Response:
        try:
            front_matter((await request.json())["content"])
        except yaml.YAMLError as error:
            return JSONResponse({"errors": [{"message": str(error)}], "warnings": []}, 400)
        return JSONResponse({"errors": [], "warnings": []})

    async def _list(self, request: Request) -> Response:
        asked, is_data = request.query_params, request.url.path.endswith("datasets")
        mine = self.names(request)
        found = [
            repo for repo in self.repos.values()
            if repo.id.startswith("datasets/") is is_data and asked.get("search", "").lower() in repo.name.lower()
            and asked.get("author", repo.owner) == repo.owner
            and (not repo.private or repo.owner in mine)
        ]  # fmt: skip
        found.sort(key=lambda repo: -repo.downloads)
        return JSONResponse([self._facts(repo) for repo in found[: int(asked.get("limit", 100))]])

    def _facts(self, repo: Repo) -> dict[str, Any]:
        about = self.card(repo)
        tags = [f"license:{about['license']}"] if about.get("license") else []
        tags += [f"size_categories:{size}" for size in about.get("size_categories", ())]
        return {"id": repo.name, "downloads": repo.downloads, "gated": "auto" if repo.gated else False,
                "private": repo.private, "tags": tags, **self._counted(repo)}  # fmt: skip

    def _counted(self, repo: Repo) -> dict[str, Any]:
        weights = [self.object(sha) for path, sha in repo.files.items() if path.endswith(".safetensors")]
        total = {"parameters": {}, "total": sum(map(safetensors_parameters, weights))}
        return {"safetensors": total} if weights else {}

    async def _info(self, request: Request) -> Response:
        repo = self.repo(request)
        siblings = [
            {"rfilename": path, "size": self.object(sha).stat().st_size} for path, sha in sorted(repo.files.items())
        ]
        return JSONResponse({"id": repo.name, "modelId": repo.name, "sha": repo.commits[-1], "private": repo.private,
                             "siblings": siblings, "tags": [], "cardData": self.card(repo),
                             **self._counted(repo)})  # fmt: skip

    async def _tree(self, request: Request) -> Response:
        repo, under = self.repo(request), request.path_params.get("path", "").strip("/")
        inside = f"{under}/" if under else ""
        found = {path: sha for path, sha in sorted(repo.files.items()) if path.startswith(inside)}
        if under and not found:
            raise Refused(404, "Entry not found", "EntryNotFound")
        if request.query_params.get("recursive", "").lower() == "true":
            return JSONResponse([self.entry(path, sha) for path, sha in found.items()])
        files = [self.entry(path, sha) for path, sha in found.items() if "/" not in path.removeprefix(inside)]
        folders = {path.removeprefix(inside).partition("/")[0] for path in found} - {file["path"] for file in files}
        return JSONResponse(files + [_folder(inside + name) for name in sorted(folders) if inside + name not in found])

    async def _refs(self, request: Request) -> Response:
        main = {"name": "main", "ref": "refs/heads/main", "targetCommit": self.repo(request).commits[-1]}
        return JSONResponse({"branches": [main], "converts": [], "tags": []})

    async def _paths(self, request: Request) -> Response:
        repo = self.repo(request)
        if "json" in request.headers.get("content-type", ""):
            paths = (await request.json())["paths"]
        else:
            paths = (await request.form()).getlist("paths")
        found = [self.entry(path, repo.files[path]) for path in paths if path in repo.files]
        folders = [path for path in paths if any(each.startswith(path.strip("/") + "/") for each in repo.files)]
        return JSONResponse(found + [_folder(path) for path in folders])

    async def _preupload(self, request: Request) -> Response:
        repo, said = self.repo(request, write=True), await request.json()
        found = []
        for file in said["files"]:
            path = file["path"]
            known = {"oid": self.oid(path, repo.files[path])} if path in repo.files else {}
            mode = "lfs" if path.endswith(LARGE) else "regular"
            found.append({"path": path, "uploadMode": mode, "shouldIgnore": False, **known})
        return JSONResponse({"files": found})

    async def _batch(self, request: Request) -> Response:
        self.account(request)
        found = []
        for wanted in (await request.json())["objects"]:
            entry = {"oid": wanted["oid"], "size": wanted["size"]}
            if not self.object(wanted["oid"]).exists():
                href = f"{self.url}/_lfs/{wanted['oid']}"
                entry["actions"] = {"upload": {"href": href}, "verify": {"href": href + "/verify"}}
            found.append(entry)
        return JSONResponse({"transfer": "basic", "objects": found})

    async def _put(self, request: Request) -> Response:
        content = await request.body()
        if hashlib.sha256(content).hexdigest() != request.path_params["sha"]:
            raise Refused(400, "sha256 mismatch")
        self.store(content)
        return Response(status_code=200)

    async def _verify(self, request: Request) -> Response:
        self.account(request)
        if not self.object(request.path_params["sha"]).exists():
            raise Refused(404, "object not found")
        return JSONResponse({})

    async def _commit(self, request: Request) -> Response:
        repo = self.repo(request, write=True)
        for line in (await request.body()).splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                repo.files[value["path"]] = self.store(base64.b64decode(value["content"]))
            elif item["key"] == "lfsFile":
                repo.files[value["path"]] = value["oid"]
            elif item["key"] == "deletedFile":
                del repo.files[value["path"]]
        repo.commits.append(sha1(f"{repo.id}{len(repo.commits)}"))
        url = f"{self.url}/{repo.id}/commit/{repo.commits[-1]}"
        return JSONResponse({"success": True, "commitOid": repo.commits[-1], "commitUrl": url, "hookOutput": ""})

    async def _resolve(self, request: Request) -> Response:
        repo, path = self.repo(request), request.path_params["path"]
        if repo.gated and repo.owner not in self.names(request):
            raise Refused(403, "Access to this repository is restricted", "GatedRepo")
        if path not in repo.files:
            raise Refused(404, "Entry not found", "EntryNotFound")
        sha = repo.files[path]
        size = self.object(sha).stat().st_size
        headers = {"X-Repo-Commit": repo.commits[-1], "ETag": f'"{self.oid(path, sha)}"', "Accept-Ranges": "bytes"}
        if path.endswith(LARGE):
            headers |= {"X-Linked-Etag": f'"{sha}"', "X-Linked-Size": str(size)}
        if request.method == "HEAD":
            return Response(headers={**headers, "Content-Length": str(size)})
        return FileResponse(self.object(sha), headers=headers)


class _Door:
    """Notes every request and makes the trouble that was asked for."""

    def __init__(self, hub: HubDouble, inner: Any):
        self.hub, self.inner = hub, inner

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        line = f"{scope['method']} {unquote(scope['raw_path'].decode())}"
        self.hub.requests.append(line)
        said = dict(scope["headers"]).get(b"authorization", b"").decode()
        self.hub.tokens |= {said.removeprefix("Bearer ")} - {""}
        for trouble in self.hub.troubles:
            if trouble.times > 0 and re.search(trouble.match, line):
                trouble.times -= 1
                await asyncio.sleep(trouble.seconds)
                if trouble.drop:  # promises ten bytes and hangs up
                    headers = [(b"content-length", b"10")]
                    await send({"type": "http.response.start", "status": 200, "headers": headers})
                    return
                if trouble.status:
                    refused = await _refusal(None, Refused(trouble.status, "trouble on request"))
                    await refused(scope, receive, send)
                    return
        await self.inner(scope, receive, send)


async def _refusal(_request: Request | None, error: Refused) -> Response:
    headers = {"X-Error-Message": error.says, **({"X-Error-Code": error.code} if error.code else {})}
    return JSONResponse({"error": error.says}, error.status, headers=headers)


def _folder(path: str) -> dict[str, Any]:
    return {"type": "directory", "path": path, "oid": sha1(path), "size": 0}
