"""Writing events: append-only facts with a stable code and a sentence. They are the audit trail as well."""

from __future__ import annotations

from collections.abc import Mapping
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
    INVITATION_CREATED = "invitation.created"
    INVITATION_REVOKED = "invitation.revoked"
    INVITATION_ACCEPTED = "invitation.accepted"
    IDENTITY_LINKED = "identity.linked"
    IDENTITY_UNLINKED = "identity.unlinked"
    CLOUD_ACCOUNT_UPDATED = "cloud_account.updated"
    CLOUD_ACCOUNT_CHECKED = "cloud_account.checked"
    CLOUD_ACCOUNT_FORGOTTEN = "cloud_account.forgotten"
    CLOUD_ACCOUNT_PREPARING = "cloud_account.preparing"
    CLOUD_ACCOUNT_READY = "cloud_account.ready"
    CLOUD_ACCOUNT_TEARING_DOWN = "cloud_account.tearing_down"
    CLOUD_ACCOUNT_REMOVED = "cloud_account.removed"
    CLOUD_ACCOUNT_RESOURCE_MADE = "cloud_account.resource_made"
    CLOUD_ACCOUNT_RESOURCE_REMOVED = "cloud_account.resource_removed"
    CLOUD_ACCOUNT_RETRYING = "cloud_account.retrying"
    CLOUD_ACCOUNT_ATTENTION = "cloud_account.attention"
    CLOUD_ACCOUNT_BACK = "cloud_account.back"
    IMAGE_PUSHED = "image.pushed"
    IMAGE_DELETED = "image.deleted"
    ENVIRONMENT_CREATED = "environment.created"
    ENVIRONMENT_STEP = "environment.step"
    ENVIRONMENT_READY = "environment.ready"
    ENVIRONMENT_FAILED = "environment.failed"
    ENVIRONMENT_RETRYING = "environment.retrying"
    ENVIRONMENT_REBUILDING = "environment.rebuilding"
    ENVIRONMENT_DELETED = "environment.deleted"
    INDEX_CREDENTIALS_SET = "index_credentials.set"
    INDEX_CREDENTIALS_DELETED = "index_credentials.deleted"
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
    CLUSTER_LINK_BACK = "cluster.link_back"
    CLUSTER_LIMITS_SET = "cluster.limits_set"
    NODE_LAUNCHED = "node.launched"
    NODE_LAUNCH_FAILED = "node.launch_failed"
    NODE_WAITING = "node.waiting"
    NODE_READY = "node.ready"
    NODE_RETIRING = "node.retiring"
    NODE_STOPPING = "node.stopping"
    NODE_STOPPED = "node.stopped"
    NODE_FAILED = "node.failed"
    NODE_LOST = "node.lost"
    ORPHAN_FOUND = "orphan.found"
    ORPHAN_REMOVED = "orphan.removed"


MEANINGS: Mapping[EventCode, str] = {
    EventCode.INSTALLATION_CREATED: "The server was set up: its first operator was made.",
    EventCode.USER_CREATED: "A user, with a personal account, was created.",
    EventCode.USER_UPDATED: "A user was changed, disabled or enabled; the sentence says what.",
    EventCode.USER_LOGIN_FAILED: "A login with a password failed.",
    EventCode.TOKEN_CREATED: "A token was made.",
    EventCode.TOKEN_REVOKED: "A token was revoked.",
    EventCode.DEVICE_APPROVED: "A login was approved or denied in the browser.",
    EventCode.ACCOUNT_CREATED: "A team account was created.",
    EventCode.ACCOUNT_UPDATED: "An account's core limit was changed.",
    EventCode.MEMBER_SET: "A member was added, or given another role or limit.",
    EventCode.MEMBER_REMOVED: "A member was removed.",
    EventCode.INVITATION_CREATED: "Somebody was invited to an account.",
    EventCode.INVITATION_REVOKED: "An invitation was revoked.",
    EventCode.INVITATION_ACCEPTED: "An invitation was accepted: its account has a new member.",
    EventCode.IDENTITY_LINKED: "A user can sign in by single sign-on from now on.",
    EventCode.IDENTITY_UNLINKED: "A user cannot sign in by single sign-on any more.",
    EventCode.CLOUD_ACCOUNT_UPDATED: "A cloud account was set or changed, or another one was chosen.",
    EventCode.CLOUD_ACCOUNT_CHECKED: "A cloud account was checked.",
    EventCode.CLOUD_ACCOUNT_FORGOTTEN: "A cloud account was forgotten; the sentence says what was abandoned with it.",
    EventCode.CLOUD_ACCOUNT_PREPARING: "Somebody asked for what clusters need to be made.",
    EventCode.CLOUD_ACCOUNT_READY: "Everything that clusters need is there.",
    EventCode.CLOUD_ACCOUNT_TEARING_DOWN: "Somebody asked for everything that Ropewalk made to be removed.",
    EventCode.CLOUD_ACCOUNT_REMOVED: "Everything that Ropewalk made is gone.",
    EventCode.CLOUD_ACCOUNT_RESOURCE_MADE: "A resource was made, or found, and is stored.",
    EventCode.CLOUD_ACCOUNT_RESOURCE_REMOVED: "A resource is gone.",
    EventCode.CLOUD_ACCOUNT_RETRYING: "A step failed for a passing reason, and is tried again.",
    EventCode.CLOUD_ACCOUNT_ATTENTION: "It does not go on by itself; the sentence says what a person must do.",
    EventCode.CLOUD_ACCOUNT_BACK: "The cloud answers again, after it needed attention.",
    EventCode.IMAGE_PUSHED: "An image was pushed to the registry of a cloud account.",
    EventCode.IMAGE_DELETED: "An image was deleted from the registry of a cloud account.",
    EventCode.ENVIRONMENT_CREATED: "Somebody asked for a software environment, or for a new version of one.",
    EventCode.ENVIRONMENT_STEP: "A step of a build was done; the sentence says which.",
    EventCode.ENVIRONMENT_READY: "A version of a software environment was built.",
    EventCode.ENVIRONMENT_FAILED: "A build failed; the sentence says why, in the resolver's own words where it was "
    "that.",
    EventCode.ENVIRONMENT_RETRYING: "A step of a build failed for a passing reason, and is tried again.",
    EventCode.ENVIRONMENT_REBUILDING: "What was built is gone, or is wanted in another place: it is built again.",
    EventCode.ENVIRONMENT_DELETED: "A software environment was deleted, by somebody or because nobody used it.",
    EventCode.INDEX_CREDENTIALS_SET: "Credentials of a private package index were stored.",
    EventCode.INDEX_CREDENTIALS_DELETED: "Credentials of a private package index were deleted.",
    EventCode.CONFIGURATION_SET: "A cluster configuration was made or replaced.",
    EventCode.CONFIGURATION_DELETED: "A cluster configuration was deleted.",
    EventCode.CLUSTER_CREATED: "Somebody asked for a cluster.",
    EventCode.CLUSTER_STARTING: "Its nodes are being started.",
    EventCode.CLUSTER_READY: "Its scheduler takes work.",
    EventCode.CLUSTER_SCALED: "Another number of workers is wanted, by a user or by adaptive scaling.",
    EventCode.CLUSTER_STOP_REQUESTED: "Somebody asked for it to stop.",
    EventCode.CLUSTER_STOPPING: "It is stopping; the sentence says why.",
    EventCode.CLUSTER_STOPPED: "It has stopped, and the cloud said that nothing of it runs any more.",
    EventCode.CLUSTER_FAILED: "It failed; the sentence says which node, and why.",
    EventCode.CLUSTER_ATTENTION: "Something does not go on by itself, and goes on being tried; a person should look.",
    EventCode.CLUSTER_LINK_LOST: "The control plane cannot reach its scheduler. The cluster itself may work on.",
    EventCode.CLUSTER_LINK_BACK: "The control plane hears the scheduler again.",
    EventCode.CLUSTER_LIMITS_SET: "Somebody changed the times after which it ends by itself.",
    EventCode.NODE_LAUNCHED: "Nodes were started by the cloud.",
    EventCode.NODE_LAUNCH_FAILED: "A node could not be started; the sentence says why and whether it is tried again.",
    EventCode.NODE_WAITING: "A node was launched, and does not run yet; the sentence says why and what helps.",
    EventCode.NODE_READY: "A node joined the cluster.",
    EventCode.NODE_RETIRING: "A worker hands over its results before it is stopped.",
    EventCode.NODE_STOPPING: "A node was asked to stop.",
    EventCode.NODE_STOPPED: "A node has stopped, as it was asked to.",
    EventCode.NODE_FAILED: "A node ended on its own, with an error; the sentence says how.",
    EventCode.NODE_LOST: "A node is gone, and nobody knows why.",
    EventCode.ORPHAN_FOUND: "Something of this installation runs that no cluster knows of.",
    EventCode.ORPHAN_REMOVED: "Such a thing was removed, after a time of grace.",
}
"""What each code says, for the reference."""


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
    cloud_account_id: str | None = None,
    build_id: str | None = None,
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
            cloud_account_id=cloud_account_id,
            build_id=build_id,
            node=node,
            actor=actor,
            details=details or {},
        )
    )
