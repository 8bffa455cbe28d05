"""The Hub's Jobs beside the rest of the double: a job is a process of this machine in a clean folder.

    with JobsDouble(folder) as hub:
        hub.jobs["…"].process.kill()      # as when its machine is lost

The job gets what a container would: a HOME of its own, its env and its secrets, and a `uv` that runs this Python. Not
covered: images, volumes, real prices, time-outs, the pace of a real scheduler.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hub_double import HubDouble
from hub_store import BOB, Refused
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

RENTED = [  # name, title, cores, GiB, (card, its GiB, how many), millionths of a dollar a minute
    ("cpu-basic", "CPU Basic", "2 vCPU", "16 GB", None, 167),
    ("t4-small", "Nvidia T4 - small", "4 vCPU", "15 GB", ("T4", "16 GB", "1"), 6667),
    ("l4x1", "1x Nvidia L4", "8 vCPU", "30 GB", ("L4", "24 GB", "1"), 13333),
    ("l4x4", "4x Nvidia L4", "48 vCPU", "186 GB", ("L4", "24 GB", "4"), 63333),
]
UV = """#!{python}
import os, sys
words = sys.argv[1:]
program = [place for place, word in enumerate(words) if word == "python"][0]
os.execv({python!r}, [{python!r}, *words[program + 1 :]])
"""


@dataclass
class Rented:
    id: str
    owner: str
    said: dict[str, Any]
    folder: Path
    process: subprocess.Popen[bytes] | None = None
    was_cancelled: bool = False
    message: str | None = None  # what the Hub says of its end
    log: Path = field(init=False)

    def __post_init__(self) -> None:
        self.log = self.folder / "log"

    @property
    def stage(self) -> str:
        if self.was_cancelled:
            return "CANCELED"
        if self.process is None:
            return "SCHEDULING"
        code = self.process.poll()
        return "RUNNING" if code is None else "COMPLETED" if code == 0 else "ERROR"

    def end(self) -> None:
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.id, "createdAt": "2026-11-23T08:00:00.000Z", "owner": {"id": "1", "name": self.owner, "type":
            "user"}, "command": self.said["command"], "environment": self.said.get("environment"),
            "secrets": dict.fromkeys(self.said.get("secrets") or {}, ""), "flavor": self.said["flavor"],
            "labels": self.said.get("labels"), "status": {"stage": self.stage, "message": self.message},
        }  # fmt: skip


class JobsDouble(HubDouble):
    def __init__(self, folder: Path):
        self.jobs: dict[str, Rented] = {}
        self.holds = False  # jobs wait for hardware
        self.beside: Path | None = None  # Python modules that jobs meet before their own
        super().__init__(folder)

    def __exit__(self, *_: object) -> None:
        for job in self.jobs.values():
            job.end()
        super().__exit__()

    def newest(self) -> Rented:
        return list(self.jobs.values())[-1]

    def _app(self) -> Starlette:
        app = super()._app()
        app.router.routes[:0] = [
            Route("/api/jobs/hardware", self._hardware),
            Route("/api/jobs/{owner}", self._run, methods=["POST"]),
            Route("/api/jobs/{owner}", self._list),
            Route("/api/jobs/{owner}/{job}", self._inspect),
            Route("/api/jobs/{owner}/{job}/logs", self._logs),
            Route("/api/jobs/{owner}/{job}/cancel", self._cancel, methods=["POST"]),
        ]
        return app

    async def _hardware(self, request: Request) -> Response:
        return JSONResponse([
            {"name": name, "prettyName": title, "cpu": cpu, "ram": ram, "unitCostMicroUSD": cost,
             "unitCostUSD": cost / 1e6, "unitLabel": "minute"}
            | ({"accelerator": {"type": "gpu", "model": card[0], "vram": card[1], "quantity": card[2],
                                "manufacturer": "Nvidia"}} if card else {})
            for name, title, cpu, ram, card, cost in RENTED
        ])  # fmt: skip

    async def _run(self, request: Request) -> Response:
        owner, said = request.path_params["owner"], await request.json()
        self.writer(request, owner)
        if request.headers["authorization"].endswith(BOB):
            raise Refused(402, "Pre-paid credit balance is insufficient")
        if said["flavor"] not in [each[0] for each in RENTED]:
            raise Refused(400, f"Invalid flavor {said['flavor']}")
        folder = self.folder / f"job-{len(self.jobs) + 1}"
        folder.mkdir()
        job = Rented(uuid.uuid4().hex[:24], owner, said, folder)
        self.jobs[job.id] = job
        if not self.holds:
            self._start(job)
        return JSONResponse(job.as_json())

    def _start(self, job: Rented) -> None:
        tools = job.folder / "bin"
        tools.mkdir()
        (tools / "uv").write_text(UV.format(python=sys.executable))
        (tools / "uv").chmod(stat.S_IRWXU)
        env = {
            "PATH": f"{tools}:/usr/bin:/bin", "HOME": str(job.folder), "HF_ENDPOINT": self.url,
            "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1", "FIJN_LOOK_SECONDS": "0.5", "JOB_ID": job.id,
            **(job.said.get("environment") or {}), **(job.said.get("secrets") or {}),
            **({"PYTHONPATH": str(self.beside)} if self.beside else {}),
        }  # fmt: skip
        work = job.folder / "work"
        work.mkdir()
        with job.log.open("wb") as log:
            job.process = subprocess.Popen(
                job.said["command"], cwd=work, env=env, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def _job(self, request: Request) -> Rented:
        self.account(request)
        job = self.jobs.get(request.path_params["job"])
        if job is None or job.owner != request.path_params["owner"]:
            raise Refused(404, "Job not found")
        return job

    async def _list(self, request: Request) -> Response:
        self.account(request)
        wanted = [item.split("=", 1) for item in request.query_params.getlist("label")]
        return JSONResponse([
            job.as_json() for job in self.jobs.values()
            if job.owner == request.path_params["owner"]
            and all((job.said.get("labels") or {}).get(key) == value for key, value in wanted)
        ])  # fmt: skip

    async def _inspect(self, request: Request) -> Response:
        return JSONResponse(self._job(request).as_json())

    async def _cancel(self, request: Request) -> Response:
        job = self._job(request)
        job.was_cancelled = True
        job.end()
        return JSONResponse(job.as_json())

    async def _logs(self, request: Request) -> Response:
        job = self._job(request)

        async def lines() -> AsyncIterator[str]:
            place = 0
            while True:
                over = job.stage not in ("SCHEDULING", "RUNNING")
                content = job.log.read_bytes() if job.log.exists() else b""
                complete = content.rfind(b"\n") + 1
                for line in content[place:complete].decode("utf-8", "replace").splitlines():
                    stamp = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
                    yield f"data: {json.dumps({'data': line, 'timestamp': stamp})}\n\n"
                place = complete
                if over:
                    return
                await asyncio.sleep(0.1)

        return StreamingResponse(lines(), media_type="text/event-stream")
