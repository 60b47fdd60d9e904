"""How a start deals with what other programs do meanwhile, and how it is undone; against a server made of a dict."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from ropewalk.client import claims, start
from ropewalk.client.claims import Claim, release
from ropewalk.client.config import Login
from ropewalk.client.environment.sync import Software
from ropewalk.client.exchange import RetryPolicy
from ropewalk.client.failure import guilty, start_error
from ropewalk.client.http import AsyncApi
from ropewalk.client.progress import Progress, Silent
from ropewalk.client.start import Starter
from ropewalk.errors import ClusterStartError, LimitExceededError, ServerUnreachableError
from ropewalk.schemas.clusters import ClusterCreate, ClusterDetail
from tests.support.client import ME, SERVER, TOKEN, cluster, node, stream
from tests.support.waiting import eventually

CONNECTION = {"scheduler_address": "tls://127.0.0.1:1", "ca": "a", "cert": "b", "key": "c", "versions": {}}


def error(status: int, code: str) -> httpx.Response:
    body: dict[str, Any] = {"code": code, "message": f"It is {code}.", "advice": None, "field": None, "details": {}}
    return httpx.Response(status, json={"error": body})


class Server:
    """Clusters by id, and what has been asked."""

    def __init__(self, **clusters: dict[str, Any]) -> None:
        self.clusters = {name.replace("_", "-"): answer for name, answer in clusters.items()}
        self.asked: list[str] = []
        self.before: Callable[[httpx.Request], httpx.Response | None] = lambda request: None
        self.on_create: Callable[[], httpx.Response] = lambda: httpx.Response(201, json=self.add("c-new"))
        self.gate: asyncio.Event | None = None

    def add(self, cluster_id: str, **fields: Any) -> dict[str, Any]:
        self.clusters[cluster_id] = cluster(id=cluster_id, **fields)
        return self.clusters[cluster_id]

    def set(self, cluster_id: str, state: str) -> None:
        self.clusters[cluster_id]["state"] = state

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/api/v1")
        self.asked.append(f"{request.method} {path}")
        early = self.before(request)
        if early is not None:
            return early
        if path == "/me":
            return httpx.Response(200, json=ME)
        if path.endswith("/events"):
            return httpx.Response(503)  # polling has to do
        if request.method == "POST" and path == "/accounts/ada/clusters":
            if self.gate is not None:
                await self.gate.wait()
            return self.on_create()
        return self._about(request.method, *path.removeprefix("/accounts/ada/clusters/").split("/"))

    def _about(self, method: str, name: str, what: str = "") -> httpx.Response:
        # The newest is the last that was added.
        found = [each for each in self.clusters.values() if name in (each["id"], each["name"])]
        if not found:
            return error(404, "not_found")
        if what == "connection":
            return httpx.Response(200, json=CONNECTION) if found[-1]["state"] == "ready" else error(410, "cluster_gone")
        if method == "DELETE":
            found[-1]["state"] = "stopped"
        return httpx.Response(200, json=found[-1])

    def deleted(self) -> list[str]:
        return [each.rpartition("/")[2] for each in self.asked if each.startswith("DELETE")]


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture(autouse=True)
def _no_claims() -> Iterator[None]:
    claims._claims.clear()
    yield
    claims._claims.clear()


def api_of(server: Server) -> AsyncApi:
    policy = RetryPolicy(attempts=2, first_delay=0.001)
    return AsyncApi(SERVER, TOKEN, retry=policy, transport=httpx.MockTransport(server))


def starter(server: Server, name: str | None = "mine", *, attach_only: bool = False) -> Starter:
    api = api_of(server)
    software = Software(api, sync=False, versions="ignore", step=lambda _: None, say=lambda _: None)
    return Starter(
        api,
        Login(SERVER, TOKEN, None, None),
        ClusterCreate() if name is None else ClusterCreate(name=name),
        account=None,
        attach_only=attach_only,
        progress=Progress(Silent()),
        software=software,
        on_event=lambda _: None,
        on_change=lambda _: None,
    )


async def finish(starting: Starter) -> None:
    """Free what a start holds, without stopping anything."""
    if starting.watch is not None:
        await starting.watch.stop()


async def test_a_new_cluster_is_claimed_until_it_is_released(server: Server) -> None:
    starting = starter(server)
    assert (await starting.connection()).scheduler_address == "tls://127.0.0.1:1"
    assert starting.created
    assert [claim.id for claim in claims._claims] == ["c-new"]
    assert await starting.undo("test") is None
    assert server.deleted() == ["c-new"]
    assert not claims._claims


async def test_a_start_takes_four_requests(server: Server) -> None:
    """Each costs the server as much processor time as a pass of its reconciler, on the machine that starts nodes."""
    detail = server.add("c-new")
    server.on_create = lambda: httpx.Response(201, json={**detail, "state": "pending"})

    def answer(request: httpx.Request) -> httpx.Response | None:
        if request.url.path.endswith("/events"):
            codes = ("cluster.created", "cluster.starting", "node.launched", "cluster.ready", "node.ready")
            return stream(*codes)
        if request.url.path.endswith("/connection"):
            return httpx.Response(200, json={**CONNECTION, "cluster": detail})
        return None

    server.before = answer
    starting = starter(server, None)
    await starting.connection()
    assert starting.detail.state == "ready"
    path = "/accounts/ada/clusters"
    assert server.asked == ["GET /me", f"POST {path}", f"GET {path}/c-new/events", f"GET {path}/c-new/connection"]
    await finish(starting)


async def test_a_cluster_that_is_gone_when_it_was_told_ready_is_looked_at_at_once(server: Server) -> None:
    detail = server.add("c-new", state="failed", reason="It broke.")
    server.on_create = lambda: httpx.Response(201, json={**detail, "state": "pending"})
    server.before = lambda request: stream("cluster.ready") if request.url.path.endswith("/events") else None
    starting = starter(server, None)
    with pytest.raises(ClusterStartError, match="It broke"):
        await starting.connection()
    assert len([asked for asked in server.asked if asked.endswith("/connection")]) == 1
    await finish(starting)


async def test_a_cluster_that_lives_is_found_and_never_undone(server: Server) -> None:
    server.add("c-old")
    starting = starter(server)
    await starting.connection()
    assert not starting.created
    assert await starting.undo("test") is None
    assert server.deleted() == []
    assert not [asked for asked in server.asked if asked.startswith("POST")]


async def test_a_cluster_that_another_program_made_in_between_is_not_ours(server: Server) -> None:
    server.on_create = lambda: httpx.Response(200, json=server.add("c-theirs"))
    starting = starter(server)
    await starting.connection()
    assert not starting.created
    assert await starting.undo("test") is None
    assert server.deleted() == []


async def test_a_cluster_found_on_the_second_try_is_ours_unless_somebody_else_made_it(server: Server) -> None:
    for creator, ours in (("ada", True), ("bob", False)):
        lost = [True]

        def create(creator: str = creator, lost: list[bool] = lost) -> httpx.Response:
            if lost.pop() if lost else False:
                raise httpx.ReadError("lost")
            return httpx.Response(200, json=server.add("c-new", creator=creator))

        server.clusters.clear()
        server.on_create = create
        starting = starter(server)
        await starting.connection()
        assert starting.created is ours
        await finish(starting)


async def test_a_cluster_that_was_about_to_stop_is_outlived_and_made_anew(server: Server) -> None:
    server.add("c-old")

    def going(request: httpx.Request) -> httpx.Response | None:
        if request.url.path.endswith("/c-old/connection"):
            server.set("c-old", "stopping")
        elif request.url.path.endswith("/c-old") and server.asked.count(server.asked[-1]) > 2:
            server.set("c-old", "stopped")
        return None

    server.before = going
    starting = starter(server)
    await starting.connection()
    assert starting.created
    assert starting.detail.id == "c-new"
    await finish(starting)


async def test_a_cluster_that_is_stopping_is_waited_for_when_only_attaching(server: Server) -> None:
    server.add("c-old", state="stopping")

    def gone(request: httpx.Request) -> httpx.Response | None:
        if request.url.path.endswith("/c-old"):
            server.set("c-old", "stopped")
        return None

    server.before = gone
    with pytest.raises(start.NotFoundError, match="no live cluster 'mine'"):
        await starter(server, attach_only=True).connection()


async def test_a_refused_request_leaves_no_claim(server: Server) -> None:
    server.on_create = lambda: error(409, "limit_exceeded")
    starting = starter(server)
    with pytest.raises(LimitExceededError):
        await starting.connection()
    assert starting.claim is None
    assert not claims._claims
    assert await starting.undo("test") is None
    assert server.deleted() == []


async def test_undoing_waits_for_a_request_that_is_under_way(server: Server) -> None:
    server.gate = asyncio.Event()
    starting = starter(server)
    task = asyncio.create_task(starting.connection())
    await eventually(lambda: "POST /accounts/ada/clusters" in server.asked, every=0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    undoing = asyncio.create_task(starting.undo("test"))
    await asyncio.sleep(0)
    server.gate.set()
    assert await undoing is None
    assert server.deleted() == ["c-new"]


async def test_undoing_looks_for_what_a_silent_server_may_have_made(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "SETTLE", 0.05)
    server.gate = asyncio.Event()
    starting = starter(server)
    task = asyncio.create_task(starting.connection())
    await eventually(lambda: "POST /accounts/ada/clusters" in server.asked, every=0)
    server.add("c-new")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await starting.undo("test") is None
    assert server.deleted() == ["c-new"]


async def test_a_server_that_stays_silent_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.on_create = lambda: httpx.Response(201, json=server.add("c-new", state="starting", scheduler_address=None))
    monkeypatch.setattr(start, "SILENCE", 0.01)

    def silent(request: httpx.Request) -> httpx.Response | None:
        return httpx.Response(503) if "c-new" in request.url.path else None

    server.before = silent
    starting = starter(server)
    waiting = asyncio.create_task(starting.connection())
    watch = await eventually(lambda: starting.watch, every=0)
    watch.poll = 0.01
    watch.look()
    with pytest.raises(ServerUnreachableError, match="has not answered for"):
        await waiting
    failure = await starting.undo("test")
    assert failure is not None
    assert claims._claims, "it is tried again at exit"


async def test_a_cluster_that_fails_says_its_reason(server: Server) -> None:
    server.on_create = lambda: httpx.Response(
        201, json=server.add("c-new", state="failed", scheduler_address=None, reason="No memory.")
    )
    starting = starter(server)
    with pytest.raises(ClusterStartError, match="'mine' did not start: No memory"):
        await starting.connection()
    await finish(starting)


# Claims.


def claim(**fields: Any) -> Claim:
    return Claim(SERVER, TOKEN, "ada", "mine", "ada", **fields)


def test_a_claim_does_not_show_its_token() -> None:
    assert TOKEN not in repr(claim())


@pytest.mark.parametrize(
    ("fields", "held", "stopped"),
    [
        ({}, {}, True),
        ({}, {"creator": "bob"}, False),
        ({}, {"state": "stopped"}, False),
        ({"existed": "c-1"}, {}, False),
        ({"existed": "c-0"}, {}, True),
        ({"id": "c-1"}, {"creator": "bob"}, True),
        ({"id": "c-gone"}, {}, False),
    ],
)
async def test_only_what_is_ours_is_stopped(
    server: Server, fields: dict[str, Any], held: dict[str, Any], stopped: bool
) -> None:
    server.add("c-1", **held)
    ours = claim(**fields)
    ours.enter()
    async with api_of(server) as api:
        assert (await release(ours, api, "test") is not None) is stopped
    assert (server.clusters["c-1"]["state"] == "stopped") is (stopped or held.get("state") == "stopped")
    assert not claims._claims


async def test_nothing_is_stopped_where_nothing_was_made(server: Server) -> None:
    async with api_of(server) as api:
        assert await release(claim(), api, "test") is None
    assert server.deleted() == []


# Why it failed.


def of(nodes: list[dict[str, Any]]) -> ClusterDetail:
    return ClusterDetail.model_validate(cluster("failed", nodes=nodes, reason="It broke."))


def test_a_failed_scheduler_is_blamed_before_a_failed_worker_and_the_latest_first() -> None:
    early, late = "2026-01-02T03:04:05Z", "2026-01-02T03:04:09Z"
    workers = [
        node("w1", "worker", "failed", stopped_at=late),
        node("w2", "worker", "failed", stopped_at=early),
        node("w3", "worker", "stopped", exit_code=-15, stopped_at=late),
    ]
    found = guilty(of(workers).nodes)
    assert found is not None
    assert found.name == "w1"
    found = guilty(of([*workers, node(state="stopped", exit_code=-15, stopped_at=late)]).nodes)
    assert found is not None
    assert found.name == "w1"
    found = guilty(of([*workers, node("s", state="lost", stopped_at=early)]).nodes)
    assert found is not None
    assert found.name == "s"
    assert guilty(of([node(), workers[2]]).nodes) is None


def logs(*texts: str) -> Callable[[httpx.Request], httpx.Response]:
    def answer(request: httpx.Request) -> httpx.Response:
        number = int(request.url.params.get("cursor") or 0)
        page = {"node": request.url.params["node"], "text": texts[number], "cursor": str(number + 1)}
        return httpx.Response(200, json=[{**page, "complete": number + 1 == len(texts)}])

    return answer


async def explained(detail: ClusterDetail, answer: Callable[[httpx.Request], httpx.Response]) -> ClusterStartError:
    async with AsyncApi(SERVER, TOKEN, transport=httpx.MockTransport(answer), retry=RetryPolicy(attempts=1)) as api:
        return await start_error(api, detail, "Cluster 'mine' did not start.")


async def test_the_error_names_the_node_its_reason_and_the_last_twenty_lines_of_all_pages() -> None:
    detail = of([node("w1", "worker", "failed", exit_code=137, reason="Out of memory.")])
    pages = ["".join(f"line {number}\n" for number in range(start, start + 30)) for start in (0, 30)]
    error = await explained(detail, logs(*pages))
    text = str(error)
    assert "Worker w1 is failed with exit code 137: Out of memory." in text
    assert "line 40\n" in text
    assert "  line 59\n\nAll of it: `ropewalk cluster logs ada/mine`." in text
    assert "line 39\n" not in text
    assert error.details["node"] == "w1"
    assert error.details["exit_code"] == 137
    assert len(error.details["log"]) == 20


async def test_a_scheduler_that_never_came_up_is_named() -> None:
    detail = of([node(state="starting", reason="Waiting for a machine.")])
    assert "is still starting: Waiting for a machine." in str(await explained(detail, logs("")))


async def test_without_a_log_there_is_still_a_reason() -> None:
    detail = of([node(state="failed", reason="Gone.")])
    assert "Gone" in str(await explained(detail, lambda _: httpx.Response(503)))
    assert "Gone" in str(await explained(detail, lambda _: httpx.Response(200, json=[])))


async def test_where_no_node_is_to_blame_the_cluster_speaks() -> None:
    assert str(await explained(of([]), logs(""))).startswith("Cluster 'mine' did not start.")
