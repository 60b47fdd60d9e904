"""``kill -9`` of the server at every point of a launch and of a stop: nothing lost, nothing twice, nothing left."""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support import packages
from tests.support.installation import Installation
from tests.support.packages import make_wheel
from tests.support.server_process import server_process
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(600)  # each starts two or three servers, and machines may be busy

WORKERS = 2


CREATE = ("POST", "accounts/ada/clusters", {"name": "c", "n_workers": WORKERS, "worker_memory": "512 MiB"})
STOP = ("DELETE", "accounts/ada/clusters/c", None)


@pytest.mark.parametrize("point", ["commit:1", "launch.before", "launch.after", "commit:2", "commit:3"])
def test_a_server_killed_while_it_launches_is_continued_by_the_next(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    installation.crash(point, monkeypatch, CREATE)
    with server_process(installation.data_dir) as server:
        server.wait_ready()
        cluster = installation.wait_for(server, "ready", WORKERS)
        names = {node["name"] for node in cluster["nodes"] if node["state"] == "ready"}
        assert installation.nodes() == Counter(names), "a node runs twice, or one that nobody knows"
        installation.ask(server, *STOP)
        installation.wait_for(server, "stopped")
        assert not installation.nodes()
        server.stop()


@pytest.mark.parametrize("point", ["commit:2", "stop.before", "stop.after", "commit:4"])
def test_a_server_killed_while_it_stops_a_cluster_is_continued_by_the_next(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    with server_process(installation.data_dir) as server:
        server.wait_ready()
        installation.ask(server, *CREATE)
        installation.wait_for(server, "ready", WORKERS)
        server.stop()
    assert sum(installation.nodes().values()) == WORKERS + 1, "clusters go on without a server"
    installation.crash(point, monkeypatch, STOP)
    with server_process(installation.data_dir) as server:
        server.wait_ready()
        installation.ask(server, *STOP)
        installation.wait_for(server, "stopped")
        assert not installation.nodes()
        server.stop()


@pytest.mark.parametrize(
    ("point", "workers"),
    [
        ("commit:2", 3),
        ("launch.before", 3),
        ("launch.after", 3),
        ("commit:4", 3),
        ("stop.before", 0),
        ("stop.after", 0),
    ],
)
def test_a_server_killed_while_it_scales_is_continued_by_the_next(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, point: str, workers: int
) -> None:
    scale = ("POST", "accounts/ada/clusters/c/scale", {"n_workers": workers})
    with server_process(installation.data_dir) as server:
        server.wait_ready()
        installation.ask(server, *CREATE)
        installation.wait_for(server, "ready", WORKERS)
        server.stop()
    before = installation.nodes()
    installation.crash(point, monkeypatch, scale)
    with server_process(installation.data_dir) as server:
        server.wait_ready()
        installation.ask(server, *scale)
        wait_until(lambda: installation.nodes().total() == workers + 1)
        cluster = installation.wait_for(server, "ready", workers)
        names = {node["name"] for node in cluster["nodes"] if node["state"] == "ready"}
        assert installation.nodes() == Counter(names), "a node runs twice, or one that nobody knows"
        assert workers < WORKERS or set(before) <= names, "scaling up costs no worker"
        installation.ask(server, *STOP)
        installation.wait_for(server, "stopped")
        assert not installation.nodes()
        server.stop()


def test_a_cluster_outlives_its_server_and_is_adopted_by_the_next(installation: Installation) -> None:
    with server_process(installation.data_dir) as server:
        server.wait_ready()
        installation.ask(server, *CREATE)
        installation.wait_for(server, "ready", WORKERS)
        before = installation.nodes()
        server.stop(signal.SIGKILL)
    with server_process(installation.data_dir) as server:
        server.wait_ready()
        installation.wait_for(server, "ready", WORKERS)
        assert installation.nodes() == before
        installation.ask(server, *STOP)
        installation.wait_for(server, "stopped")
        assert not installation.nodes()
        server.stop()


def test_a_build_of_an_environment_is_continued_at_whatever_step_the_server_was_killed(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("dask", "distributed"):
        make_wheel(tmp_path / "index", name)
    with packages.served(tmp_path / "index") as site:
        spec = {"pip": ["dask", "distributed"], "index_url": f"{site.url}/simple/"}
        wish = ("POST", "accounts/ada/environments", {"name": "env", "spec": spec})
        for point, requests in (("resolve.after", [wish]), ("fill.after", []), ("venv.after", [])):
            installation.crash(point, monkeypatch, *requests)
        with server_process(installation.data_dir) as server:
            server.wait_ready()

            def built() -> dict[str, Any] | None:
                found: dict[str, Any] = installation.ask(server, "GET", "accounts/ada/environments/env")
                return found if found["state"] == "ready" else None

            found = wait_until(built, within=120) or {}
            server.stop()
    (version,) = found["versions"]
    (build,) = version["builds"]
    assert [each["name"] for each in version["packages"]] == ["dask", "distributed"]
    assert build["reason"] is None
    places = [
        path for path in (installation.data_dir / "local/environments/venvs").iterdir() if path.name[:4] != "tmp-"
    ]
    assert len(places) == 1
    assert (places[0] / "ropewalk.json").exists(), "what is in its place is complete"
    assert not list((installation.data_dir / "local/environments/running").iterdir())
