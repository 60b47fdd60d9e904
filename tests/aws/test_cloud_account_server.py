"""A team's AWS account through a real server and the command line: from the key to an account as it was before."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from ropewalk.schemas.aws import AwsCredentials
from tests.aws.building import inventory
from tests.support.ministack import ACCOUNT, REGION, Double
from tests.support.server_process import PROGRAM, ServerProcess, ropewalk, server_process
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(600)  # a server, a command and AWS's double, each a process of its own

PASSWORD = "correct-horse-9"
SLOW = 300  # seconds that one command may take on a busy machine


@dataclass
class Team:
    """A server on the double, and somebody who uses the command line."""

    double: Double
    data_dir: Path
    token: str = ""

    def serve(self) -> ServerProcess:
        return ServerProcess(self.data_dir, ROPEWALK_AWS_ENDPOINT_URL=self.double.endpoint)

    def environ(self, server: ServerProcess) -> dict[str, str]:
        return {"DASK_ROPEWALK__SERVER": server.url, "DASK_ROPEWALK__TOKEN": self.token}

    def run(self, server: ServerProcess, *arguments: str, stdin: str = "", status: int = 0) -> str:
        command = [*PROGRAM, "cloud-account", *arguments]
        environ = os.environ | self.environ(server)
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, check=False, env=environ, timeout=SLOW
        )
        assert done.returncode == status, f"{arguments}: {done.stdout}{done.stderr}\n{server.output}"
        return done.stdout + done.stderr

    def ask(self, server: ServerProcess, method: str, path: str = "", status: int = 200, **body: Any) -> Any:
        answer = httpx.request(
            method,
            f"{server.url}/api/v1/accounts/ada/cloud-account{path}",
            json=body or None,
            headers={"Authorization": f"Bearer {self.token}"},
            timeout=60,
        )
        assert answer.status_code == status, f"{answer.text}\n{server.output}"
        return answer.json()

    def show(self, server: ServerProcess) -> dict[str, Any]:
        shown: dict[str, Any] = self.ask(server, "GET")
        return shown

    def set(self, server: ServerProcess, key: AwsCredentials, status: int = 0) -> str:
        secret = key.secret_access_key.get_secret_value()
        arguments = ("set", "aws", "--access-key-id", key.access_key_id, "--secret-stdin", "--region", REGION)
        return self.run(server, *arguments, stdin=f"{secret}\n", status=status)


@pytest.fixture
def team(aws: Double, tmp_path: Path) -> Team:
    made = Team(aws, tmp_path / "data")
    with server_process(made.data_dir) as server:
        server.wait_ready(within=240)
        setup = ("server", "setup", "--data-dir", str(made.data_dir), "--username", "ada", "--password-stdin")
        done = ropewalk(*setup, stdin=PASSWORD)
        assert done.returncode == 0, done.stderr
        login = {"username": "ada", "password": PASSWORD, "token_name": "t"}
        made.token = httpx.post(f"{server.url}/api/v1/login", json=login).json()["token"]
        server.stop()
    return made


@pytest.fixture
def server(team: Team) -> Iterator[ServerProcess]:
    running = team.serve()
    try:
        yield running.wait_ready(within=240)
    finally:
        running.stop(signal.SIGKILL)


def test_from_a_key_to_a_prepared_account_and_back(team: Team, server: ServerProcess) -> None:
    before = inventory(team.double)
    key = team.double.make_user()
    said = team.set(server, key)
    assert ACCOUNT in said
    assert key.secret_access_key.get_secret_value() not in said
    said = team.run(server, "prepare", "--yes")
    assert "cloud_account.resource_made" in said
    assert "cloud_account.ready" in said
    shown = team.show(server)
    assert (shown["state"], shown["identity"]["owner"]) == ("ready", ACCOUNT)
    kinds = {resource["kind"] for resource in shown["resources"]}
    assert {"vpc", "subnet", "ecs_cluster", "execution_role", "task_role", "repository", "log_group"} <= kinds
    assert "still holds" in team.ask(server, "DELETE", status=409)["error"]["message"]
    said = team.run(server, "teardown", "--yes")
    assert "cloud_account.removed" in said
    assert team.show(server)["resources"] == []
    assert inventory(team.double) == before
    assert team.ask(server, "DELETE")["kind"] == "hosted"
    assert key.secret_access_key.get_secret_value() not in server.output


def test_a_key_that_aws_does_not_know_is_refused_and_not_stored(team: Team, server: ServerProcess) -> None:
    key = team.double.make_user()
    unknown = key.model_copy(update={"access_key_id": "AKIA0000000000000000"})
    said = team.set(server, unknown, status=2)
    assert "AWS does not know this access key" in said
    assert team.show(server)["kind"] == "hosted"


def test_clusters_run_there_and_hold_teardown_until_they_have_stopped(team: Team, server: ServerProcess) -> None:
    key = team.double.make_user()
    secret = key.secret_access_key.get_secret_value()
    wish: dict[str, Any] = {
        "kind": "aws",
        "settings": {"region": REGION, "image": "registry.example.org/dask:1"},
        "credentials": {"access_key_id": key.access_key_id, "secret_access_key": secret},
    }
    team.ask(server, "PUT", **wish)
    team.ask(server, "POST", "/prepare", accept_monthly_cost=0)
    shown = wait_until(lambda: _in_state(team, server, "ready"), within=240, every=0.2)
    assert shown is not None
    clusters = f"{server.url}/api/v1/accounts/ada/clusters"
    headers = {"Authorization": f"Bearer {team.token}"}
    made = httpx.post(clusters, json={"name": "etl", "n_workers": 1}, headers=headers, timeout=60)
    assert made.status_code == 201, made.text
    assert made.json()["cloud_kind"] == "aws"
    ecs_cluster = next(item["id"] for item in shown["resources"] if item["kind"] == "ecs_cluster")
    ecs = team.double.client("ecs")
    wait_until(lambda: ecs.list_tasks(cluster=ecs_cluster)["taskArns"], within=120, every=0.2)
    assert "Clusters run there: etl" in team.ask(server, "POST", "/teardown", status=409)["error"]["message"]
    httpx.delete(f"{clusters}/etl", headers=headers, timeout=60)

    def stopped() -> bool:
        state = httpx.get(f"{clusters}/etl", headers=headers, timeout=60).json()["state"]
        return state in ("stopped", "failed")

    wait_until(stopped, within=240, every=0.2)
    assert ecs.list_tasks(cluster=ecs_cluster, desiredStatus="RUNNING")["taskArns"] == []
    team.ask(server, "POST", "/teardown")
    wait_until(lambda: _in_state(team, server, "removed"), within=240, every=0.2)


def _in_state(team: Team, server: ServerProcess, state: str) -> dict[str, Any] | None:
    shown = team.show(server)
    assert shown["state"] != "attention", shown["reason"]
    return shown if shown["state"] == state else None


def test_a_server_that_is_killed_while_it_prepares_ends_with_one_complete_set(team: Team) -> None:
    key = team.double.make_user()
    first = team.serve()
    try:
        first.wait_ready(within=240)
        team.set(first, key)
        team.ask(first, "POST", "/prepare", accept_monthly_cost=0)
        wait_until(lambda: len(team.show(first)["resources"]) >= 2, within=120)
    finally:
        first.stop(signal.SIGKILL)
    second = team.serve()
    try:
        second.wait_ready(within=240)
        wait_until(lambda: team.show(second)["state"] == "ready", within=240, every=0.2)
        shown = team.show(second)
        kinds = [resource["kind"] for resource in shown["resources"]]
        for kind in ("vpc", "internet_gateway", "ecs_cluster", "execution_role", "task_role", "security_group"):
            assert kinds.count(kind) == 1, f"{kind}: {kinds}"
        assert len(team.double.client("ec2").describe_vpcs(Filters=[_ours(shown["id"])])["Vpcs"]) == 1
        team.ask(second, "POST", "/teardown")
        wait_until(lambda: team.show(second)["state"] == "removed", within=240, every=0.2)
        assert team.double.client("ec2").describe_vpcs(Filters=[_ours(shown["id"])])["Vpcs"] == []
    finally:
        second.stop(signal.SIGKILL)


def _ours(cloud_account: str) -> dict[str, Any]:
    return {"Name": "tag:ropewalk:cloud-account", "Values": [cloud_account]}
