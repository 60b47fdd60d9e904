"""``kill -9`` of the server at every point of a launch and of a stop: nothing lost, nothing twice, nothing left."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.support import server_process as processes
from tests.support.server_process import ServerProcess, ropewalk, server_process
from tests.support.waiting import wait_until

PASSWORD = "correct-horse-9"
WORKERS = 2
CRASHING = (sys.executable, "-m", "tests.support.crashing_server")


class Installation:
    """A data directory with one user, and requests to whichever server runs on it."""

    def __init__(self, data_dir: Path, token: str) -> None:
        self.data_dir = data_dir
        self.headers = {"Authorization": f"Bearer {token}"}

    def crash(
        self, point: str, monkeypatch: pytest.MonkeyPatch, *requests: tuple[str, str, dict[str, Any] | None]
    ) -> None:
        """Run a server that dies at *point*, send it *requests*, and wait for its death."""
        monkeypatch.setattr(processes, "PROGRAM", CRASHING)
        with server_process(self.data_dir, CRASH_AT=point) as server:
            url = f"{wait_until(server.address)}/api/v1"
            for method, path, body in requests:
                # It may die before it answers, or before it is asked: who asks then asks the next one again.
                with contextlib.suppress(httpx.TransportError):
                    httpx.request(method, f"{url}/{path}", json=body, headers=self.headers, timeout=30)
            assert server.process.wait(60) == -9, server.output
        monkeypatch.undo()

    def cluster(self, server: ServerProcess) -> dict[str, Any]:
        answer = httpx.get(f"{server.url}/api/v1/accounts/ada/clusters/c", headers=self.headers)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def wait_for(self, server: ServerProcess, state: str, workers: int | None = None) -> dict[str, Any]:
        def there() -> dict[str, Any] | None:
            cluster = self.cluster(server)
            return cluster if cluster["state"] == state and workers in (None, cluster["workers_ready"]) else None

        return wait_until(there, within=60) or {}

    def nodes(self) -> Counter[str]:
        """Count the main processes of each node that run on this machine."""
        found: Counter[str] = Counter()
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            if any(str(self.data_dir) in word and word.endswith("config.json") for word in words):
                found[Path(words[-1]).parent.name] += 1
        return found


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A data directory to copy, and its user's token."""
    data_dir = tmp_path_factory.mktemp("template") / "data"
    setup = ("server", "setup", "--data-dir", str(data_dir), "--username", "ada", "--password-stdin")
    with server_process(data_dir) as server:
        server.wait_ready()
        made = ropewalk(*setup, stdin=PASSWORD)
        assert made.returncode == 0, made.stderr
        login = {"username": "ada", "password": PASSWORD, "token_name": "t"}
        token = httpx.post(f"{server.url}/api/v1/login", json=login).json()["token"]
        server.stop()
    return data_dir, token


@pytest.fixture
def installation(template: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installation]:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    made = Installation(tmp_path / "data", template[1])
    shutil.copytree(template[0], made.data_dir)
    yield made
    for process in psutil.process_iter(["cmdline"]):
        if any(str(made.data_dir) in word for word in process.info["cmdline"] or []):
            process.kill()


CREATE = ("POST", "accounts/ada/clusters", {"name": "c", "n_workers": WORKERS, "worker_memory": "512 MiB"})
STOP = ("DELETE", "accounts/ada/clusters/c", None)


@pytest.mark.parametrize(
    "point", ["commit:1", "commit:2", "commit:3", "commit:4", "launch.before", "launch.after", "commit:6"]
)
def test_a_server_killed_while_it_launches_is_continued_by_the_next(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    installation.crash(point, monkeypatch, CREATE)
    with server_process(installation.data_dir) as server:
        server.wait_ready()
        cluster = installation.wait_for(server, "ready", WORKERS)
        names = {node["name"] for node in cluster["nodes"] if node["state"] == "ready"}
        assert installation.nodes() == Counter(names), "a node runs twice, or one that nobody knows"
        httpx.delete(f"{server.url}/api/v1/accounts/ada/clusters/c", headers=installation.headers)
        installation.wait_for(server, "stopped")
        assert not installation.nodes()
        server.stop()


@pytest.mark.parametrize("point", ["commit:2", "stop.before", "stop.after", "commit:4"])
def test_a_server_killed_while_it_stops_a_cluster_is_continued_by_the_next(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    with server_process(installation.data_dir) as server:
        server.wait_ready()
        httpx.post(f"{server.url}/api/v1/{CREATE[1]}", json=CREATE[2], headers=installation.headers, timeout=30)
        installation.wait_for(server, "ready", WORKERS)
        server.stop()
    assert sum(installation.nodes().values()) == WORKERS + 1, "clusters go on without a server"
    installation.crash(point, monkeypatch, STOP)
    with server_process(installation.data_dir) as server:
        server.wait_ready()
        httpx.request(STOP[0], f"{server.url}/api/v1/{STOP[1]}", headers=installation.headers)
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
        httpx.post(f"{server.url}/api/v1/{CREATE[1]}", json=CREATE[2], headers=installation.headers, timeout=30)
        installation.wait_for(server, "ready", WORKERS)
        server.stop()
    before = installation.nodes()
    installation.crash(point, monkeypatch, scale)
    with server_process(installation.data_dir) as server:
        server.wait_ready()
        asked = httpx.post(f"{server.url}/api/v1/{scale[1]}", json=scale[2], headers=installation.headers)
        assert asked.status_code == 200, asked.text
        wait_until(lambda: installation.nodes().total() == workers + 1, within=60)
        cluster = installation.wait_for(server, "ready", workers)
        names = {node["name"] for node in cluster["nodes"] if node["state"] == "ready"}
        assert installation.nodes() == Counter(names), "a node runs twice, or one that nobody knows"
        assert workers < WORKERS or set(before) <= names, "scaling up costs no worker"
        httpx.delete(f"{server.url}/api/v1/accounts/ada/clusters/c", headers=installation.headers)
        installation.wait_for(server, "stopped")
        assert not installation.nodes()
        server.stop()


def test_a_cluster_outlives_its_server_and_is_adopted_by_the_next(installation: Installation) -> None:
    with server_process(installation.data_dir) as server:
        server.wait_ready()
        httpx.post(f"{server.url}/api/v1/{CREATE[1]}", json=CREATE[2], headers=installation.headers, timeout=30)
        installation.wait_for(server, "ready", WORKERS)
        before = installation.nodes()
        os.kill(server.process.pid, 9)
        server.process.wait(10)
    with server_process(installation.data_dir) as server:
        server.wait_ready()
        installation.wait_for(server, "ready", WORKERS)
        assert installation.nodes() == before
        httpx.delete(f"{server.url}/api/v1/accounts/ada/clusters/c", headers=installation.headers)
        installation.wait_for(server, "stopped")
        assert not installation.nodes()
        server.stop()
