"""Rows of clusters as the API shows them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import bindparam, select
from sqlalchemy.ext.asyncio import AsyncSession

from ropewalk.schemas import clusters as schemas
from ropewalk.schemas.clusters import NodeRole, NodeState
from ropewalk.server.clusters.cost import cost
from ropewalk.server.db.models import Account, CloudAccount, Cluster, Node, User
from ropewalk.server.identity.permissions import AccountCaller
from ropewalk.server.settings import Settings

_LIVE = frozenset(state.value for state in NodeState if state.live)


async def clusters(
    session: AsyncSession, settings: Settings, rows: Sequence[Cluster], now: datetime
) -> list[schemas.Cluster]:
    """Show many clusters with a fixed number of queries."""
    ids = [row.id for row in rows]
    nodes: dict[str, list[Node]] = defaultdict(list)
    for node in await session.scalars(select(Node).where(Node.cluster_id.in_(ids))):
        nodes[node.cluster_id].append(node)
    names = await _names_of_all(session, rows)
    return [schemas.Cluster(**_facts(row, nodes[row.id], names, settings, now)) for row in rows]


async def detail(session: AsyncSession, settings: Settings, row: Cluster, now: datetime) -> schemas.ClusterDetail:
    """Show one cluster with its nodes."""
    nodes = list(await session.scalars(_NODES, {"cluster": row.id}))
    return _detail(row, nodes, await _names_of(session, row), settings, now)


def new(
    settings: Settings, row: Cluster, nodes: Sequence[Node], caller: AccountCaller, cloud: CloudAccount
) -> schemas.ClusterDetail:
    """Show a cluster that *caller* has just made on *cloud*: nothing is asked of the database."""
    names = _Names()
    names.accounts[row.account_id], names.users[row.creator_id] = caller.account, caller.username
    names.clouds[cloud.id] = cloud
    return _detail(row, sorted(nodes, key=lambda node: (node.role, node.name)), names, settings, row.created_at)


def _detail(
    row: Cluster, nodes: Sequence[Node], names: _Names, settings: Settings, now: datetime
) -> schemas.ClusterDetail:
    facts = _facts(row, nodes, names, settings, now)
    spec = schemas.ClusterSpec.model_validate(row.spec)
    return schemas.ClusterDetail(**facts, spec=spec, nodes=[_node(node) for node in nodes])


class _Names:
    """Names of what rows refer to by id."""

    def __init__(self) -> None:
        self.accounts: dict[str, str] = {}
        self.users: dict[str, str] = {}
        self.clouds: dict[str, CloudAccount] = {}


_NODES = select(Node).where(Node.cluster_id == bindparam("cluster")).order_by(Node.role, Node.created_at, Node.name)
_NAMES = (
    select(Account.slug, User.username, CloudAccount)
    .select_from(Cluster)
    .join(Account, Account.id == Cluster.account_id)
    .join(User, User.id == Cluster.creator_id)
    .join(CloudAccount, CloudAccount.id == Cluster.cloud_account_id)
    .where(Cluster.id == bindparam("cluster"))
)


async def _names_of(session: AsyncSession, row: Cluster) -> _Names:
    names = _Names()
    slug, username, cloud = (await session.execute(_NAMES, {"cluster": row.id})).one()
    names.accounts[row.account_id], names.users[row.creator_id] = slug, username
    names.clouds[row.cloud_account_id] = cloud
    return names


async def _names_of_all(session: AsyncSession, rows: Sequence[Cluster]) -> _Names:
    names = _Names()
    accounts = {row.account_id for row in rows}
    users = {row.creator_id for row in rows}
    clouds = {row.cloud_account_id for row in rows}
    for account in await session.scalars(select(Account).where(Account.id.in_(accounts))):
        names.accounts[account.id] = account.slug
    for user in await session.scalars(select(User).where(User.id.in_(users))):
        names.users[user.id] = user.username
    for cloud in await session.scalars(select(CloudAccount).where(CloudAccount.id.in_(clouds))):
        names.clouds[cloud.id] = cloud
    return names


def _facts(row: Cluster, nodes: Sequence[Node], names: _Names, settings: Settings, now: datetime) -> dict[str, object]:
    live = [node for node in nodes if node.state in _LIVE]
    ready = [node for node in live if node.role == NodeRole.WORKER and node.state == NodeState.READY]
    cloud = names.clouds[row.cloud_account_id]
    origin = settings.dashboard_origin(row.id) if row.dashboard_port and live else None
    return {
        "id": row.id,
        "name": row.name,
        "account": names.accounts[row.account_id],
        "creator": names.users[row.creator_id],
        "cloud_kind": cloud.kind,
        "backend": cloud.backend,
        "state": row.state,
        "reason": row.reason or (cloud.unreachable if row.stopped_at is None else None),
        "n_workers": row.n_workers,
        "minimum": row.minimum,
        "maximum": row.maximum,
        "workers_ready": len(ready),
        "cores": sum(node.cpu for node in live),
        "memory": sum(node.memory for node in live),
        "cost": cost(nodes, now),
        "tags": row.tags,
        "software": row.spec.get("software"),
        "scheduler_address": row.scheduler_address,
        "dashboard_link": None if origin is None else f"{origin}/status",
        "created_at": row.created_at,
        "ready_at": row.ready_at,
        "stopped_at": row.stopped_at,
    }


def _node(node: Node) -> schemas.Node:
    return schemas.Node(
        name=node.name,
        role=NodeRole(node.role),
        state=NodeState(node.state),
        reason=node.reason,
        address=node.address,
        cloud_id=node.cloud_id,
        cpu=node.cpu,
        memory=node.memory,
        exit_code=node.exit_code,
        created_at=node.created_at,
        ready_at=node.ready_at,
        stopped_at=node.stopped_at,
    )
