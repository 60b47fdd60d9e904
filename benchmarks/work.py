"""Work on a cluster that runs: 10,000 tiny tasks and a shuffle of 1 GB, against ``LocalCluster`` with TLS, too."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from distributed import Client, LocalCluster, Security

from benchmarks.measure import Result, alternate
from benchmarks.program import Server, server, users_folder, wait_warm
from ropewalk import Cluster

WORKERS, TASKS = 2, 10_000
SHUFFLE_BYTES, PARTITIONS = 10**9, 40
ROW_BYTES = 16


def run(runs: int) -> list[Result]:
    """Measure on two clusters that live side by side; only one works at a time."""
    with users_folder(), server() as here:
        wait_warm(here)
        with hosted(here) as mine, local() as other:
            for client in (mine, other):
                tiny(client, 100)
            tasks, shuffled = alternate(lambda: both(mine), lambda: both(other), runs)
    return [tasks.ratio("tiny_tasks", 1.1), shuffled.ratio("shuffle", 1.1)]


def both(client: Client) -> Sequence[float]:
    return tiny(client, TASKS), shuffle(client)


@contextmanager
def hosted(here: Server) -> Iterator[Client]:
    cluster = Cluster(WORKERS, server=here.url, token=here.token, quiet=True, wait_for_workers=True)
    with cluster, Client(cluster) as client:
        yield client


@contextmanager
def local() -> Iterator[Client]:
    options: dict[str, Any] = {"security": Security.temporary(), "dashboard_address": ":0", "memory_limit": "4 GiB"}
    with LocalCluster(WORKERS, threads_per_worker=1, **options) as cluster, Client(cluster) as client:
        yield client


def tiny(client: Client, count: int) -> float:
    """Return the seconds that *count* tasks that do nothing take."""
    began = time.perf_counter()
    client.gather(client.map(abs, range(count), pure=False))  # nodes have nothing of this package
    return time.perf_counter() - began


def shuffle(client: Client) -> float:
    """Return the seconds that a shuffle of :data:`SHUFFLE_BYTES` takes."""
    import dask.dataframe as dd  # noqa: PLC0415 - not needed for the rest
    import numpy as np  # noqa: PLC0415 - see above
    import pandas as pd  # noqa: PLC0415 - see above

    rows = SHUFFLE_BYTES // ROW_BYTES // PARTITIONS

    def part(number: int) -> Any:
        random = np.random.default_rng(number)
        return pd.DataFrame({"key": random.integers(0, rows, rows), "value": random.random(rows)})

    frame = dd.from_map(part, range(PARTITIONS))
    began = time.perf_counter()
    client.compute(frame.shuffle("key", npartitions=PARTITIONS).value.sum(), sync=True)
    return time.perf_counter() - began
