"""The gateway: one TLS port through which every cluster is reached, without decrypting anything.

A client says in its first message which cluster it wants (``scheduler.<cluster id>.ropewalk`` as TLS server name);
from then on bytes are carried to that cluster's scheduler by its backend, and only the scheduler decides whom it lets
in: a certificate of another cluster is worth nothing there. Who asks for something else learns nothing: plain text and
every name that is not of a live cluster get the same seven bytes after the same time.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from typing import TYPE_CHECKING

import structlog

from ropewalk.errors import RopewalkError
from ropewalk.server.gateway.hello import NotTlsError, read_hello
from ropewalk.server.gateway.relay import CHUNK, Relay
from ropewalk.server.gateway.routes import Route, Routes

if TYPE_CHECKING:
    from ropewalk.server.context import Context

HELLO_SECONDS = 10.0
"""For a client's first message, which needs one round trip."""
CONNECT_SECONDS = 15.0
"""For the backend to reach the scheduler."""
REFUSE_SECONDS = 0.5
"""From the connection to its refusal, the same for every reason: more than looking up a name takes."""
SWEEP_SECONDS = 5.0
KEEPALIVE_SECONDS = 60
"""A peer that vanished is noticed within this and a few probes, however long connections may idle."""

# Fatal alerts as a TLS 1.2 record, which TLS 1.3 clients understand, too (RFC 8446, sections 5.1 and 6.2).
_UNKNOWN = b"\x15\x03\x03\x00\x02\x02\x70"  # unrecognized_name
_UNREACHABLE = b"\x15\x03\x03\x00\x02\x02\x50"  # internal_error

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]

log = structlog.get_logger(__name__)


class Gateway:
    """Listens, and carries connections to schedulers."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._metrics = context.metrics
        self._routes = Routes(context)
        self._relays: set[Relay] = set()
        self._open: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self, listener: socket.socket) -> None:
        """Accept connections on *listener*, which is listening already."""
        self._server = await asyncio.start_server(self._accepted, sock=listener, limit=CHUNK)
        self._sweeper = asyncio.create_task(self._sweep(), name="gateway")

    async def stop(self) -> None:
        """Stop listening and end every connection; clients come back to the next server."""
        if self._server is None or self._sweeper is None:
            return
        self._server.close()
        self._sweeper.cancel()
        for task in self._open:
            task.cancel()
        await asyncio.gather(self._sweeper, *self._open, return_exceptions=True)
        await self._routes.stop()
        await self._server.wait_closed()

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A callback and not a coroutine: asyncio would log what a coroutine of its own raises.
        task = asyncio.create_task(self._serve(reader, writer), name="gateway-connection")
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if len(self._open) > self._context.settings.gateway_connections:
                self._metrics.gateway_refused.labels("full").inc()
                return
            self._metrics.gateway_connections.inc()
            try:
                await self._carry(reader, writer)
            finally:
                self._metrics.gateway_connections.dec()
        except OSError:
            pass  # the client is gone
        except Exception:
            log.exception("gateway.failed")
        finally:
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        began = time.monotonic()
        _keep_alive(writer)
        found = await self._wanted(reader)
        if found is None:
            await _refuse(writer, _UNKNOWN, began)
            return
        route, hello = found
        upstream = await self._connect(route)
        if upstream is None:
            await _refuse(writer, _UNREACHABLE, began)
            return
        upstream[1].write(hello)
        relay = Relay((reader, writer), upstream, self._count)
        self._relays.add(relay)
        try:
            await relay.run()
        finally:
            self._relays.discard(relay)

    async def _wanted(self, reader: asyncio.StreamReader) -> tuple[Route, bytes] | None:
        """Return the scheduler that the client asks for, and what it sent; None: refuse it."""
        try:
            async with asyncio.timeout(HELLO_SECONDS):
                name, hello = await read_hello(reader)
        except (NotTlsError, TimeoutError):
            self._metrics.gateway_refused.labels("not_tls").inc()
            return None
        route = await self._routes.find(name)
        if route is None:
            self._metrics.gateway_refused.labels("unknown_name").inc()
            return None
        return route, hello

    async def _connect(self, route: Route) -> Stream | None:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                backend = await self._context.backends.get(route.cloud_account)
                return await backend.connect(route.scheduler, route.address)
        except (RopewalkError, OSError) as exc:
            log.warning("gateway.unreachable", cluster=route.cluster, error=str(exc) or type(exc).__name__)
            self._metrics.gateway_refused.labels("unreachable").inc()
            return None

    def _count(self, direction: str, size: int) -> None:
        self._metrics.gateway_bytes.labels(direction).inc(size)

    async def _sweep(self) -> None:
        """End what has not moved a byte for too long."""
        loop = asyncio.get_running_loop()
        limit = self._context.settings.gateway_idle_seconds
        while True:
            await asyncio.sleep(min(SWEEP_SECONDS, limit / 2))
            for relay in [each for each in self._relays if loop.time() - each.used_at > limit]:
                self._metrics.gateway_refused.labels("idle").inc()
                relay.abort()


async def _refuse(writer: asyncio.StreamWriter, alert: bytes, began: float) -> None:
    await asyncio.sleep(max(0.0, began + REFUSE_SECONDS - time.monotonic()))
    writer.write(alert)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(REFUSE_SECONDS):
            await writer.drain()
            writer.close()
            await writer.wait_closed()


def _keep_alive(writer: asyncio.StreamWriter) -> None:
    peer: socket.socket = writer.get_extra_info("socket")
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):  # macOS has another name for it, and two hours as its default
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_SECONDS)
