"""Who works on which row: a lease with an expiry, and a fencing number that makes a stale owner harmless.

Each claim raises the row's fence; every write of an owner is conditional on it (:func:`fenced`), so one that was frozen
past its lease and wakes up can write nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, cast

from sqlalchemy import ColumnElement, CursorResult, Select, Table, Update, bindparam, inspect, or_, select, update
from sqlalchemy.exc import SQLAlchemyError

from ropewalk.errors import UnavailableError
from ropewalk.server.db.models import Leased
from ropewalk.server.leases.owners import is_dead_neighbour

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from ropewalk.server.context import Context

__all__ = [
    "NO_DATABASE",
    "RENEWALS_PER_LEASE",
    "Lease",
    "LeaseLostError",
    "claimable",
    "fenced",
    "fenced_row",
    "give_back",
    "release",
    "release_dead",
    "renew",
    "take",
]

RENEWALS_PER_LEASE = 3
"""Two renewals may fail before a lease is lost."""
NO_DATABASE = (SQLAlchemyError, OSError, UnavailableError)
"""What a database that is away for a while looks like."""

Row = TypeVar("Row", bound=Leased)


class LeaseLostError(Exception):
    """Another server works on the row now, or there is nothing more to do on it."""


@dataclass(frozen=True, slots=True)
class Lease:
    row_id: str
    owner: str
    fence: int


def claimable(table: type[Row], now: datetime) -> Select[Row]:
    """Select the rows that nobody holds, locked; those that another server is just claiming are left out."""
    free = or_(table.lease_owner.is_(None), table.lease_expires_at < now)
    return select(table).where(free).with_for_update(skip_locked=True)


def take(context: Context, row: Leased, owner: str) -> Lease:
    """Let *owner* hold a row that was selected as :func:`claimable`, in that transaction."""
    row.lease_owner = owner
    row.lease_expires_at = _expiry(context)
    row.fence += 1
    return Lease(row.id, owner, row.fence)


def give_back(row: Leased) -> None:
    """Let go of a row, in a transaction of its holder."""
    row.lease_owner = row.lease_expires_at = None


async def renew(context: Context, table: type[Leased], owner: str, *which: ColumnElement[bool]) -> set[str]:
    """Extend the leases of *owner*, all with one statement; returns the rows that it holds.

    Args:
        context: The server's services.
        table: Whose rows.
        owner: Whose leases.
        which: Conditions on the rows; none: all.
    """
    mine = update(table).where(table.lease_owner == owner, *which)
    async with context.db.transaction() as session:
        return set(await session.scalars(mine.values(lease_expires_at=_expiry(context)).returning(table.id)))


async def release(context: Context, table: type[Leased], owner: str, *which: ColumnElement[bool]) -> None:
    """Give leases of *owner* back, so that nobody need wait for them to expire; arguments as for :func:`renew`."""
    mine = update(table).where(table.lease_owner == owner, *which)
    async with context.db.transaction() as session:
        await session.execute(mine.values(lease_owner=None, lease_expires_at=None))


async def release_dead(context: Context, table: type[Leased]) -> None:
    """Free the leases of servers of this machine that died, so that a restart need not wait for them to expire."""
    held = select(table.lease_owner).where(table.lease_owner.is_not(None)).distinct()
    async with context.db.read() as session:
        owners = list(await session.scalars(held))
    for owner in owners:
        if owner is not None and is_dead_neighbour(owner):
            await release(context, table, owner)


@cache
def _held(table: Table) -> Update:
    """Return the statement that holds a row; put together once, and without objects: every pass makes it."""
    of = table.columns
    mine = (of.id == bindparam("row"), of.lease_owner == bindparam("owner"), of.fence == bindparam("its"))
    return update(table).where(*mine).values(fence=bindparam("its"))


@asynccontextmanager
async def fenced(context: Context, table: type[Leased], lease: Lease) -> AsyncIterator[AsyncSession]:
    """Give a transaction that is committed only while *lease* holds.

    Raises:
        LeaseLostError: it does not; nothing is written.
    """
    async with context.db.transaction() as session:
        # The row stays locked until the commit, so no other server can claim it in between.
        asked = {"row": lease.row_id, "owner": lease.owner, "its": lease.fence}
        result = cast(
            "CursorResult[Any]", await session.execute(_held(cast("Table", inspect(table).local_table)), asked)
        )
        if result.rowcount != 1:
            raise LeaseLostError(lease.row_id)
        yield session


@asynccontextmanager
async def fenced_row(context: Context, table: type[Row], lease: Lease) -> AsyncIterator[tuple[AsyncSession, Row]]:
    """Give what :func:`fenced` does, and the row in it."""
    async with fenced(context, table, lease) as session:
        yield session, await session.get_one(table, lease.row_id)


def _expiry(context: Context) -> datetime:
    return context.clock.now() + timedelta(seconds=context.settings.lease_seconds)
