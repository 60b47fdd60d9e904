"""Who builds what: leases with a fence, held only while there is work. Two builds of one hash are not made at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import or_, select

from ropewalk.schemas.environments import BuildState
from ropewalk.server.db.models import EnvironmentBuild
from ropewalk.server.leases import rows
from ropewalk.server.leases.rows import Lease, LeaseLostError

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from sqlalchemy.ext.asyncio import AsyncSession

    from ropewalk.server.context import Context

__all__ = ["WAITING", "Lease", "LeaseLostError", "claim", "fenced"]

WAITING = (EnvironmentBuild.state.in_((BuildState.QUEUED, BuildState.BUILDING)),)
"""What there is to build."""


async def claim(context: Context, owner: str, most: int) -> list[Lease]:
    """Take builds that are due and that nobody works on, the oldest first, *most* at the most.

    What has the same hash as one that is being built for the same place waits: it will find that one's result.
    """
    if most <= 0:
        return []
    now = context.clock.now()
    due = or_(EnvironmentBuild.retry_at.is_(None), EnvironmentBuild.retry_at <= now)
    oldest = (EnvironmentBuild.created_at, EnvironmentBuild.id)
    wanted = rows.claimable(EnvironmentBuild, now).where(*WAITING, due).order_by(*oldest)
    async with context.db.transaction() as session:
        busy = select(EnvironmentBuild).where(*WAITING, EnvironmentBuild.lease_expires_at >= now)
        taken = {_work(row) for row in await session.scalars(busy)}
        leases: list[Lease] = []
        for row in (await session.scalars(wanted)).all():
            if len(leases) == most or _work(row) in taken:
                continue
            taken.add(_work(row))
            leases.append(rows.take(context, row, owner))
        return leases


def _work(row: EnvironmentBuild) -> tuple[str, str, str, str]:
    return row.account_id, row.spec_hash, row.target, row.platform


def fenced(context: Context, lease: Lease) -> AbstractAsyncContextManager[tuple[AsyncSession, EnvironmentBuild]]:
    """Give a transaction, and the row in it, that is committed only while *lease* holds; else LeaseLostError."""
    return rows.fenced_row(context, EnvironmentBuild, lease)
