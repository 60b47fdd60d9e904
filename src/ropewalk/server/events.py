"""Writing events: append-only facts with a stable code and a sentence. They are the audit trail as well."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from ropewalk.schemas.common import Event as EventSchema
from ropewalk.server.db.models import Event


class EventCode(StrEnum):
    """Every code that an event can have; the reference page is generated from this table."""

    INSTALLATION_CREATED = "installation.created"
    USER_CREATED = "user.created"
    USER_UPDATED = "user.updated"
    USER_LOGIN_FAILED = "user.login_failed"
    TOKEN_CREATED = "token.created"  # noqa: S105 - a code, not a password
    TOKEN_REVOKED = "token.revoked"  # noqa: S105 - a code, not a password
    DEVICE_APPROVED = "device.approved"
    ACCOUNT_CREATED = "account.created"
    ACCOUNT_UPDATED = "account.updated"
    MEMBER_SET = "member.set"
    MEMBER_REMOVED = "member.removed"
    CLOUD_ACCOUNT_UPDATED = "cloud_account.updated"
    CLOUD_ACCOUNT_CHECKED = "cloud_account.checked"
    CONFIGURATION_SET = "configuration.set"
    CONFIGURATION_DELETED = "configuration.deleted"
    CLUSTER_CREATED = "cluster.created"
    CLUSTER_STARTING = "cluster.starting"
    CLUSTER_READY = "cluster.ready"
    CLUSTER_SCALED = "cluster.scaled"
    CLUSTER_STOP_REQUESTED = "cluster.stop_requested"
    CLUSTER_STOPPING = "cluster.stopping"
    CLUSTER_STOPPED = "cluster.stopped"
    CLUSTER_FAILED = "cluster.failed"
    CLUSTER_ATTENTION = "cluster.attention"
    CLUSTER_LINK_LOST = "cluster.link_lost"
    NODE_LAUNCHED = "node.launched"
    NODE_LAUNCH_FAILED = "node.launch_failed"
    NODE_READY = "node.ready"
    NODE_RETIRING = "node.retiring"
    NODE_STOPPING = "node.stopping"
    NODE_STOPPED = "node.stopped"
    NODE_FAILED = "node.failed"
    NODE_LOST = "node.lost"
    ORPHAN_FOUND = "orphan.found"
    ORPHAN_REMOVED = "orphan.removed"


def shown(row: Event) -> EventSchema:
    """Return an event as the API shows it."""
    return EventSchema(
        id=row.id,
        time=row.time,
        code=row.code,
        level=row.level,
        message=row.message,
        actor=row.actor,
        cluster=row.cluster_id,
        node=row.node,
        details=row.details,
    )


def record(
    session: AsyncSession,
    now: datetime,
    code: EventCode,
    message: str,
    *,
    level: str = "info",
    account_id: str | None = None,
    cluster_id: str | None = None,
    node: str | None = None,
    actor: str | None = None,
    details: dict[str, Any] | None = None,
) -> None:
    """Add an event to the transaction of *session*. *message* and *details* never hold a secret."""
    session.add(
        Event(
            time=now,
            code=str(code),
            message=message,
            level=level,
            account_id=account_id,
            cluster_id=cluster_id,
            node=node,
            actor=actor,
            details=details or {},
        )
    )
