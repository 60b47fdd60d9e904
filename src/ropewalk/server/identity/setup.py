"""The first operator: made once, by whoever can read the file with the code on the server's machine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from sqlalchemy import select, update

from ropewalk.errors import AuthenticationError, ConflictError, RopewalkError
from ropewalk.schemas.identity import SetupRequest, TokenCreated
from ropewalk.server.db.models import Installation, User
from ropewalk.server.identity import throttle
from ropewalk.server.identity.access import hash_token
from ropewalk.server.identity.passwords import hash_password
from ropewalk.server.identity.tokens import log_in
from ropewalk.server.identity.users import add_user

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from ropewalk.server.context import Context

__all__ = ["CODE_FILE", "create_first_operator", "create_operator_in_browser", "is_done"]

CODE_FILE = "setup-code"
"""In the data directory; mode 0600, removed when the code was used."""


async def create_first_operator(context: Context, request: SetupRequest, *, address: str | None) -> TokenCreated:
    """Trade the set-up code for an operator, and log them in.

    Raises:
        ConflictError: There is an operator already.
        AuthenticationError: The code is wrong.
    """
    async with _made(context, request, address) as (session, user):
        return await log_in(context, user, "setup", context.settings.token_days, session=session)


async def create_operator_in_browser(context: Context, request: SetupRequest, *, address: str | None) -> User:
    """As :func:`create_first_operator`, for those who go on with a session instead of a token."""
    async with _made(context, request, address) as (_, user):
        return user


async def is_done(context: Context) -> bool:
    """Return whether the first operator was made."""
    async with context.db.read() as session:
        return await session.scalar(select(Installation.setup_code_hash)) is None


@asynccontextmanager
async def _made(
    context: Context, request: SetupRequest, address: str | None
) -> AsyncIterator[tuple[AsyncSession, User]]:
    """Make the operator, in a transaction that the body may add to; the code's file goes once it is committed."""
    counter = throttle.by_address(address, purpose="setup", free=10)
    await throttle.failed_before(context, counter)
    hashed = await hash_password(request.password.get_secret_value())
    # People copy the code from a file, with its line feed.
    code_hash = hash_token(request.code.get_secret_value().strip())
    async with context.db.transaction() as session:
        used = update(Installation).where(Installation.setup_code_hash == code_hash).values(setup_code_hash=None)
        if (await session.execute(used.returning(Installation.id))).scalar_one_or_none() is None:
            raise await _refusal(session)
        await throttle.forget(session, counter)
        user = await add_user(
            context, session, request.username, hashed, email=request.email, operator=True, by=request.username
        )
        yield session, user
    await asyncio.to_thread((context.settings.data_dir / CODE_FILE).unlink, missing_ok=True)


async def _refusal(session: AsyncSession) -> RopewalkError:
    if await session.scalar(select(Installation.setup_code_hash)) is None:
        return ConflictError(
            "This server is set up already.", advice="Log in with: ropewalk login, or ask an operator for a user."
        )
    return AuthenticationError(
        "The set-up code is wrong.",
        advice=f"Take it from the file {CODE_FILE} in the server's data directory, on the machine that it runs on.",
        field="code",
    )
