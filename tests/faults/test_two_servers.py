"""Two real servers on one PostgreSQL: one is killed or frozen while it owns clusters, the other takes them over."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import psutil
import pytest

from tests.support import server_process as server_processes
from tests.support.installation import CRASHING, Installation, made, python_path
from tests.support.inventory import Installed
from tests.support.postgres import NoPostgresError, PostgresServer, in_thread, postgres_server
from tests.support.server_process import ServerProcess, server_process
from tests.support.waiting import wait_until

LEASE, SHORT_LEASE = 60, 10
"""Seconds. The short one is of a server that is to lose it, so that the tests need not wait long; the other is not lost
because the machine is busy."""


class Pair:
    """What two servers share: a database, an encryption key, and the directory of nodes of their machine."""

    def __init__(self, postgres: PostgresServer, directory: Path, name: str) -> None:
        self.postgres, self.directory, self.database = postgres, directory, name
        first = directory / "first"
        self.environment = {
            "ROPEWALK_DATABASE_URL": postgres.url(name),
            "ROPEWALK_ENCRYPTION_KEY_FILE": str(first / "encryption.key"),
            "ROPEWALK_LOCAL_DIR": str(directory / "nodes"),
        }
        self.api = Installation(*made(first, **self.environment))
        (installation,) = self.query("SELECT id FROM installation")[0]
        self.place = Installed(directory, first, installation)

    def server(
        self, name: str, *, lease: int = LEASE, **environment: str
    ) -> contextlib.AbstractContextManager[ServerProcess]:
        environment |= {**self.environment, "ROPEWALK_LEASE_SECONDS": str(lease)}
        return server_process(self.directory / name, "--log-format", "json", **environment)

    def query(self, query: str) -> list[Any]:
        async def ask() -> list[Any]:
            connection = await asyncpg.connect(self.postgres.url(self.database))
            try:
                return list(await connection.fetch(query))
            finally:
                await connection.close()

        return in_thread(ask())

    def owners(self) -> list[str | None]:
        """Return who works on each cluster that lives."""
        query = "SELECT lease_owner FROM clusters WHERE state NOT IN ('stopped', 'failed') ORDER BY created_at"
        return [row[0] for row in self.query(query)]

    def owned_by(self, server: ServerProcess) -> bool:
        """Return whether a server works on all clusters that live; its process id is part of its name."""
        owners = self.owners()
        return bool(owners) and all(f"/{server.process.pid}/" in (owner or "") for owner in owners)

    def fence(self) -> int:
        ((fence,),) = self.query("SELECT max(fence) FROM clusters")
        return int(fence)

    def create_at(self, url: str) -> None:
        wish = {"name": "c", "n_workers": 1, "worker_memory": "512 MiB", "scheduler_memory": "512 MiB"}
        httpx.post(f"{url}/api/v1/accounts/ada/clusters", json=wish, headers=self.api.headers, timeout=10)

    def end(self, server: ServerProcess, *names: str) -> None:
        """Stop all clusters; then nothing of them may be left."""
        for name in names or ("c",):
            self.api.ask(server, "DELETE", f"accounts/ada/clusters/{name}")
            cluster = self.api.wait_for(server, "stopped", name=name)
            assert {node["state"] for node in cluster["nodes"]} == {"stopped"}
        assert self.place.node_processes() == []
        left = [path.name for path in self.directory.glob("nodes/clusters/*/*/*")]
        assert not {"config.json", "scratch", "tmp"} & set(left)
        assert self.query("SELECT name FROM nodes WHERE state NOT IN ('stopped', 'failed', 'lost')") == []
        assert self.query("SELECT message FROM events WHERE code LIKE 'orphan.%'") == []


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    try:
        with postgres_server() as server:
            yield server
    except NoPostgresError as exc:
        pytest.skip(str(exc))


@pytest.fixture
def pair(postgres: PostgresServer, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Pair]:
    name = f"pair_{os.getpid()}_{abs(hash(request.node.name)) % 10**8}"
    in_thread(postgres.execute(f"CREATE DATABASE {name}"))
    made_pair = Pair(postgres, tmp_path, name)
    yield made_pair
    for node in made_pair.place.node_processes():
        node.process.kill()


def ready(server: ServerProcess) -> ServerProcess:
    return server.wait_ready(120)


def each_once(cluster: dict[str, Any]) -> Counter[str]:
    """Return what should run: each node that is ready, once."""
    return Counter(node["name"] for node in cluster["nodes"] if node["state"] == "ready")


@contextlib.contextmanager
def frozen(server: ServerProcess) -> Iterator[None]:
    """Freeze a server for the length of the block."""
    server.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.process.send_signal(signal.SIGCONT)


def metric(server: ServerProcess, name: str) -> float:
    """Return one of a server's numbers; 0 while it has none, as before the first of what it counts."""
    lines = httpx.get(f"{server.url}/metrics", timeout=30).text.splitlines()
    found = [line.removeprefix(f"{name} ") for line in lines if line.startswith(f"{name} ")]
    return float(found[0]) if found else 0.0


def renewed(server: ServerProcess) -> float:
    """Return when a server last renewed its leases."""
    return metric(server, 'ropewalk_loop_last_success_seconds{loop="renew"}')


@pytest.mark.timeout(300)
def test_the_clusters_of_a_server_that_is_killed_go_on_with_the_other(pair: Pair) -> None:
    with pair.server("first", lease=SHORT_LEASE) as victim, pair.server("second") as other:
        for server, name in ((ready(victim), "one"), (ready(other), "two")):
            pair.api.create(server, name, n_workers=1)
            pair.api.wait_for(server, "ready", 1, name=name)
        before = pair.place.main_processes()
        assert before.total() == 4
        victim.stop(signal.SIGKILL)
        wait_until(lambda: pair.owned_by(other))
        assert pair.place.main_processes() == before, "no cluster noticed"
        for name in ("one", "two"):
            pair.api.ask(other, "POST", f"accounts/ada/clusters/{name}/scale", {"n_workers": 2})
            before |= each_once(pair.api.wait_for(other, "ready", 2, name=name))
        assert before.total() == 6
        assert pair.place.main_processes() == before
        pair.end(other, "one", "two")
        assert other.stop() == 0


@pytest.mark.timeout(300)
def test_a_server_that_is_frozen_past_its_lease_and_wakes_up_changes_nothing(pair: Pair) -> None:
    with contextlib.ExitStack() as stack:
        sleeper = stack.enter_context(pair.server("first", lease=SHORT_LEASE))
        pair.api.create(ready(sleeper), "c", n_workers=1)
        pair.api.wait_for(sleeper, "ready", 1)
        with frozen(sleeper):
            fence = pair.fence()
            other = ready(stack.enter_context(pair.server("second")))
            wait_until(lambda: pair.owned_by(other))
            pair.api.ask(other, "POST", "accounts/ada/clusters/c/scale", {"n_workers": 2})
            cluster = pair.api.wait_for(other, "ready", 2)
            taken = pair.fence()
            assert taken > fence
            woken = time.time()
        wait_until(lambda: renewed(sleeper) > woken)
        assert pair.owned_by(other)
        assert pair.fence() == taken, "who woke up did not take it back"
        assert pair.place.main_processes() == each_once(cluster) == each_once(pair.api.cluster(sleeper))
        pair.end(sleeper)
        assert (sleeper.stop(), other.stop()) == (0, 0)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("ends", [False, True], ids=["the cluster goes on", "the cluster has ended"])
def test_a_server_that_wakes_up_in_the_middle_of_a_launch_starts_nothing(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    monkeypatch.setenv("PYTHONPATH", python_path())
    with contextlib.ExitStack() as stack:
        with monkeypatch.context() as patch:
            patch.setattr(server_processes, "PROGRAM", CRASHING)
            stop = {"CRASH_AT": "launch.before", "CRASH_SIGNAL": "SIGSTOP"}
            sleeper = stack.enter_context(pair.server("first", lease=SHORT_LEASE, **stop))
        with contextlib.suppress(httpx.TimeoutException):  # it may fall asleep before it answers
            pair.create_at(wait_until(sleeper.address) or "")
        wait_until(lambda: psutil.Process(sleeper.process.pid).status() == psutil.STATUS_STOPPED)
        assert pair.place.node_processes() == []
        second = ready(stack.enter_context(pair.server("second")))
        cluster = pair.api.wait_for(second, "ready", 1, within=120)
        if ends:
            pair.end(second)
        woken = time.time()
        sleeper.process.send_signal(signal.SIGCONT)
        wait_until(lambda: renewed(sleeper) > woken)
        assert metric(sleeper, "ropewalk_leases_lost_total") == 1
        if ends:
            assert pair.place.node_processes() == []
        else:
            assert pair.place.main_processes() == each_once(cluster)
            pair.end(sleeper)
        assert (sleeper.stop(), second.stop()) == (0, 0)
