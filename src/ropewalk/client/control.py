"""What a cluster can be asked for: size, limits, logs, costs, events, and to be waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from distributed.client import Client
from distributed.utils import Logs

from ropewalk.client import calls, history, options
from ropewalk.client.adaptive import RemoteAdaptive, adaptive_range
from ropewalk.client.life import ClusterLife
from ropewalk.client.options import UNSET, Unset
from ropewalk.errors import ClusterGoneError
from ropewalk.schemas.clusters import ClusterDetail, ClusterScale, ClusterUpdate, Cost
from ropewalk.schemas.common import Event

__all__ = ["ClusterControl"]


class ClusterControl(ClusterLife):
    """The methods."""

    def scale(self, n: int) -> Any:
        """Ask for *n* workers; ends adaptive scaling. Workers that go hand their results to others first.

        Returns when the server has accepted it (:meth:`wait_for_workers` waits for workers). Awaitable in coroutines.
        """
        return self._act(self._scale, options.parse_scale(n))

    async def _scale(self, request: ClusterScale) -> None:
        detail = self.detail
        self._on_change(await self._api(calls.scale_cluster(detail.account, detail.id, request)))

    def set_keepalive(self, duration: float | str | None) -> Any:
        """Stop after so long without tasks (``"2 hours"``, or seconds), counted anew from the last task; None: never.

        The scheduler itself sees to it, so it holds when this program and the server have ended.
        """
        return self.set_limits(idle_timeout=duration)

    def set_limits(
        self,
        *,
        idle_timeout: float | str | Unset | None = UNSET,
        no_client_timeout: float | str | Unset | None = UNSET,
        cluster_timeout: float | str | Unset | None = UNSET,
    ) -> Any:
        """Change the times after which the cluster ends by itself; what is not given stays as it is.

        Args:
            idle_timeout: Stop after so long without tasks; None: never.
            no_client_timeout: Stop after so long without a client; None: never.
            cluster_timeout: Stop at this age, counted from its start; None: never.
        """
        given = {
            "idle_timeout": idle_timeout,
            "no_client_timeout": no_client_timeout,
            "cluster_timeout": cluster_timeout,
        }
        return self._act(self._update, options.parse_limits(given))

    async def _update(self, request: ClusterUpdate) -> None:
        detail = self.detail
        self._on_change(await self._api(calls.update_cluster(detail.account, detail.id, request)))

    def adapt(  # type: ignore[override]  # returns our own kind of handle
        self,
        Adaptive: Any = None,  # noqa: N803 - Dask's name, to refuse it by name
        *,
        minimum: int | None = None,
        maximum: int | None = None,
        **kwargs: Any,
    ) -> RemoteAdaptive:
        """Let the number of workers follow the work, between *minimum* (0) and *maximum*.

        The scheduler itself decides, so it goes on when this program ends.
        """
        others = kwargs if Adaptive is None else {"Adaptive": Adaptive, **kwargs}
        request = options.parse_scale(adaptive_range(minimum, maximum, others))
        accepted = self._act(self._scale, request)
        low, high = request.n_workers if isinstance(request.n_workers, tuple) else (0, 0)
        return RemoteAdaptive(self, low, high, accepted)

    def get_logs(self, cluster: bool = True, scheduler: bool = True, workers: bool | Iterable[str] = True) -> Any:
        """Return the logs of the nodes by name, also of nodes and clusters that have ended.

        Args:
            cluster: Include what happened to the cluster as a whole.
            scheduler: Include the scheduler's log.
            workers: Include all workers, none, or those of these names or addresses.
        """
        return self._run(self._get_logs, cluster, scheduler, workers)

    async def _get_logs(
        self, cluster: bool = True, scheduler: bool = True, workers: bool | Iterable[str] = True
    ) -> Logs:
        detail = await self._refresh()
        return await history.read_logs(self._api, detail, cluster=cluster, scheduler=scheduler, workers=workers)

    def refresh(self) -> Any:
        """Ask the server how the cluster is, and return that (a :class:`~ropewalk.schemas.clusters.ClusterDetail`)."""
        return self._run(self._refresh)

    async def _refresh(self) -> ClusterDetail:
        detail = await self._api(calls.get_cluster(self.detail.account, self.detail.id))
        self._on_change(detail)
        return detail

    def cost(self) -> Any:
        """Return what the cluster costs by the hour now, and has cost so far."""
        return self._run(self._cost)

    async def _cost(self) -> Cost:
        return await self._api(calls.get_cost(self.detail.account, self.detail.id))

    def events(self) -> Any:
        """Return all that happened to the cluster, as a list of events."""
        return self._run(self._events)

    async def _events(self) -> list[Event]:
        return await history.read_events(self._api, self.detail)

    def wait_for_workers(self, n_workers: int, timeout: float | str | None = None) -> Any:
        """Wait until *n_workers* workers have joined.

        Raises:
            WorkerStartTimeoutError: they have not within *timeout* (a TimeoutError of Dask's).
            ClusterGoneError: the cluster ended meanwhile.
        """
        if isinstance(n_workers, bool) or not isinstance(n_workers, int) or n_workers < 1:
            raise ValueError(f"`n_workers` must be a positive integer. Instead got {n_workers}.")
        seconds = None if timeout is None else options.parse_seconds(timeout, "timeout")
        return self.sync(self._wait_for_workers, n_workers, seconds)

    async def _wait_for_workers(self, n_workers: int = 0, timeout: float | None = None) -> None:  # noqa: ASYNC109 - Dask's
        waiting = asyncio.create_task(super()._wait_for_workers(n_workers, timeout))
        over = asyncio.create_task(self._over.wait())
        try:
            await asyncio.wait({waiting, over}, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                waiting.result()
                return
            raise ClusterGoneError(f"Cluster {self.name!r} is {self.state}.", details={"reason": self.detail.reason})
        finally:
            waiting.cancel()
            over.cancel()

    def get_client(self) -> Client:
        """Return a Dask client of this cluster: the current one if it is of this cluster, else a new one."""
        with suppress(ValueError):
            current: Client = Client.current()
            if current.cluster is self:
                return current
        return Client(self, asynchronous=self.asynchronous)
