"""The life of a cluster, on a real server: start, scale, adapt, re-attach, look, close."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Any

import dask.config
import psutil
import pytest
from distributed import Client, Event
from distributed.comm.addressing import parse_host_port
from distributed.core import Status
from distributed.exceptions import WorkerStartTimeoutError
from distributed.utils import Logs

import ropewalk
from ropewalk.client import calls, claims, coming_up, options, versions, view
from ropewalk.errors import (
    ClusterGoneError,
    ClusterStartError,
    ConflictError,
    InputError,
    NotFoundError,
    VersionMismatchError,
)
from ropewalk.schemas.clusters import ClusterDetail, ClusterState, Connection
from tests.client.conftest import LiveServer
from tests.support.client import cluster as answer
from tests.support.waiting import eventually, wait_until


def _work() -> Callable[[int], int]:
    # The cluster's nodes do not have this module. A function inside a function is sent whole, as a notebook's are.
    def slow(x: int) -> int:
        time.sleep(0.2)  # work, not waiting
        return x + 1

    return slow


slow = _work()


def _holding() -> Callable[[], bool]:
    def hold() -> bool:
        from distributed import Event  # noqa: PLC0415 - on the worker

        return bool(Event("looked").wait(60))

    return hold


hold = _holding()


def test_a_cluster_starts_computes_tells_about_itself_and_leaves_nothing(server: LiveServer) -> None:
    cluster = ropewalk.Cluster(n_workers=2, wait_for_workers=True, name="whole-life")
    with cluster:
        assert cluster.status.name == "running"
        assert (cluster.name, cluster.account, cluster.state) == ("whole-life", "ada", "ready")
        assert cluster.shutdown_on_close
        assert cluster.scheduler_address.startswith("tls://")
        assert "whole-life" in repr(cluster)
        assert "workers=2" in repr(cluster)
        with Client(cluster) as client:
            assert client.submit(slow, 1).result() == 2
            assert cluster.get_client() is client
            assert client.dashboard_link == cluster.dashboard_link
        wait_until(lambda: len(cluster.requested) == 2)
        assert cluster.plan == cluster.requested == cluster.observed
        wait_until(lambda: cluster.refresh().workers_ready == 2)
        assert cluster.cost().per_hour >= 0
        assert "cluster.ready" in [event.code for event in cluster.events()]
    assert cluster.status.name == "closed"
    assert cluster.state == "stopped"
    assert server.live() == []
    assert server.nodes() == []
    assert "stopped" in repr(cluster)


def test_logs_are_those_of_the_nodes_and_outlive_the_cluster(server: LiveServer) -> None:
    cluster = ropewalk.Cluster(n_workers=1, wait_for_workers=True)
    worker = next(iter(cluster.observed))
    address = next(iter(cluster.scheduler_info["workers"]))
    before = cluster.get_logs()
    assert isinstance(before, Logs)
    assert set(before) == {"Cluster", "Scheduler", worker}
    assert set(cluster.get_logs(cluster=False, scheduler=False, workers=[worker])) == {worker}
    assert set(cluster.get_logs(cluster=False, workers=False)) == {"Scheduler"}
    assert set(cluster.get_logs(cluster=False, scheduler=False, workers=[address])) in ({worker}, set())
    cluster.close()
    after = cluster.get_logs()
    assert set(after) == set(before)
    assert "tls://" in after["Scheduler"]
    assert len(after[worker]) >= len(before[worker]) > 0
    assert ropewalk.cluster_logs(cluster.detail.id)[worker] == after[worker]


def test_scaling_up_and_down_keeps_results(server: LiveServer) -> None:
    with ropewalk.Cluster(n_workers=1, wait_for_workers=True) as cluster, Client(cluster) as client:
        cluster.scale(3)
        client.wait_for_workers(3, timeout=60)
        futures = client.map(slow, range(12), pure=False)
        assert sum(client.gather(futures)) == 78
        cluster.scale(1)
        wait_until(lambda: len(cluster.scheduler_info["workers"]) == 1)
        assert sum(client.gather(futures)) == 78
        assert cluster.refresh().n_workers == 1


def test_limits_can_be_changed_while_it_runs(server: LiveServer) -> None:
    with ropewalk.Cluster(n_workers=0) as cluster:
        cluster.set_keepalive("2 hours")
        assert cluster.refresh().spec.idle_timeout == 7200
        cluster.set_limits(no_client_timeout=600, cluster_timeout="1 day")
        spec = cluster.refresh().spec
        assert (spec.idle_timeout, spec.no_client_timeout, spec.cluster_timeout) == (7200, 600, 86400)
        cluster.set_limits(cluster_timeout=None)
        assert cluster.refresh().spec.cluster_timeout is None
        with pytest.raises(InputError, match="at least one"):
            cluster.set_limits()
        with pytest.raises(InputError, match="idle_timeout"):
            cluster.set_keepalive("soon")
        # In effect, and not only written down:
        cluster.set_limits(cluster_timeout=1)
        wait_until(lambda: cluster.refresh().state == "stopped")
        assert "cluster_timeout" in (cluster.detail.reason or "")


def test_adapting_follows_the_work_and_scaling_ends_it(server: LiveServer) -> None:
    with ropewalk.Cluster(n_workers=0) as cluster, Client(cluster) as client:
        adaptive = cluster.adapt(minimum=0, maximum=2)
        assert (adaptive.minimum, adaptive.maximum) == (0, 2)
        assert "0 to 2 workers" in repr(adaptive)
        assert "Adaptive, 0 to 2" in cluster._scaling_status()
        assert client.submit(slow, 1).result(timeout=60) == 2
        held = client.submit(hold, pure=False)  # without work they would go
        wait_until(lambda: client.processing() and any(client.processing().values()))
        wait_until(lambda: len(cluster.scheduler_info["workers"]) >= 1)
        assert len(cluster.scheduler_info["workers"]) <= 2
        Event("looked", client).set()
        assert held.result(timeout=60)
        adaptive.stop()
        assert cluster.refresh().maximum is None
        assert "Manual" in cluster._scaling_status()


def test_a_cluster_can_be_asked_for_that_adapts_from_the_start(server: LiveServer) -> None:
    with ropewalk.Cluster(n_workers=[1, 2], wait_for_workers=True) as cluster:
        detail = cluster.refresh()
        assert (detail.minimum, detail.maximum) == (1, 2)
        assert len(cluster.scheduler_info["workers"]) >= 1


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"minimum": 1, "maximum": 2, "interval": "1s"}, "interval"),
        ({"maximum": 2, "target_duration": "5s"}, "target_duration"),
        ({"maximum": 2, "wait_count": 3}, "wait_count"),
        ({"maximum": 2, "Adaptive": object}, "Adaptive"),
        ({"maximum": 2, "bogus": 1}, "bogus"),
        ({"minimum": 1}, "maximum"),
        ({"maximum": float("inf")}, "maximum"),
        ({"minimum": 3, "maximum": 2}, "n_workers"),
    ],
)
def test_what_makes_no_sense_for_adapting_on_the_server_is_refused_by_name(
    arguments: dict[str, Any], field: str
) -> None:
    cluster = ropewalk.Cluster.__new__(ropewalk.Cluster)
    with pytest.raises(InputError) as caught:
        cluster.adapt(**arguments)
    assert caught.value.field == field


def test_the_same_name_is_attached_again_without_scaling_or_stopping_it(server: LiveServer) -> None:
    with ropewalk.Cluster(n_workers=1, name="shared", wait_for_workers=True) as first:
        with ropewalk.Cluster(n_workers=3, name="ada/shared") as second, Client(second) as client:
            assert second.detail.id == first.detail.id
            assert not second.shutdown_on_close
            assert second.detail.n_workers == 1
            assert client.submit(slow, 1).result() == 2
        assert server.live() == ["shared"]
        third = ropewalk.Cluster.from_name("shared")
        assert third.detail.id == first.detail.id
        third.close()
        with Client(first) as client:
            assert client.submit(slow, 2).result() == 3


def test_shutdown_stops_a_cluster_that_was_attached(server: LiveServer) -> None:
    first = ropewalk.Cluster(n_workers=0, name="stoppable", quiet=True)
    second = ropewalk.Cluster.from_name("stoppable")
    second.shutdown()
    assert second.state == "stopped"
    second.shutdown()
    wait_until(lambda: first.status == Status.closed)
    first.close()
    assert server.nodes() == []


def test_a_cluster_that_is_to_stay_stays_and_can_be_stopped_by_name(server: LiveServer) -> None:
    with ropewalk.Cluster(n_workers=0, name="stays", shutdown_on_close=False):
        pass
    assert [found.name for found in ropewalk.list_clusters()] == ["stays"]
    assert ropewalk.delete_cluster("ada/stays").name == "stays"
    wait_until(lambda: not server.live())


def test_a_name_whose_cluster_is_stopping_is_used_again_once_it_is_free(server: LiveServer) -> None:
    first = ropewalk.Cluster(n_workers=1, name="again", wait_for_workers=True)
    first.close(wait=False)
    with ropewalk.Cluster(n_workers=0, name="again") as second:
        assert second.detail.id != first.detail.id
        assert second.shutdown_on_close


def test_only_live_clusters_are_found_by_name(server: LiveServer) -> None:
    with pytest.raises(NotFoundError, match="no live cluster 'nothing'"):
        ropewalk.Cluster.from_name("nothing")
    with pytest.raises(InputError, match="not a valid name"):
        ropewalk.Cluster.from_name("")


def test_waiting_for_workers_has_a_deadline(server: LiveServer) -> None:
    with ropewalk.Cluster(n_workers=0) as cluster:
        with pytest.raises(WorkerStartTimeoutError):
            cluster.wait_for_workers(1, timeout="0.2 s")
        for wrong in (0, -1, 1.5, True):
            with pytest.raises(ValueError, match="positive integer"):
                cluster.wait_for_workers(wrong)


def test_closing_twice_is_closing_once(server: LiveServer) -> None:
    cluster = ropewalk.Cluster(n_workers=0)
    cluster.close()
    cluster.close()
    assert cluster.state == "stopped"


def test_a_cluster_that_ends_by_itself_is_told_and_let_go(server: LiveServer, caplog: pytest.LogCaptureFixture) -> None:
    cluster = ropewalk.Cluster(n_workers=0)
    cluster.set_keepalive("1 s")  # not from its beginning: it could end before we are connected
    wait_until(lambda: cluster.status == Status.closed)
    assert any(cluster.name in line and "idle" in line for line in caplog.messages)
    assert cluster.detail.id not in [claim.id for claim in claims._claims]
    cluster.close()
    with pytest.raises(RuntimeError, match="closed"):
        Client(cluster)


# Coroutines.


async def test_a_cluster_is_used_from_coroutines(server: LiveServer) -> None:
    async with (
        ropewalk.Cluster(n_workers=1, asynchronous=True, wait_for_workers=True) as cluster,
        Client(cluster, asynchronous=True) as client,
    ):
        assert await client.submit(slow, 1) == 2
        await cluster.scale(2)
        await cluster.wait_for_workers(2, timeout=60)
        assert await (await cluster.adapt(minimum=1, maximum=2)).stop() is None
        assert (await cluster.cost()).so_far >= 0
        assert "Scheduler" in await cluster.get_logs()
        assert (await cluster.refresh()).state is ClusterState.READY
        other = await ropewalk.Cluster.from_name(cluster.name, asynchronous=True)
        assert other.detail.id == cluster.detail.id
        await other.close()
        found = await ropewalk.list_clusters(asynchronous=True)  # type: ignore[misc] # awaitable if asked for
        assert [each.name for each in found] == [cluster.name]
    assert cluster.status == Status.closed
    assert server.nodes() == []


async def test_a_cluster_can_be_awaited_and_closed(server: LiveServer) -> None:
    cluster = await ropewalk.Cluster(n_workers=0, asynchronous=True)
    assert await cluster is cluster
    await cluster.close()
    await cluster.close()
    assert cluster.state == "stopped"
    with pytest.raises(ClusterGoneError):
        await cluster


@pytest.fixture
def never_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let starts go on until they are ended, however long that takes."""

    async def never(*_: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(coming_up, "open_cluster", never)


@pytest.mark.usefixtures("never_connected")
async def test_a_start_that_is_cancelled_leaves_nothing(server: LiveServer) -> None:
    cluster = ropewalk.Cluster(n_workers=1, asynchronous=True, name="cancelled", wait_for_workers=True)
    starting = asyncio.ensure_future(cluster._started())
    await eventually(lambda: asyncio.to_thread(server.live))
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await eventually(lambda: asyncio.to_thread(lambda: not server.live()))


@pytest.mark.usefixtures("never_connected")
async def test_closing_while_it_starts_leaves_nothing(server: LiveServer) -> None:
    cluster = ropewalk.Cluster(n_workers=1, asynchronous=True, wait_for_workers=True)
    starting = asyncio.ensure_future(cluster._started())
    await eventually(lambda: asyncio.to_thread(server.live))
    await cluster.close()
    assert starting.cancelled() or isinstance(starting.exception(), BaseException)
    await eventually(lambda: asyncio.to_thread(lambda: not server.live()))


# Starts that fail.


def test_a_failed_start_says_which_node_why_and_the_end_of_its_log(server: LiveServer) -> None:
    with pytest.raises(ClusterStartError) as caught:
        ropewalk.Cluster(n_workers=1, name="broken", scheduler_options={"no_such_option": 1})
    text = str(caught.value)
    assert "Cluster 'broken' did not start: " in text
    assert "Scheduler" in text
    assert "no_such_option" in text, "the end of the log tells"
    assert "ropewalk cluster logs ada/broken" in text
    assert caught.value.details["node"].endswith("scheduler")
    wait_until(lambda: not server.live())


def test_a_start_that_takes_too_long_says_what_it_waited_for_and_stops_the_cluster(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    furnish = ropewalk.Cluster._furnish

    async def hurried(self: ropewalk.Cluster) -> None:
        """Let the time be up soon, but not before it is workers that are waited for."""
        assert self._limit is not None
        self._limit.reschedule(asyncio.get_running_loop().time() + 5)
        await furnish(self)

    monkeypatch.setattr(ropewalk.Cluster, "_furnish", hurried)
    with pytest.raises(ClusterStartError) as caught:
        ropewalk.Cluster(n_workers=1, worker_class="no.such.Class", wait_for_workers=True, timeout="60 s")
    assert "worker" in str(caught.value).lower()
    assert "no.such" in str(caught.value) or "did not start within 60 s" in str(caught.value)
    wait_until(lambda: not server.live())


def test_a_scheduler_that_dies_before_the_client_connects_is_told_with_the_reason(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That nobody answers at its address is how the client sees it first; the server knows why."""
    connect = coming_up.open_cluster

    async def kill_and_connect(connection: Connection, *arguments: Any) -> Any:
        _listener(server, connection.scheduler_address).kill()
        return await connect(connection, *arguments)

    monkeypatch.setattr(coming_up, "open_cluster", kill_and_connect)
    with pytest.raises(ClusterStartError, match=r"Cluster 'beheaded' did not start: .*SIGKILL"):
        ropewalk.Cluster(n_workers=1, name="beheaded")
    wait_until(lambda: not server.live())


def _listener(server: LiveServer, address: str) -> psutil.Process:
    """Return the node that listens at that address."""
    _, port = parse_host_port(address.partition("://")[2])
    return next(node for node in server.nodes() if port in {each.laddr.port for each in node.net_connections("tcp")})


def test_waiting_for_more_workers_than_there_will_be_is_refused_and_leaves_nothing(server: LiveServer) -> None:
    with pytest.raises(InputError, match="more than the 1 workers"):
        ropewalk.Cluster(n_workers=1, wait_for_workers=2)
    wait_until(lambda: not server.live())


def test_a_request_that_the_server_refuses_raises_its_error(server: LiveServer) -> None:
    with pytest.raises(NotFoundError, match="no-such-template"):
        ropewalk.Cluster(configuration="no-such-template")
    with pytest.raises(NotFoundError):
        ropewalk.Cluster(software="no-such-environment")
    with pytest.raises(NotFoundError, match="nobody"):
        ropewalk.Cluster(account="nobody")


def test_wrong_arguments_are_refused_before_anything_is_sent(server: LiveServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        for arguments in ({"worker_memory": "x"}, {"n_workers": -1}, {"wait_for_workers": "all"}, {"timeout": 0}):
            with pytest.raises(InputError) as caught:
                ropewalk.Cluster(server=url, token=server.token, **arguments)
            assert caught.value.field == next(iter(arguments))
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_packages_that_differ_are_warned_of_or_refused(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = {**versions.local_versions(), "dask": "2020.1.0"}
    monkeypatch.setattr(versions, "local_versions", lambda: mine)
    with (
        pytest.warns(ropewalk.VersionMismatchWarning, match="dask +2020.1.0"),
        ropewalk.Cluster(n_workers=0),
    ):
        pass
    with pytest.raises(VersionMismatchError, match="pip install dask=="):
        ropewalk.Cluster(n_workers=0, versions="error")
    wait_until(lambda: not server.live())


# Functions.


def test_configurations_are_kept_and_used(server: LiveServer) -> None:
    saved = ropewalk.create_cluster_configuration("small", n_workers=0, worker_memory="700 MiB", idle_timeout=None)
    assert saved.spec["worker_memory"] == 700 * 2**20
    assert [each.name for each in ropewalk.list_cluster_configurations()] == ["small"]
    with (
        dask.config.set({"ropewalk.cluster.worker_memory": None}),
        ropewalk.Cluster(configuration="small") as cluster,
    ):
        assert cluster.detail.spec.worker_memory == 700 * 2**20
        assert cluster.detail.spec.idle_timeout is None
        assert cluster.detail.n_workers == 0
    ropewalk.delete_cluster_configuration("ada/small")
    assert ropewalk.list_cluster_configurations("ada") == []


def test_cost_is_estimated_as_text(server: LiveServer) -> None:
    text = ropewalk.cluster_cost_estimate(4, worker_cpu=2, account="ada")
    assert text.endswith("/hr")


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: ropewalk.cluster_cost_estimate(worker_mem="1 GiB"), "worker_mem"),
        (lambda: ropewalk.create_cluster_configuration("x", n_worker=1), "n_worker"),
        (lambda: ropewalk.create_cluster_configuration("", n_workers=1), "name"),
        (lambda: ropewalk.list_clusters(state="dead"), "state"),
        (lambda: ropewalk.delete_cluster("NO"), "name"),
    ],
)
def test_wrong_arguments_of_functions_are_refused_by_name(call: Any, field: str) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert caught.value.field == field


def test_a_cluster_of_another_name_is_no_conflict_but_reattaching_is_what_a_name_means(server: LiveServer) -> None:
    with ropewalk.Cluster(n_workers=0, name="taken") as cluster, server.api() as api:
        request = options.build_request({"name": "taken", "n_workers": 0})
        with pytest.raises(ConflictError):
            api(calls.create_cluster("ada", request, reattach=False))
        assert cluster.state == "ready"


# Notebooks.


def parts(widget: Any, kind: str) -> dict[str, Any]:
    """Every part of *widget* of that kind, by its description."""
    found = {widget.description: widget} if type(widget).__name__ == kind else {}
    for child in getattr(widget, "children", ()):
        found |= parts(child, kind)
    return found


def test_the_widget_of_a_notebook_shows_the_cluster_and_its_buttons_work(server: LiveServer) -> None:
    with ropewalk.Cluster(n_workers=0, name="shown") as cluster:
        widget = cluster._widget()
        buttons, numbers = parts(widget, "Button"), parts(widget, "IntText")
        numbers["Workers"].value = 1
        buttons["Scale"].click()
        assert cluster.refresh().n_workers == 1
        numbers["Minimum"].value, numbers["Maximum"].value = 0, 2
        buttons["Adapt"].click()
        assert cluster.refresh().maximum == 2
        status = widget.children[0].value
        assert "shown" in status
        assert "<strong>Account:</strong> ada" in status
        assert "Adaptive, 0 to 2" in widget.children[1].children[0].value


def test_what_comes_from_the_server_is_escaped_in_notebooks() -> None:
    cost = {"currency": "<b>", "per_hour": 1, "so_far": 2}
    rows = view.status_rows(ClusterDetail.model_validate(answer(reason="<script>alert(1)</script>", cost=cost)))
    assert "<script>" not in rows
    assert "&lt;script&gt;" in rows
    assert "1.00 &lt;b&gt;/hr, 2.00 so far" in rows


async def test_before_it_has_started_there_is_little_to_say(server: LiveServer) -> None:
    cluster = ropewalk.Cluster(n_workers=0, asynchronous=True, name="unborn")
    assert repr(cluster) == "Cluster('unborn', not started)"
    assert "Scheduler not started yet" in cluster._repr_html_()
    assert (cluster.account, cluster.state, cluster.dashboard_link) == (None, "pending", "")
    assert cluster.plan == cluster.requested == cluster.observed == set()
    with pytest.raises(ClusterGoneError, match="has not started"):
        _ = cluster.detail
    await cluster.close()
    assert server.live() == []
