"""The audit trail: events as operators read them."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from sqlalchemy import select

from ropewalk.schemas.audit import CSV_COLUMNS, AuditEvent, AuditQuery, audit_row
from ropewalk.schemas.usage import csv_cell
from ropewalk.server.db.models import Account, Event
from ropewalk.server.events import shown

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement

    from ropewalk.server.context import Context

__all__ = ["audit_csv", "read_audit"]


async def read_audit(context: Context, asked: AuditQuery) -> list[AuditEvent]:
    """Return events of the whole installation, oldest first: those after an id, or else the newest."""
    query = select(Event, Account.slug).outerjoin(Account, Account.id == Event.account_id).where(*_which(asked))
    newest = asked.after is None
    query = query.order_by(Event.id.desc() if newest else Event.id).limit(asked.limit)
    async with context.db.read() as session:
        rows = [(row, slug) for row, slug in await session.execute(query)]
    return [AuditEvent(**dict(shown(row)), account=slug) for row, slug in sorted(rows, key=lambda found: found[0].id)]


def _which(asked: AuditQuery) -> list[ColumnElement[bool]]:
    which: list[ColumnElement[bool]] = []
    if asked.actor:
        which.append(Event.actor == asked.actor)
    if asked.code:
        which.append(Event.code.startswith(asked.code, autoescape=True))
    if asked.account:
        which.append(Account.slug == asked.account)
    if asked.level:
        which.append(Event.level == asked.level)
    if asked.since is not None:
        which.append(Event.time >= asked.since)
    if asked.until is not None:
        which.append(Event.time < asked.until)
    if asked.after is not None:
        which.append(Event.id > asked.after)
    if asked.before is not None:
        which.append(Event.id < asked.before)
    return which


async def audit_csv(context: Context, asked: AuditQuery) -> AsyncIterator[str]:
    """Give all events that are asked for as CSV, oldest first, a thousand at a time."""
    yield _lines([list(CSV_COLUMNS)])
    after = asked.after or 0
    while True:
        found = await read_audit(context, asked.model_copy(update={"after": after, "limit": 1000}))
        if not found:
            return
        after = found[-1].id
        yield _lines([audit_row(event) for event in found])


def _lines(rows: list[list[object]]) -> str:
    out = io.StringIO(newline="")
    csv.writer(out).writerows([[csv_cell(cell) for cell in row] for row in rows])
    return out.getvalue()
