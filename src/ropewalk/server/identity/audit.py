"""The audit trail: events as operators read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select

from ropewalk.schemas.common import Event as EventSchema
from ropewalk.server.db.models import Event
from ropewalk.server.events import shown

if TYPE_CHECKING:
    from ropewalk.server.context import Context

__all__ = ["read_audit"]


async def read_audit(context: Context, *, after: int | None, limit: int) -> list[EventSchema]:
    """Return events of the whole installation, oldest first: those after an id, or the newest without one."""
    query = select(Event).limit(limit)
    query = query.order_by(Event.id.desc()) if after is None else query.where(Event.id > after).order_by(Event.id)
    async with context.db.read() as session:
        rows = list(await session.scalars(query))
    return [shown(row) for row in sorted(rows, key=lambda row: row.id)]
