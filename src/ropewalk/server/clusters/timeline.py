"""How long each step of a cluster's start took: read from its rows and events, so it can be asked for ever after."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from ropewalk.schemas.clusters import ClusterSpec, NodeRole, Timeline, TimelineStep
from ropewalk.server.db.models import Cluster, Event, Node
from ropewalk.server.events import EventCode


async def timeline(session: AsyncSession, cluster: Cluster) -> Timeline:
    """Return the steps of the start of *cluster*."""
    nodes = list(await session.scalars(select(Node).where(Node.cluster_id == cluster.id)))
    events = {
        event.code: event
        for event in await session.scalars(
            select(Event)
            .where(
                Event.cluster_id == cluster.id,
                Event.code.in_([EventCode.CLUSTER_CREATED, EventCode.CLUSTER_STARTING]),
            )
            .order_by(Event.id.desc())
        )
    }
    created, starting = events.get(EventCode.CLUSTER_CREATED), events.get(EventCode.CLUSTER_STARTING)
    wanted = ClusterSpec.model_validate(cluster.spec).minimum
    times = {
        "requested": cluster.created_at,
        "accepted": starting.time if starting is not None else None,
        **steps_of(nodes, wanted),
    }
    return Timeline(
        cluster=cluster.id,
        request_id=created.details.get("request_id") if created is not None else None,
        steps=[_step(name, time, cluster.created_at) for name, time in times.items()],
    )


def steps_of(nodes: Sequence[Node], wanted: int) -> dict[str, datetime | None]:
    """Return when nodes took each step; *wanted* is the number of workers that was asked for at first."""
    launched = [node.started_at for node in nodes if node.started_at is not None]
    schedulers = [node.ready_at for node in nodes if node.role == NodeRole.SCHEDULER and node.ready_at is not None]
    workers = sorted(node.ready_at for node in nodes if node.role == NodeRole.WORKER and node.ready_at is not None)
    return {
        "launched": min(launched, default=None),
        "scheduler_ready": min(schedulers, default=None),
        "first_worker": workers[0] if workers else None,
        "all_workers": workers[wanted - 1] if 0 < wanted <= len(workers) else None,
    }


def _step(name: str, time: datetime | None, begin: datetime) -> TimelineStep:
    seconds = None if time is None else round((time - begin).total_seconds(), 3)
    return TimelineStep(step=name, time=time, seconds=seconds)
