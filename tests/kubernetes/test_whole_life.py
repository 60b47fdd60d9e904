"""A team's whole way: a kubeconfig, a cluster in its namespace, work through the gateway, logs, and nothing left."""

from __future__ import annotations

import operator
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dask.config
import pytest

import ropewalk
from ropewalk.client import calls
from tests.client.conftest import LiveServer, configured
from tests.support.client import dask_config_restored
from tests.support.kube_plane import Plane
from tests.support.kube_space import IMAGE, Space
from tests.support.waiting import wait_until


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    made = LiveServer(tmp_path)
    try:
        made.start()
        made.set_up()
        with dask_config_restored(), configured(made):
            yield made
    finally:
        made.kill_everything()


def command(server: LiveServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = str(Path(sys.executable).with_name("ropewalk"))
    return subprocess.run(
        [program, *arguments], env=server.environ(), capture_output=True, text=True, check=False, timeout=170
    )


@pytest.mark.timeout(400)
def test_from_a_kubeconfig_to_results_and_back_to_an_empty_namespace(
    server: LiveServer, space: Space, plane: Plane, tmp_path: Path
) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text(space.kubeconfig())
    done = command(server, "cloud-account", "set", "kubernetes", "--kubeconfig", str(file), "--image", IMAGE)
    assert done.returncode == 0, done.stderr
    assert space.token not in done.stdout + done.stderr
    checked = command(server, "cloud-account", "check")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    with dask.config.set({"distributed.comm.timeouts.connect": "60s"}):
        cluster = ropewalk.Cluster(n_workers=2, wait_for_workers=True, timeout="180s")
        with cluster, cluster.get_client() as client:
            assert client.submit(sum, client.map(operator.neg, range(100))).result() == -4950
            pods = [name for name in space.names("pods") if name.startswith("c-")]
            assert len(pods) == 3
            victim = next(name for name in pods if "worker" in name)
            plane.ask("DELETE", space.path("pods", victim))
            wait_until(lambda: len(space.names("pods") - set(pods)) == 1, within=100)
            client.wait_for_workers(2, timeout=100)
            name = cluster.name
    wait_until(lambda: not space.names("pods") and not space.names("services"), within=100)
    wait_until(lambda: not any(secret.startswith("ropewalk-c") for secret in space.names("secrets")))
    with server.api() as api:
        wait_until(lambda: api(calls.get_cluster("ada", name)).state == "stopped")
    logs = command(server, "cluster", "logs", name)
    assert "distributed.scheduler" in logs.stdout, logs.stderr
    assert space.token not in server.log.read_text()
