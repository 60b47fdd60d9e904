"""Letting go of a cloud account: never by accident, and never without saying what is left behind."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import select, update

from ropewalk.errors import ConflictError
from ropewalk.schemas.cloud_accounts import CloudAccount as CloudAccountSchema
from ropewalk.schemas.cloud_accounts import CloudState
from ropewalk.schemas.clusters import ClusterState, NodeState
from ropewalk.server.cloud_accounts import present
from ropewalk.server.cloud_accounts.service import find, resolve
from ropewalk.server.cloud_accounts.stored import touch
from ropewalk.server.db.models import Account, CloudAccount, Cluster, Node
from ropewalk.server.events import EventCode, record
from ropewalk.server.leases.rows import give_back

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from ropewalk.server.context import Context
    from ropewalk.server.identity.permissions import AccountCaller

__all__ = ["forget"]

_LIVE_NODES = [state.value for state in NodeState if state.live]


async def forget(
    context: Context, caller: AccountCaller, cloud_account_id: str | None = None, *, force: bool = False
) -> CloudAccountSchema:
    """Delete the credentials of a cloud account; its account's new clusters run on the hosted one, if it was in use.

    Args:
        context: The server's services.
        caller: Who wishes it.
        cloud_account_id: Which; None: where new clusters run.
        force: Although it owns resources or clusters, which are abandoned: nobody can look after them any more.

    Raises:
        ConflictError: It owns something and *force* was not said, or it is the operator's.
    """
    now = context.clock.now()
    async with context.db.transaction() as session:
        account = await session.get_one(Account, caller.account_id, with_for_update=True)
        row = await find(session, account, cloud_account_id)
        await session.refresh(row, with_for_update=True)
        if row.account_id is None:
            raise ConflictError(
                "The hosted cloud account is the operator's and cannot be forgotten.",
                advice="Nothing needs to be done: the account has no cloud account of its own in use.",
            )
        resources, clusters, nodes = await _held(session, row)
        if (resources or clusters or present.under_way(row)) and not force:
            raise _still_holds(row, resources, clusters)
        for cluster in clusters:
            await _abandon(session, cluster, caller.username, now)
        _clear(row, now)
        if account.cloud_account_id == row.id:
            account.cloud_account_id = None
        names = [cluster.name for cluster in clusters]
        left = [*resources, *(f"cluster {name}" for name in names)]
        record(
            session,
            now,
            EventCode.CLOUD_ACCOUNT_FORGOTTEN,
            f"{caller.username} let Ropewalk forget the {row.kind} cloud account of {account.slug!r}"
            + (f", and with it abandoned {', '.join(left)}." if left else "; it held nothing."),
            level="warning" if left else "info",
            account_id=account.id,
            cloud_account_id=row.id,
            actor=caller.username,
            details={"cloud_account": row.id, "resources": resources, "clusters": names, "nodes": nodes},
        )
        topics = [f"{kind}:{cluster.id}" for cluster in clusters for kind in ("cluster", "events")]
        await context.wakeups.announce(session, f"cloud:{row.id}", *present.topics(row), *topics)
        await session.flush()
        return await present.shown(session, account, await resolve(session, account))


async def _held(session: AsyncSession, row: CloudAccount) -> tuple[list[str], list[Cluster], list[str]]:
    """Return what would be abandoned: resources, live clusters, and their nodes as the cloud calls them."""
    resources = [f"{item['kind']} {item['id']}" for item in present.owned(row)]
    clusters = list(await present.live_clusters(session, row.id))
    live = select(Node).where(Node.cluster_id.in_([cluster.id for cluster in clusters]), Node.state.in_(_LIVE_NODES))
    nodes = [node.cloud_id or node.name for node in await session.scalars(live.order_by(Node.name))]
    return resources, clusters, nodes


def _still_holds(row: CloudAccount, resources: list[str], clusters: list[Cluster]) -> ConflictError:
    names = [cluster.name for cluster in clusters]
    what = []
    if names:
        what.append(f"{len(names)} cluster{'s' if len(names) > 1 else ''} ({', '.join(names[:5])})")
    if resources:
        what.append(f"{len(resources)} resource{'s' if len(resources) > 1 else ''}")
    if present.under_way(row):
        what.append("work that is not done yet")
    return ConflictError(
        f"The cloud account still holds {' and '.join(what)}: without its credentials nobody could remove them.",
        advice="Stop the clusters, then: ropewalk cloud-account teardown. Or abandon them, with their cost: --force.",
        details={"resources": resources, "clusters": names},
    )


async def _abandon(session: AsyncSession, cluster: Cluster, who: str, now: datetime) -> None:
    """End a cluster in our books only. Its fence goes up, so that whoever works on it can write no more."""
    reason = f"{who} let Ropewalk forget the cloud account where it ran: nobody knows what of it still runs there."
    cluster.state, cluster.stop_code, cluster.stop_reason = ClusterState.FAILED.value, "abandoned", reason
    cluster.reason, cluster.stopped_at = reason, now
    give_back(cluster)
    cluster.fence += 1
    there = update(Node).where(Node.cluster_id == cluster.id, Node.state.in_(_LIVE_NODES))
    await session.execute(there.values(state=NodeState.LOST.value, reason=reason, stopped_at=now))
    record(
        session,
        now,
        EventCode.CLUSTER_FAILED,
        reason,
        level="error",
        account_id=cluster.account_id,
        cluster_id=cluster.id,
        actor=who,
        details={"ending": "abandoned"},
    )


def _clear(row: CloudAccount, now: datetime) -> None:
    row.credentials, row.infrastructure = None, {}
    row.state, row.reason, row.unreachable = CloudState.REMOVED.value, None, None
    row.work = row.retry_at = None
    give_back(row)
    row.fence += 1
    row.forgotten_at = now
    touch(row, now)
