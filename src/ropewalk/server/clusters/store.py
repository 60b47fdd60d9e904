"""Reading a cluster's rows into what the plan looks at, and writing what the plan decided."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import bindparam, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from ropewalk.backends.port import NodeHandle, Sighting
from ropewalk.schemas.clusters import ClusterState, NodeRole, NodeState
from ropewalk.server.clusters.links import Status
from ropewalk.server.clusters.plan import Action, ActionKind, ClusterView, NodeView
from ropewalk.server.clusters.reasons import Ending
from ropewalk.server.clusters.silence import Silence
from ropewalk.server.db.models import Cluster, Event, Node
from ropewalk.server.events import EventCode, record
from ropewalk.server.leases.rows import give_back

RECENT_FAILURES = 20
"""Ended workers that the plan looks at; it needs to see a streak of failures, not all of history."""

_LIVE = [state.value for state in NodeState if state.live]

_NODE_EVENTS = {
    NodeState.STARTING: (EventCode.NODE_LAUNCHED, "info", "started"),
    NodeState.READY: (EventCode.NODE_READY, "info", "joined the cluster"),
    NodeState.STOPPING: (EventCode.NODE_STOPPING, "info", "is stopping"),
    NodeState.STOPPED: (EventCode.NODE_STOPPED, "info", "has stopped"),
    NodeState.FAILED: (EventCode.NODE_FAILED, "error", "failed"),
    NodeState.LOST: (EventCode.NODE_LOST, "warning", "was lost"),
}


# Put together once: a pass of the reconciler makes them each time, and a start is some ten passes.
_OF_IT = Node.cluster_id == bindparam("cluster")
_ALIVE = select(Node).where(_OF_IT, or_(Node.role == NodeRole.SCHEDULER, Node.state.in_(_LIVE)))
_FAILED = select(Node).where(_OF_IT, Node.state.in_([NodeState.FAILED, NodeState.LOST]), Node.role == NodeRole.WORKER)
_MATTER = _ALIVE.order_by(Node.created_at, Node.name)
_LATELY = _FAILED.order_by(Node.stopped_at.desc()).limit(RECENT_FAILURES)
_WORKED = select(Node.name).where(_OF_IT, Node.role == NodeRole.WORKER, Node.ready_at.is_not(None)).limit(1)


async def load(session: AsyncSession, cluster_id: str) -> tuple[Cluster, list[Node]]:
    """Return a cluster and those of its nodes that matter: the scheduler, the live, the lately failed."""
    cluster = await session.get_one(Cluster, cluster_id)
    nodes = list(await session.scalars(_MATTER, {"cluster": cluster_id}))
    if _others(cluster, nodes):
        nodes += list(await session.scalars(_LATELY, {"cluster": cluster_id}))
    return cluster, nodes


def those_that_matter(nodes: Sequence[Node]) -> list[Node]:
    """Return what :func:`load` will of *nodes*, once it is written what became of them."""
    alive = [node for node in nodes if node.role == NodeRole.SCHEDULER or node.state in _LIVE]
    failed = [node for node in nodes if node not in alive and node.state in (NodeState.FAILED, NodeState.LOST)]
    failed.sort(key=lambda node: node.stopped_at or node.created_at, reverse=True)
    return alive + failed[:RECENT_FAILURES]


def _others(cluster: Cluster, nodes: Sequence[Node]) -> bool:
    """Say whether the cluster ever had workers that are not among *nodes*: each is numbered."""
    return cluster.worker_counter > sum(node.role == NodeRole.WORKER for node in nodes)


async def ever_worked(session: AsyncSession, cluster: Cluster, nodes: Sequence[Node]) -> bool:
    """Say whether a worker of the cluster was ready once; *nodes* are those of :func:`load`."""
    if any(node.role == NodeRole.WORKER and node.ready_at is not None for node in nodes):
        return True
    if not _others(cluster, nodes):
        return False
    return (await session.scalars(_WORKED, {"cluster": cluster.id})).first() is not None


def view(
    cluster: Cluster,
    nodes: Sequence[Node],
    sightings: Mapping[str, Sighting],
    status: Status | None,
    *,
    linked: bool,
    worked: bool,
    address_first: bool,
    asked: Collection[str],
    silence: Silence,
    own_name: Callable[[Node], str],
) -> ClusterView:
    """Put rows, sightings and the scheduler's word together for the plan.

    *asked* names the nodes that this very owner asked to stop: of others, nobody knows whether the call was made.
    *own_name* says what a node calls itself.
    """
    return ClusterView(
        state=ClusterState(cluster.state),
        wanted=cluster.n_workers,
        created_at=cluster.created_at,
        desired_changed_at=cluster.desired_changed_at,
        nodes=tuple(
            node_view(node, sightings.get(node.name), status, asked=asked, own_name=own_name(node)) for node in nodes
        ),
        ever_worked=worked,
        stop_requested=cluster.stop_requested_at is not None,
        ending=_stored_ending(cluster),
        linked=linked,
        closing=status.closing if status is not None and status.closing != "stop" else None,
        scheduler_address=inside(cluster, nodes) is not None,
        scheduler_address_first=address_first,
        spot_fallback=cluster.spec.get("spot_policy") == "spot_with_fallback",
        idle_timeout=_limit(cluster, "idle_timeout"),
        cluster_timeout=_limit(cluster, "cluster_timeout"),
        silent_since=silence.since,
        silent_after=silence.after,
        silence_told=silence.told,
        tell_from=silence.tell_from,
    )


def _limit(cluster: Cluster, name: str) -> timedelta | None:
    seconds = cluster.spec.get(name)
    return None if seconds is None else timedelta(seconds=seconds)


async def link_was_lost(session: AsyncSession, cluster_id: str) -> bool:
    """Say whether the last event about the cluster's link is that it was lost."""
    codes = [EventCode.CLUSTER_LINK_LOST, EventCode.CLUSTER_LINK_BACK]
    last = select(Event.code).where(Event.cluster_id == cluster_id, Event.code.in_(codes))
    return (await session.scalars(last.order_by(Event.id.desc()).limit(1))).first() == EventCode.CLUSTER_LINK_LOST


def _stored_ending(cluster: Cluster) -> Ending | None:
    if cluster.state != ClusterState.STOPPING or cluster.stop_code is None:
        return None
    return Ending.stored(cluster.stop_code, cluster.stop_reason or "")


def inside(cluster: Cluster, nodes: Sequence[Node]) -> str | None:
    """Return the address at which nodes reach their scheduler, if it is known: not always the one for clients."""
    found = (node.address for node in nodes if node.role == NodeRole.SCHEDULER and node.address)
    return next(found, cluster.scheduler_address)


def node_view(
    node: Node, seen: Sighting | None, status: Status | None, *, asked: Collection[str], own_name: str
) -> NodeView:
    """Return one node as the plan sees it."""
    return NodeView(
        name=node.name,
        role=NodeRole(node.role),
        state=NodeState(node.state),
        created_at=node.created_at,
        started_at=node.started_at,
        ready_at=node.ready_at,
        stopped_at=node.stopped_at,
        launch_attempts=node.launch_attempts,
        retry_at=None if node.stop_asked_at and node.name not in asked else node.retry_at,
        retired=node.retired_at is not None,
        stop_asked_at=node.stop_asked_at,
        permanent=node.permanent,
        reason=node.reason,
        exit_code=node.exit_code,
        answer=seen.answer if seen else None,
        seen_exit_code=seen.exit_code if seen else None,
        seen_reason=seen.reason if seen else None,
        no_spot=seen.no_spot if seen else False,
        connected=status is not None and own_name in status.workers,
        leaving=status is not None and own_name in status.retired,
    )


def handle(node: Node) -> NodeHandle:
    """Return a node as a backend knows it."""
    return NodeHandle(node.name, node.cluster_id, NodeRole(node.role), node.cloud_id)


def new_node(cluster: Cluster, name: str, role: NodeRole, now: datetime, price: tuple[float, str]) -> Node:
    """Return the row of a node that is to be launched."""
    prefix = "scheduler" if role is NodeRole.SCHEDULER else "worker"
    return Node(
        name=name,
        cluster_id=cluster.id,
        role=role.value,
        state=NodeState.PENDING.value,
        cpu=float(cluster.spec[f"{prefix}_cpu"]),
        memory=int(cluster.spec[f"{prefix}_memory"]),
        hourly_price=price[0],
        currency=price[1],
        created_at=now,
        launch_attempts=0,
        permanent=False,
    )


def mark_nodes(
    session: AsyncSession, cluster: Cluster, rows: Mapping[str, Node], actions: Sequence[Action], now: datetime
) -> None:
    """Write new states of nodes, with one event for all that share state and reason."""
    told: dict[tuple[NodeState, str | None], list[str]] = defaultdict(list)
    for action in actions:
        if action.node_state is None:
            continue
        (name,) = action.names
        for column, value in _changes(action, now).items():
            setattr(rows[name], column, value)
        told[action.node_state, action.reason].append(name)
    for (state, reason), names in told.items():
        code, level, verb = _NODE_EVENTS[state]
        tell_nodes(session, cluster, now, code, names, verb=verb, reason=reason, level=level)


def note_waiting(
    session: AsyncSession, cluster: Cluster, rows: Mapping[str, Node], actions: Sequence[Action], now: datetime
) -> None:
    """Write why nodes wait; an event tells only of the first reason, since clouds say the same in changing words."""
    for action in actions:
        if action.kind is not ActionKind.WAITING:
            continue
        fresh = [name for name in action.names if rows[name].reason is None]
        for name in action.names:
            rows[name].reason = action.reason
        if fresh:
            code = EventCode.NODE_WAITING
            tell_nodes(session, cluster, now, code, fresh, verb="is waiting", reason=action.reason, level="warning")


def tell_nodes(
    session: AsyncSession,
    cluster: Cluster,
    now: datetime,
    code: EventCode,
    names: Sequence[str],
    *,
    verb: str,
    reason: str | None = None,
    level: str = "info",
) -> None:
    """Record one event about one or several nodes."""
    one = names[0] if len(names) == 1 else None
    subject = _short(cluster, one) if one else _subject(names)
    verb = verb if one else verb.replace("is ", "are ").replace("has ", "have ").replace("was ", "were ")
    record(
        session,
        now,
        code,
        f"{subject} {verb}." if reason is None else f"{subject} {verb}: {reason}",
        level=level,
        account_id=cluster.account_id,
        cluster_id=cluster.id,
        node=one,
        details={"nodes": list(names)} | ({"reason": reason} if reason else {}),
    )


def _short(cluster: Cluster, name: str) -> str:
    short = name.removeprefix(f"{cluster.id}-")
    return "The scheduler" if short == "scheduler" else short.replace("worker-", "Worker ")


def _subject(names: Sequence[str]) -> str:
    workers = [name for name in names if not name.endswith("-scheduler")]
    count = f"{len(workers)} worker{'s' if len(workers) != 1 else ''}"
    return count if len(workers) == len(names) else f"The scheduler and {count}"


def _changes(action: Action, now: datetime) -> dict[str, Any]:
    state = action.node_state
    assert state is not None  # noqa: S101 - mark_nodes leaves the others out
    changes: dict[str, Any] = {"state": state.value, "retry_at": None}
    if action.reason is not None:
        changes["reason"] = action.reason
    if state is NodeState.STARTING:
        changes["started_at"] = now
    elif state is NodeState.READY:
        changes |= {"ready_at": now, "reason": None}  # of having waited
    elif not state.live:
        changes |= {"stopped_at": now, "exit_code": action.exit_code, "permanent": action.permanent}
    return changes


def mark_cluster(session: AsyncSession, cluster: Cluster, action: Action, now: datetime) -> None:
    """Write a new state of the cluster, and its event."""
    state = action.cluster_state
    assert state is not None  # noqa: S101 - the caller chose actions that have one
    cluster.state = state.value
    if action.ending is not None and cluster.stop_code is None:
        cluster.stop_code = action.ending.code
        cluster.stop_reason = cluster.stop_reason or action.ending.reason
    if state in (ClusterState.STOPPING, ClusterState.STOPPED, ClusterState.FAILED):
        cluster.reason = cluster.stop_reason
    if state is ClusterState.READY:
        cluster.ready_at = now
    if not state.live:
        cluster.stopped_at = now
        give_back(cluster)
    code, level, text = _CLUSTER_EVENTS[state]
    record(
        session,
        now,
        code,
        f"{text} {cluster.reason}" if cluster.reason and state is not ClusterState.READY else text,
        level=level,
        account_id=cluster.account_id,
        cluster_id=cluster.id,
        details={"ending": cluster.stop_code} if cluster.stop_code else {},
    )


_CLUSTER_EVENTS = {
    ClusterState.STARTING: (EventCode.CLUSTER_STARTING, "info", "The scheduler and its workers are being started."),
    ClusterState.READY: (EventCode.CLUSTER_READY, "info", "The scheduler is ready."),
    ClusterState.STOPPING: (EventCode.CLUSTER_STOPPING, "info", "The cluster is stopping."),
    ClusterState.STOPPED: (EventCode.CLUSTER_STOPPED, "info", "The cluster has stopped; nothing of it runs any more."),
    ClusterState.FAILED: (
        EventCode.CLUSTER_FAILED,
        "error",
        "The cluster failed; nothing of it runs any more.",
    ),
}
