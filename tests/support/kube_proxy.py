"""Stands between a backend and an API server, and lets chosen requests go wrong."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import ssl
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web

_HOP = {"host", "content-length", "transfer-encoding", "connection", "content-encoding"}


@dataclass
class Fault:
    """Applies to the next *times* requests of *method* whose path and query match *pattern*."""

    method: str
    pattern: str
    status: int | None = None
    times: int = 1
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = field(default_factory=dict)
    effect: bool = False
    """The API server gets the request all the same; only its answer is lost."""

    def takes(self, request: web.Request) -> bool:
        if not self.times or request.method != self.method or not re.search(self.pattern, request.path_qs):
            return False
        self.times -= 1
        return True


class Proxy:
    def __init__(self, server: str, authority: str) -> None:
        self.upstream = server
        self.faults: list[Fault] = []
        self.seen: list[str] = []
        self.down = False
        self._authority = authority
        self._open: set[asyncio.Task[Any]] = set()
        self.url = ""

    def inject(self, method: str, pattern: str, status: int | None = None, **facts: Any) -> Fault:
        fault = Fault(method, pattern, status, **facts)
        self.faults.append(fault)
        return fault

    def asked(self, method: str, pattern: str) -> int:
        return sum(line.startswith(method + " ") and bool(re.search(pattern, line)) for line in self.seen)

    def cut(self) -> None:
        """Break every request that is being answered, as the crash of a load balancer does."""
        for task in list(self._open):
            task.cancel()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Proxy]:
        context = ssl.create_default_context(cafile=self._authority)
        # As in backends/kubernetes/connection.py: those that are cut off end with the session. Later Pythons end them.
        connector = aiohttp.TCPConnector(ssl=context, limit=0, enable_cleanup_closed=sys.version_info < (3, 12, 7))
        self._session = aiohttp.ClientSession(connector=connector, auto_decompress=False, read_bufsize=2**22)
        app = web.Application(client_max_size=2**24)
        app.router.add_route("*", "/{path:.*}", self._serve)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            self.cut()
            await runner.cleanup()
            await self._session.close()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(f"{request.method} {request.path_qs}")
        if self.down:
            _abort(request)
        for fault in self.faults:
            if fault.takes(request):
                if fault.effect:
                    await self._forward(request)
                if fault.status is None:
                    _abort(request)
                headers = {"Content-Type": "application/json", **fault.headers}
                return web.Response(status=fault.status or 0, headers=headers, text=json.dumps(fault.body) + "\n")
        task = asyncio.ensure_future(self._forward(request, stream=True))
        self._open.add(task)
        try:
            return await task
        finally:
            self._open.discard(task)

    async def _forward(self, request: web.Request, *, stream: bool = False) -> web.StreamResponse:
        headers = {key: value for key, value in request.headers.items() if key.lower() not in _HOP}
        url = self.upstream + request.raw_path
        no_limit = aiohttp.ClientTimeout()
        body = await request.read()
        async with self._session.request(
            request.method, url, headers=headers, data=body or None, timeout=no_limit
        ) as answer:
            kept = {key: value for key, value in answer.headers.items() if key.lower() not in _HOP}
            response = web.StreamResponse(status=answer.status, headers=kept)
            if stream:
                await response.prepare(request)
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
            return response


def _abort(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()
    raise asyncio.CancelledError
