"""From the server name that a client asks for to the scheduler that it means."""

from __future__ import annotations

import asyncio
import re
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ropewalk.backends.port import NodeHandle
from ropewalk.errors import ClusterError
from ropewalk.server.clusters.certificates import server_name
from ropewalk.server.db.models import Cluster
from ropewalk.server.gateway.passes import reachable

if TYPE_CHECKING:
    from ropewalk.server.context import Context

KEPT_SECONDS = 2.0
"""A client of Dask opens several connections at once; a cluster that ends is reached no longer than this."""
KEPT_ROUTES = 4096
"""Names that are remembered, unknown ones too: whoever makes them up cannot fill our memory."""
_NAME = re.compile(re.escape(server_name("ID")).replace("ID", r"([a-z0-9-]{1,40})"))


@dataclass(frozen=True, slots=True)
class Route:
    """Where a live cluster's scheduler is."""

    cluster: str
    cloud_account: str
    scheduler: NodeHandle
    address: str


class Routes:
    """Asks the database, and remembers the answer for a moment."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._kept: OrderedDict[str, tuple[float, Route | None]] = OrderedDict()
        self._asking: dict[str, asyncio.Task[Route | None]] = {}

    async def stop(self) -> None:
        """End what is still being asked."""
        asking = list(self._asking.values())
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    async def find(self, name: str | None) -> Route | None:
        """Return the scheduler that *name* stands for; None: there is none, or it has ended or is not there yet."""
        match = _NAME.fullmatch(name or "")
        if match is None:
            return None
        cluster_id = match[1]
        until, route = self._kept.get(cluster_id, (0.0, None))
        if time.monotonic() < until:
            return route
        # A crowd that asks at once waits for one answer.
        asking = self._asking.get(cluster_id)
        if asking is None:
            asking = self._asking[cluster_id] = asyncio.create_task(self._ask(cluster_id), name="gateway-route")
        return await asyncio.shield(asking)

    async def _ask(self, cluster_id: str) -> Route | None:
        try:
            route = await self._look_up(cluster_id)
        finally:
            del self._asking[cluster_id]
        self._kept[cluster_id] = (time.monotonic() + KEPT_SECONDS, route)
        self._kept.move_to_end(cluster_id)
        while len(self._kept) > KEPT_ROUTES:
            self._kept.popitem(last=False)
        return route

    async def _look_up(self, cluster_id: str) -> Route | None:
        async with self._context.db.read() as session:
            row = await session.get(Cluster, cluster_id)
            if row is None:
                return None
            try:
                scheduler = await reachable(session, row)
            except ClusterError:
                return None
            return Route(row.id, row.cloud_account_id, scheduler, row.scheduler_address or "")
