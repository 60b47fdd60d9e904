"""Who sees a dashboard, and what passes between it and the browser."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import httpx
import pytest
from sqlalchemy import select

from ropewalk.server.db.models import DashboardPass
from ropewalk.server.gateway import passes
from tests.server.gateway.conftest import Dashboards, Large
from tests.support.clock import FakeClock
from tests.support.waiting import eventually

# Tickets and cookies


async def test_a_link_opens_the_dashboard_and_leaves_the_address_without_the_ticket(dashboards: Dashboards) -> None:
    cluster = await dashboards.cluster()
    link = await dashboards.link()
    assert link.host == f"{cluster}.localhost"
    client = await dashboards.api.connect()
    opened = await client.get(link)
    assert (opened.status_code, opened.headers["location"]) == (303, "/status")
    cookie = opened.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert "Domain" not in cookie
    page = await client.get(link.copy_with(path="/status", query=None))
    assert (page.status_code, page.json()["path"]) == (200, "/status")


async def test_a_ticket_works_once(dashboards: Dashboards) -> None:
    await dashboards.cluster()
    link = await dashboards.link()
    await dashboards.browser(link)
    other = await dashboards.browser()
    assert (await other.get(link)).status_code == 401


async def test_of_two_browsers_at_once_one_gets_in(dashboards: Dashboards) -> None:
    cluster = await dashboards.cluster()
    ticket = (await dashboards.link()).params["ticket"]
    tries = [passes.redeem(dashboards.api.context, ticket, cluster) for _ in range(8)]
    assert sum(cookie is not None for cookie in await asyncio.gather(*tries)) == 1


async def test_a_used_ticket_is_no_obstacle_for_the_browser_that_used_it(dashboards: Dashboards) -> None:
    await dashboards.cluster()
    link = await dashboards.link()
    client = await dashboards.browser(link)
    assert (await client.get(link)).status_code == 303


async def test_a_ticket_is_good_for_a_minute_and_a_cookie_for_hours(dashboards: Dashboards, clock: FakeClock) -> None:
    await dashboards.cluster()
    late, link = await dashboards.link(), await dashboards.link()
    client = await dashboards.browser(link)
    clock.advance(passes.TICKET_LIFETIME.total_seconds() + 1)
    assert (await (await dashboards.browser()).get(late)).status_code == 401
    assert (await client.get("/status")).status_code == 200
    clock.advance(passes.COOKIE_LIFETIME.total_seconds())
    assert (await client.get("/status")).status_code == 401


async def test_only_hashes_are_stored(dashboards: Dashboards) -> None:
    await dashboards.cluster()
    link = await dashboards.link()
    client = await dashboards.browser(link)
    async with dashboards.api.context.db.read() as session:
        stored = [str(vars(row)) for row in await session.scalars(select(DashboardPass))]
    assert stored
    for secret in (link.params["ticket"], next(iter(client.cookies.jar)).value or ""):
        assert not any(secret in text for text in stored)


async def test_passes_that_are_over_are_removed(dashboards: Dashboards, clock: FakeClock) -> None:
    await dashboards.cluster()
    await dashboards.link()
    clock.advance(timedelta(days=1).total_seconds())
    await dashboards.link()
    async with dashboards.api.context.db.read() as session:
        assert len(list(await session.scalars(select(DashboardPass)))) == 1


@pytest.mark.parametrize("path", ["/", "/status", "/metrics", "/healthz", "/api/v1/me", "/_ropewalk/open?ticket=x"])
async def test_without_a_session_there_is_nothing_but_a_page_that_says_what_to_do(
    dashboards: Dashboards, path: str
) -> None:
    await dashboards.cluster()
    link = await dashboards.link()
    client = await dashboards.browser()
    answer = await client.get(link.join(path))
    assert answer.status_code == 401
    assert "ropewalk cluster dashboard" in answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]


async def test_the_hosts_of_clusters_that_never_were_look_the_same(dashboards: Dashboards) -> None:
    link = httpx.URL("http://c-aaaaaaaaaaaa.localhost:80/status")
    assert (await (await dashboards.browser()).get(link)).status_code == 401


async def test_one_clusters_session_is_of_no_use_at_another(dashboards: Dashboards) -> None:
    await dashboards.cluster("one")
    await dashboards.cluster("two")
    first, second = await dashboards.link("one"), await dashboards.link("two")
    client = await dashboards.browser(first)
    cookie = {"Cookie": f"ropewalk_dashboard={next(iter(client.cookies.jar)).value}"}
    fresh = await dashboards.browser()
    assert (await fresh.get(first.join("/status"), headers=cookie)).status_code == 200
    assert (await fresh.get(second.join("/status"), headers=cookie)).status_code == 401
    moved = second.copy_with(query=first.query)
    assert (await fresh.get(moved)).status_code == 401


async def test_cookies_that_another_page_planted_do_not_lock_anyone_out(dashboards: Dashboards) -> None:
    await dashboards.cluster()
    link = await dashboards.link()
    client = await dashboards.browser(link)
    good = next(iter(client.cookies.jar)).value
    fresh = await dashboards.browser()
    cookie = {"Cookie": f"ropewalk_dashboard=planted; x=y; ropewalk_dashboard={good}"}
    assert (await fresh.get(link.join("/status"), headers=cookie)).status_code == 200


async def test_a_user_who_is_disabled_sees_nothing_any_more(dashboards: Dashboards) -> None:
    await dashboards.cluster()
    root = await dashboards.api.operator()
    client = await dashboards.browser(await dashboards.link())
    assert (await client.get("/status")).status_code == 200
    assert (await root.client.patch("/api/v1/users/ada", json={"disabled": True})).status_code == 200
    assert (await client.get("/status")).status_code == 401
    async with dashboards.api.context.db.read() as session:
        assert list(await session.scalars(select(DashboardPass))) == []


async def test_a_member_who_leaves_the_account_sees_nothing_any_more(dashboards: Dashboards) -> None:
    root = await dashboards.api.operator()
    await dashboards.api.team("team", ada="member")
    await dashboards.cluster(account="team")
    client = await dashboards.browser(await dashboards.link(account="team"))
    assert (await client.get("/status")).status_code == 200
    assert (await root.client.delete("/api/v1/accounts/team/members/ada")).is_success
    assert (await client.get("/status")).status_code == 401


async def test_a_cluster_that_is_stopped_says_so(dashboards: Dashboards) -> None:
    await dashboards.cluster()
    client = await dashboards.browser(await dashboards.link())
    await dashboards.ada.client.delete("/api/v1/accounts/ada/clusters/c")
    answer = await client.get("/status")
    assert answer.status_code == 410
    assert "has ended or is ending" in answer.text
    again = await dashboards.ada.client.post("/api/v1/accounts/ada/clusters/c/dashboard")
    assert again.status_code == 410


# What passes


async def test_the_dashboard_learns_nothing_of_who_looks(dashboards: Dashboards) -> None:
    await dashboards.cluster()
    client = await dashboards.browser(await dashboards.link())
    page = await client.get(
        "/a%2Fb?x=1&y=%20",
        headers={
            "Authorization": "Bearer secret",
            "Referer": "http://elsewhere",
            "X-Forwarded-For": "10.0.0.1",
            "Connection": "x-private",
            "X-Private": "secret",
            "Accept-Language": "de",
        },
    )
    seen = page.json()
    assert seen["path"] == "/a%2Fb?x=1&y=%20"
    names = {name.lower() for name in seen["headers"]}
    assert not names & {"cookie", "authorization", "referer", "x-forwarded-for", "x-private"}
    assert seen["headers"]["Host"] == f"localhost:{dashboards.port}"
    assert seen["headers"]["Accept-Language"] == "de"


async def test_the_dashboard_cannot_set_what_reaches_beyond_its_page(dashboards: Dashboards) -> None:
    await dashboards.cluster()
    client = await dashboards.browser(await dashboards.link())
    headers = (await client.get("/status")).headers
    for name in ("set-cookie", "access-control-allow-origin", "service-worker-allowed", "clear-site-data"):
        assert name not in headers
    assert headers["content-security-policy"] == f"frame-ancestors {dashboards.api.context.settings.public_url}"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"


async def test_service_workers_are_refused(dashboards: Dashboards) -> None:
    await dashboards.cluster()
    client = await dashboards.browser(await dashboards.link())
    assert (await client.get("/sw.js", headers={"Service-Worker": "script"})).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://c-other.localhost"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "script"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"},
    ],
)
async def test_other_pages_get_nothing_with_the_browsers_cookie(
    dashboards: Dashboards, headers: dict[str, str]
) -> None:
    await dashboards.cluster()
    client = await dashboards.browser(await dashboards.link())
    assert (await client.get("/status", headers=headers)).status_code == 403


async def test_a_form_of_another_page_is_refused_even_by_a_browser_that_says_little(dashboards: Dashboards) -> None:
    await dashboards.cluster()
    client = await dashboards.browser(await dashboards.link())
    assert (await client.post("/upload", content=b"x")).status_code == 403
    navigation = {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert (await client.post("/upload", content=b"x", headers=navigation)).status_code == 403


async def test_links_from_elsewhere_are_followed(dashboards: Dashboards) -> None:
    await dashboards.cluster()
    client = await dashboards.browser(await dashboards.link())
    navigation = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert (await client.get("/status", headers=navigation)).status_code == 200


@pytest.mark.parametrize(
    ("there", "here"),
    [("http://HOST/tasks?x=1", "/tasks?x=1"), ("/tasks", "/tasks"), ("http://elsewhere/", "http://elsewhere/")],
)
async def test_redirects_lead_to_the_origin_that_the_browser_knows(
    dashboards: Dashboards, there: str, here: str
) -> None:
    await dashboards.cluster()
    client = await dashboards.browser(await dashboards.link())
    assert (await client.get("/leave", params={"to": there})).headers["location"] == here


async def test_headers_that_are_too_large_are_refused(dashboards: Dashboards) -> None:
    await dashboards.cluster()
    client = await dashboards.browser(await dashboards.link())
    assert (await client.get("/status", headers={"X-Large": "x" * 40_000})).status_code == 431


async def test_large_bodies_pass_both_ways(dashboards: Dashboards) -> None:
    await dashboards.cluster()
    link = await dashboards.link()
    client = await dashboards.browser(link)
    own = {"Sec-Fetch-Site": "same-origin"}
    size = 5 * 2**20
    assert (await client.post("/upload", content=b"x" * size, headers=own)).text == str(size)

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b"y" * 65536

    assert (await client.post("/upload", content=chunks(), headers=own)).text == str(64 * 65536)
    assert len((await client.get(f"/large/{size}")).content) == size


async def test_workers_pages_are_reached_below_proxy(dashboards: Dashboards) -> None:
    cluster = await dashboards.cluster()
    dashboards.cloud.set_dashboard(cluster, "127.0.0.1", dashboards.port, worker="10.0.0.7:8790")
    client = await dashboards.browser(await dashboards.link())
    page = await client.get("/proxy/8790/10.0.0.7/status?x=1")
    assert page.json()["path"] == "/status?x=1"
    moved = await client.get("/proxy/8790/10.0.0.7/leave?to=/tasks")
    assert moved.headers["location"] == "/proxy/8790/10.0.0.7/tasks"
    assert (await client.get("/proxy/22/127.0.0.1/")).status_code == 404


async def test_a_dashboard_that_does_not_answer_is_told(dashboards: Dashboards) -> None:
    cluster = await dashboards.cluster()
    client = await dashboards.browser(await dashboards.link())
    dashboards.cloud.set_dashboard(cluster, "127.0.0.1", 1)
    answer = await client.get("/status")
    assert answer.status_code == 409
    assert "did not answer" in answer.text


# The API


async def test_dashboard_hosts_serve_nothing_of_the_api(dashboards: Dashboards) -> None:
    await dashboards.cluster()
    link = await dashboards.link()
    token = {"Authorization": f"Bearer {dashboards.ada.token}"}
    fresh = await dashboards.browser()
    assert (await fresh.get(link.join("/api/v1/me"), headers=token)).status_code == 401
    client = await dashboards.browser(link)
    assert (await client.get("/api/v1/me")).json()["path"] == "/api/v1/me", "the dashboard's own, not ours"


async def test_the_session_of_a_dashboard_opens_nothing_of_the_api(dashboards: Dashboards) -> None:
    await dashboards.cluster()
    client = await dashboards.browser(await dashboards.link())
    cookie = {"Cookie": f"ropewalk_dashboard={next(iter(client.cookies.jar)).value}"}
    public = dashboards.api.context.settings.public_url
    assert (await client.get(f"{public}/api/v1/me", headers=cookie)).status_code == 401


async def test_metrics_are_read_with_a_token(dashboards: Dashboards) -> None:
    cluster = await dashboards.cluster()
    dashboards.cloud.cluster(cluster).dashboards.clear()
    answer = await dashboards.ada.client.get("/api/v1/accounts/ada/clusters/c/metrics")
    assert (answer.status_code, answer.text) == (200, "# A simulated scheduler.\n")


async def test_what_is_no_metrics_is_not_passed_on(dashboards: Dashboards) -> None:
    await dashboards.cluster()
    answer = await dashboards.ada.client.get("/api/v1/accounts/ada/clusters/c/metrics")
    assert answer.status_code == 409
    assert "no metrics" in answer.text


async def test_a_cluster_that_is_not_ready_has_no_dashboard_yet(dashboards: Dashboards) -> None:
    dashboards.cloud.launch_latency = 1e6
    await dashboards.ada.client.post("/api/v1/accounts/ada/clusters", json={"name": "slow"})
    shown = (await dashboards.ada.client.get("/api/v1/accounts/ada/clusters/slow")).json()
    assert shown["dashboard_link"] is None


async def test_the_stable_link_names_the_clusters_own_host(dashboards: Dashboards) -> None:
    cluster = await dashboards.cluster()
    shown = (await dashboards.ada.client.get("/api/v1/accounts/ada/clusters/c")).json()
    assert shown["dashboard_link"] == f"http://{cluster}.localhost:0/status"


# Slow and lost


async def test_tunnels_are_closed_when_nobody_uses_them(
    dashboards: Dashboards, monkeypatch: pytest.MonkeyPatch
) -> None:
    await dashboards.cluster()
    client = await dashboards.browser(await dashboards.link())
    assert (await client.get("/status")).status_code == 200
    kept = dashboards.api.app.state.dashboards
    assert len(kept._open) == 1
    with monkeypatch.context() as patch:
        patch.setattr("ropewalk.server.gateway.upstreams.IDLE_SECONDS", -1)
        await kept.sweep()
        assert len(kept._open) == 0
    assert (await client.get("/status")).status_code == 200


async def test_too_many_tunnels_are_refused(dashboards: Dashboards, monkeypatch: pytest.MonkeyPatch) -> None:
    await dashboards.cluster()
    client = await dashboards.browser(await dashboards.link())
    await client.get("/status")
    (upstream,) = dashboards.api.app.state.dashboards._open.values()
    monkeypatch.setattr("ropewalk.server.gateway.upstreams.MAX_SOCKETS", 1)
    async with upstream.socket(None):
        with pytest.raises(Exception, match="pages of this cluster's dashboard are open"):
            async with upstream.socket(None):
                pass


async def test_a_tunnel_holds_no_more_than_its_window(dashboards: Dashboards, large: type[Large]) -> None:
    await dashboards.cluster()
    client = await dashboards.browser(await dashboards.link())
    await client.get("/status")
    (upstream,) = dashboards.api.app.state.dashboards._open.values()
    size = 64 * 2**20
    async with upstream.request(None, "GET", f"/large/{size}".encode(), [(b"host", b"x")], None) as response:
        stream = response.aiter_stream()
        await anext(stream)
        before = -1
        while before != large.sent:  # until it is held up
            before = large.sent
            await asyncio.sleep(0.3)
        assert large.sent < 16 * 2**20, "socket buffers of two connections and the window"
        assert (await client.get("/status")).status_code == 200, "others are not held up"
    await eventually(large.over.is_set)
