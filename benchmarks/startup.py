"""From nothing to four workers that a client uses, and back to nothing, against ``LocalCluster``."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import resource_tracker
from typing import Any

import psutil
from distributed import Client, LocalCluster

from benchmarks.measure import Result, alternate
from benchmarks.program import Server, server, wait_warm
from ropewalk import Cluster

WORKERS = 4
GONE_SECONDS = 30.0


def run(runs: int) -> list[Result]:
    """Measure starts and ends."""
    resource_tracker.ensure_running()  # otherwise the first LocalCluster would start it, and not end it
    with server() as here:
        wait_warm(here)
        start, close = alternate(lambda: once(lambda: ours(here)), lambda: once(theirs), runs)
    return [start.ratio("start_vs_localcluster", 0.4), close.ratio("close_vs_localcluster", 1.0)]


def ours(here: Server) -> Any:
    return Cluster(WORKERS, server=here.url, token=here.token, quiet=True, wait_for_workers=True, worker_memory="1 GiB")


def theirs() -> Any:
    return LocalCluster(n_workers=WORKERS, threads_per_worker=1, processes=True, dashboard_address=":0")


def once(make: Callable[[], Any]) -> Sequence[float]:
    """Return the seconds of one start and of one end, until every process is gone."""
    # The server is a child of this process, too, and nodes are its grandchildren.
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    began = time.perf_counter()
    cluster = make()
    client = Client(cluster)
    client.wait_for_workers(WORKERS)
    started = time.perf_counter() - began
    made = [process for process in psutil.Process().children(recursive=True) if process.pid not in before]
    # A warm parent may be replaced at any time, and stays.
    made = [process for process in made if not any(word.endswith("/warm.py") for word in process.cmdline())]
    began = time.perf_counter()
    client.close()
    cluster.close()
    _wait_gone(made)
    return started, time.perf_counter() - began


def _wait_gone(processes: Sequence[psutil.Process]) -> None:
    deadline = time.monotonic() + GONE_SECONDS
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            while process.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
                time.sleep(0.005)
