"""Who uses software environments: clusters that live, and when the newest was made."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from ropewalk.schemas.clusters import ClusterState
from ropewalk.server.db.models import Cluster, Environment

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

__all__ = ["Use", "uses"]


@dataclass(frozen=True, slots=True)
class Use:
    """What clusters have to do with one environment."""

    clusters: tuple[str, ...] = ()
    """Names of those that live, sorted."""
    last: datetime | None = None
    """When the newest was made; None: none ever was."""


async def uses(session: AsyncSession, rows: Sequence[Environment]) -> dict[str, Use]:
    """Return by id who uses the environments of one account, in two queries however many they are."""
    if not rows:
        return {}
    # A cluster's row has the name with the number of the version: ``etl:3``.
    software = Cluster.spec["software"].as_string().label("software")
    columns = select(software, Cluster.name, Cluster.state, Cluster.created_at)
    mine = columns.where(Cluster.account_id == rows[0].account_id, software.is_not(None)).subquery()
    live = select(mine.c.software, mine.c.name).where(mine.c.state.in_([state for state in ClusterState if state.live]))
    names: dict[str, set[str]] = defaultdict(set)
    for full, cluster in await session.execute(live):
        names[full.partition(":")[0]].add(cluster)
    newest: dict[str, datetime] = {}
    for full, moment in await session.execute(
        select(mine.c.software, func.max(mine.c.created_at)).group_by(mine.c.software)
    ):
        name = full.partition(":")[0]
        newest[name] = max(moment, newest.get(name, moment))
    # A name may have been another environment's before: that one's clusters are older than this one.
    return {row.id: _use(row, newest.get(row.name), names[row.name]) for row in rows}


def _use(row: Environment, last: datetime | None, clusters: set[str]) -> Use:
    return Use(tuple(sorted(clusters)), last) if last is not None and last >= row.created_at else Use()
