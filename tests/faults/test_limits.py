"""The cluster protects the purse by itself: its limits hold while the server is dead, and the server backs them up."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.support.installation import Installation
from tests.support.server_process import server_process
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(400)  # machines may be busy


@pytest.mark.parametrize("limit", ["idle_timeout", "no_client_timeout", "cluster_timeout"])
def test_a_limit_ends_the_whole_cluster_while_the_server_is_dead_and_is_known_afterwards(
    installation: Installation, limit: str
) -> None:
    with server_process(installation.data_dir) as server:
        server.wait_ready()
        began = time.monotonic()
        installation.create(server, "c", n_workers=2, idle_timeout=None)
        installation.wait_for(server, "ready", 2)
        # All count from the beginning of a cluster that had neither work nor a client, however long its start took.
        age = time.monotonic() - began
        installation.ask(server, "PATCH", "accounts/ada/clusters/c", {limit: age + 15})
        # A second wish is told after the first one. A worker goes sooner than one comes.
        installation.ask(server, "POST", "accounts/ada/clusters/c/scale", {"n_workers": 1})
        installation.wait_for(server, "ready", 1)
        server.stop(signal.SIGKILL)
    wait_until(lambda: not installation.nodes(), every=0.1)
    with server_process(installation.data_dir) as server:
        server.wait_ready()
        cluster = installation.wait_for(server, "stopped")
        assert f"its {limit}" in cluster["reason"]
        assert {node["state"] for node in cluster["nodes"]} == {"stopped"}
        server.stop()


def test_a_frozen_scheduler_is_told_and_ended_by_the_server_at_its_idle_limit(installation: Installation) -> None:
    with server_process(installation.data_dir, ROPEWALK_SILENT_SCHEDULER_SECONDS="7") as server:
        server.wait_ready()
        installation.create(server, "c", n_workers=1)
        installation.wait_for(server, "ready", 1)
        # First, so that it does not act on a limit itself that its start alone may have taken.
        os.kill(installation.pid("-scheduler"), signal.SIGSTOP)
        installation.ask(server, "PATCH", "accounts/ada/clusters/c", {"idle_timeout": 20})
        # 35 s until the link is taken for dead, and then the limit and the grace; the node's own clock stands still.
        cluster = installation.wait_for(server, "stopped", within=150)
        assert "the server ended it" in cluster["reason"]
        events = installation.ask(server, "GET", "accounts/ada/clusters/c/events")
        codes = [event["code"] for event in events]
        assert codes.index("cluster.link_lost") < codes.index("cluster.attention") < codes.index("cluster.stopping")
        assert events[-1]["details"]["ending"] == "idle_timeout_silent"
        assert not installation.nodes()
        server.stop()


def test_a_scheduler_that_is_frozen_for_a_while_goes_on_as_if_nothing_had_been(installation: Installation) -> None:
    with server_process(installation.data_dir) as server:
        server.wait_ready()
        installation.create(server, "c", n_workers=1)
        before = installation.wait_for(server, "ready", 1)
        pid = installation.pid("-scheduler")
        os.kill(pid, signal.SIGSTOP)
        installation.ask(server, "POST", "accounts/ada/clusters/c/scale", {"n_workers": 2})
        wait_until(lambda: installation.nodes().total() == 3, every=0.1)
        os.kill(pid, signal.SIGCONT)
        after = installation.wait_for(server, "ready", 2)
        assert {node["name"] for node in before["nodes"]} < {node["name"] for node in after["nodes"]}
        server.stop()


@pytest.mark.parametrize(("node", "state"), [("-scheduler", "failed"), ("-worker-1", "ready")])
def test_a_node_killed_while_its_cluster_scales_is_replaced_or_told(
    installation: Installation, node: str, state: str
) -> None:
    with server_process(installation.data_dir) as server:
        server.wait_ready()
        installation.create(server, "c", n_workers=1)
        installation.wait_for(server, "ready", 1)
        installation.ask(server, "POST", "accounts/ada/clusters/c/scale", {"n_workers": 3})
        os.kill(installation.pid(node), signal.SIGKILL)
        cluster = installation.wait_for(server, state, 3 if state == "ready" else None)
        if state == "failed":
            assert "SIGKILL" in cluster["reason"]
            assert not installation.nodes()
        else:
            lost = next(n for n in cluster["nodes"] if n["name"].endswith(node))
            assert (lost["state"], lost["exit_code"]) == ("lost", -9)
            assert installation.nodes().total() == 4
        server.stop()
