"""A client that is killed while its cluster starts, and nodes that are frozen for good: nothing of them stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from tests.support.installation import Installation
from tests.support.inventory import installed
from tests.support.server_process import ServerProcess, server_process
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(400)  # machines may be busy

CLIENT = (
    "import ropewalk, signal\n"
    "cluster = ropewalk.Cluster(name='c', n_workers=1, no_client_timeout={asked}, idle_timeout=None, "
    "worker_memory='512 MiB', scheduler_memory='512 MiB')\n"
    "client = cluster.get_client()\n"
    "cluster.set_limits(no_client_timeout=15)\n"
    "print('connected', flush=True)\n"
    "signal.pause()\n"
)


def client(server: ServerProcess, installation: Installation, asked: float | None) -> subprocess.Popen[bytes]:
    """Start a program that asks for a cluster that waits for a client for *asked* seconds, connects, and keeps it."""
    token = installation.headers["Authorization"].removeprefix("Bearer ")
    environ = os.environ | {"DASK_ROPEWALK__SERVER": server.url, "DASK_ROPEWALK__TOKEN": token}
    return subprocess.Popen([sys.executable, "-c", CLIENT.format(asked=asked)], env=environ, stdout=subprocess.PIPE)


def clusters(server: ServerProcess, installation: Installation) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = installation.ask(server, "GET", "accounts/ada/clusters?state=all")
    return found


@pytest.mark.parametrize("moment", ["asked", "connected"])
def test_the_cluster_of_a_client_that_is_killed_ends_by_itself(installation: Installation, moment: str) -> None:
    with server_process(installation.data_dir) as server:
        server.wait_ready()
        # Who is to connect may take long.
        with client(server, installation, 15 if moment == "asked" else None) as program:
            assert program.stdout is not None
            if moment == "asked":
                wait_until(lambda: clusters(server, installation))
            else:
                assert program.stdout.readline() == b"connected\n"
            program.kill()
        cluster = installation.wait_for(server, "stopped", within=120)
        assert "no_client_timeout" in cluster["reason"]
        assert len(clusters(server, installation)) == 1
        place = installed(installation.data_dir.parent, installation.data_dir)
        assert place.node_processes() == []
        left = {path.name for path in installation.data_dir.glob("local/clusters/*/*/*")}
        assert not left & {"config.json", "scratch", "tmp"}
        server.stop()


@pytest.mark.parametrize("role", ["scheduler", "worker"])
def test_a_node_that_is_frozen_for_good_does_not_keep_its_cluster_from_ending(
    installation: Installation, role: str
) -> None:
    with server_process(installation.data_dir) as server:
        server.wait_ready()
        installation.create(server, "c", n_workers=1)
        installation.wait_for(server, "ready", 1)
        place = installed(installation.data_dir.parent, installation.data_dir)
        frozen = [node for node in place.node_processes() if node.role == role]
        assert frozen
        for node in frozen:
            node.process.send_signal(signal.SIGSTOP)
        installation.ask(server, "DELETE", "accounts/ada/clusters/c")
        cluster = installation.wait_for(server, "stopped")
        assert {node["state"] for node in cluster["nodes"]} == {"stopped"}
        assert place.node_processes() == []
        server.stop()
