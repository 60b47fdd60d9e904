"""HTTP between a browser and a dashboard, streamed both ways."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import httpcore

from ropewalk.errors import ClusterError, UnavailableError
from ropewalk.server.gateway import headers as rules

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from ropewalk.server.gateway.passes import Visit
    from ropewalk.server.gateway.upstreams import Upstream

_WORKER = re.compile(rb"(/proxy/(\d{1,5})/([A-Za-z0-9.-]{1,253}))(/[^?]*)?")
"""Where Dask's own pages link to the dashboards of workers."""


class Target:
    """Whose dashboard a request is for, and what it asks of it.

    Attributes:
        worker: ``host:port`` of a worker's HTTP server; None: the scheduler's.
        path: Path and query.
        prefix: What comes before the path in the browser.
        authority: What the dashboard is to take for its host.
    """

    def __init__(self, scope: Scope, visit: Visit) -> None:
        path = scope.get("raw_path") or scope["path"].encode()
        match = _WORKER.fullmatch(path)
        if match is None:
            self.worker, self.prefix = None, ""
            self.authority = f"localhost:{visit.cluster.dashboard_port or 80}"
        else:
            self.worker, self.prefix = f"{match[3].decode()}:{int(match[2])}", match[1].decode()
            self.authority = f"localhost:{int(match[2])}"
            path = match[4] or b"/"
        query = scope["query_string"]
        self.path = path + b"?" + query if query else path


async def http(upstream: Upstream, visit: Visit, scope: Scope, receive: Receive, send: Send, *, server: str) -> None:
    """Pass a request on and its answer back, until the answer has ended or the browser has gone.

    Raises:
        NotFoundError: the cluster has no such dashboard.
        ClusterError: the dashboard does not answer, or not as HTTP does.
        UnavailableError: too much is asked of it at once.
    """
    body_read = asyncio.Event()
    exchange = asyncio.ensure_future(_exchange(upstream, visit, scope, _body(receive, body_read), send, server))
    gone = asyncio.ensure_future(_gone(receive, body_read))
    try:
        await asyncio.wait({exchange, gone}, return_when=asyncio.FIRST_COMPLETED)
        if exchange.done():
            await exchange
    finally:
        for task in (exchange, gone):
            task.cancel()
        await asyncio.gather(exchange, gone, return_exceptions=True)


async def _exchange(
    upstream: Upstream, visit: Visit, scope: Scope, body: AsyncIterator[bytes], send: Send, server: str
) -> None:
    target = Target(scope, visit)
    headers = rules.to_dashboard(scope["headers"], target.authority)
    has_body = any(name in (b"content-length", b"transfer-encoding") for name, _ in headers)
    if not has_body:
        async for _ in body:  # until its end, which says that what comes next is the browser's leave
            pass
    try:
        with upstream.in_use():
            request = upstream.request(target.worker, scope["method"], target.path, headers, body if has_body else None)
            async with request as response:
                back = rules.from_dashboard(response.headers, target.authority, target.prefix, server)
                await send({"type": "http.response.start", "status": response.status, "headers": back})
                async for data in response.aiter_stream():
                    await send({"type": "http.response.body", "body": data, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
    except httpcore.PoolTimeout:
        raise UnavailableError("Too many pages of this dashboard are loading.", advice="Load it again.") from None
    except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError) as exc:
        raise ClusterError(
            "The dashboard did not answer as it should.", advice="Load the page again in a moment."
        ) from exc


async def _body(receive: Receive, read: asyncio.Event) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise httpcore.WriteError("the browser went away")
        more = message.get("more_body", False)
        if data := message.get("body", b""):
            yield data
    read.set()


async def _gone(receive: Receive, body_read: asyncio.Event) -> None:
    """Return when the browser has gone, which only a request that was read to its end can tell."""
    await body_read.wait()
    while (await receive())["type"] != "http.disconnect":
        pass
