"""The dashboard in a real Chromium: it is live, and it is shut off from everything else."""

from __future__ import annotations

import time
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import BrowserContext, Page, WebSocket

from ropewalk.client import calls
from ropewalk.schemas.clusters import ClusterDetail
from tests.browser.conftest import ARTEFACTS, LiveServer, link
from tests.support.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.timeout(600)  # a server, two clusters and a browser, on a busy machine

Clusters = tuple[ClusterDetail, ClusterDetail]

FETCH = """async ([url, options]) => {
    try {
        const answer = await fetch(url, options);
        return `${answer.type} ${answer.status} ${(await answer.text()).slice(0, 100)}`;
    } catch (error) { return `failed: ${error.name}`; }
}"""

SOCKET = """url => new Promise(done => {
    const socket = new WebSocket(url, ["bokeh"]);
    socket.onopen = () => done("open");
    socket.onerror = () => done("failed");
})"""


def _open(context: BrowserContext, url: str) -> tuple[Page, list[WebSocket], list[str]]:
    """Open a page; returns it, its WebSockets, and what they received."""
    page = context.new_page()
    sockets: list[WebSocket] = []
    received: list[str] = []

    def note(socket: WebSocket) -> None:
        sockets.append(socket)
        socket.on("framereceived", lambda frame: received.append(str(frame)[:100]))

    page.on("websocket", note)
    page.goto(url)
    return page, sockets, received


def _lives(page: Page, received: list[str]) -> None:
    page.wait_for_selector(".bk-Figure, .bk-GridBox, .bk-Column", state="attached", timeout=60_000)
    seen = len(received)
    _until(page, lambda: len(received) > seen + 2)


def _until(page: Page, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE} seconds: {condition}"
        page.wait_for_timeout(250)  # lets the browser's events in


def test_the_ticketed_link_shows_the_live_page(server: LiveServer, clusters: Clusters, context: BrowserContext) -> None:
    page, sockets, received = _open(context, link(server, "one"))
    assert page.url == clusters[0].dashboard_link, "without the ticket"
    _lives(page, received)
    (socket,) = sockets
    assert socket.url.startswith(str(clusters[0].dashboard_link).replace("http", "ws") + "/ws")
    assert not socket.is_closed()
    page.wait_for_timeout(2000)
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=ARTEFACTS / "status.png")


def test_the_workers_page_is_live_too(server: LiveServer, clusters: Clusters, context: BrowserContext) -> None:
    page, _, _ = _open(context, link(server, "one"))
    origin = str(clusters[0].dashboard_link).removesuffix("/status")
    page.goto(f"{origin}/info/main/workers.html")
    href = page.locator("a[href*='proxy/']").first.get_attribute("href")
    assert href is not None
    received: list[str] = []
    page.on("websocket", lambda s: s.on("framereceived", lambda frame: received.append(str(frame)[:100])))
    page.goto(f"{origin}/{href.lstrip('./')}")
    _lives(page, received)
    page.wait_for_timeout(2000)
    page.screenshot(path=ARTEFACTS / "worker.png")


def test_without_a_session_there_is_nothing(clusters: Clusters, context: BrowserContext) -> None:
    page = context.new_page()
    answer = page.goto(str(clusters[0].dashboard_link))
    assert answer is not None
    assert answer.status == 401
    assert "ropewalk cluster dashboard" in page.inner_text("body")
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=ARTEFACTS / "no-session.png")


def test_a_clusters_page_reaches_neither_another_cluster_nor_the_api(
    server: LiveServer, clusters: Clusters, context: BrowserContext
) -> None:
    """The person has both dashboards open; code in the page of the first one tries the second one and the server."""
    second, _, _ = _open(context, link(server, "two"))
    page, _, _ = _open(context, link(server, "one"))
    two = urlsplit(str(clusters[1].dashboard_link))
    port = two.port
    for url in (f"http://{two.netloc}/status", f"{server.url}/api/v1/me", f"http://localhost:{port}/api/v1/me"):
        with_cookies = page.evaluate(FETCH, [url, {"credentials": "include"}])
        assert with_cookies == "failed: TypeError", url
        opaque = page.evaluate(FETCH, [url, {"credentials": "include", "mode": "no-cors"}])
        assert opaque in ("opaque 0 ", "failed: TypeError"), url
    posted = page.evaluate(FETCH, [f"{server.url}/api/v1/tokens", {"method": "POST", "credentials": "include"}])
    assert posted == "failed: TypeError"
    own = page.evaluate(FETCH, ["/api/v1/me", {"credentials": "include"}])
    assert own.startswith("basic 404"), "its own origin has no API either"
    assert page.evaluate(SOCKET, f"ws://{two.netloc}/status/ws") == "failed"
    assert page.evaluate("document.cookie") == "", "scripts do not see the session"
    assert second.evaluate(FETCH, ["/health", {}]).startswith("basic 200 ok"), "the second one works for itself"


def test_a_page_cannot_stay_by_a_service_worker(
    server: LiveServer, clusters: Clusters, context: BrowserContext
) -> None:
    page, _, _ = _open(context, link(server, "one"))
    register = "() => navigator.serviceWorker.register('/statics/js/x.js').then(() => 'in', e => e.name)"
    assert page.evaluate(register) in ("TypeError", "SecurityError")


def test_an_open_page_ends_with_its_cluster(server: LiveServer, clusters: Clusters, context: BrowserContext) -> None:
    page, sockets, received = _open(context, link(server, "two"))
    _lives(page, received)
    with server.api() as api:
        api(calls.stop_cluster("ada", "two"))
        wait_until(lambda: not api(calls.get_cluster("ada", "two")).state.live)
    _until(page, lambda: all(socket.is_closed() for socket in sockets))
    answer = page.reload()
    assert answer is not None
    assert answer.status == 410
