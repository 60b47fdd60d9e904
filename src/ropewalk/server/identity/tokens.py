"""Named tokens: random, shown once, stored as a hash, expiring, revocable."""

from __future__ import annotations

import secrets
from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy import and_, delete, or_, select
from sqlalchemy.exc import IntegrityError

from ropewalk.errors import AuthenticationError, ConflictError, InputError, NotFoundError
from ropewalk.schemas.identity import Token as TokenSchema
from ropewalk.schemas.identity import TokenCreate, TokenCreated
from ropewalk.server.db.models import Token, User, new_id
from ropewalk.server.events import EventCode, record
from ropewalk.server.identity.access import hash_token

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncSession

    from ropewalk.server.context import Context
    from ropewalk.server.identity.permissions import Caller

__all__ = ["create_token", "issue_token", "list_tokens", "log_in", "revoke_token"]

PREFIX = "rwt_"
"""Lets people and secret scanners recognise a token."""
RANDOM_BYTES = 32
MAX_TOKENS = 200
"""For each user; guards against a script that logs in anew for every task."""
KEEP_EXPIRED = timedelta(days=30)
_NAME_LENGTH = 80


def _shown(row: Token) -> TokenSchema:
    return TokenSchema(
        id=row.id,
        name=row.name,
        created_at=row.created_at,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
    )


async def list_tokens(context: Context, caller: Caller) -> list[TokenSchema]:
    """Return the caller's tokens, newest first, expired ones included until their name is used again."""
    query = select(Token).where(Token.user_id == caller.user_id).order_by(Token.created_at.desc(), Token.id)
    async with context.db.read() as session:
        return [_shown(row) for row in await session.scalars(query)]


async def create_token(context: Context, caller: Caller, request: TokenCreate) -> TokenCreated:
    """Make a token for the caller.

    Raises:
        ConflictError: A token of that name exists.
    """
    days = request.expires_in_days
    if "expires_in_days" not in request.model_fields_set:
        days = context.settings.token_days
    async with context.db.transaction() as session:
        user = await session.get_one(User, caller.user_id)
        return await issue_token(context, session, user, request.name, days)


async def log_in(
    context: Context, user: User, name: str, days: float | None, *, session: AsyncSession | None = None
) -> TokenCreated:
    """Make a token for a login; a name that is in use gets a number, since one logs in again and again."""
    if session is None:
        async with context.db.transaction() as own:
            return await log_in(context, user, name, days, session=own)
    user = await session.get_one(User, user.id, with_for_update=True)
    await _drop_expired(session, user, name, context.clock.now())
    taken = set(await session.scalars(select(Token.name).where(Token.user_id == user.id)))
    number, free = 1, name
    while free in taken:
        number += 1
        suffix = f" ({number})"
        free = name[: _NAME_LENGTH - len(suffix)] + suffix
    return await issue_token(context, session, user, free, days)


async def issue_token(
    context: Context, session: AsyncSession, user: User, name: str, days: float | None
) -> TokenCreated:
    """Add a token to the transaction and return it with its secret, which is nowhere else.

    Args:
        context: The server.
        session: The transaction.
        user: Whose it is.
        name: Unique among the user's tokens.
        days: Until it expires; None: never.
    """
    now = context.clock.now()
    # The lock makes logins at the same time take different names, and disabling the user win over a login.
    await session.refresh(user, with_for_update=True)
    if user.disabled:
        raise AuthenticationError(f"The user {user.username!r} is disabled.", advice="Ask an operator.")
    await _drop_expired(session, user, name, now)
    names = list(await session.scalars(select(Token.name).where(Token.user_id == user.id)))
    if name in names:
        raise _taken(name)
    if len(names) >= MAX_TOKENS:
        raise ConflictError(
            f"You have {len(names)} tokens, which is the most one user may have.",
            advice="Revoke some that are not used any more: ropewalk token list, ropewalk token revoke.",
        )
    secret = PREFIX + secrets.token_urlsafe(RANDOM_BYTES)
    expires = None if days is None else now + timedelta(days=days)
    row = Token(id=new_id("t"), user_id=user.id, name=name, hash=hash_token(secret), created_at=now, expires_at=expires)
    session.add(row)
    try:
        await session.flush()
    except IntegrityError:
        raise _taken(name) from None
    record(
        session,
        now,
        EventCode.TOKEN_CREATED,
        f"The token {name!r} was created.",
        actor=user.username,
        details={"token": row.id, "name": name, "expires_at": None if expires is None else expires.isoformat()},
    )
    return TokenCreated(**_shown(row).model_dump(), token=secret)


async def revoke_token(context: Context, caller: Caller, name_or_id: str) -> None:
    """Delete one of the caller's tokens; it stops working at once."""
    async with context.db.transaction() as session:
        row = await _own(session, caller, name_or_id)
        await session.delete(row)
        record(
            session,
            context.clock.now(),
            EventCode.TOKEN_REVOKED,
            f"The token {row.name!r} was revoked.",
            actor=caller.username,
            details={"token": row.id, "name": row.name},
        )


async def _own(session: AsyncSession, caller: Caller, name_or_id: str) -> Token:
    if "\0" in name_or_id:
        raise InputError("The name of a token cannot contain a NUL character.", field="token")
    query = select(Token).where(Token.user_id == caller.user_id, or_(Token.id == name_or_id, Token.name == name_or_id))
    rows = list(await session.scalars(query))
    # A token may be named like the id of another one: the id wins.
    rows.sort(key=lambda row: row.id != name_or_id)
    if not rows:
        raise NotFoundError(
            f"You have no token {name_or_id[:80]!r}.", advice="List yours with: ropewalk token list", field="token"
        )
    return rows[0]


async def _drop_expired(session: AsyncSession, user: User, name: str, now: datetime) -> None:
    """Remove what expired long ago, and what expired and has the name that is wanted.

    The rest stays, so that whoever uses an expired token is told that it expired.
    """
    old = or_(Token.expires_at < now - KEEP_EXPIRED, and_(Token.expires_at <= now, Token.name == name))
    await session.execute(delete(Token).where(Token.user_id == user.id, old))


def _taken(name: str) -> ConflictError:
    return ConflictError(
        f"You have a token {name!r} already.", advice="Choose another name, or revoke that one first.", field="name"
    )
