"""What goes wrong in AWS, seen through a real server: nothing is leaked or runs twice, and events tell the reason.

Tasks are none here, so no cluster becomes ready: launching, looking, stopping and telling are what is tried.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from ropewalk.client import calls
from ropewalk.client.http import Api
from ropewalk.schemas.aws import AwsCredentials, AwsSettings
from ropewalk.schemas.aws_permissions import BY_ACTION
from ropewalk.schemas.cloud_accounts import CloudState, PrepareRequest, SetAws
from ropewalk.schemas.clusters import ClusterCreate, ClusterState, NodeRole, NodeState
from ropewalk.schemas.identity import SetupRequest
from tests.support.ministack import REGION, Double
from tests.support.server_process import server_process
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(600)  # a server and AWS's double, each a process of its own, on a busy machine

WITHIN = 240
"""Seconds for what takes some ten on a machine with nothing else to do."""
WORKERS = 3
RIGHTS = sorted(BY_ACTION)


@dataclass
class Team:
    """A server whose only user has an AWS account that is prepared."""

    api: Api
    aws: Double
    key: AwsCredentials

    def create(self, name: str, **fields: Any) -> None:
        wish = {"name": name, "n_workers": WORKERS, "worker_cpu": 1, "worker_memory": "2 GiB", **fields}
        self.api(calls.create_cluster("ada", ClusterCreate.model_validate(wish)))

    def told(self, name: str) -> str:
        return "\n".join(event.message for event in self.api(calls.list_events("ada", name, limit=500)))

    def tasks(self, *, stopped: bool = False) -> list[dict[str, Any]]:
        """Return the tasks that there are in AWS, those that stopped included if that is wished."""
        ecs = self.aws.client("ecs")
        (cluster,) = ecs.list_clusters()["clusterArns"]
        wanted = ["RUNNING", "STOPPED"] if stopped else ["RUNNING"]
        arns = [arn for status in wanted for arn in ecs.list_tasks(cluster=cluster, desiredStatus=status)["taskArns"]]
        found: list[dict[str, Any]] = ecs.describe_tasks(cluster=cluster, tasks=arns)["tasks"] if arns else []
        return found

    def launched(self, name: str, count: int = WORKERS + 1) -> None:
        """Wait until every node of a cluster is a task, and see that there are no more tasks."""

        def all_known() -> bool:
            nodes = [n for n in self.api(calls.get_cluster("ada", name)).nodes if n.state.live]
            return len(nodes) == count and all(n.cloud_id and n.state is NodeState.STARTING for n in nodes)

        wait_until(all_known, within=WITHIN, every=0.2)
        live = {node.cloud_id for node in self.api(calls.get_cluster("ada", name)).nodes if node.state.live}
        wait_until(lambda: len(self.tasks()) >= count, within=WITHIN)  # AWS may list them late
        assert {task["taskArn"] for task in self.tasks()} == live

    def until_told(self, name: str, *words: str) -> None:
        wait_until(lambda: all(word in self.told(name) for word in words), within=WITHIN, every=0.2)

    def end(self, name: str) -> None:
        """Stop a cluster, and see that nothing of it is left."""
        self.api(calls.stop_cluster("ada", name))
        self.until_ended(name)

    def until_ended(self, name: str) -> ClusterState:
        def over() -> bool:
            return not self.api(calls.get_cluster("ada", name)).state.live

        wait_until(over, within=WITHIN, every=0.2)
        assert self.tasks() == []
        return self.api(calls.get_cluster("ada", name)).state


@pytest.fixture(scope="module")
def prepared(aws_double: Double, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    aws_double.reset()
    data = tmp_path_factory.mktemp("faults") / "data"
    key = aws_double.make_user(RIGHTS)
    with server_process(data, ROPEWALK_AWS_ENDPOINT_URL=aws_double.endpoint) as server:
        server.wait_ready(within=WITHIN)
        code = (data / "setup-code").read_text().strip()
        wish = SetupRequest.model_validate({"code": code, "username": "ada", "password": secrets.token_hex(12)})
        with Api(server.url) as nobody:
            token = nobody(calls.setup(wish)).token
        with Api(server.url, token) as api:
            team = Team(api, aws_double, key)
            settings = AwsSettings(region=REGION, image="any", allow_ingress_from=["127.0.0.1/32"])
            api(calls.set_cloud_account("ada", SetAws(kind="aws", settings=settings, credentials=key)))
            api(calls.prepare_cloud_account("ada", PrepareRequest()))
            state: Callable[[], bool] = lambda: api(calls.get_cloud_account("ada")).state is CloudState.READY  # noqa: E731 - short
            wait_until(state, within=WITHIN, every=0.2)
            yield team
            print(server.output[-8000:])  # noqa: T201 - shown by pytest if a test failed


@pytest.fixture
def team(prepared: Team) -> Iterator[Team]:
    """The team's AWS works again after each test."""
    yield prepared
    prepared.aws.heal()
    prepared.aws.set_policy(RIGHTS)
    prepared.aws.set(capacity=None, vcpu_quota=None, spot="plenty")
    prepared.aws.set(task_visible_after=0.0, task_attached_after=0.0, task_running_after=0.0)


def test_throttled_lost_and_late_each_node_is_launched_once(team: Team) -> None:
    team.aws.set(task_visible_after=2.0)
    team.aws.inject("ecs:RunTask", code="ThrottlingException", status=400, times=8)
    team.aws.inject("ecs:RunTask", "lost", times=4)
    team.aws.inject("ecs:RunTask", "error_after", code="ServerException", status=500, times=4)
    team.create("launch")
    team.until_told("launch", "too many requests")
    team.launched("launch")
    assert [fault["used"] for fault in team.aws.faults()] == [8, 4, 4]
    told = team.told("launch")
    assert "was lost" in told
    assert "AWS has a problem of its own" in told
    assert len(team.tasks(stopped=True)) == WORKERS + 1
    team.aws.inject("ecs:StopTask", "lost", times=5)
    team.end("launch")
    assert len(team.tasks(stopped=True)) == WORKERS + 1


def test_denied_in_the_middle_the_right_is_named_and_nothing_is_left(team: Team) -> None:
    team.aws.set(task_attached_after=600.0)  # workers wait for the scheduler's address
    team.create("denied")
    wait_until(lambda: len(team.tasks()) == 1, within=WITHIN, every=0.2)
    team.aws.set_policy([right for right in RIGHTS if right != "ecs:RunTask"])
    team.aws.set(task_attached_after=0.0)
    assert team.until_ended("denied") is ClusterState.FAILED
    assert "may not use ecs:RunTask" in team.told("denied")


def test_without_capacity_those_that_fit_run_and_the_others_follow_as_do_those_that_somebody_stopped(
    team: Team,
) -> None:
    team.aws.set(capacity=2, task_running_after=600.0)  # what starts is looked at often
    team.create("crowded")
    team.until_told("crowded", "AWS has no Fargate capacity of this size")
    assert len(team.tasks()) == 2
    team.aws.set(capacity=None)
    team.launched("crowded")
    workers = [n for n in team.api(calls.get_cluster("ada", "crowded")).nodes if n.role is NodeRole.WORKER]
    team.aws.end_task(str(workers[0].cloud_id), stopCode="UserInitiated", stoppedReason="Stopped by Mallory")
    team.until_told("crowded", "Stopped by Mallory")
    team.launched("crowded")
    team.end("crowded")


def test_beyond_the_quota_the_cluster_fails_and_says_which_and_where_to_raise_it(team: Team) -> None:
    team.aws.set(vcpu_quota=1)
    team.create("greedy", scheduler_cpu=1, scheduler_memory="2 GiB")
    assert team.until_ended("greedy") is ClusterState.FAILED
    assert 'The quota "Fargate On-Demand vCPU resource count" of the AWS account (6)' in team.told("greedy")
    assert "request-service-quota-increase" in team.told("greedy")


def test_spot_tasks_that_end_for_want_of_room_are_replaced_on_demand(team: Team) -> None:
    team.aws.set(spot="stops")
    team.create("cheap", spot_policy="spot_with_fallback")
    team.until_told("cheap", "It runs on demand")
    team.launched("cheap")
    assert {task.get("capacityProviderName") for task in team.tasks()} & {"FARGATE_SPOT"} == set()
    nodes = team.api(calls.get_cluster("ada", "cheap")).nodes
    ended = [node for node in nodes if not node.state.live]
    assert {node.reason for node in ended} == {
        "The cloud took it for spot capacity, and had none. Another takes its place on demand."
    }
    assert len(ended) == WORKERS
    team.end("cheap")


def test_a_revoked_key_is_told_nothing_is_forgotten_and_a_new_key_resumes(team: Team) -> None:
    team.create("orphan")
    team.launched("orphan")
    team.aws.revoke(team.key)
    team.api(calls.stop_cluster("ada", "orphan"))

    def told() -> bool:
        return "does not know" in str(team.api(calls.get_cloud_account("ada")).reason)

    wait_until(told, within=WITHIN, every=0.2)
    assert len(team.tasks()) == WORKERS + 1
    assert team.api(calls.get_cluster("ada", "orphan")).state.live
    team.key = team.aws.new_key()
    team.api(calls.set_cloud_account("ada", SetAws(kind="aws", credentials=team.key)))
    team.until_ended("orphan")
