"""Sessions of browsers: a random cookie, stored as a hash, and a CSRF token that is bound to it."""

from __future__ import annotations

import hmac
import logging
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import delete, select, update

from ropewalk.errors import RopewalkError
from ropewalk.server.db.models import User, WebSession
from ropewalk.server.identity.access import USE_RESOLUTION, hash_token
from ropewalk.server.identity.browsers import name_of
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
    "end_others",
    "end_own",
    "find",
    "list_own",
    "new_secret",
    "note_use",
    "same",
]

_log = logging.getLogger(__name__)

LIFETIME = timedelta(hours=12)
"""A working day: who comes back tomorrow signs in again."""


_ID = 16
"""Characters of a hash that are shown: 64 bits, enough to tell one's sessions apart."""


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A valid session and what its forms must carry."""

    caller: Caller
    csrf: str
    stale: bool = False
    """Whether it is time to write down that it was seen."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A session as its owner sees it."""

    id: str
    """Begins as its hash does: says which one it is, and opens nothing."""
    browser: str | None
    """Which it is of: ``Firefox on Linux``."""
    created_at: datetime
    seen_at: datetime
    """To the minute."""
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


async def begin(context: Context, user_id: str, user_agent: str | None = None) -> str:
    """Begin a session and return its cookie; always a new one, so nobody can plant one before."""
    now = context.clock.now()
    cookie = new_secret()
    async with context.db.transaction() as session:
        await session.execute(delete(WebSession).where(WebSession.expires_at <= now))
        row = WebSession(
            hash=hash_token(cookie),
            user_id=user_id,
            browser=name_of(user_agent),
            seen_at=now,
            created_at=now,
            expires_at=now + LIFETIME,
        )
        session.add(row)
    return cookie


async def find(context: Context, cookie: str | None) -> SignedIn | None:
    """Return the session of *cookie*, if it is valid and its user not disabled."""
    if not cookie:
        return None
    now = context.clock.now()
    query = (
        select(User, WebSession.seen_at)
        .join(WebSession, WebSession.user_id == User.id)
        .where(WebSession.hash == hash_token(cookie), WebSession.expires_at > now, ~User.disabled)
    )
    async with context.db.read() as session:
        row = (await session.execute(query)).one_or_none()
    if row is None:
        return None
    user, seen_at = row
    stale = seen_at is None or now - seen_at >= USE_RESOLUTION
    return SignedIn(Caller(user.id, user.username, user.operator), csrf_token(cookie), stale)


async def note_use(context: Context, cookie: str) -> None:
    """Write down that a session was seen. Never fails the request."""
    seen = update(WebSession).where(WebSession.hash == hash_token(cookie)).values(seen_at=context.clock.now())
    try:
        async with context.db.transaction() as session:
            await session.execute(seen)
    except (OSError, RopewalkError) as exc:
        _log.warning("that a session was seen could not be written down: %s", type(exc).__name__)


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
        return [_shown(row, mine) for row in rows]


def _shown(row: WebSession, mine: str) -> Shown:
    seen = row.seen_at or row.created_at
    return Shown(row.hash[:_ID], row.browser, row.created_at, seen, row.expires_at, row.hash == mine)


async def end_own(context: Context, caller: Caller, session_id: str) -> None:
    """End the caller's session of that id; of somebody else's, nothing is known."""
    if len(session_id) != _ID or not session_id.isalnum():
        return
    own = WebSession.user_id == caller.user_id, WebSession.hash.startswith(session_id, autoescape=True)
    async with context.db.transaction() as session:
        await session.execute(delete(WebSession).where(*own))


async def end_others(context: Context, caller: Caller, cookie: str) -> None:
    """End all of the caller's sessions but that of *cookie*."""
    others = WebSession.user_id == caller.user_id, WebSession.hash != hash_token(cookie)
    async with context.db.transaction() as session:
        await session.execute(delete(WebSession).where(*others))
