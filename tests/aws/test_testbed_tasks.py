"""The double runs ECS tasks within AWS's limits, and hides, delays and refuses what AWS does."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.aws.test_testbed_networks import TRUST, refused
from tests.support.engine import IMAGE
from tests.support.ministack import ACCOUNT, REGION, Double
from tests.support.waiting import wait_until


class World:
    """A network, a cluster and a role: what a task needs."""

    def __init__(self, aws: Double) -> None:
        self.aws = aws
        self.ecs = aws.client("ecs")
        ec2 = aws.client("ec2")
        vpc = ec2.create_vpc(CidrBlock="10.77.0.0/16")["Vpc"]["VpcId"]
        self.subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.77.0.0/20")["Subnet"]["SubnetId"]
        self.group = ec2.create_security_group(GroupName="g", Description="g", VpcId=vpc)["GroupId"]
        iam = aws.client("iam", "us-east-1")
        self.role = iam.create_role(RoleName="execution", AssumeRolePolicyDocument=TRUST)["Role"]["Arn"]
        self.ecs.create_cluster(clusterName="c", capacityProviders=["FARGATE", "FARGATE_SPOT"])

    def register(self, container: Mapping[str, Any] | None = None, **changes: Any) -> Any:
        wanted = {
            "family": "f",
            "networkMode": "awsvpc",
            "requiresCompatibilities": ["FARGATE"],
            "cpu": "1024",
            "memory": "2048",
            "executionRoleArn": self.role,
            "containerDefinitions": [{"name": "node", "image": IMAGE, **(container or {})}],
        }
        return self.ecs.register_task_definition(**wanted | changes)["taskDefinition"]

    def run(self, ecs: Any = None, **changes: Any) -> Any:
        network = {"subnets": [self.subnet], "securityGroups": [self.group], "assignPublicIp": "ENABLED"}
        wanted: dict[str, Any] = {"cluster": "c", "taskDefinition": "f", "launchType": "FARGATE"}
        wanted["networkConfiguration"] = {"awsvpcConfiguration": network}
        return (ecs or self.ecs).run_task(**wanted | changes)

    def task(self, arn: str) -> Any:
        return self.ecs.describe_tasks(cluster="c", tasks=[arn])["tasks"][0]

    def until(self, arn: str, status: str) -> Any:
        def reached() -> Any:
            task = self.task(arn)
            return task if task["lastStatus"] in {status, "STOPPED"} else None

        task = wait_until(reached)
        assert task["lastStatus"] == status, task.get("stoppedReason")
        return task


@pytest.fixture
def world(aws: Double) -> World:
    return World(aws)


class TestDefinitions:
    @pytest.mark.parametrize(
        "changes",
        [
            {"cpu": "1024", "memory": "1024"},
            {"cpu": "300"},
            {"networkMode": "bridge"},
            {"ephemeralStorage": {"sizeInGiB": 20}},
            {"executionRoleArn": f"arn:aws:iam::{ACCOUNT}:role/nobody"},
            {"containerDefinitions": [{"name": "node", "image": "i", "command": ["x" * 70_000]}]},
        ],
        ids=["memory", "cpu", "network", "storage", "role", "size"],
    )
    def test_fargate_refuses_what_it_cannot_run(self, world: World, changes: dict[str, Any]) -> None:
        with refused("ClientException"):
            world.register(**changes)

    def test_registering_is_limited_to_20_and_then_one_a_second(self, world: World) -> None:
        world.aws.set(refill=0)
        with refused("ThrottlingException"):
            for _ in range(21):
                world.register()
        assert world.aws.calls()["ecs:RegisterTaskDefinition"] == 21

    def test_a_role_may_not_be_usable_at_once(self, world: World) -> None:
        world.aws.set(role_visible_after=3600)
        with refused("ClientException"):
            world.register()


class TestRunning:
    def test_at_most_ten_at_a_time(self, world: World) -> None:
        world.register()
        with refused("InvalidParameterException"):
            world.run(count=11)

    def test_overrides_are_limited(self, world: World) -> None:
        world.register()
        with refused("InvalidParameterException"):
            world.run(overrides={"containerOverrides": [{"name": "node", "command": ["x" * 8192]}]})

    def test_what_does_not_exist_is_refused(self, world: World) -> None:
        world.register()
        with refused("ClusterNotFoundException"):
            world.run(cluster="d")
        with refused("InvalidParameterException"):
            network = {"awsvpcConfiguration": {"subnets": ["subnet-00000000000000000"]}}
            world.run(networkConfiguration=network)

    def test_a_client_token_gives_the_same_tasks_again(self, world: World) -> None:
        world.register()
        first = world.run(count=3, clientToken="t")["tasks"]
        assert {t["taskArn"] for t in world.run(count=3, clientToken="t")["tasks"]} == {t["taskArn"] for t in first}
        assert len(world.ecs.list_tasks(cluster="c")["taskArns"]) == 3
        with refused("ConflictException"):
            world.run(count=2, clientToken="t")

    def test_passing_a_role_needs_a_permission(self, world: World) -> None:
        world.register()
        ecs = world.aws.client_of(world.aws.make_user(["ecs:RunTask"]), "ecs")
        with pytest.raises(ecs.exceptions.ClientError, match="iam:PassRole"):
            world.run(ecs)
        world.aws.set_policy(["ecs:RunTask", "iam:PassRole"])
        world.run(ecs)
        with pytest.raises(ecs.exceptions.ClientError, match="ecs:TagResource"):
            world.run(ecs, tags=[{"key": "a", "value": "b"}])

    def test_tasks_beyond_the_capacity_are_failures_beside_those_that_start(self, world: World) -> None:
        world.register()
        world.aws.set(capacity=2)
        answer = world.run(count=3)
        assert len(answer["tasks"]) == 2
        assert "Capacity is unavailable" in answer["failures"][0]["reason"]
        world.aws.set(capacity=None, vcpu_quota=2)
        assert "number of vCPUs" in world.run(count=1)["failures"][0]["reason"]

    def test_tasks_are_launched_at_fargates_rate(self, world: World) -> None:
        world.register()
        world.aws.set(refill=0)
        with refused("ThrottlingException"):
            for _ in range(11):
                world.run(count=10)

    def test_without_the_service_linked_role_nothing_runs(self, world: World) -> None:
        world.register()
        world.aws.set(service_linked_role=False)
        with refused("InvalidParameterException"):
            world.run()
        world.aws.client("iam").create_service_linked_role(AWSServiceName="ecs.amazonaws.com")
        world.run()


class TestLife:
    def test_a_task_gets_its_interface_and_then_runs(self, world: World) -> None:
        world.register()
        world.aws.set(task_attached_after=3600, task_running_after=3600)
        launched = world.run()["tasks"][0]
        assert launched["lastStatus"] == "PROVISIONING"
        assert world.task(launched["taskArn"])["lastStatus"] == "PROVISIONING"
        world.aws.set(task_attached_after=0)
        waiting = world.task(launched["taskArn"])
        assert waiting["lastStatus"] == "PENDING"
        world.aws.set(task_running_after=0)
        assert world.task(launched["taskArn"])["lastStatus"] == "RUNNING"
        facts = {fact["name"]: fact["value"] for fact in waiting["attachments"][0]["details"]}
        found = world.aws.client("ec2").describe_network_interfaces(NetworkInterfaceIds=[facts["networkInterfaceId"]])
        interface = found["NetworkInterfaces"][0]
        assert interface["PrivateIpAddress"] == facts["privateIPv4Address"]
        assert interface["Association"]["PublicIp"]

    def test_a_task_has_one_interface_however_many_ask_at_once(self, world: World) -> None:
        world.register()
        world.aws.set(task_attached_after=3600)
        arns = [task["taskArn"] for _ in range(5) for task in world.run(count=10)["tasks"]]
        world.aws.set(task_attached_after=0)
        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(lambda _: world.ecs.describe_tasks(cluster="c", tasks=arns), range(16)))
        assert all(len(answer["tasks"]) == len(arns) for answer in answers)
        found = world.aws.client("ec2").describe_network_interfaces()["NetworkInterfaces"]
        assert len(found) == len(arns), "one that nobody knows of stays for ever, and keeps its subnet"

    def test_a_private_task_has_no_public_address(self, world: World) -> None:
        world.register()
        network = {"awsvpcConfiguration": {"subnets": [world.subnet], "assignPublicIp": "DISABLED"}}
        task = world.task(world.run(networkConfiguration=network)["tasks"][0]["taskArn"])
        facts = {fact["name"]: fact["value"] for fact in task["attachments"][0]["details"]}
        found = world.aws.client("ec2").describe_network_interfaces(NetworkInterfaceIds=[facts["networkInterfaceId"]])
        assert "Association" not in found["NetworkInterfaces"][0]

    def test_a_new_task_may_be_missing_at_first(self, world: World) -> None:
        world.register()
        world.aws.set(task_visible_after=3600)
        arn = world.run()["tasks"][0]["taskArn"]
        answer = world.ecs.describe_tasks(cluster="c", tasks=[arn])
        assert answer["tasks"] == []
        assert answer["failures"][0]["reason"] == "MISSING"
        assert world.ecs.list_tasks(cluster="c")["taskArns"] == []
        world.aws.set(task_visible_after=0)
        assert world.ecs.list_tasks(cluster="c")["taskArns"] == [arn]

    def test_stopping_takes_time_and_keeps_its_reason(self, world: World) -> None:
        world.register()
        world.aws.set(task_stopped_after=3600)
        arn = world.run()["tasks"][0]["taskArn"]
        world.until(arn, "RUNNING")
        world.ecs.stop_task(cluster="c", task=arn, reason="enough")
        assert world.task(arn)["lastStatus"] == "RUNNING"
        assert world.task(arn)["desiredStatus"] == "STOPPED"
        world.aws.set(task_stopped_after=0)
        ended = world.task(arn)
        assert (ended["lastStatus"], ended["stopCode"], ended["stoppedReason"]) == (
            "STOPPED",
            "UserInitiated",
            "enough",
        )
        with refused("DependencyViolation"):
            world.aws.client("ec2").delete_subnet(SubnetId=_busy_subnet(world))

    def test_a_test_can_end_a_task_as_spot_does(self, world: World) -> None:
        world.register()
        arn = world.run()["tasks"][0]["taskArn"]
        world.until(arn, "RUNNING")
        world.aws.end_task(arn, stopCode="SpotInterruption", stoppedReason="Your Spot Task was interrupted.")
        assert world.task(arn)["stopCode"] == "SpotInterruption"

    def test_no_more_than_a_hundred_tasks_are_described_at_a_time(self, world: World) -> None:
        with refused("InvalidParameterException"):
            world.ecs.describe_tasks(cluster="c", tasks=["x"] * 101)

    def test_a_cluster_with_tasks_cannot_be_deleted(self, world: World) -> None:
        world.register()
        world.run()
        with refused("ClusterContainsTasksException"):
            world.ecs.delete_cluster(cluster="c")


def _busy_subnet(world: World) -> str:
    world.run()
    arn = world.ecs.list_tasks(cluster="c")["taskArns"][0]
    world.until(arn, "RUNNING")
    return str(world.subnet)


PROGRAM = """
import json, os, signal, sys, time, urllib.request
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
task = json.load(urllib.request.urlopen(os.environ["ECS_CONTAINER_METADATA_URI_V4"] + "/task"))
print("task", task["TaskARN"], os.environ["GREETING"], "AWS_ENDPOINT_URL" in os.environ, flush=True)
time.sleep(600)
"""


def push(aws: Double, name: str) -> str:
    """Push an image with nothing but busybox to ECR, and return its address."""
    program = shutil.which("busybox")
    if program is None:
        pytest.skip("busybox is not installed; scripts/test installs Debian's busybox-static where it may")
    ecr = aws.client("ecr")
    uri = str(ecr.create_repository(repositoryName=name)["repository"]["repositoryUri"])

    def store(blob: bytes) -> dict[str, Any]:
        place = {"repositoryName": name, "uploadId": ecr.initiate_layer_upload(repositoryName=name)["uploadId"]}
        ecr.upload_layer_part(**place, partFirstByte=0, partLastByte=len(blob) - 1, layerPartBlob=blob)
        digest = f"sha256:{hashlib.sha256(blob).hexdigest()}"
        ecr.complete_layer_upload(**place, layerDigests=[digest])
        return {"digest": digest, "size": len(blob)}

    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as archive:
        archive.add(Path(program).resolve(), "bin/busybox")
    plain = output.getvalue()
    rootfs = {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(plain).hexdigest()}"]}
    config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs}
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": store(json.dumps(config).encode()),
        "layers": [store(gzip.compress(plain))],
    }
    ecr.put_image(repositoryName=name, imageTag="1", imageManifest=json.dumps(manifest))
    return f"{uri}:1"


class TestContainers:
    def test_a_task_is_a_container_with_metadata_logs_and_an_exit_code(self, aws_tasks: Double) -> None:
        world = World(aws_tasks)
        logs = aws_tasks.client("logs")
        logs.create_log_group(logGroupName="/l")
        options = {"awslogs-group": "/l", "awslogs-stream-prefix": "p", "awslogs-region": REGION}
        log_configuration = {"logDriver": "awslogs", "options": options}
        world.register({"entryPoint": ["python", "-c"], "command": [PROGRAM], "logConfiguration": log_configuration})
        override = {"name": "node", "environment": [{"name": "GREETING", "value": "hello"}]}
        arn = world.run(overrides={"containerOverrides": [override]})["tasks"][0]["taskArn"]
        world.until(arn, "RUNNING")
        stream = f"p/node/{arn.rpartition('/')[2]}"

        def lines() -> list[str]:
            if not logs.describe_log_streams(logGroupName="/l")["logStreams"]:
                return []
            events = logs.get_log_events(logGroupName="/l", logStreamName=stream, startFromHead=True)["events"]
            return [event["message"] for event in events]

        wait_until(lines)
        assert lines() == [f"task {arn} hello False"]
        world.ecs.stop_task(cluster="c", task=arn)
        ended = world.until(arn, "STOPPED")
        assert ended["containers"][0]["exitCode"] == 7
        assert ended["stopCode"] == "UserInitiated"

    def test_an_image_that_nobody_pushed_cannot_be_pulled(self, aws_tasks: Double) -> None:
        world = World(aws_tasks)
        world.register({"image": f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/none:1"})
        arn = world.run()["tasks"][0]["taskArn"]
        ended = world.until(arn, "STOPPED")
        assert ended["stopCode"] == "TaskFailedToStart"
        assert ended["stoppedReason"].startswith("CannotPullContainerError")

    def test_an_image_that_was_pushed_runs(self, aws_tasks: Double) -> None:
        world = World(aws_tasks)
        tagged = push(aws_tasks, "tools")
        (facts,) = aws_tasks.client("ecr").describe_images(repositoryName="tools")["imageDetails"]
        for image in (tagged, f"{tagged.removesuffix(':1')}@{facts['imageDigest']}"):
            world.register({"image": image, "entryPoint": ["/bin/busybox"], "command": ["sh", "-c", "exit 5"]})
            arn = world.run()["tasks"][0]["taskArn"]
            ended = world.until(arn, "STOPPED")
            assert ended["containers"][0]["exitCode"] == 5, ended

    def test_a_container_that_ends_ends_its_task(self, aws_tasks: Double) -> None:
        world = World(aws_tasks)
        world.register({"entryPoint": ["python", "-c"], "command": ["raise SystemExit(3)"]})
        arn = world.run()["tasks"][0]["taskArn"]
        ended = world.until(arn, "STOPPED")
        assert ended["stopCode"] == "EssentialContainerExited"
        assert ended["containers"][0]["exitCode"] == 3

    def test_memory_is_limited_to_what_the_task_has(self, aws_tasks: Double) -> None:
        world = World(aws_tasks)
        program = "import sys; x = bytearray(700_000_000); sys.exit(0)"
        world.register({"entryPoint": ["python", "-c"], "command": [program]}, cpu="256", memory="512")
        arn = world.run()["tasks"][0]["taskArn"]
        assert world.until(arn, "STOPPED")["containers"][0]["exitCode"] == 137


def test_the_policy_document_is_what_a_test_gives(aws: Double) -> None:
    aws.make_user(["ecs:ListClusters"])
    rights = aws.client("iam").get_user_policy(UserName="ropewalk", PolicyName="rights")["PolicyDocument"]
    document = json.loads(rights) if isinstance(rights, str) else rights
    assert document["Statement"][0]["Action"] == ["ecs:ListClusters"]
