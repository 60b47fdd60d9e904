"""Whether clusters in a cloud account can be looked after: keys are revoked, and set again, while clusters run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ropewalk.server.cloud_accounts.present import topics
from ropewalk.server.db.models import CloudAccount
from ropewalk.server.events import EventCode, record

if TYPE_CHECKING:
    from ropewalk.server.context import Context

__all__ = ["note_reach"]


async def note_reach(context: Context, cloud_account_id: str, reason: str | None) -> None:
    """Write down why a cloud account's clusters cannot be looked after, or (None) that they can, if that is news."""
    async with context.db.transaction() as session:
        row = await session.get(CloudAccount, cloud_account_id, with_for_update=True)
        if row is None or row.unreachable == reason or row.forgotten_at is not None:
            return
        row.unreachable = reason
        record(
            session,
            context.clock.now(),
            EventCode.CLOUD_ACCOUNT_BACK if reason is None else EventCode.CLOUD_ACCOUNT_ATTENTION,
            "The cloud answers again."
            if reason is None
            else f"Its clusters cannot be looked after; they go on, and nothing of them is forgotten: {reason}",
            level="info" if reason is None else "error",
            account_id=row.account_id,
            cloud_account_id=row.id,
            details={"cloud_account": row.id},
        )
        await context.wakeups.announce(session, *topics(row))
