"""Who may speak to a server on this machine: programs here, and no page of another site."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from starlette.responses import JSONResponse

from .protocol import Refusal

OUR_HOSTS = ("127.0.0.1", "localhost", "::1")


class OnlyFromHere:
    """Refuse what a page of another site could send: a Host that is not this machine (DNS rebinding), a foreign
    Origin, or a body that a plain form can make (CSRF)."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and (problem := _foreign(scope)):
            await JSONResponse(problem.body, problem.status)(scope, receive, send)
        else:
            await self.app(scope, receive, send)


def _foreign(scope: Any) -> Refusal | None:
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    if _host_of("//" + headers.get("host", "")) not in OUR_HOSTS:
        return Refusal(403, "This server answers only to its own machine.", code="foreign_host")
    if "origin" in headers and _host_of(headers["origin"]) not in OUR_HOSTS:
        return Refusal(403, "Pages of other sites may not use this server.", code="foreign_origin")
    is_json = headers.get("content-type", "").split(";")[0].strip().lower() == "application/json"
    if scope["method"] == "POST" and not is_json:
        return Refusal(415, "Send JSON, with Content-Type: application/json.")
    return None


def _host_of(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None
