"""Who works on which cloud account: leases with a fence, held only while there is work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import or_

from ropewalk.schemas.cloud_accounts import CloudState
from ropewalk.server.db.models import CloudAccount
from ropewalk.server.leases import rows
from ropewalk.server.leases.rows import Lease, LeaseLostError

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from sqlalchemy.ext.asyncio import AsyncSession

    from ropewalk.server.context import Context

__all__ = ["WAITING", "Lease", "LeaseLostError", "claim", "fenced"]

WAITING = (
    CloudAccount.work.is_not(None),
    CloudAccount.state != CloudState.ATTENTION,
    CloudAccount.forgotten_at.is_(None),
)
"""What there is to do, and nobody has to look at first."""


async def claim(context: Context, owner: str) -> list[Lease]:
    """Take the cloud accounts with work that is due and that nobody does."""
    now = context.clock.now()
    due = or_(CloudAccount.retry_at.is_(None), CloudAccount.retry_at <= now)
    async with context.db.transaction() as session:
        found = (await session.scalars(rows.claimable(CloudAccount, now).where(*WAITING, due))).all()
        return [rows.take(context, row, owner) for row in found]


def fenced(context: Context, lease: Lease) -> AbstractAsyncContextManager[tuple[AsyncSession, CloudAccount]]:
    """Give a transaction, and the row in it, that is committed only while *lease* holds; else LeaseLostError."""
    return rows.fenced_row(context, CloudAccount, lease)
