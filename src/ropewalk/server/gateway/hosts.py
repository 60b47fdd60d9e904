"""What is answered on the hosts of dashboards: nothing of the server's own, and nothing at all without a session.

Outermost of the application: requests for a cluster's host never reach its routes, and those for the server's own host
never reach a dashboard.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import structlog
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ropewalk.errors import PermissionDeniedError, RopewalkError
from ropewalk.server.gateway import headers as rules
from ropewalk.server.gateway import pages, passes, proxy, sockets

if TYPE_CHECKING:
    from ropewalk.server.context import Context
    from ropewalk.server.gateway.passes import Visit
    from ropewalk.server.gateway.upstreams import Upstreams
    from ropewalk.server.settings import Settings

MAX_COOKIES = 8
"""Cookies of our name that are looked at: another cluster's page can plant some on a domain that is not protected."""

log = structlog.get_logger(__name__)


class DashboardHosts:
    """Middleware: answers for ``<cluster id>.<dashboard domain>``, and passes everything else on.

    Args:
        app: The server's own application.
        settings: The server's.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        domain = re.escape(settings.dashboard_domain)
        self._host = re.compile(rf"(c-[a-z2-7]+)\.{domain}\.?(?::\d+)?", re.IGNORECASE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            for name, value in scope["headers"]:
                if name == b"host" and (match := self._host.fullmatch(value.decode("latin-1"))):
                    await Gateway(scope, match[1].lower()).answer(receive, send)
                    return
        await self.app(scope, receive, send)


class Gateway:
    """One request to a dashboard's host."""

    def __init__(self, scope: Scope, cluster_id: str) -> None:
        self._context: Context = scope["app"].state.context
        self._upstreams: Upstreams = scope["app"].state.dashboards
        self._scope = scope
        self._cluster_id = cluster_id
        self._headers: dict[bytes, bytes] = dict(scope["headers"])
        self._server = self._context.settings.public_url

    async def answer(self, receive: Receive, send: Send) -> None:
        """Answer it; whatever goes wrong, nothing of a dashboard is shown."""
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(cluster=self._cluster_id)
        if self._scope["type"] == "websocket":
            await self._socket(receive, send)
        else:
            await self._http(receive, send)

    async def _http(self, receive: Receive, send: Send) -> None:
        began, sent = time.perf_counter(), _Sent(send)
        try:
            response = await self._respond(receive, sent)
        except RopewalkError as exc:
            response = pages.error(exc, self._server)
        except Exception:
            log.exception("dashboard.defect", path=self._scope["path"])
            response = pages.page(
                500, "The dashboard cannot be shown", "The server's log says why.", server=self._server
            )
        if response is not None and sent.status is None:
            await response(self._scope, receive, sent)
        ms = round((time.perf_counter() - began) * 1000, 1)
        log.info("dashboard.request", method=self._scope["method"], status=sent.status or 499, ms=ms)

    async def _respond(self, receive: Receive, send: Send) -> Response | None:
        """Return what to answer; None: it was sent."""
        if sum(len(name) + len(value) for name, value in self._scope["headers"]) > rules.MAX_BYTES:
            return pages.page(
                431, "The request's headers are too large", "Delete this site's cookies.", server=self._server
            )
        if self._scope["path"] == passes.OPEN_PATH:
            return await self._open()
        if b"service-worker" in self._headers:
            raise PermissionDeniedError("Dashboards may not install service workers.")
        if not rules.from_own_page(self._headers, self._scope["method"]):
            raise PermissionDeniedError("Another site asked for this page.", advice="Open it from its own link.")
        visit = await self._visit()
        if visit is None:
            return pages.no_pass(self._server, self._cluster_id)
        await proxy.http(await self._upstreams.get(visit), visit, self._scope, receive, send, server=self._server)
        return None

    async def _open(self) -> Response:
        """Turn a ticket into a cookie of this origin, and get it out of the address."""
        ticket = parse_qs(self._scope["query_string"].decode("latin-1")).get("ticket", [""])[-1]
        cookie = await passes.redeem(self._context, ticket, self._cluster_id) if ticket else None
        if cookie is None and await self._visit() is None:
            return pages.no_pass(self._server, self._cluster_id)
        response = RedirectResponse("/status", status_code=303, headers={"Cache-Control": "no-store"})
        for name, value in rules.guards(self._server):
            response.headers[name.decode()] = value.decode()
        if cookie is not None:
            secure = self._server.startswith("https://")
            seconds = int(passes.COOKIE_LIFETIME.total_seconds())
            response.set_cookie(
                self._cookie_name, cookie, max_age=seconds, path="/", httponly=True, samesite="lax", secure=secure
            )
        return response

    @property
    def _cookie_name(self) -> str:
        """Name of the cookie; with the prefix, browsers refuse it from a sub-domain or by plain HTTP."""
        return f"{'__Host-' if self._server.startswith('https://') else ''}ropewalk_dashboard"

    async def _visit(self) -> Visit | None:
        """Return who asks; None: nobody who may see this cluster's dashboard."""
        for cookie in self._cookies():
            visit = await passes.find(self._context, cookie, self._cluster_id)
            if visit is not None:
                return visit
        return None

    def _cookies(self) -> list[str]:
        found = []
        for name, value in self._scope["headers"]:
            if name == b"cookie":
                for part in value.decode("latin-1").split(";"):
                    key, _, text = part.strip().partition("=")
                    found += [text] if key == self._cookie_name else []
        return found[:MAX_COOKIES]

    async def _socket(self, receive: Receive, send: Send) -> None:
        """Carry a WebSocket; refused before it is accepted, which browsers see as a failed connection."""
        refused: Message = {"type": "websocket.close", "code": 1008}
        try:
            visit = await self._visit() if self._same_origin() else None
            if visit is None:
                await send(refused)
                return
            upstream = await self._upstreams.get(visit)
            stopping = self._context.stopping
            await sockets.carry(upstream, visit, self._scope, receive, send, allowed=self._allowed, stopping=stopping)
        except RopewalkError as exc:
            log.info("dashboard.socket_refused", error=exc.message)
            await send(refused)

    def _same_origin(self) -> bool:
        """Browsers send cookies with WebSockets of any page of the same site; only the origin tells them apart."""
        return b"origin" in self._headers and rules.from_own_page(self._headers, "GET")

    async def _allowed(self) -> bool:
        """Return whether a WebSocket that is open may go on."""
        if self._context.stopping.is_set():
            return False
        try:
            return await self._visit() is not None
        except RopewalkError:
            return False


class _Sent:
    """Passes messages on, and remembers the status."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status: int | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)
