"""Sessions of browsers: a random cookie, stored as a hash, and a CSRF token that is bound to it."""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import delete, select

from ropewalk.server.db.models import User, WebSession
from ropewalk.server.identity.access import hash_token
from ropewalk.server.identity.permissions import Caller

if TYPE_CHECKING:
    from ropewalk.server.context import Context

__all__ = [
    "LIFETIME",
    "Shown",
    "SignedIn",
    "begin",
    "csrf_token",
    "end",
    "end_own",
    "find",
    "list_own",
    "new_secret",
    "same",
]

LIFETIME = timedelta(hours=12)
"""A working day: who comes back tomorrow signs in again."""


_ID = 16
"""Characters of a hash that are shown: 64 bits, enough to tell one's sessions apart."""


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A valid session and what its forms must carry."""

    caller: Caller
    csrf: str


@dataclass(frozen=True, slots=True)
class Shown:
    """A session as its owner sees it."""

    id: str
    """Begins as its hash does: says which one it is, and opens nothing."""
    created_at: datetime
    expires_at: datetime
    this: bool
    """Whether it is the one that asks."""


def new_secret() -> str:
    """Return a new random value for a cookie."""
    return secrets.token_urlsafe(32)


def csrf_token(cookie: str) -> str:
    """Return what forms carry to prove that they were made for the browser that has *cookie*.

    Other sites can send the cookie, but cannot read it, so they cannot compute this; and it does not reveal the cookie.
    """
    return hmac.digest(cookie.encode(), b"ropewalk csrf", "sha256").hex()


def same(given: str, expected: str) -> bool:
    """Compare two secrets in constant time."""
    return hmac.compare_digest(given.encode(), expected.encode())


async def begin(context: Context, user_id: str) -> str:
    """Begin a session and return its cookie; always a new one, so nobody can plant one before."""
    now = context.clock.now()
    cookie = new_secret()
    async with context.db.transaction() as session:
        await session.execute(delete(WebSession).where(WebSession.expires_at <= now))
        row = WebSession(hash=hash_token(cookie), user_id=user_id, created_at=now, expires_at=now + LIFETIME)
        session.add(row)
    return cookie


async def find(context: Context, cookie: str | None) -> SignedIn | None:
    """Return the session of *cookie*, if it is valid and its user not disabled."""
    if not cookie:
        return None
    query = (
        select(User)
        .join(WebSession, WebSession.user_id == User.id)
        .where(WebSession.hash == hash_token(cookie), WebSession.expires_at > context.clock.now(), ~User.disabled)
    )
    async with context.db.read() as session:
        user = await session.scalar(query)
    if user is None:
        return None
    return SignedIn(Caller(user.id, user.username, user.operator), csrf_token(cookie))


async def end(context: Context, cookie: str) -> None:
    """End a session; its cookie is worth nothing from now on."""
    async with context.db.transaction() as session:
        await session.execute(delete(WebSession).where(WebSession.hash == hash_token(cookie)))


async def list_own(context: Context, caller: Caller, cookie: str) -> list[Shown]:
    """Return the caller's valid sessions, newest first; *cookie* is of the one that asks."""
    valid = select(WebSession).where(WebSession.user_id == caller.user_id, WebSession.expires_at > context.clock.now())
    mine = hash_token(cookie)
    async with context.db.read() as session:
        rows = await session.scalars(valid.order_by(WebSession.created_at.desc(), WebSession.hash))
        return [Shown(row.hash[:_ID], row.created_at, row.expires_at, row.hash == mine) for row in rows]


async def end_own(context: Context, caller: Caller, session_id: str) -> None:
    """End the caller's session of that id; of somebody else's, nothing is known."""
    if len(session_id) != _ID or not session_id.isalnum():
        return
    own = WebSession.user_id == caller.user_id, WebSession.hash.startswith(session_id, autoescape=True)
    async with context.db.transaction() as session:
        await session.execute(delete(WebSession).where(*own))
