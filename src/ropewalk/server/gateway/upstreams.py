"""Connections to dashboards: HTTP over tunnels through the schedulers' mutually authenticated ports.

A tunnel is opened by what the cluster's row says, not through the actor that looks after it: the request may have come
to another server than the one that holds the lease.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

import httpcore

from ropewalk.backends import wire
from ropewalk.backends.tunnel import Tunnel
from ropewalk.errors import BackendError, ClusterError, NotFoundError, UnavailableError
from ropewalk.server.clusters.connector import Connector
from ropewalk.server.clusters.secret import open_secret

if TYPE_CHECKING:
    from ropewalk.server.context import Context
    from ropewalk.server.gateway.passes import Visit

MAX_REQUESTS = 16
"""Tunnels for HTTP per cluster and server; a page of the dashboard loads a dozen files at once."""
MAX_SOCKETS = 48
"""Tunnels for WebSockets per cluster and server: open pages."""
KEEP_ALIVE_SECONDS = 15.0
"""How long an idle tunnel is kept for the next request."""
IDLE_SECONDS = 60.0
"""Time without a request after which nothing of a cluster is kept."""
SWEEP_SECONDS = 10.0
TIMEOUTS = {"connect": 20.0, "pool": 10.0, "read": 60.0, "write": 60.0}
"""Seconds. A dashboard of a busy scheduler may take long to answer."""

SCHEDULER_HOST = "scheduler"
"""Stands for the scheduler in URLs that never leave this process; workers are named by host and port."""

Headers = list[tuple[bytes, bytes]]


class Upstream:
    """The dashboards of one cluster."""

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
        self._sockets = 0
        self._users = 0
        self._used_at = time.monotonic()
        self._pool = httpcore.AsyncConnectionPool(
            max_connections=MAX_REQUESTS,
            keepalive_expiry=KEEP_ALIVE_SECONDS,
            network_backend=_Network(self.open),
        )

    @property
    def idle_seconds(self) -> float:
        """Seconds since it was last used."""
        return 0.0 if self._users else time.monotonic() - self._used_at

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep it for the time of a ``with`` block."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            self._used_at = time.monotonic()

    async def open(self, worker: str | None) -> Tunnel:
        """Open a tunnel to the dashboard of the scheduler, or of the worker whose HTTP server is ``host:port``.

        Raises:
            NotFoundError: the cluster has no such worker or dashboard.
            ClusterError: the scheduler does not answer.
        """
        request: dict[str, Any] = {"op": "ropewalk_tunnel", "reply": False}
        try:
            reader, writer = await self._connector.connect()
            try:
                await wire.write(writer, request if worker is None else {**request, "worker": worker})
                async with asyncio.timeout(TIMEOUTS["connect"]):
                    _check(await wire.read(reader))
                return Tunnel(reader, writer)
            except BaseException:
                writer.transport.abort()
                raise
        except (OSError, TimeoutError, BackendError) as exc:
            raise ClusterError(
                "The cluster's scheduler does not answer.", advice="Load the page again in a moment."
            ) from exc

    @contextlib.asynccontextmanager
    async def socket(self, worker: str | None) -> AsyncIterator[Tunnel]:
        """Open a tunnel for a WebSocket."""
        if self._sockets >= MAX_SOCKETS:
            raise UnavailableError(
                f"{MAX_SOCKETS} pages of this cluster's dashboard are open.", advice="Close some of them."
            )
        self._sockets += 1
        try:
            tunnel = await self.open(worker)
            try:
                yield tunnel
            finally:
                await tunnel.close()
        finally:
            self._sockets -= 1

    def request(
        self, worker: str | None, method: str, target: bytes, headers: Headers, body: AsyncIterator[bytes] | None
    ) -> AbstractAsyncContextManager[httpcore.Response]:
        """Send a request to the scheduler's or a worker's dashboard; the answer is streamed."""
        host, _, port = (worker or f"{SCHEDULER_HOST}:80").rpartition(":")
        url = httpcore.URL(scheme=b"http", host=host.encode(), port=int(port), target=target)
        return self._pool.stream(method, url, headers=headers, content=body, extensions={"timeout": TIMEOUTS})

    async def close(self) -> None:
        """Close all that is open."""
        await self._pool.aclose()


def _check(answer: Any) -> None:
    if not isinstance(answer, dict) or not answer.get("ok"):
        raise NotFoundError("The cluster has no such dashboard.", advice="The worker may have gone.")


class Upstreams:
    """The dashboards of all clusters that somebody looks at. Start it before it is used."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._open: dict[tuple[str, str], Upstream] = {}
        self._lock = asyncio.Lock()
        self._sweeper: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to close what nobody uses."""
        self._sweeper = asyncio.create_task(self._run(), name="dashboards")

    async def stop(self) -> None:
        """Close everything."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
        for upstream in self._open.values():
            await upstream.close()
        self._open.clear()

    async def get(self, visit: Visit) -> Upstream:
        """Return the dashboards of a cluster."""
        cluster, address = visit.cluster, visit.cluster.scheduler_address or ""
        async with self._lock:
            found = self._open.get((cluster.id, address))
            if found is None:
                backend = await self._context.backends.get(cluster.cloud_account_id)

                def connector() -> Connector:
                    tls = open_secret(self._context.vault, cluster).certificates.for_role("control")
                    return Connector(backend, visit.scheduler, address, tls)

                found = self._open[cluster.id, address] = Upstream(await asyncio.to_thread(connector))
            return found

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            await self.sweep()

    async def sweep(self) -> None:
        """Close what nobody has used for a while."""
        for key in [key for key, upstream in self._open.items() if upstream.idle_seconds > IDLE_SECONDS]:
            await self._open.pop(key).close()


class _Network(httpcore.AsyncNetworkBackend):
    """Gives httpcore tunnels where it asks for TCP."""

    def __init__(self, open_tunnel: Callable[[str | None], Awaitable[Tunnel]]) -> None:
        self._open_tunnel = open_tunnel

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,  # noqa: ARG002 - as above
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,  # noqa: ARG002 - as above
    ) -> httpcore.AsyncNetworkStream:
        try:
            async with asyncio.timeout(timeout):
                return _Stream(await self._open_tunnel(None if host == SCHEDULER_HOST else f"{host}:{port}"))
        except TimeoutError as exc:
            raise httpcore.ConnectTimeout("no answer in time") from exc

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class _Stream(httpcore.AsyncNetworkStream):
    """A tunnel as httpcore knows streams."""

    def __init__(self, tunnel: Tunnel) -> None:
        self._tunnel = tunnel

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore's signature
        try:
            async with asyncio.timeout(timeout):
                return await self._tunnel.read(max_bytes)
        except TimeoutError as exc:
            raise httpcore.ReadTimeout("no answer in time") from exc
        except OSError as exc:
            raise httpcore.ReadError(str(exc)) from exc

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - httpcore's signature
        try:
            async with asyncio.timeout(timeout):
                await self._tunnel.write(buffer)
        except TimeoutError as exc:
            raise httpcore.WriteTimeout("not taken in time") from exc
        except OSError as exc:
            raise httpcore.WriteError(str(exc)) from exc

    async def aclose(self) -> None:
        await self._tunnel.close()

    def get_extra_info(self, info: str) -> Any:
        # httpcore asks before it uses an idle connection again: bytes or an end that nobody asked for spoil it.
        return self._tunnel.readable if info == "is_readable" else None
