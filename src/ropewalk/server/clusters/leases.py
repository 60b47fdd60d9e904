"""Who works on which cluster: a lease with an expiry, and a fencing number that makes a stale owner harmless.

A server claims the clusters that nobody holds, and renews all of its leases with one statement, so that idle clusters
cost no queries. Each claim raises the cluster's fence; every write of an owner is conditional on it (:func:`fenced`),
so one that was frozen past its lease and wakes up can write nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import cast

from sqlalchemy import CursorResult, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from ropewalk.schemas.clusters import ClusterState
from ropewalk.server.context import Context
from ropewalk.server.db.models import Cluster
from ropewalk.server.owners import is_dead_neighbour

LIVE = [state.value for state in ClusterState if state.live]

CLAIM_BATCH = 200
"""Clusters claimed in one transaction, so that servers that start together share the work."""


class LeaseLostError(Exception):
    """Another server works on the cluster now, or it has ended."""


@dataclass(frozen=True, slots=True)
class Lease:
    cluster_id: str
    cloud_account_id: str
    owner: str
    fence: int


async def claim(context: Context, owner: str, *, exclude: Sequence[str] = ()) -> list[Lease]:
    """Take the live clusters that nobody holds, other than those in *exclude*."""
    now = context.clock.now()
    free = or_(Cluster.lease_owner.is_(None), Cluster.lease_expires_at < now)
    wanted = select(Cluster).where(Cluster.state.in_(LIVE), free, Cluster.id.not_in(exclude))
    async with context.db.transaction() as session:
        rows = (await session.scalars(wanted.limit(CLAIM_BATCH).with_for_update(skip_locked=True))).all()
        for row in rows:
            row.lease_owner = owner
            row.lease_expires_at = now + timedelta(seconds=context.settings.lease_seconds)
            row.fence += 1
        return [Lease(row.id, row.cloud_account_id, owner, row.fence) for row in rows]


async def release_dead(context: Context) -> None:
    """Free the leases of servers of this machine that died, so that a restart need not wait for them to expire."""
    held = select(Cluster.lease_owner).where(Cluster.lease_owner.is_not(None)).distinct()
    async with context.db.read() as session:
        owners = list(await session.scalars(held))
    for owner in owners:
        if owner is not None and is_dead_neighbour(owner):
            await release(context, owner)


async def renew(context: Context, owner: str) -> set[str]:
    """Extend all leases of *owner*; returns the clusters that it holds."""
    expires = context.clock.now() + timedelta(seconds=context.settings.lease_seconds)
    mine = (Cluster.lease_owner == owner, Cluster.state.in_(LIVE))
    async with context.db.transaction() as session:
        kept = await session.scalars(
            update(Cluster).where(*mine).values(lease_expires_at=expires).returning(Cluster.id)
        )
        return set(kept)


async def held_by_others(context: Context, owner: str) -> dict[str, datetime]:
    """Return until when each other owner's leases hold, by what they say."""
    others = (Cluster.lease_owner.is_not(None), Cluster.lease_owner != owner, Cluster.state.in_(LIVE))
    until = select(Cluster.lease_owner, func.max(Cluster.lease_expires_at)).where(*others)
    async with context.db.read() as session:
        rows = await session.execute(until.group_by(Cluster.lease_owner))
        return {name: moment for name, moment in rows if name is not None and moment is not None}


class Unrenewed:
    """Notices owners that do not renew, by watching and not by any clock of theirs.

    A server whose clock was an hour ahead, and that died, leaves leases that seem to hold for an hour.
    """

    def __init__(self) -> None:
        self._seen: dict[str, tuple[datetime, float]] = {}

    def stale(self, held: Mapping[str, datetime], at: float, patience: float) -> list[tuple[str, datetime]]:
        """Return the owners whose leases have not changed for *patience* seconds, and until when those hold.

        Args:
            held: Until when each owner's leases hold, as just read.
            at: A monotonic time in seconds.
            patience: Seconds.
        """
        seen = {}
        for owner, until in held.items():
            before = self._seen.get(owner)
            seen[owner] = before if before is not None and before[0] == until else (until, at)
        self._seen = seen
        return [(owner, until) for owner, (until, since) in seen.items() if at - since >= patience]


async def release(
    context: Context, owner: str, *, only: Collection[str] | None = None, until: datetime | None = None
) -> None:
    """Give leases of *owner* back, so that nobody need wait for them to expire.

    Args:
        context: The server's services.
        owner: Whose.
        only: Of these clusters; None: of all.
        until: Only what says that it holds until then, or shorter: not what was renewed meanwhile.
    """
    mine = update(Cluster).where(Cluster.lease_owner == owner)
    if only is not None:
        mine = mine.where(Cluster.id.in_(only))
    if until is not None:
        mine = mine.where(Cluster.lease_expires_at <= until)
    async with context.db.transaction() as session:
        await session.execute(mine.values(lease_owner=None, lease_expires_at=None))


@asynccontextmanager
async def fenced(context: Context, lease: Lease) -> AsyncIterator[AsyncSession]:
    """Give a transaction that is committed only while *lease* holds.

    Raises:
        LeaseLostError: it does not; nothing is written.
    """
    async with context.db.transaction() as session:
        held = update(Cluster).where(
            Cluster.id == lease.cluster_id, Cluster.lease_owner == lease.owner, Cluster.fence == lease.fence
        )
        # The row stays locked until the commit, so no other server can claim it in between.
        result = cast("CursorResult[None]", await session.execute(held.values(fence=lease.fence)))
        if result.rowcount != 1:
            raise LeaseLostError(lease.cluster_id)
        yield session
