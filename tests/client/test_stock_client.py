"""Dask's own client on our clusters: what it can do with a local cluster, it can do here."""

from __future__ import annotations

import operator
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from dask.delayed import delayed
from distributed import Actor, Client, Event, Variable, as_completed, performance_report, wait
from distributed.diagnostics.plugin import SchedulerPlugin, WorkerPlugin
from distributed.security import Security

import ropewalk
from tests.client.conftest import LiveServer, configured
from tests.support.waiting import PATIENCE, wait_until


@pytest.fixture(scope="module")
def cluster(live_server: LiveServer) -> Iterator[ropewalk.Cluster]:
    """Two workers for all tests of this module."""
    with configured(live_server), ropewalk.Cluster(n_workers=2, wait_for_workers=True, worker_cpu=2) as cluster:
        yield cluster


@pytest.fixture
def client(cluster: ropewalk.Cluster) -> Iterator[Client]:
    with Client(cluster) as client:
        yield client


def test_submit_map_and_gather(client: Client) -> None:
    futures = client.map(operator.neg, range(100))
    assert client.submit(sum, futures).result() == -4950
    assert client.gather(futures)[:3] == [0, -1, -2]
    assert sorted(future.result() for future in as_completed(futures[:5])) == [-4, -3, -2, -1, 0]


def test_an_error_of_a_task_comes_back_as_itself(client: Client) -> None:
    with pytest.raises(ZeroDivisionError):
        client.submit(lambda: 1 / 0).result()


def test_scatter_and_persist_keep_data_on_the_workers(client: Client) -> None:
    data = client.scatter(np.arange(1000), broadcast=True)
    assert client.submit(np.sum, data).result() == 499500
    x = da.random.default_rng(1).random((400, 400), chunks=(100, 100)).persist()
    wait(x)
    assert float((x - x).sum().compute()) == 0.0
    assert len(client.has_what()) == 2


def test_arrays(client: Client) -> None:
    x = da.arange(10_000, chunks=1000)
    assert int((x * 2).sum().compute()) == 99_990_000
    assert np.allclose(da.ones((300, 300), chunks=100).dot(da.ones((300, 300), chunks=100)).mean().compute(), 300)


def test_data_frames_with_a_shuffle_between_workers(client: Client) -> None:
    frame = pd.DataFrame({"key": np.arange(1000) % 7, "value": np.arange(1000.0)})
    lazy = dd.from_pandas(frame, npartitions=8)
    expected = frame.groupby("key").value.mean()
    assert np.allclose(lazy.groupby("key").value.mean().compute().sort_index(), expected)
    merged = lazy.shuffle("key").merge(lazy.drop_duplicates("key"), on="key").compute()
    assert len(merged) == 1000


def test_delayed(client: Client) -> None:
    total = delayed(sum)([delayed(operator.mul)(i, i) for i in range(5)])
    assert total.compute() == 30


def test_actors(client: Client) -> None:
    class Counter:
        def __init__(self) -> None:
            self.count = 0

        def increment(self) -> int:
            self.count += 1
            return self.count

    counter = client.submit(Counter, actor=True).result()
    assert isinstance(counter, Actor)
    increment: Any = counter.increment  # an actor's methods return futures
    assert [increment().result() for _ in range(3)] == [1, 2, 3]


def test_coordination(client: Client) -> None:
    def announce() -> None:
        Variable("answer").set(42)
        Event("done").set()

    client.submit(announce, pure=False).result()
    assert Event("done").wait(PATIENCE)
    assert Variable("answer").get() == 42


def test_a_performance_report_is_written(client: Client, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    with performance_report(filename=file):
        client.gather(client.map(operator.neg, range(10), pure=False))
    assert "<html" in file.read_text().lower()


def test_files_are_uploaded_to_all_workers(client: Client, tmp_path: Path) -> None:
    (tmp_path / "uploaded_for_a_test.py").write_text("def answer():\n    return 42\n")
    client.upload_file(str(tmp_path / "uploaded_for_a_test.py"))

    def use() -> int:
        import uploaded_for_a_test  # type: ignore[import-not-found] # noqa: PLC0415 - only on the workers

        return int(uploaded_for_a_test.answer())

    assert set(client.run(use).values()) == {42}


def test_plugins_of_workers_and_scheduler(client: Client) -> None:
    class OnWorkers(WorkerPlugin):
        name = "of-a-test"

        def setup(self, worker: object) -> None:
            worker.mark_of_a_test = 7  # type: ignore[attr-defined] # a worker takes any attribute

    class OnScheduler(SchedulerPlugin):
        name = "of-a-test"

    client.register_plugin(OnWorkers())
    client.register_plugin(OnScheduler())
    assert set(client.run(lambda dask_worker: dask_worker.mark_of_a_test).values()) == {7}
    assert client.run_on_scheduler(lambda dask_scheduler: "of-a-test" in dask_scheduler.plugins)
    client.unregister_worker_plugin("of-a-test")
    client.unregister_scheduler_plugin("of-a-test")


def test_versions_agree(client: Client) -> None:
    versions: Any = client.get_versions(check=True)
    assert len(versions["workers"]) == 2


def test_logs_and_profile_come_through_dask_too(client: Client) -> None:
    assert len(client.get_worker_logs()) == 2
    assert client.get_scheduler_logs() is not None
    assert isinstance(client.profile(), dict)
    assert len(client.scheduler_info()["workers"]) == 2


def test_an_executor(client: Client) -> None:
    with client.get_executor() as executor:
        assert list(executor.map(operator.neg, range(3))) == [0, -1, -2]


def test_workers_restart_under_their_nannies(cluster: ropewalk.Cluster, client: Client) -> None:
    before = set(client.run(lambda: __import__("os").getpid()).values())
    client.restart()
    wait_until(lambda: len(client.scheduler_info()["workers"]) == 2)
    after = set(client.run(lambda: __import__("os").getpid()).values())
    assert len(after) == 2
    assert not after & before
    assert client.submit(operator.add, 1, 1).result() == 2
    assert cluster.refresh().state == "ready"


def test_two_clients_share_a_cluster(cluster: ropewalk.Cluster, client: Client) -> None:
    with Client(cluster, set_as_default=False) as other:
        client.publish_dataset(shared=client.persist(delayed(41) + 1))
        assert other.get_dataset("shared").compute() == 42
        client.unpublish_dataset("shared")


def test_a_client_connects_by_address_with_the_clusters_security(cluster: ropewalk.Cluster) -> None:
    with Client(cluster.scheduler_address, security=cluster.security, set_as_default=False) as client:
        assert client.submit(operator.add, 1, 2).result() == 3


def test_nobody_connects_without_the_clusters_certificate(cluster: ropewalk.Cluster) -> None:
    stranger = Security.temporary()
    began = time.monotonic()
    with pytest.raises(OSError, match=r"."):
        Client(cluster.scheduler_address, security=stranger, timeout="3 s")
    assert time.monotonic() - began < PATIENCE


async def test_a_client_in_coroutines(cluster: ropewalk.Cluster) -> None:
    security = cluster.security
    async with Client(cluster.scheduler_address, security=security, asynchronous=True) as client:
        assert await client.submit(operator.add, 1, 2) == 3


def test_shutting_down_from_the_client_ends_the_cluster(live_server: LiveServer) -> None:
    with configured(live_server):
        cluster = ropewalk.Cluster(n_workers=0)
        client = Client(cluster)
        client.shutdown()
        wait_until(lambda: cluster.name not in live_server.live())
        cluster.close()
