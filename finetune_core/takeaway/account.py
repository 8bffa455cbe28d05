"""Whose token this is and what it may do on the Hub, asked within five seconds and before anything is made.

huggingface_hub retries for half a minute before it says that nobody answers; these questions are asked once.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from .. import hub
from ..errors import FinetuneError, explain

WRITING_ROLES = ("admin", "write", "contributor")  # in an organisation
SECONDS = 3.5  # for one answer
SIGN_IN = (
    "Make a token with the role “write” on huggingface.co/settings/tokens, then give it as HF_TOKEN or sign in with "
)
SIGN_IN += "`hf auth login`."
OF_A_SIGN_IN = "hf_oauth_"  # how a token begins that was made by signing in, in a browser
REFUSED = ("bad-token", "sign-in-ended")  # errors: the Hub does not know this token, or not any more
LEAST_LEFT = 60.0  # seconds that a token must still have for a push to begin
AGAIN = "Try again; what has arrived there is kept and not sent twice."


@dataclass(frozen=True)
class Account:
    """Whose token it is, and what it may do on the Hub."""

    name: str
    organisations: tuple[str, ...]
    role: str  # "read", "write", "fineGrained"; "" where the Hub does not say (signed in by OAuth)
    scopes: dict[str, tuple[str, ...]]  # of a fine-grained token: what it may do, by user, organisation or repository
    ends_at: float | None = None  # of the token, in seconds since 1970, where the Hub says

    def full_name(self, repo_id: str) -> str:
        """owner/name for a name of one's own."""
        return repo_id if "/" in repo_id else f"{self.name}/{repo_id}"

    def require_write(self, repo_id: str) -> None:
        """Raises FinetuneError (not-yours, token-read-only) if this token may not write such a repository."""
        owner = repo_id.split("/")[0]
        if owner not in (self.name, *self.organisations):
            raise FinetuneError(
                f"{owner} is neither your account ({self.name}) nor an organisation of yours.",
                f"Call it {self.name}/{repo_id.split('/')[-1]}, or sign in with an account that may write there.",
                code="not-yours",
            )
        allowed = (*self.scopes.get(owner, ()), *self.scopes.get(repo_id, ()))
        may = self.role in ("write", "admin", "") or "repo.write" in allowed
        if not may:
            raise FinetuneError(
                f"This token of {self.name} may read on the Hub, but not write to {owner}.", SIGN_IN, "token-read-only"
            )


def find_token() -> str | None:
    """HF_TOKEN, else the local login's."""
    from huggingface_hub import get_token

    return get_token()


def sign_in(token: str | None) -> Account:
    """Who has this token. Raises FinetuneError: no-token, bad-token, sign-in-ended, hub-away, hub-slow, hub-busy."""
    if not token:
        raise FinetuneError("You are not signed in to the Hub.", SIGN_IN, code="no-token")
    said = ask_hub("/api/whoami-v2", token)
    access = (said.get("auth") or {}).get("accessToken") or {}
    fine = access.get("fineGrained") or {}
    scopes = {
        str((scope.get("entity") or {}).get("name")): tuple(scope.get("permissions") or ())
        for scope in fine.get("scoped") or ()
    }
    organisations = tuple(
        org["name"] for org in said.get("orgs") or () if org.get("roleInOrg", "write") in WRITING_ROLES
    )
    role = str(access.get("role") or "")
    return Account(str(said.get("name", "")), organisations, role, scopes, _end(said.get("auth") or {}))


def _end(auth: dict[str, Any]) -> float | None:
    """When a token ends, as whoami says of sign-ins (expiresAt) and of tokens with an end (accessToken.expiration).

    >>> _end({"accessToken": {"role": "write", "expiration": "1970-01-01T01:00:00.000Z"}}), _end({})
    (3600.0, None)
    """
    said = auth.get("expiresAt") or (auth.get("accessToken") or {}).get("expiration")
    try:
        return datetime.fromisoformat(said).timestamp()
    except (TypeError, ValueError):
        return None


def repository(repo_id: str, token: str, kind: str = "model") -> dict[str, Any] | None:
    """What is on the Hub under this name, or None. A private repository of somebody else looks like none.

    kind: model or dataset; each has names of its own.
    """
    try:
        return ask_hub(f"/api/{kind}s/{repo_id}", token)
    except FinetuneError as error:
        if error.code == "not-found":
            return None
        raise


def require_name(repo_id: str) -> None:
    """Raises FinetuneError (bad-name) for what the Hub would not take as a repository's name."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
        if repo_id.count("/") > 1:
            raise HFValidationError
    except HFValidationError:
        raise FinetuneError(
            f"{repo_id!r} is no name for a repository.",
            "Use letters, digits, “-”, “_” and “.”, at most 96 of them, such as owner/name.",
            code="bad-name",
        ) from None


def ask_hub(path: str, token: str | None) -> dict[str, Any]:
    """One question, one try. Raises FinetuneError within five seconds."""
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    if not hub.reachable():
        raise away("The Hub cannot be reached" + (" (HF_HUB_OFFLINE is set)." if hub.is_offline() else "."))
    try:
        answer = get_session().get(
            hub.endpoint() + path, headers=build_hf_headers(token=token or False), timeout=SECONDS
        )
        hf_raise_for_status(answer)
        said = answer.json()
    except Exception as error:
        raise told(error, token) from error
    return said if isinstance(said, dict) else {}


def told(error: BaseException, token: str | None = None) -> FinetuneError:
    """An exception of the Hub's client in words, by the status that the Hub answered with.

    token: that the Hub was asked with; what it means that it is refused depends on how it came to be.
    """
    if isinstance(error, FinetuneError):
        return error
    chain: list[BaseException] = [error]
    while (inner := chain[-1].__cause__ or chain[-1].__context__) is not None and inner not in chain:
        chain.append(inner)
    for each in chain:
        status = getattr(getattr(each, "response", None), "status_code", None)
        if status == 401 and (token or "").startswith(OF_A_SIGN_IN):
            return sign_in_ended()
        if status in STATUSES:
            code, problem, fix = STATUSES[status]
            return FinetuneError(problem, fix, code=code)
        if isinstance(status, int) and status >= 500:
            return FinetuneError(
                f"The Hub has trouble of its own (error {status}).", "Try again in a few minutes.", code="hub-trouble"
            )
    names = {cls.__name__ for each in chain for cls in type(each).__mro__}
    if names & {"ReadTimeout", "TimeoutException", "TimeoutError"}:
        return FinetuneError("The Hub took the question and did not answer.", "Try again in a minute.", "hub-slow")
    if names & {"TransportError", "ConnectionError", "RequestError", "NetworkError"}:
        return away("The connection to the Hub was lost.", AGAIN)
    return explain(error)


def sign_in_ended(how: str = "Sign in again, then try again; what has arrived there is kept.") -> FinetuneError:
    return FinetuneError("Your sign-in has ended.", how, code="sign-in-ended")


def require_lasting(ends_at: float | None, now: float) -> None:
    """Raises FinetuneError (sign-in-ended) for a token that ends before a push could be over.

    >>> require_lasting(None, 1000.0), require_lasting(2000.0, 1000.0)
    (None, None)
    """
    if ends_at is not None and ends_at - now < LEAST_LEFT:
        raise FinetuneError(
            "Your sign-in, or this token, ends within a minute.", "Sign in again, then push.", code="sign-in-ended"
        )


def away(
    problem: str = "The Hub cannot be reached.", fix: str = "Check the connection and try again."
) -> FinetuneError:
    return FinetuneError(problem, fix, code="hub-away")


STATUSES = {
    401: ("bad-token", "The Hub does not know this token; it may have been revoked or have expired.", SIGN_IN),
    402: (
        "payment",
        "The Hub asks for payment: the account's storage for private repositories is used up.",
        "Free some on huggingface.co/settings/billing, make it public, or take a file instead.",
    ),
    403: (
        "forbidden",
        "The Hub does not let this account do that.",
        "Check the owner in the name and the token's rights (huggingface.co/settings/tokens).",
    ),
    404: ("not-found", "The Hub knows no such repository, or this account may not see it.", "Check the name."),
    409: (
        "conflict",
        "Somebody else changed this repository at the same moment.",
        AGAIN,
    ),
    413: ("too-large", "The Hub refuses a file of this size.", "Take the adapter instead of whole weights."),
    429: ("hub-busy", "The Hub has had too many questions from this account.", "Wait a few minutes, then try again."),
}


def signed_in_here() -> Account | None:
    """The account of the local login or HF_TOKEN, for the page; None: no token, or the Hub is away.

    Raises FinetuneError: bad-token, sign-in-ended, hub-slow, hub-busy, ….
    """
    token = find_token()
    if not token or not hub.reachable(1.0) or os.environ.get("SPACE_ID"):  # a Space's own token is its owner's
        return None
    return sign_in(token)
