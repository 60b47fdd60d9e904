"""The audit trail: events of the whole installation, and what of them is asked for."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from ropewalk.schemas.common import Event, Line, Schema

EventId = Annotated[int, Field(ge=0, le=2**31 - 1)]


class AuditQuery(Schema):
    """Which events; all that is given must be true of them."""

    actor: Annotated[Line, Field(max_length=60)] | None = Field(None, description="Only what this user did.")
    code: Annotated[Line, Field(max_length=60)] | None = Field(
        None, description="Only codes that begin like this: `cluster.stopped`, or `cluster.` for all about clusters."
    )
    account: Annotated[Line, Field(max_length=60)] | None = Field(None, description="Only what concerns this account.")
    level: Literal["info", "warning", "error"] | None = None
    since: AwareDatetime | None = Field(None, description="Only from this moment on.")
    until: AwareDatetime | None = Field(None, description="Only before this moment.")
    after: EventId | None = Field(None, description="Id of the last event seen; without: the newest events.")
    before: EventId | None = Field(None, description="Only events before the one with this id.")
    limit: Annotated[int, Field(ge=1, le=1000)] = 100


class AuditEvent(Event):
    """An event, with the account that it concerns."""

    account: str | None = Field(None, description="Slug; null: none, or the whole installation.")


CSV_COLUMNS = ("id", "time", "level", "code", "actor", "account", "cluster", "node", "message")


def audit_row(event: AuditEvent) -> list[object]:
    """Return the cells of an event in CSV."""
    time: datetime = event.time
    cells = {**event.model_dump(), "time": time.isoformat()}
    return [cells[column] for column in CSV_COLUMNS]
