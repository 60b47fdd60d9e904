"""What a cluster looks like: its names of workers, its link to the dashboard, its widgets."""

from __future__ import annotations

import time
from typing import Any

from distributed.core import Status

from ropewalk.client import calls, view
from ropewalk.client.core import ClusterCore
from ropewalk.errors import RopewalkError
from ropewalk.schemas.clusters import NodeState

__all__ = ["ClusterLooks"]

TICKET_SECONDS = 30.0
"""A ticket to the dashboard is good for a minute; whoever gets one from us has at least half of that."""


class ClusterLooks(ClusterCore):
    """Properties and representations."""

    @property
    def dashboard_link(self) -> str:
        """Address that opens the dashboard in a browser, or an empty text.

        With a ticket that works once, within a minute; for half of that the same one is returned, since widgets ask
        often. In coroutines, which must not wait here, and when the server does not answer: without a ticket, for
        browsers that have opened it before. :meth:`new_dashboard_link` always has one.
        """
        link = self._detail.dashboard_link if self._detail else None
        if not link or not link.startswith(("http://", "https://")):
            return ""
        if self.asynchronous or self.status != Status.running:
            return link
        if self._ticketed is None or time.monotonic() - self._ticketed[0] > TICKET_SECONDS:
            try:
                self._ticketed = (time.monotonic(), self._run(self._new_dashboard_link))
            except (RopewalkError, OSError):
                return link
        return self._ticketed[1]

    def new_dashboard_link(self) -> Any:
        """Return a new link that opens the dashboard in one browser, once, within a minute. Awaitable in coroutines."""
        return self._run(self._new_dashboard_link)

    async def _new_dashboard_link(self) -> str:
        detail = self.detail
        return (await self._api(calls.open_dashboard(detail.account, detail.id))).url

    @property
    def plan(self) -> set[str]:
        """Names of the workers that are meant to be."""
        workers = view.workers(self._detail)
        return {node.name for node in workers if node.state.live and node.state is not NodeState.STOPPING}

    @property
    def requested(self) -> set[str]:
        """Names of the workers that the backend was asked for."""
        return {node.name for node in view.workers(self._detail) if node.state in (NodeState.STARTING, NodeState.READY)}

    @property
    def observed(self) -> set[str]:
        """Names of the workers that have joined the scheduler."""
        known = {view.own_name(node): node.name for node in view.workers(self._detail)}
        return {known.get(worker["name"], worker["name"]) for worker in self.scheduler_info["workers"].values()}

    def _scaling_status(self) -> str:
        return view.scaling_table(self._detail, len(self.scheduler_info["workers"]))

    def _repr_html_(self, cluster_status: str | None = None) -> str:
        return str(super()._repr_html_(cluster_status or view.status_rows(self._detail)))

    def __repr__(self) -> str:
        if self._detail is None or self.status != Status.running:
            return f"Cluster({self.name!r}, {self.state if self._detail else 'not started'})"
        return str(super().__repr__())
