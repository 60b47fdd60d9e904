"""Task definitions: one for all nodes of a size and image, named by its content, registered once and found again.

The node program travels in the definition, compressed, so that an image needs nothing but Python, dask and
distributed. What differs between launches travels in the override of RunTask: the configuration with its keys.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ropewalk.backends.aws.api import Aws, aws_code
from ropewalk.backends.aws.infrastructure import Infrastructure
from ropewalk.backends.aws.shapes import Size
from ropewalk.backends.aws.tasks import CONTAINER
from ropewalk.errors import BackendError, FixItError

__all__ = ["BOOTSTRAP", "STREAM_PREFIX", "Definitions", "Kind", "overrides", "pack"]

OVERRIDE_LIMIT = 8192
"""Characters of all overrides of a RunTask, its JSON included ("overrides" of RunTask in the ECS API reference)."""
DEFINITION_LIMIT = 64 * 2**10
"""Bytes of a task definition ("Amazon ECS service quotas")."""
STOP_SECONDS = 30
"""Seconds from the signal to stop until the container is killed; Fargate allows 2 to 120 ("stopTimeout")."""
STREAM_PREFIX = "ropewalk"
"""Log streams are called ``prefix/container/task id`` ("awslogs-stream-prefix")."""

_PROGRAM = Path(__file__).parents[2] / "node" / "main.py"

BOOTSTRAP = """\
import base64, json, os, sys, types, zlib
take = lambda name: zlib.decompress(base64.b85decode(os.environ.pop(name)))
config = json.loads(take("ROPEWALK_NODE_CONFIG"))
program = take("ROPEWALK_NODE_PROGRAM")
os.environ.update(config.pop("environ"))
module = sys.modules["ropewalk_node"] = types.ModuleType("ropewalk_node")
sys.argv = ["ropewalk-node"]
exec(compile(program, "ropewalk/node/main.py", "exec"), vars(module))
sys.exit(module.run_on_ecs(config))
"""
"""Given to the image's Python with ``-c``. What it was told is gone from the environment before anything is imported,
so that no process that the node starts inherits it."""


def pack(content: bytes) -> str:
    """Compress and write as text; base 85 needs a quarter more characters than bytes and no escapes in JSON."""
    return base64.b85encode(zlib.compress(content, 9)).decode()


@cache
def _program() -> str:
    return pack(_PROGRAM.read_bytes())


def overrides(config: Mapping[str, Any], environ: Mapping[str, str], role: str) -> dict[str, Any]:
    """Return the overrides of RunTask that carry a node's configuration.

    Raises:
        FixItError: they would be longer than AWS allows; names what to shorten.
    """
    packed = pack(json.dumps({**config, "environ": dict(environ)}, separators=(",", ":")).encode())
    found = {"containerOverrides": [{"name": CONTAINER, "environment": [_variable("ROPEWALK_NODE_CONFIG", packed)]}]}
    size = len(json.dumps(found))
    if size > OVERRIDE_LIMIT:
        raise _too_long(config, environ, role, size)
    return found


def _too_long(config: Mapping[str, Any], environ: Mapping[str, str], role: str, size: int) -> FixItError:
    parts = {"environ": environ, f"{role}_options": config.get("options") or {}}
    longest = max(parts, key=lambda name: len(json.dumps(parts[name])))
    return FixItError(
        f"The configuration of a {role} has {size} characters, compressed; ECS takes {OVERRIDE_LIMIT} at the most.",
        field=longest,
        advice=f"{longest} is the longest part: shorten it, or put large values into the image or a file in S3.",
    )


def _variable(name: str, value: str) -> dict[str, str]:
    return {"name": name, "value": value}


@dataclass(frozen=True, slots=True)
class Kind:
    """What tasks that share a definition have in common."""

    image: str
    size: Size
    architecture: str
    storage: int | None = None
    """GiB of disk; None: what is free."""


class Definitions:
    """Finds or registers task definitions of one cloud account; each family is asked for once.

    Args:
        aws: Calls AWS.
        prefix: What families begin with.
    """

    def __init__(self, aws: Aws, prefix: str) -> None:
        self._aws = aws
        self._prefix = prefix
        self._known: dict[str, asyncio.Task[None]] = {}

    async def family(self, kind: Kind, infrastructure: Infrastructure) -> str:
        """Return the name of the definition of *kind*, made if need be; concurrent callers share the work.

        Without a revision: two servers that register it at once make two, which are the same, and what they ask
        RunTask for has to be the same, too, or its client token would not protect from launching twice.
        """
        body = self.body(kind, infrastructure)
        family = body["family"]
        task = self._known.get(family)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = self._known[family] = asyncio.create_task(self._ensure(body))
        await asyncio.shield(task)
        return str(family)

    def forget(self) -> None:
        """Look again: somebody removed definitions."""
        self._known = {family: task for family, task in self._known.items() if not task.done()}

    async def close(self) -> None:
        """End what is under way."""
        for task in self._known.values():
            task.cancel()
        await asyncio.gather(*self._known.values(), return_exceptions=True)

    def body(self, kind: Kind, infrastructure: Infrastructure) -> dict[str, Any]:
        """Return the parameters of RegisterTaskDefinition."""
        content = _content(kind, infrastructure, self._aws.region)
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        return {"family": f"{self._prefix}-{digest[:24]}", **content}

    async def _ensure(self, body: dict[str, Any]) -> None:
        # RegisterTaskDefinition may be called once a second only, DescribeTaskDefinition twenty times.
        try:
            found = await self._aws.call("ecs", "DescribeTaskDefinition", taskDefinition=body["family"])
        except BackendError as exc:
            if aws_code(exc) != "ClientException":  # "Unable to describe task definition."
                raise
            found = {}
        # One that teardown, or somebody, deregistered may still be described, but not run.
        if not found or found["taskDefinition"].get("status", "ACTIVE") != "ACTIVE":
            await self._aws.call("ecs", "RegisterTaskDefinition", **body)


def _content(kind: Kind, infrastructure: Infrastructure, region: str) -> dict[str, Any]:
    content: dict[str, Any] = {
        "requiresCompatibilities": ["FARGATE"],
        "networkMode": "awsvpc",
        "cpu": str(kind.size.cpu),
        "memory": str(kind.size.memory),
        "executionRoleArn": infrastructure.execution_role_arn,
        "taskRoleArn": infrastructure.task_role_arn,
        "runtimePlatform": {"cpuArchitecture": kind.architecture, "operatingSystemFamily": "LINUX"},
        "containerDefinitions": [_container(kind, infrastructure, region)],
    }
    if kind.storage is not None:
        content["ephemeralStorage"] = {"sizeInGiB": kind.storage}
    return content


def _container(kind: Kind, infrastructure: Infrastructure, region: str) -> dict[str, Any]:
    return {
        "name": CONTAINER,
        "image": kind.image,
        "essential": True,
        "entryPoint": ["python"],
        "command": ["-c", BOOTSTRAP],
        "environment": [_variable("ROPEWALK_NODE_PROGRAM", _program())],
        "stopTimeout": STOP_SECONDS,
        # Reaps children and passes signals on, whatever the image has for that.
        "linuxParameters": {"initProcessEnabled": True},
        "logConfiguration": {
            "logDriver": "awslogs",
            "options": {
                "awslogs-group": infrastructure.log_group,
                "awslogs-region": region,
                "awslogs-stream-prefix": STREAM_PREFIX,
                # A log that cannot be delivered must not stop a computation ("Using the awslogs log driver").
                "mode": "non-blocking",
                "max-buffer-size": "4m",
            },
        },
    }
