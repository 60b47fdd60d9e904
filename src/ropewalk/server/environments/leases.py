"""Who builds what: leases with a fence, as for cloud accounts. Two builds of one hash are not made at once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, cast

from sqlalchemy import CursorResult, func, or_, select, update

from ropewalk.schemas.environments import BuildState
from ropewalk.server.db.models import EnvironmentBuild
from ropewalk.server.owners import is_dead_neighbour

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from ropewalk.server.context import Context

__all__ = ["Lease", "LeaseLostError", "claim", "fenced", "next_retry", "release", "release_dead", "renew"]

_WAITING = EnvironmentBuild.state.in_((BuildState.QUEUED, BuildState.BUILDING))


class LeaseLostError(Exception):
    """Another server works on the build now."""


@dataclass(frozen=True, slots=True)
class Lease:
    build_id: str
    owner: str
    fence: int


async def claim(context: Context, owner: str, most: int) -> list[Lease]:
    """Take builds that are due and that nobody works on, the oldest first, *most* at the most.

    What has the same hash as one that is being built for the same place waits: it will find that one's result.
    """
    if most <= 0:
        return []
    now = context.clock.now()
    free = or_(EnvironmentBuild.lease_owner.is_(None), EnvironmentBuild.lease_expires_at < now)
    due = or_(EnvironmentBuild.retry_at.is_(None), EnvironmentBuild.retry_at <= now)
    oldest = (EnvironmentBuild.created_at, EnvironmentBuild.id)
    wanted = select(EnvironmentBuild).where(_WAITING, free, due).order_by(*oldest).with_for_update(skip_locked=True)
    async with context.db.transaction() as session:
        busy = select(EnvironmentBuild).where(_WAITING, EnvironmentBuild.lease_expires_at >= now)
        taken = {_work(row) for row in await session.scalars(busy)}
        leases: list[Lease] = []
        for row in (await session.scalars(wanted)).all():
            if len(leases) == most or _work(row) in taken:
                continue
            taken.add(_work(row))
            row.lease_owner = owner
            row.lease_expires_at = now + timedelta(seconds=context.settings.lease_seconds)
            row.fence += 1
            leases.append(Lease(row.id, owner, row.fence))
        return leases


def _work(row: EnvironmentBuild) -> tuple[str, str, str, str]:
    return row.account_id, row.spec_hash, row.target, row.platform


async def next_retry(context: Context) -> datetime | None:
    """Return when the next build is due that waits for its time."""
    first = select(func.min(EnvironmentBuild.retry_at)).where(_WAITING, EnvironmentBuild.lease_owner.is_(None))
    async with context.db.read() as session:
        moment: datetime | None = await session.scalar(first)
        return moment


async def renew(context: Context, owner: str, build_ids: Collection[str]) -> set[str]:
    """Extend the leases of *owner* on those builds; returns the ones that it holds."""
    expires = context.clock.now() + timedelta(seconds=context.settings.lease_seconds)
    mine = update(EnvironmentBuild).where(EnvironmentBuild.lease_owner == owner, EnvironmentBuild.id.in_(build_ids))
    async with context.db.transaction() as session:
        return set(await session.scalars(mine.values(lease_expires_at=expires).returning(EnvironmentBuild.id)))


async def release(context: Context, owner: str) -> None:
    """Give all leases of *owner* back."""
    mine = update(EnvironmentBuild).where(EnvironmentBuild.lease_owner == owner)
    async with context.db.transaction() as session:
        await session.execute(mine.values(lease_owner=None, lease_expires_at=None))


async def release_dead(context: Context) -> None:
    """Free the leases of servers of this machine that died, so that a restart need not wait for them to expire."""
    held = select(EnvironmentBuild.lease_owner).where(EnvironmentBuild.lease_owner.is_not(None)).distinct()
    async with context.db.read() as session:
        owners = list(await session.scalars(held))
    for owner in owners:
        if owner is not None and is_dead_neighbour(owner):
            await release(context, owner)


@asynccontextmanager
async def fenced(context: Context, lease: Lease) -> AsyncIterator[tuple[AsyncSession, EnvironmentBuild]]:
    """Give a transaction, and the row in it, that is committed only while *lease* holds.

    Raises:
        LeaseLostError: it does not; nothing is written.
    """
    async with context.db.transaction() as session:
        held = update(EnvironmentBuild).where(
            EnvironmentBuild.id == lease.build_id,
            EnvironmentBuild.lease_owner == lease.owner,
            EnvironmentBuild.fence == lease.fence,
        )
        # The row stays locked until the commit, so no other server can claim it in between.
        result = cast("CursorResult[None]", await session.execute(held.values(fence=lease.fence)))
        if result.rowcount != 1:
            raise LeaseLostError(lease.build_id)
        yield session, await session.get_one(EnvironmentBuild, lease.build_id)
