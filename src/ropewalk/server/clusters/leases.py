"""Who works on which cluster: leases that are held for as long as the cluster lives.

A server claims the clusters that nobody holds, and renews all of its leases with one statement, so that idle clusters
cost no queries.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, func, select

from ropewalk.schemas.clusters import ClusterState
from ropewalk.server.context import Context
from ropewalk.server.db.models import Cluster
from ropewalk.server.leases import rows
from ropewalk.server.leases.rows import LeaseLostError

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from sqlalchemy.ext.asyncio import AsyncSession

__all__ = [
    "CLAIM_BATCH",
    "LIVE",
    "Lease",
    "LeaseLostError",
    "Unrenewed",
    "claim",
    "fenced",
    "held_by_others",
    "newborn",
    "release",
    "release_dead",
    "renew",
]

LIVE = [state.value for state in ClusterState if state.live]

CLAIM_BATCH = 200
"""Clusters claimed in one transaction, so that servers that start together share the work."""


@dataclass(frozen=True, slots=True)
class Lease(rows.Lease):
    cloud_account_id: str

    @property
    def cluster_id(self) -> str:
        """Whose it is."""
        return self.row_id


async def claim(context: Context, owner: str) -> list[Lease]:
    """Take the live clusters that nobody holds."""
    wanted = rows.claimable(Cluster, context.clock.now()).where(Cluster.state.in_(LIVE)).limit(CLAIM_BATCH)
    async with context.db.transaction() as session:
        found = [(rows.take(context, row, owner), row) for row in await session.scalars(wanted)]
        return [Lease(lease.row_id, owner, lease.fence, row.cloud_account_id) for lease, row in found]


def newborn(context: Context, row: Cluster, owner: str) -> Lease:
    """Let *owner* hold a cluster from the transaction on that makes it."""
    lease = rows.take(context, row, owner)
    return Lease(lease.row_id, owner, lease.fence, row.cloud_account_id)


async def release_dead(context: Context) -> None:
    """Free the leases of servers of this machine that died, so that a restart need not wait for them to expire."""
    await rows.release_dead(context, Cluster)


async def renew(context: Context, owner: str) -> set[str]:
    """Extend all leases of *owner*; returns the clusters that it holds."""
    return await rows.renew(context, Cluster, owner, Cluster.state.in_(LIVE))


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
    which: list[ColumnElement[bool]] = [] if only is None else [Cluster.id.in_(only)]
    if until is not None:
        which.append(Cluster.lease_expires_at <= until)
    await rows.release(context, Cluster, owner, *which)


def fenced(context: Context, lease: Lease) -> AbstractAsyncContextManager[AsyncSession]:
    """Give a transaction that is committed only while *lease* holds; else LeaseLostError."""
    return rows.fenced(context, Cluster, lease)
