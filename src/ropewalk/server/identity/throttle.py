"""Slows down guessing: each failure beyond a few doubles the time until the next try.

Failures are counted for a user at an address, and for an address whatever the user. They are kept in the database and
not in memory, since several servers may share one PostgreSQL and a restart must not give an attacker new tries; the
row costs nothing beside the argon2 hash that it goes with. A try is counted before the password is looked at, so many
at the same time gain nothing. Nobody can lock out a user at another address.
"""

from __future__ import annotations

import hashlib
import ipaddress
import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql, sqlite

from ropewalk.errors import RateLimitedError
from ropewalk.server.db.models import LoginAttempts

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from ropewalk.server.context import Context

__all__ = ["Counter", "by_address", "by_user", "failed_before", "forget"]

LONGEST_WAIT = timedelta(minutes=15)
FORGET_AFTER = timedelta(hours=1)
"""Failures older than this do not count any more."""


@dataclass(frozen=True, slots=True)
class Counter:
    """One thing that failures are counted for, and how many are free."""

    key: str
    free: int


def by_user(name: str, address: str | None, *, purpose: str = "password", free: int = 5) -> Counter:
    """Count for a user (or what was entered as one) at an address."""
    return Counter(_digest(purpose, name, _network(address)), free)


def by_address(address: str | None, *, purpose: str = "password", free: int = 50) -> Counter:
    """Count for an address, whichever users are tried; more are free, since many people may share one."""
    return Counter(_digest(purpose, "", _network(address)), free)


async def failed_before(context: Context, *counters: Counter) -> None:
    """Count a try as failed, or refuse it; :func:`forget` takes it back when it succeeds.

    Raises:
        RateLimitedError: Too many tries; ``details["retry_after"]`` has the seconds to wait.
    """
    now = context.clock.now()
    async with context.db.transaction() as session:
        await session.execute(delete(LoginAttempts).where(LoginAttempts.updated_at < now - FORGET_AFTER))
        rows = await _rows(session, counters, now, sqlite_dialect=context.db.is_sqlite)
        wait = max((rows[counter.key].retry_at - now for counter in counters), default=timedelta())
        if wait <= timedelta():
            for counter in counters:
                _count(rows[counter.key], counter.free, now)
    if wait > timedelta():
        seconds = math.ceil(wait.total_seconds())
        raise RateLimitedError(
            "Too many failed attempts.",
            advice=f"Try again in {seconds} seconds.",
            details={"retry_after": seconds},
        )


async def forget(session: AsyncSession, user: Counter, address: Counter | None = None) -> None:
    """Take back what :func:`failed_before` counted: all failures of the user, one of the address."""
    keys = [user.key] if address is None else [user.key, address.key]
    query = select(LoginAttempts).where(LoginAttempts.key.in_(keys)).order_by(LoginAttempts.key).with_for_update()
    for row in await session.scalars(query):
        if row.key == user.key:
            await session.delete(row)
        elif address is not None:
            row.failures = max(0, row.failures - 1)
            row.retry_at = row.updated_at if row.failures < address.free else row.retry_at


def _count(row: LoginAttempts, free: int, now: datetime) -> None:
    row.failures += 1
    row.updated_at = now
    beyond = row.failures - free
    row.retry_at = now + min(LONGEST_WAIT, timedelta(seconds=2 ** min(beyond, 20))) if beyond >= 0 else now


async def _rows(
    session: AsyncSession, counters: tuple[Counter, ...], now: datetime, *, sqlite_dialect: bool
) -> dict[str, LoginAttempts]:
    """Return the locked rows of the counters, made where they are missing, in one order so that none can deadlock."""
    insert = sqlite.insert if sqlite_dialect else postgresql.insert
    rows = {}
    for key in sorted(counter.key for counter in counters):
        new = insert(LoginAttempts).values(key=key, failures=0, retry_at=now, updated_at=now)
        # An update that changes nothing, unlike doing nothing, locks the row: nobody can delete it before it is read.
        same = {"failures": LoginAttempts.failures}
        await session.execute(new.on_conflict_do_update(index_elements=["key"], set_=same))
        rows[key] = await session.get_one(LoginAttempts, key)
    return rows


def _network(address: str | None) -> str:
    """Return what one attacker certainly has: an IPv4 address, or a /64 of IPv6, which is what a household gets."""
    try:
        parsed = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return "elsewhere"
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((int(parsed), 64), strict=False))
    return str(parsed)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
