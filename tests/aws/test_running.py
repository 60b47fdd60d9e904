"""Clusters on ECS through a real server: real containers of a real image compute, and AWS is asked little."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask.config
import pytest
from distributed import Client

import ropewalk
from ropewalk.client import calls, config
from ropewalk.client.http import Api
from ropewalk.schemas.aws import AwsCredentials, AwsSettings
from ropewalk.schemas.cloud_accounts import CloudState, PrepareRequest, SetAws
from ropewalk.schemas.clusters import NodeRole, NodeState
from ropewalk.schemas.identity import SetupRequest
from tests.support.engine import IMAGE
from tests.support.ministack import REGION, Double
from tests.support.server_process import server_process
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.real_nodes,
    pytest.mark.timeout(600),  # containers on a busy machine
    # The image has dask and distributed, as users' images may; tests have more.
    pytest.mark.filterwarnings("ignore::distributed.versions.VersionMismatchWarning"),
]

SMALL: dict[str, Any] = {"worker_cpu": 0.5, "worker_memory": "1 GiB", "scheduler_cpu": 0.5, "scheduler_memory": "1 GiB"}
"""Sizes that Fargate has and that fit on a test machine."""

START = "5 minutes"
"""For containers on a busy machine; alone they need some ten seconds."""


@pytest.fixture
def team(aws_tasks: Double, tmp_path: Path) -> Iterator[Api]:
    """A server whose only user has an AWS account that is prepared, and a configuration that points to it."""
    key = aws_tasks.make_user()
    with server_process(tmp_path / "data", ROPEWALK_AWS_ENDPOINT_URL=aws_tasks.endpoint) as server:
        server.wait_ready()
        code = (tmp_path / "data" / "setup-code").read_text().strip()
        wish = SetupRequest.model_validate({"code": code, "username": "ada", "password": secrets.token_hex(12)})
        with Api(server.url) as nobody:
            token = nobody(calls.setup(wish)).token
        with (
            Api(server.url, token) as api,
            dask.config.set({"ropewalk": {**config.defaults()["ropewalk"], "server": server.url, "token": token}}),
        ):
            try:
                furnish(api, key)
                yield api
            finally:
                print(server.output[-8000:])  # noqa: T201 - shown by pytest if the test failed


def furnish(api: Api, key: AwsCredentials) -> None:
    """Give ada the AWS account, with all that clusters need in it."""
    settings = AwsSettings(region=REGION, image=IMAGE, allow_ingress_from=["127.0.0.1/32"])
    api(calls.set_cloud_account("ada", SetAws(kind="aws", settings=settings, credentials=key)))
    api(calls.prepare_cloud_account("ada", PrepareRequest()))
    wait_until(lambda: api(calls.get_cloud_account("ada")).state is CloudState.READY, within=120, every=0.5)


def running(aws: Double) -> list[dict[str, Any]]:
    ecs = aws.client("ecs")
    found: list[dict[str, Any]] = []
    for cluster in ecs.list_clusters()["clusterArns"]:
        arns = ecs.list_tasks(cluster=cluster)["taskArns"]
        found += ecs.describe_tasks(cluster=cluster, tasks=arns)["tasks"] if arns else []
    return [task for task in found if task["lastStatus"] != "STOPPED"]


def test_a_cluster_computes_scales_shows_logs_and_leaves_nothing(team: Api, aws_tasks: Double) -> None:
    with ropewalk.Cluster(n_workers=2, wait_for_workers=True, timeout=START, name="on-fargate", **SMALL) as cluster:
        with Client(cluster) as client:  # type: ignore[no-untyped-call] # distributed has no types here
            assert client.submit(lambda x: x + 1, 41).result() == 42
            wait_until(lambda: len(cluster.observed) == 2)
            # They call themselves by what ECS calls them; here they have their own names.
            assert cluster.observed == cluster.requested == {node.name for node in workers(cluster)}
            cluster.scale(1)
            wait_until(lambda: len(live(cluster)) == 1, within=120, every=0.5)
            assert client.submit(lambda x: x * 2, 21).result() == 42
        logs = cluster.get_logs()
        assert "Scheduler at" in logs["Scheduler"]
        assert any("Registered to" in logs[node.name] or "Start worker" in logs[node.name] for node in workers(cluster))
        assert not any(key in text for text in logs.values() for key in ("PRIVATE KEY", "ROPEWALK_NODE"))
    wait_until(lambda: running(aws_tasks) == [], within=120, every=0.5)
    detail = team(calls.get_cluster("ada", "on-fargate"))
    assert detail.cost.so_far > 0
    retired = [node for node in detail.nodes if node.reason == "It was not needed any more."]
    assert len(retired) == 1


def test_a_worker_that_is_lost_is_replaced_and_the_reason_is_told(team: Api, aws_tasks: Double) -> None:
    with ropewalk.Cluster(n_workers=1, wait_for_workers=True, timeout=START, name="spot", spot_policy="spot", **SMALL):
        wait_until(lambda: team(calls.get_cluster("ada", "spot")).workers_ready == 1, within=60, every=0.5)
        (worker,) = [n for n in team(calls.get_cluster("ada", "spot")).nodes if n.role is NodeRole.WORKER]
        aws_tasks.end_task(worker.cloud_id or "", stopCode="SpotInterruption", stoppedReason="Spot interruption")

        def replaced() -> bool:
            nodes = team(calls.get_cluster("ada", "spot")).nodes
            states = {n.name: n.state for n in nodes if n.role is NodeRole.WORKER}
            return states.pop(worker.name) is NodeState.LOST and list(states.values()) == [NodeState.READY]

        wait_until(replaced, within=240, every=0.5)
        lost = next(n for n in team(calls.get_cluster("ada", "spot")).nodes if n.name == worker.name)
        assert "took the spot capacity back" in (lost.reason or "")
    wait_until(lambda: running(aws_tasks) == [], within=120, every=0.5)


def workers(cluster: ropewalk.Cluster) -> list[Any]:
    return [node for node in cluster.refresh().nodes if node.role is NodeRole.WORKER]


def live(cluster: ropewalk.Cluster) -> list[Any]:
    return [node for node in workers(cluster) if node.state.live]
