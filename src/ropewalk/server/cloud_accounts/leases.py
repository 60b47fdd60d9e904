"""Who works on which cloud account: leases with a fence, as for clusters, held only while there is work."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, cast

from sqlalchemy import ColumnElement, CursorResult, func, or_, select, update

from ropewalk.schemas.cloud_accounts import CloudState
from ropewalk.server.db.models import CloudAccount
from ropewalk.server.owners import is_dead_neighbour

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from ropewalk.server.context import Context

__all__ = ["Lease", "LeaseLostError", "claim", "fenced", "next_retry", "release", "release_dead", "renew"]


class LeaseLostError(Exception):
    """Another server works on the cloud account now, or it was forgotten."""


@dataclass(frozen=True, slots=True)
class Lease:
    cloud_account_id: str
    owner: str
    fence: int


def _waiting() -> tuple[ColumnElement[bool], ...]:
    """What there is to do, and nobody has to look at first."""
    return (
        CloudAccount.work.is_not(None),
        CloudAccount.state != CloudState.ATTENTION,
        CloudAccount.forgotten_at.is_(None),
    )


async def claim(context: Context, owner: str) -> list[Lease]:
    """Take the cloud accounts with work that is due and that nobody does."""
    now = context.clock.now()
    free = or_(CloudAccount.lease_owner.is_(None), CloudAccount.lease_expires_at < now)
    due = or_(CloudAccount.retry_at.is_(None), CloudAccount.retry_at <= now)
    wanted = select(CloudAccount).where(*_waiting(), free, due).with_for_update(skip_locked=True)
    async with context.db.transaction() as session:
        rows = (await session.scalars(wanted)).all()
        for row in rows:
            row.lease_owner = owner
            row.lease_expires_at = now + timedelta(seconds=context.settings.lease_seconds)
            row.fence += 1
        return [Lease(row.id, owner, row.fence) for row in rows]


async def next_retry(context: Context) -> datetime | None:
    """Return when the next work is due that waits for its time."""
    first = select(func.min(CloudAccount.retry_at)).where(*_waiting(), CloudAccount.lease_owner.is_(None))
    async with context.db.read() as session:
        moment: datetime | None = await session.scalar(first)
        return moment


async def renew(context: Context, owner: str, cloud_account_ids: Collection[str]) -> set[str]:
    """Extend the leases of *owner* on those cloud accounts; returns the ones that it holds."""
    expires = context.clock.now() + timedelta(seconds=context.settings.lease_seconds)
    mine = update(CloudAccount).where(CloudAccount.lease_owner == owner, CloudAccount.id.in_(cloud_account_ids))
    async with context.db.transaction() as session:
        return set(await session.scalars(mine.values(lease_expires_at=expires).returning(CloudAccount.id)))


async def release(context: Context, owner: str) -> None:
    """Give all leases of *owner* back."""
    mine = update(CloudAccount).where(CloudAccount.lease_owner == owner)
    async with context.db.transaction() as session:
        await session.execute(mine.values(lease_owner=None, lease_expires_at=None))


async def release_dead(context: Context) -> None:
    """Free the leases of servers of this machine that died, so that a restart need not wait for them to expire."""
    held = select(CloudAccount.lease_owner).where(CloudAccount.lease_owner.is_not(None)).distinct()
    async with context.db.read() as session:
        owners = list(await session.scalars(held))
    for owner in owners:
        if owner is not None and is_dead_neighbour(owner):
            await release(context, owner)


@asynccontextmanager
async def fenced(context: Context, lease: Lease) -> AsyncIterator[tuple[AsyncSession, CloudAccount]]:
    """Give a transaction, and the row in it, that is committed only while *lease* holds.

    Raises:
        LeaseLostError: it does not; nothing is written.
    """
    async with context.db.transaction() as session:
        held = update(CloudAccount).where(
            CloudAccount.id == lease.cloud_account_id,
            CloudAccount.lease_owner == lease.owner,
            CloudAccount.fence == lease.fence,
        )
        # The row stays locked until the commit, so no other server can claim it in between.
        result = cast("CursorResult[None]", await session.execute(held.values(fence=lease.fence)))
        if result.rowcount != 1:
            raise LeaseLostError(lease.cloud_account_id)
        yield session, await session.get_one(CloudAccount, lease.cloud_account_id)
