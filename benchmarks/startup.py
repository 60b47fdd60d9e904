"""From nothing to four workers that a client uses, and back to nothing, against ``LocalCluster`` and dask-gateway."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import dask.config
import psutil
from distributed import Client, LocalCluster

from benchmarks.gateway import gateway
from benchmarks.measure import Result, alternate
from benchmarks.program import Server, nodes, server, users_folder, wait_gone, wait_warm
from ropewalk import Cluster

WORKERS = 4
START_SECONDS = 60.0
MODULES = 5
"""Beside the program, each of some kilobytes."""
SYNC = {"ropewalk.sync_modules": True}


def run(runs: int) -> list[Result]:
    """Measure starts and ends."""
    resource_tracker.ensure_running()  # otherwise the first LocalCluster would start it, and not end it
    with users_folder(), server() as here:
        once_ours(here, learn=True)  # both sides import and compile at their first time
        once_theirs()
        start, close = alternate(lambda: once_ours(here), once_theirs, runs)
        (hasty,) = alternate(lambda: right_after(here), lambda: once_theirs()[:1], runs)
        with tempfile.TemporaryDirectory(prefix="ropewalk-bench-") as folder, gateway(Path(folder)) as other:
            other.once(WORKERS)
            (peer,) = alternate(lambda: once_ours(here)[:1], lambda: other.once(WORKERS)[:1], runs)
    return [
        start.ratio("start_vs_localcluster", 0.4),
        hasty.ratio("start_right_after_vs_localcluster", None),
        peer.ratio("start_vs_gateway", 0.1),
        close.ratio("close_vs_localcluster", 1.0),
    ]


def once_ours(here: Server, *, learn: bool = False) -> Sequence[float]:
    """Return the seconds of one start and of one end on our side, of a server that has its spare nodes.

    Those are made anew before the other side's turn, which they would disturb. To *learn*, the cluster is kept until
    the next spares know what its nodes write to, as clusters of people are.
    """
    wait_warm(here)

    def made() -> Sequence[psutil.Process]:
        if learn:
            wait_warm(here)
        return nodes(here.data)

    took = once(lambda: _cluster(here), made)
    wait_warm(here)
    return took


def right_after(here: Server) -> Sequence[float]:
    """Return the seconds of a start right after another, which has taken the spare nodes."""
    wait_warm(here)
    first = _cluster(here)
    others = set(nodes(here.data))
    try:
        start, _ = once(lambda: _cluster(here), lambda: [node for node in nodes(here.data) if node not in others])
    finally:
        first.close()
    wait_gone(list(others))
    wait_warm(here)
    return [start]


def _cluster(here: Server) -> Cluster:
    with modules_beside():
        return Cluster(
            WORKERS, server=here.url, token=here.token, quiet=True, wait_for_workers=True, worker_memory="1 GiB",
            timeout=START_SECONDS,
        )  # fmt: skip


@contextmanager
def modules_beside() -> Iterator[None]:
    """Let the program have modules beside it as people's have, which come along, and not all of this repository."""
    before = list(sys.path)
    with tempfile.TemporaryDirectory(prefix="ropewalk-bench-") as folder, dask.config.set(SYNC):
        for number in range(MODULES):
            (Path(folder) / f"beside_{number}.py").write_text(f"def answer():\n    return {number}\n" * 50)
        sys.path[:] = [folder, *(each for each in before if Path(each or ".").resolve() != Path.cwd())]
        try:
            yield
        finally:
            sys.path[:] = before


def once_theirs() -> Sequence[float]:
    """Return the same of ``LocalCluster``."""
    before = set(_children())

    def make() -> Any:
        return LocalCluster(n_workers=WORKERS, threads_per_worker=1, processes=True, dashboard_address=":0")

    return once(make, lambda: [process for process in _children() if process not in before])


def once(make: Callable[[], Any], made: Callable[[], Sequence[psutil.Process]]) -> Sequence[float]:
    """Return the seconds of one start and of one end, until every process is gone that *made* returns in between."""
    began = time.perf_counter()
    cluster = make()
    try:
        client = Client(cluster)
        client.wait_for_workers(WORKERS, timeout=START_SECONDS)
        started = time.perf_counter() - began
        processes = made()
        began = time.perf_counter()
        client.close()
    finally:
        cluster.close()
    wait_gone(processes)
    return started, time.perf_counter() - began


def _children() -> Sequence[psutil.Process]:
    return psutil.Process().children()
