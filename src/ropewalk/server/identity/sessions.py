"""Sessions of browsers: a random cookie, stored as a hash, and a CSRF token that is bound to it."""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy import delete, select

from ropewalk.server.db.models import User, WebSession
from ropewalk.server.identity.access import hash_token
from ropewalk.server.identity.permissions import Caller

if TYPE_CHECKING:
    from ropewalk.server.context import Context

__all__ = ["LIFETIME", "SignedIn", "begin", "csrf_token", "end", "find", "new_secret", "same"]

LIFETIME = timedelta(hours=12)
"""A working day; the page is for approving logins, not for staying."""


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A valid session and what its forms must carry."""

    caller: Caller
    csrf: str


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


async def begin(context: Context, user: User) -> str:
    """Begin a session and return its cookie; always a new one, so nobody can plant one before."""
    now = context.clock.now()
    cookie = new_secret()
    async with context.db.transaction() as session:
        await session.execute(delete(WebSession).where(WebSession.expires_at <= now))
        row = WebSession(hash=hash_token(cookie), user_id=user.id, created_at=now, expires_at=now + LIFETIME)
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
