"""What a server costs: its memory, lists of a thousand clusters, and what it asks of its database while they idle."""

from __future__ import annotations

import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
from sqlalchemy import Engine, create_engine, select
from sqlalchemy.orm import Session

from benchmarks.many import FILE
from benchmarks.measure import Result, alternate
from benchmarks.program import REQUEST_SECONDS, Server, server, spares, wait_warm
from benchmarks.startup import once_ours
from ropewalk.server.db.models import Base, Cluster, Node

MIB = 2**20
CLUSTERS = 1000
MAKERS = 4
READY_SECONDS, IDLE_SECONDS = 150.0, 60.0
REQUESTS = 10
"""Lists of all clusters in one run."""
MANY = (sys.executable, "-m", "benchmarks.many")


def run(runs: int, clusters: int = CLUSTERS, idle: float = IDLE_SECONDS) -> list[Result]:
    """Measure the memory of a server with nothing to do, and then of one with many clusters the rest."""
    return [*memory(), *many(runs, clusters, idle)]


def many(runs: int, clusters: int, idle: float) -> list[Result]:
    """Measure a server with many clusters, *idle* seconds of them while nobody wants anything."""
    with server("--log-level", "warning", command=MANY) as here:
        fill(here, clusters)
        full = _value("server_memory_with_clusters", "MiB", [rss(here.pid)])
        asked = _value("idle_queries_per_minute", "1/min", [queries(here, idle)], limit=60)
        return [full, asked, *lists(here, runs, clusters)]


def memory() -> list[Result]:
    """Return the memory of an idle server, of the process that it forks nodes from, and of the spare nodes."""
    with server() as here:
        wait_warm(here)
        parents = sum(child.memory_info().rss for child in psutil.Process(here.pid).children()) / MIB
        new = [own(here)]
        once_ours(here, learn=True)
        return [
            _value("server_memory", "MiB", [rss(here.pid)]),
            _value("warm_parent_memory", "MiB", [parents]),
            _value("spare_nodes_memory", "MiB", new),
            _value("spare_nodes_memory_after_a_start", "MiB", [own(here)]),
        ]


def own(here: Server) -> float:
    """Return the MiB that the spare nodes have of their own."""
    return float(sum(process.memory_full_info().uss for process in spares(here)) / MIB)


def rss(pid: int) -> float:
    return float(psutil.Process(pid).memory_info().rss / MIB)


def _value(name: str, unit: str, runs: Sequence[float], limit: float | None = None) -> Result:
    return Result(name, unit, limit, list(runs), value=statistics.median(runs))


def client(here: Server) -> httpx.Client:
    headers = {"Authorization": f"Bearer {here.token}"}
    return httpx.Client(base_url=f"{here.url}/api/v1", headers=headers, timeout=REQUEST_SECONDS)


def fill(here: Server, clusters: int) -> None:
    """Make *clusters* of one worker each, and wait until all are ready.

    Raises:
        RuntimeError: they were not in time.
    """
    with client(here) as api, ThreadPoolExecutor(MAKERS) as makers:
        account = api.get("/me").raise_for_status().json()["accounts"][0]["slug"]

        def make(number: int) -> None:
            wish = {"name": f"bench-{number}", "n_workers": 1, "idle_timeout": None}
            api.post(f"/accounts/{account}/clusters", json=wish).raise_for_status()

        list(makers.map(make, range(clusters)))
        deadline = time.monotonic() + READY_SECONDS
        while True:
            states = [row["state"] for row in api.get("/clusters", params={"limit": clusters}).json()]
            if states.count("ready") == clusters:
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"only {states.count('ready')} of {clusters} clusters are ready")
            time.sleep(1.0)


def queries(here: Server, seconds: float) -> float:
    """Return how many statements the server executes in a minute in which nobody wants anything."""
    before = statements(here)
    time.sleep(seconds)
    return (statements(here) - before) * 60 / seconds


def statements(here: Server) -> int:
    """Ask the server how many statements it has executed."""
    file: Path = here.data / FILE
    file.unlink(missing_ok=True)
    os.kill(here.pid, signal.SIGUSR1)
    deadline = time.monotonic() + REQUEST_SECONDS
    while not file.exists():
        if time.monotonic() > deadline:
            raise RuntimeError("the server does not say how many statements it has executed")
        time.sleep(0.01)
    return int(file.read_text())


def lists(here: Server, runs: int, clusters: int) -> list[Result]:
    """Return how fast all clusters are listed, in comparison with the same rows without server and checks."""
    engine = create_engine(f"sqlite:///{here.data / 'ropewalk.db'}")
    latencies: list[float] = []
    with client(here) as api:

        def ours() -> None:
            answer = api.get("/clusters", params={"limit": clusters})
            assert len(answer.json()) == clusters, answer.text[:200]  # noqa: S101 - otherwise it measures nothing

        (sides,) = alternate(
            lambda: [timed(ours, latencies)], lambda: [timed(lambda: bare(engine, clusters), [])], runs
        )
    engine.dispose()
    rates = [1 / seconds for seconds in sides.ours]
    p99 = statistics.quantiles(latencies, n=100, method="inclusive")[98]
    return [
        _value("list_requests_per_second", "1/s", rates),
        Result("list_p99", "s", None, latencies, value=p99),
        sides.ratio("list_vs_bare_query", None),
    ]


def timed(work: Callable[[], Any], latencies: list[float]) -> float:
    """Return the mean seconds of :data:`REQUESTS` times *work*, and note each."""
    for _ in range(REQUESTS):
        began = time.perf_counter()
        work()
        latencies.append(time.perf_counter() - began)
    return statistics.mean(latencies[-REQUESTS:])


def bare(engine: Engine, clusters: int) -> str:
    """Read the rows of clusters and of their nodes and dump them as JSON, and nothing else."""
    with Session(engine) as session:
        rows = session.scalars(select(Cluster).order_by(Cluster.created_at.desc()).limit(clusters)).all()
        nodes = session.scalars(select(Node).where(Node.cluster_id.in_([row.id for row in rows]))).all()
        return json.dumps([_plain(row) for row in (*rows, *nodes)], default=str)


def _plain(row: Base) -> dict[str, Any]:
    return {column.name: getattr(row, column.name) for column in row.__table__.columns if column.name != "secret"}
