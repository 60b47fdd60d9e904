"""Nodes as ECS tasks of the double of AWS: with states and addresses only, or as containers of the node program."""

from __future__ import annotations

import json
import subprocess
import time
from typing import Any

from ropewalk.backends.aws.backend import AwsBackend
from ropewalk.backends.port import NodeHandle, Place
from tests.conformance.harness import INSTALLATION
from tests.support import aws_world
from tests.support.engine import Engine
from tests.support.ministack import Double
from tests.support.waiting import eventually

PLACE = Place(INSTALLATION, "ca1", "team")


class AwsHarness:
    """Tasks that only have states."""

    def __init__(self, aws: Double, *, prepared: bool = True) -> None:
        self.aws = aws
        self._key = aws.make_user()
        self._resources = aws_world.furnish(aws, PLACE) if prepared else ()
        self._backends = [self._make()]

    def _make(self) -> AwsBackend:
        # The double shows tasks at once, so that what it does not show is gone.
        return AwsBackend(
            PLACE, aws_world.settings(), self._key, self._resources, endpoint_url=self.aws.endpoint, grace=0.0
        )

    @property
    def backend(self) -> AwsBackend:
        return self._backends[-1]

    def restart(self) -> AwsBackend:
        self._backends.append(self._make())
        return self.backend

    async def arn(self, node: NodeHandle) -> str:
        seen = (await self.backend.observe([node])).sightings[node.name]
        assert seen.cloud_id
        return str(seen.cloud_id)

    async def kill(self, node: NodeHandle) -> None:
        self.aws.end_task(
            await self.arn(node),
            stopCode="EssentialContainerExited",
            stoppedReason="Essential container in task exited",
            exitCode=137,
        )

    async def write_log(self, node: NodeHandle, text: str) -> None:
        logs = self.aws.client("logs")
        group, stream = f"/ropewalk/{PLACE.cloud_account}", f"ropewalk/node/{(await self.arn(node)).rpartition('/')[2]}"
        if not logs.describe_log_streams(logGroupName=group, logStreamNamePrefix=stream)["logStreams"]:
            logs.create_log_stream(logGroupName=group, logStreamName=stream)
        events = [{"timestamp": int(time.time() * 1000), "message": line} for line in text.splitlines()]
        logs.put_log_events(logGroupName=group, logStreamName=stream, logEvents=events)

    async def visible(self, node: NodeHandle) -> str:
        """Return definition, tags and state of a task; its overrides carry keys, and need the right DescribeTasks."""
        ecs, arn = self.aws.client("ecs"), await self.arn(node)
        cluster = arn.split("/")[1]
        (task,) = ecs.describe_tasks(cluster=cluster, tasks=[arn], include=["TAGS"])["tasks"]
        definition = ecs.describe_task_definition(taskDefinition=task["taskDefinitionArn"])["taskDefinition"]
        return repr({**task, "overrides": None}) + json.dumps(definition, default=str)

    async def close(self) -> None:
        for backend in self._backends:
            await backend.close()


class ContainerHarness(AwsHarness):
    """Tasks that are containers."""

    def __init__(self, aws: Double, engine: Engine) -> None:
        super().__init__(aws)
        self.engine = engine

    async def _container(self, node: NodeHandle) -> str:
        arn = await self.arn(node)
        label = f"label=com.amazonaws.ecs.task-arn={arn}"

        def found() -> str:
            return self.engine.docker("ps", "--quiet", "--filter", label)

        return await eventually(found)

    async def kill(self, node: NodeHandle) -> None:
        self.engine.docker("kill", await self._container(node))

    async def visible(self, node: NodeHandle) -> str:
        """As above, and the processes in the container with their environment, as another process of it sees them."""
        inside = "for p in /proc/[0-9]*; do cat $p/cmdline $p/environ; done"
        container = await self._container(node)
        seen = await super().visible(node)
        return seen + self._run(container, inside)

    def _run(self, container: str, script: str) -> str:
        command: list[Any] = ["docker", "--host", f"unix://{self.engine.socket}", "exec", container, "sh", "-c", script]
        done = subprocess.run(command, capture_output=True, check=False)
        return done.stdout.decode(errors="replace")
