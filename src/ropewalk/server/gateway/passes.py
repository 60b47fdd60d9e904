"""Who may see a cluster's dashboard: tickets that work once, the cookies they become, and what is asked each time.

Both are random, stored as hashes, and of one user and one cluster. They give nothing by themselves: every request asks
again whether the user may see the account and whether the cluster lives.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from sqlalchemy import and_, delete, select

from ropewalk.backends.port import NodeHandle
from ropewalk.errors import ClusterError, ClusterGoneError
from ropewalk.schemas.clusters import ClusterState, DashboardTicket, NodeRole
from ropewalk.schemas.identity import MemberRole
from ropewalk.server.clusters import service, store
from ropewalk.server.db.models import Account, Cluster, DashboardPass, Member, Node, User
from ropewalk.server.identity.access import hash_token
from ropewalk.server.identity.permissions import AccountCaller, Permission
from ropewalk.server.identity.sessions import new_secret

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from ropewalk.server.context import Context

TICKET_LIFETIME = timedelta(seconds=60)
"""From the answer to the browser; people who wait longer ask for another."""
COOKIE_LIFETIME = timedelta(hours=8)
"""A day's work in front of a dashboard."""
OPEN_PATH = "/_ropewalk/open"

_TICKET, _COOKIE = "ticket", "cookie"
_REACHABLE = (ClusterState.STARTING.value, ClusterState.READY.value)


@dataclass(frozen=True, slots=True)
class Visit:
    """Somebody who may see a cluster's dashboard, and the cluster."""

    cluster: Cluster
    scheduler: NodeHandle
    username: str


async def issue(context: Context, caller: AccountCaller, name: str) -> DashboardTicket:
    """Make a ticket to the dashboard of a cluster, and return it as a link.

    Raises:
        ClusterGoneError: the cluster is ending or has ended.
        ClusterError: its scheduler is not ready yet, or browsers cannot reach dashboards here.
    """
    now = context.clock.now()
    ticket = new_secret()
    async with context.db.transaction() as session:
        row = await service.find(session, caller.account_id, name)
        await reachable(session, row)
        origin = context.settings.dashboard_origin(row.id)
        if origin is None:
            raise ClusterError(
                "Browsers cannot reach dashboards here: the server has no domain for them.",
                advice="Ask an operator to set dashboard_domain.",
            )
        await session.execute(delete(DashboardPass).where(DashboardPass.expires_at <= now))
        expires = now + TICKET_LIFETIME
        session.add(_pass(_TICKET, ticket, caller.user_id, row.id, now, expires - now))
    return DashboardTicket(url=f"{origin}{OPEN_PATH}?{urlencode({'ticket': ticket})}", expires_at=expires)


async def redeem(context: Context, ticket: str, cluster_id: str) -> str | None:
    """Turn a ticket into a cookie; None: it is not one for this cluster, or was used, or is too old."""
    now = context.clock.now()
    cookie = new_secret()
    used = (
        delete(DashboardPass)
        .where(
            DashboardPass.hash == hash_token(ticket),
            DashboardPass.kind == _TICKET,
            DashboardPass.cluster_id == cluster_id,
            DashboardPass.expires_at > now,
        )
        .returning(DashboardPass.user_id)
    )
    async with context.db.transaction() as session:
        # Deleting is what makes it work once: of two at the same time, one finds nothing.
        user_id = (await session.scalars(used)).one_or_none()
        if user_id is None:
            return None
        session.add(_pass(_COOKIE, cookie, user_id, cluster_id, now, COOKIE_LIFETIME))
    return cookie


async def find(context: Context, cookie: str, cluster_id: str) -> Visit | None:
    """Return who comes with *cookie*; None: nobody who may see this cluster's dashboard now.

    Raises:
        ClusterError: they may, but it cannot be shown now.
        ClusterGoneError: it has ended.
    """
    query = (
        select(Cluster, User, Account, Member)
        .join(DashboardPass, DashboardPass.cluster_id == Cluster.id)
        .join(User, User.id == DashboardPass.user_id)
        .join(Account, Account.id == Cluster.account_id)
        .outerjoin(Member, and_(Member.account_id == Cluster.account_id, Member.user_id == User.id))
        .where(
            DashboardPass.hash == hash_token(cookie),
            DashboardPass.kind == _COOKIE,
            DashboardPass.cluster_id == cluster_id,
            DashboardPass.expires_at > context.clock.now(),
            ~User.disabled,
        )
    )
    async with context.db.read() as session:
        found = (await session.execute(query)).one_or_none()
        if found is None:
            return None
        cluster, user, account, member = found
        role = None if member is None else MemberRole(member.role)
        caller = AccountCaller(user.id, user.username, user.operator, None, account.id, account.slug, role)
        if not caller.may(Permission.ACCOUNT_CLUSTERS_DASHBOARD):
            return None
        return Visit(cluster, await reachable(session, cluster), user.username)


async def visit(context: Context, caller: AccountCaller, name: str) -> Visit:
    """Return the visit of a caller who was let in already, by a token.

    Raises:
        ClusterGoneError: the cluster is ending or has ended.
        ClusterError: its scheduler is not ready yet.
    """
    async with context.db.read() as session:
        row = await service.find(session, caller.account_id, name)
        return Visit(row, await reachable(session, row), caller.username)


async def reachable(session: AsyncSession, cluster: Cluster) -> NodeHandle:
    """Return the scheduler of a cluster that lives.

    Raises:
        ClusterGoneError: the cluster is ending or has ended.
        ClusterError: its scheduler is not ready yet.
    """
    ending = cluster.stop_requested_at is not None or cluster.stop_code is not None
    if ending or (cluster.state not in _REACHABLE and cluster.state != ClusterState.PENDING):
        raise ClusterGoneError(
            f"The cluster {cluster.name!r} has ended or is ending, and its dashboard with it.",
            advice="Its events and logs are kept: ropewalk cluster show, ropewalk cluster logs.",
            details={"state": cluster.state},
        )
    node = await session.get(Node, f"{cluster.id}-{NodeRole.SCHEDULER}")
    if node is None or cluster.scheduler_address is None or cluster.state not in _REACHABLE:
        raise ClusterError(
            f"The scheduler of {cluster.name!r} is not ready yet.",
            advice="Wait for the event cluster.ready, and load the page again.",
            details={"state": cluster.state},
        )
    return store.handle(node)


def _pass(kind: str, secret: str, user_id: str, cluster_id: str, now: datetime, lifetime: timedelta) -> DashboardPass:
    return DashboardPass(
        hash=hash_token(secret),
        kind=kind,
        user_id=user_id,
        cluster_id=cluster_id,
        created_at=now,
        expires_at=now + lifetime,
    )
