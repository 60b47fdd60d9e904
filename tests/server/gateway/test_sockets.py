"""WebSockets of dashboards: live while they may be, and closed when not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from ropewalk.server.gateway import sockets
from tests.server.gateway.conftest import Dashboards
from tests.support.waiting import PATIENCE


class Browser:
    """One WebSocket of a browser, as the server's program hands it to the application."""

    def __init__(self) -> None:
        self._to_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._from_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def receive(self) -> dict[str, Any]:
        return await self._to_app.get()

    async def send(self, message: Any) -> None:
        await self._from_app.put(message)

    async def hears(self) -> dict[str, Any]:
        """Return what the application says next."""
        return await asyncio.wait_for(self._from_app.get(), PATIENCE)

    def says(self, **message: Any) -> None:
        self._to_app.put_nowait({"type": "websocket.receive", **message})

    def leaves(self) -> None:
        self._to_app.put_nowait({"type": "websocket.disconnect", "code": 1001})


@asynccontextmanager
async def socket(
    dashboards: Dashboards, link: httpx.URL, *, cookie: bool = True, origin: str | None = None, path: str = "/status/ws"
) -> AsyncIterator[Browser]:
    """Open a WebSocket on the origin of *link*, and see that nothing of it is left."""
    host = link.netloc
    headers = [(b"host", host), (b"origin", (origin or f"http://{host.decode()}").encode()), (b"x-a", b"b")]
    if cookie:
        client = await dashboards.browser(link)
        headers.append((b"cookie", f"ropewalk_dashboard={next(iter(client.cookies.jar)).value}".encode()))
    scope = {"type": "websocket", "path": path, "raw_path": path.encode(), "query_string": b"x=1", "headers": headers}
    browser = Browser()
    browser._to_app.put_nowait({"type": "websocket.connect"})
    serving = asyncio.create_task(
        dashboards.api.app({**scope, "scheme": "ws", "subprotocols": ["bokeh", "token"]}, browser.receive, browser.send)
    )
    try:
        yield browser
        browser.leaves()
        await asyncio.wait_for(serving, PATIENCE)
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def hello(browser: Browser) -> dict[str, Any]:
    """Return what the dashboard knows of the browser, once it is connected."""
    accepted = await browser.hears()
    assert accepted == {"type": "websocket.accept", "subprotocol": "bokeh"}
    told: dict[str, Any] = json.loads((await browser.hears())["text"])
    return told


async def test_messages_pass_both_ways_and_the_dashboard_learns_nothing(dashboards: Dashboards) -> None:
    await dashboards.cluster()
    async with socket(dashboards, await dashboards.link()) as browser:
        told = await hello(browser)
        assert told["path"] == "/status/ws?x=1"
        assert told["headers"]["Origin"] == f"http://localhost:{dashboards.port}"
        assert "Cookie" not in told["headers"]
        browser.says(text="grüß")
        assert (await browser.hears())["text"] == "grüß"
        large = bytes(range(256)) * 20_000
        browser.says(bytes=large)
        assert (await browser.hears())["bytes"] == large


async def test_workers_have_sockets_too(dashboards: Dashboards) -> None:
    cluster = await dashboards.cluster()
    dashboards.cloud.set_dashboard(cluster, "127.0.0.1", dashboards.port, worker="10.0.0.7:8790")
    async with socket(dashboards, await dashboards.link(), path="/proxy/8790/10.0.0.7/status/ws") as browser:
        assert (await hello(browser))["path"] == "/status/ws?x=1"


async def test_without_a_session_no_socket_is_accepted(dashboards: Dashboards) -> None:
    await dashboards.cluster()
    async with socket(dashboards, await dashboards.link(), cookie=False) as browser:
        assert (await browser.hears())["type"] == "websocket.close"


@pytest.mark.parametrize("origin", ["http://c-other.localhost:0", "http://127.0.0.1:0", "null"])
async def test_pages_of_other_origins_get_no_socket_with_the_browsers_cookie(
    dashboards: Dashboards, origin: str
) -> None:
    await dashboards.cluster()
    async with socket(dashboards, await dashboards.link(), origin=origin) as browser:
        assert (await browser.hears())["type"] == "websocket.close"


async def test_what_is_no_socket_is_refused(dashboards: Dashboards) -> None:
    await dashboards.cluster()
    async with socket(dashboards, await dashboards.link(), path="/upload") as browser:
        assert (await browser.hears())["type"] == "websocket.close"


async def test_an_open_socket_ends_when_its_user_is_disabled(
    dashboards: Dashboards, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "CHECK_SECONDS", 0.05)
    await dashboards.cluster()
    root = await dashboards.api.operator()
    async with socket(dashboards, await dashboards.link()) as browser:
        await hello(browser)
        await root.client.patch("/api/v1/users/ada", json={"disabled": True})
        assert (await browser.hears())["type"] == "websocket.close"


async def test_an_open_socket_ends_with_its_cluster(dashboards: Dashboards) -> None:
    await dashboards.cluster()
    async with socket(dashboards, await dashboards.link()) as browser:
        await hello(browser)
        await dashboards.ada.client.delete("/api/v1/accounts/ada/clusters/c")
        assert (await browser.hears())["type"] == "websocket.close"


async def test_an_open_socket_ends_when_the_server_stops(dashboards: Dashboards) -> None:
    await dashboards.cluster()
    async with socket(dashboards, await dashboards.link()) as browser:
        await hello(browser)
        dashboards.api.context.stopping.set()
        assert (await browser.hears())["type"] == "websocket.close"
