"""What happens around every request: an id, a line in the log, numbers, headers, a limit, and no traceback to anyone.

Plain ASGI: nothing is buffered, so event streams pass as they come.
"""

from __future__ import annotations

import re
import secrets
import time
from typing import TYPE_CHECKING

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException

from ropewalk.schemas.environments import MAX_WHEEL
from ropewalk.schemas.images import PART_BYTES
from ropewalk.server.api.errors import internal_error, respond

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from ropewalk.server.metrics import Metrics

__all__ = ["MAX_BODY", "BodyLimit", "Requests"]

_LARGE = re.compile(r"/api/v1/accounts/[^/]+/images/[^/]+(/[^/]+)?")
"""Where parts of layers, and manifests, are sent to: up to PART_BYTES."""
_WHEEL = re.compile(r"/api/v1/accounts/[^/]+/wheels/[^/]+/[^/]+")
"""Where wheels are sent to: up to MAX_WHEEL, written to disk as they come."""

MAX_BODY = 1024 * 1024
"""1 MiB: a hundred times the largest request of a client."""

_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_QUIET = frozenset({"/healthz", "/readyz", "/metrics"})
"""Asked every few seconds by machines."""

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    # Answers of the API are no documents; pages set their own policy.
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}

log = structlog.get_logger("ropewalk.access")


class Requests:
    """The outermost layer.

    Args:
        app: What answers.
        metrics: Where requests are counted.
        secure: Users come by HTTPS, so browsers may be told never to use anything else.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, *, secure: bool) -> None:
        self.app = app
        self.metrics = metrics
        self.headers = _HEADERS | ({"Strict-Transport-Security": "max-age=31536000"} if secure else {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = _Exchange(scope, send, self.headers)
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=exchange.id)
        with self.metrics.in_progress.track_inprogress():
            try:
                await self.app(scope, receive, exchange.send)
            except Exception:
                log.exception("request.defect", method=scope["method"], path=scope["path"])
                if exchange.status is not None:
                    raise  # the answer is half sent: only a broken connection can tell
                await respond(internal_error(exchange.id), exchange.id)(scope, receive, exchange.send)
            finally:
                self._done(exchange)

    def _done(self, exchange: _Exchange) -> None:
        scope, seconds = exchange.scope, time.perf_counter() - exchange.began
        route = getattr(scope.get("route"), "path", None) or "unmatched"
        # Nothing was sent: the client went away first. 499 is what proxies write then.
        status = exchange.status or 499
        self.metrics.request_done(scope["method"], route, status, seconds)
        write = log.debug if route in _QUIET else log.info
        write("request", method=scope["method"], route=route, status=status, ms=round(seconds * 1000, 1))


class _Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, send: Send, headers: dict[str, str]) -> None:
        given = Headers(scope=scope).get("x-request-id", "")
        self.id = given if _SANE_ID.fullmatch(given) else secrets.token_hex(8)
        scope["ropewalk.request_id"] = self.id
        self.scope = scope
        self.began = time.perf_counter()
        self.status: int | None = None
        self._send = send
        self._headers = headers

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-Id"] = self.id
            for name, value in self._headers.items():
                headers.setdefault(name, value)
        await self._send(message)


class BodyLimit:
    """Refuses requests whose body is too large, at once where the length is told, else when it is reached."""

    def __init__(self, app: ASGIApp, limit: int = MAX_BODY) -> None:
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = _limit(scope, self.limit)
        told = Headers(scope=scope).get("content-length", "")
        received = int(told) if told.isdecimal() else 0

        async def limited() -> Message:
            nonlocal received
            if told and received > limit:
                raise HTTPException(413)
            message = await receive()
            if not told and message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > limit:
                    raise HTTPException(413)
            return message

        await self.app(scope, limited, send)


def _limit(scope: Scope, usual: int) -> int:
    if scope["method"] == "PUT" and _LARGE.fullmatch(scope["path"]):
        return PART_BYTES
    return MAX_WHEEL if scope["method"] == "PUT" and _WHEEL.fullmatch(scope["path"]) else usual
