"""What every part of ``ropewalk.Cluster`` stands on: attributes, how a method is run, and the server's view."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from distributed.deploy.cluster import Cluster as DaskCluster
from distributed.security import Security
from distributed.utils import LoopRunner

from ropewalk.client.credentials import Forwarder
from ropewalk.client.environment.sync import Software
from ropewalk.client.http import AsyncApi
from ropewalk.client.options import Wait
from ropewalk.client.progress import Progress
from ropewalk.client.start import Starter
from ropewalk.errors import ClusterGoneError
from ropewalk.schemas.clusters import ClusterCreate, ClusterDetail, ClusterState

__all__ = ["EXPLAIN_SECONDS", "ClusterCore"]

T = TypeVar("T")

EXPLAIN_SECONDS = 10.0
"""For collecting the reasons of a failure, or for a last message to a scheduler."""


class ClusterCore(DaskCluster):
    """A Dask cluster with a connection to the server. The classes that extend it are one concern each."""

    _request: ClusterCreate
    _wait: Wait
    _timeout: float
    _versions: str
    _server: str
    _api: AsyncApi
    _progress: Progress
    _starter: Starter
    _software: Software
    _shutdown_on_close: bool | None
    _lend: str | None = None
    """Whose AWS credentials go to the workers; a cluster that was only re-attached has what it was given."""

    def _begin_anew(self) -> None:
        """Set what a start that has not begun has; before Dask's own initialisation, which runs callbacks."""
        self._detail: ClusterDetail | None = None
        self._starting: asyncio.Task[None] | None = None
        self._limit: asyncio.Timeout | None = None
        self._over = asyncio.Event()
        self._ending = asyncio.Lock()
        self._background: set[asyncio.Task[Any]] = set()
        self.security: Security | None = None
        self._ticketed: tuple[float, str] | None = None
        self._forwarder: Forwarder | None = None

    def _run(self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> Any:
        """Run a method that needs only the server: on the cluster's loop, and after its end on one of its own."""
        if self.asynchronous:
            return function(*args)
        if self._loop_runner.is_started():
            return self.sync(function, *args)
        return LoopRunner().run_sync(self._afterwards, function, *args)

    async def _afterwards(self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        try:
            return await function(*args)
        finally:
            await self._api.aclose()

    def _act(self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> Any:
        """As :meth:`_run`; but in coroutines it begins at once, since Dask's own methods need not be awaited either."""
        if not self.asynchronous:
            return self._run(function, *args)
        task = asyncio.create_task(function(*args))
        self._keep(task)
        return task

    def _keep(self, task: asyncio.Task[Any]) -> None:
        """Hold a reference: the event loop itself does not."""
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _disclaim(self) -> None:
        """There is nothing left for the end of the program to stop."""
        if self._starter.claim is not None:
            self._starter.claim.leave()

    @property
    def detail(self) -> ClusterDetail:
        """The server's view as last seen; :meth:`refresh` looks again."""
        if self._detail is None:
            raise ClusterGoneError("The cluster has not started.", advice="Await it first, or use `async with`.")
        return self._detail

    @property
    def account(self) -> str | None:
        """The account that the cluster belongs to; None before it has started."""
        return None if self._detail is None else self._detail.account

    @property
    def state(self) -> str:
        """pending, starting, ready, stopping, stopped or failed, as last seen."""
        return str(ClusterState.PENDING if self._detail is None else self._detail.state)

    @property
    def shutdown_on_close(self) -> bool:
        """Whether :meth:`close` stops the cluster."""
        return bool(self._shutdown_on_close)
