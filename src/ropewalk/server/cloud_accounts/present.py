"""Rows of cloud accounts as the API shows them: never with credentials."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select

from ropewalk.schemas import cloud_accounts as schemas
from ropewalk.schemas.cloud_accounts import CheckReport, CloudIdentity, CloudKind, CloudResource, CloudState
from ropewalk.schemas.clusters import ClusterState
from ropewalk.server.db.models import Account, CloudAccount, Cluster, Event, Installation
from ropewalk.server.events import EventCode

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

__all__ = ["external_id", "ingress_of", "live_clusters", "owned", "shown", "topics", "under_way"]

_RECENT = 20
"""Changes among which the last one that set it is looked for: people do not go back and forth more often."""

_LIVE = [state.value for state in ClusterState if state.live]

_NO_INGRESS = (
    "The server saw no public address of whoever set this, so no address may reach schedulers directly yet: name some "
    "with allow_ingress_from, for example 203.0.113.0/24."
)


def external_id(installation: str, account_id: str) -> str:
    """Return what roles of this account's AWS account must ask for.

    AWS (*Access to AWS accounts owned by third parties*, IAM User Guide) wants one that is unique for each customer and
    that the customer cannot choose; it need not be secret. It is the same for ever, so that it can be shown before
    there is a role.
    """
    return f"{installation}.{account_id}"


def ingress_of(address: str | None) -> str | None:
    """Return the CIDR of just *address*, if that is one by which the internet knows somebody."""
    try:
        found = ip_address(address or "")
    except ValueError:
        return None
    return f"{found}/{found.max_prefixlen}" if found.is_global else None


def owned(row: CloudAccount) -> list[dict[str, Any]]:
    """Return what Ropewalk made in the cloud and would have to remove, in the order in which it was made."""
    stored = row.infrastructure.get("resources", [])
    return [item for item in stored if item.get("details", {}).get("owned", True)]


def under_way(row: CloudAccount) -> bool:
    """Return whether something is being done, or will be without anybody asking again."""
    return row.work is not None and row.state != CloudState.ATTENTION


def topics(row: CloudAccount) -> tuple[str, str]:
    """Return what to wake when something happened to it: those who follow it, and those who follow all of its account.

    The latter also learn that another cloud account took its place.
    """
    return f"events:{row.id}", f"clouds:{row.account_id}"


async def live_clusters(session: AsyncSession, cloud_account_id: str) -> Sequence[Cluster]:
    """Return the clusters that run in a cloud account, whoever's they are."""
    there = select(Cluster).where(Cluster.cloud_account_id == cloud_account_id, Cluster.state.in_(_LIVE))
    return (await session.scalars(there.order_by(Cluster.name))).all()


async def shown(session: AsyncSession, account: Account, row: CloudAccount) -> schemas.CloudAccount:
    """Return a cloud account of *account* (or the hosted one) as its members may see it."""
    newest = select(func.max(Event.id)).where(Event.cloud_account_id == row.id)
    installation = await session.scalar(select(Installation.id)) or ""
    setting = await _setting(session, row)
    return schemas.CloudAccount(
        id=None if row.account_id is None else row.id,
        kind=CloudKind(row.kind),
        backend=row.backend,
        settings=row.settings,
        has_credentials=row.credentials is not None,
        state=CloudState.ATTENTION if row.unreachable else CloudState(row.state),
        reason=row.unreachable or row.reason,
        work=row.work,
        set_by=setting.actor if setting else None,
        set_at=setting.time if setting else None,
        identity=None if row.identity is None else CloudIdentity.model_validate(row.identity),
        external_id=external_id(installation, account.id),
        resources=[CloudResource.model_validate(item) for item in row.infrastructure.get("resources", [])],
        monthly_cost=row.infrastructure.get("monthly_cost", 0.0),
        notes=_notes(row),
        others=await _others(session, account, row),
        last_check=None if row.last_check is None else CheckReport.model_validate(row.last_check),
        last_event=await session.scalar(newest) or 0,
        updated_at=row.updated_at,
    )


async def _setting(session: AsyncSession, row: CloudAccount) -> Event | None:
    """Return the event of the last time that it was set. What the operator does to the hosted one is not shown."""
    if row.account_id is None:
        return None
    mine = select(Event).where(Event.cloud_account_id == row.id, Event.code == EventCode.CLOUD_ACCOUNT_UPDATED.value)
    # Choosing the hosted one instead is an event of the former one, too.
    found = await session.scalars(mine.order_by(Event.id.desc()).limit(_RECENT))
    return next((event for event in found if event.details.get("kind") == row.kind), None)


def _notes(row: CloudAccount) -> list[str]:
    closed = row.kind == CloudKind.AWS and not row.settings.get("allow_ingress_from")
    return [_NO_INGRESS] if closed and not row.settings.get("security_group_id") else []


async def _others(session: AsyncSession, account: Account, present: CloudAccount) -> list[schemas.FormerCloudAccount]:
    mine = select(CloudAccount).where(CloudAccount.account_id == account.id, CloudAccount.id != present.id)
    found = []
    for row in await session.scalars(mine.where(CloudAccount.forgotten_at.is_(None)).order_by(CloudAccount.created_at)):
        names = [cluster.name for cluster in await live_clusters(session, row.id)]
        owner = None if row.identity is None else row.identity.get("owner")
        found.append(
            schemas.FormerCloudAccount(
                id=row.id, kind=CloudKind(row.kind), owner=owner, resources=len(owned(row)), clusters=names
            )
        )
    return found
