"""The dashboard's link from Python, and what the tunnel behind it lets through, on a real scheduler."""

from __future__ import annotations

import httpx
import pytest
from distributed import Client

import ropewalk
from tests.client.conftest import LiveServer
from tests.support.waiting import PATIENCE


def visit(server: LiveServer, url: str, client: httpx.Client) -> httpx.Response:
    """Ask the server for *url*, whose host not every resolver knows."""
    link = httpx.URL(url)
    return client.get(link.copy_with(host="127.0.0.1", port=server.port), headers={"Host": link.netloc.decode()})


def test_the_link_opens_the_dashboard_from_python(server: LiveServer) -> None:
    with ropewalk.Cluster(n_workers=1, wait_for_workers=True) as cluster, httpx.Client(timeout=PATIENCE) as browser:
        link = cluster.dashboard_link
        assert "/_ropewalk/open?ticket=" in link
        assert cluster.dashboard_link == link, "widgets ask often"
        assert cluster.new_dashboard_link() != link
        assert "ticket=" in cluster._repr_html_()
        assert visit(server, link, browser).status_code == 303
        stable = str(cluster.detail.dashboard_link)
        assert "Bokeh" in visit(server, stable, browser).text
        metrics = visit(server, stable.replace("/status", "/metrics"), browser)
        assert "dask_scheduler_workers" in metrics.text
    assert "ticket" not in cluster.dashboard_link


async def test_in_coroutines_a_ticket_is_awaited(server: LiveServer) -> None:
    async with ropewalk.Cluster(n_workers=0, asynchronous=True) as cluster:
        assert cluster.dashboard_link == cluster.detail.dashboard_link
        assert "ticket=" in await cluster.new_dashboard_link()


def test_a_server_that_does_not_answer_leaves_the_link_without_a_ticket(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ropewalk.Cluster(n_workers=0) as cluster:

        async def fails() -> str:
            raise ropewalk.errors.ServerUnreachableError("gone")

        monkeypatch.setattr(cluster, "_new_dashboard_link", fails)
        assert cluster.dashboard_link == cluster.detail.dashboard_link


def test_dashboards_listen_on_loopback_only_and_clients_cannot_use_the_tunnel(server: LiveServer) -> None:
    with ropewalk.Cluster(n_workers=1, wait_for_workers=True) as cluster, Client(cluster) as client:
        assert client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.http_server.address) == "127.0.0.1"
        assert set(client.run(lambda dask_worker: dask_worker.http_server.address).values()) == {"127.0.0.1"}

        async def ask(address: str, **request: int) -> None:
            async with cluster.scheduler_comm.__class__(
                address, connection_args=cluster.security.get_connection_args("client")
            ) as node:
                await node.ropewalk_tunnel(**request)

        nannies = client.run_on_scheduler(lambda dask_scheduler: [w.nanny for w in dask_scheduler.workers.values()])
        with pytest.raises(PermissionError, match="only ropewalk-control"):
            cluster.sync(ask, cluster.scheduler_address)
        with pytest.raises(PermissionError, match="only ropewalk-scheduler"):
            cluster.sync(ask, nannies[0], port=22)
