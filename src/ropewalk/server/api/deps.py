"""What routes ask for: a permission, and with it the caller.

Every route declares exactly one permission::

    @router.get("/tokens")
    async def list_tokens(caller: Annotated[Caller, require(Permission.SELF_TOKENS_READ)]) -> list[Token]: ...

    @router.post("/accounts/{account}/clusters")
    async def create(caller: Annotated[AccountCaller, require(Permission.ACCOUNT_CLUSTERS_CREATE)], ...) -> ...: ...

    @router.get("/healthz", dependencies=[public(Permission.PUBLIC_HEALTH_READ)])
    async def healthz() -> ...: ...

Permissions are checked before anything else of the request is looked at, so nobody learns from a validation error that
something exists. (These modules do not postpone annotations: FastAPI needs them when the module is read.)
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any, cast

import structlog
from fastapi import Depends, Path, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from ropewalk.errors import AuthenticationError
from ropewalk.server.context import Context
from ropewalk.server.identity import access
from ropewalk.server.identity.permissions import AccountCaller, Caller, Guard, Permission, Scope

__all__ = ["ContextDep", "Gate", "address_of", "get_context", "public", "require"]

_bearer = HTTPBearer(auto_error=False, bearerFormat="rwt_…", description="A token: `ropewalk login` makes one.")


def get_context(request: Request) -> Context:
    """Return the server's context."""
    return cast("Context", request.app.state.context)


ContextDep = Annotated[Context, Depends(get_context)]


@dataclass(frozen=True)
class Gate(Guard):
    """Looks at bearer tokens. :func:`require` and :func:`public` make these."""

    async def open_to_all(self) -> None:
        """Let everybody through; exists so that the route's permission can be found."""

    async def for_user(
        self, context: ContextDep, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
    ) -> AsyncIterator[Caller]:
        """Identify the caller by the bearer token and check the permission."""
        used = await _identify(context, credentials)
        try:
            used.caller.demand(self.permission)
            yield used.caller
        finally:
            # After the response is sent, and whatever became of the request.
            await access.note_use(context, used)

    async def for_account(
        self,
        account: Annotated[str, Path(description="Slug of the account.")],
        context: ContextDep,
        credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    ) -> AsyncIterator[AccountCaller]:
        """As :meth:`for_user`; the account is the path's ``{account}``, and must be the caller's to see."""
        used = await _identify(context, credentials, account)
        try:
            # Who is refused is told which accounts are theirs.
            caller = used.in_account or await access.to_account(context, used.caller, account)
            caller.demand(self.permission)
            yield caller
        finally:
            await access.note_use(context, used)


def require(permission: Permission) -> Any:
    """Return the dependency that demands *permission* and gives the caller.

    It gives an :class:`AccountCaller` for permissions of scope ``account``, whose routes have ``{account}`` in their
    path, and a :class:`Caller` otherwise.
    """
    gate = Gate(permission)
    if permission.scope is Scope.PUBLIC:
        raise ValueError(f"{permission} is open to all: declare it with public()")
    return Depends(gate.for_account if permission.scope is Scope.ACCOUNT else gate.for_user)


def public(permission: Permission) -> Any:
    """Return the dependency that declares a route open to everybody."""
    if permission.scope is not Scope.PUBLIC:
        raise ValueError(f"{permission} is not open to all: declare it with require()")
    return Depends(Gate(permission).open_to_all)


def address_of(request: Request) -> str | None:
    """Return the address that a request came from; behind a trusted proxy, uvicorn puts the client's there."""
    return None if request.client is None else request.client.host


async def _identify(
    context: Context, credentials: HTTPAuthorizationCredentials | None, account: str | None = None
) -> access.TokenUse:
    used = await access.by_token(context, _token(credentials), account)
    # For the log of this request.
    structlog.contextvars.bind_contextvars(user=used.caller.username)
    return used


def _token(credentials: HTTPAuthorizationCredentials | None) -> str:
    if credentials is None:
        raise AuthenticationError(
            "This request carries no token.",
            advice="Log in with: ropewalk login (or send the header 'Authorization: Bearer <token>').",
        )
    return credentials.credentials
