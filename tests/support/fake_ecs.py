"""ECS in memory, behind the interface of ``backends/aws/api.py``: for tests that count calls and move the clock."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from ropewalk.backends.aws.infrastructure import Infrastructure
from ropewalk.backends.port import Place, Resource
from ropewalk.errors import BackendError, FixItError, TryAgainError
from ropewalk.schemas.aws import AwsSettings

PLACE = Place("i-test", "ca-test", "team")
ARN = "arn:aws:ecs:us-east-1:123456789012"
NO_CAPACITY = "Capacity is unavailable at this time. Please try again later or in a different availability zone"


def infrastructure(settings: AwsSettings | None = None) -> Infrastructure:
    """Return what ``prepare`` would have made."""
    return Infrastructure(settings or AwsSettings(image="registry.invalid/dask:1"), resources())


def resources() -> list[Resource]:
    kinds = {
        "vpc": "vpc-1",
        "security_group": "sg-1",
        "ecs_cluster": f"{ARN}:cluster/ropewalk-ca-test",
        "execution_role": "arn:aws:iam::123456789012:role/ropewalk-ca-test-execution",
        "task_role": "arn:aws:iam::123456789012:role/ropewalk-ca-test-task",
        "repository": "123456789012.dkr.ecr.us-east-1.amazonaws.com/ropewalk/ca-test",
        "log_group": "/ropewalk/ca-test",
    }
    subnets = [Resource("subnet", f"subnet-{zone}", {"zone": zone, "public": True}) for zone in "ab"]
    return [Resource(kind, id_) for kind, id_ in kinds.items()] + subnets


def aws_error(code: str, message: str, **details: Any) -> FixItError:
    return FixItError(message, details={"aws_code": code, "aws_message": message, **details})


class FakeEcs:
    """Stands for :class:`ropewalk.backends.aws.api.Aws`.

    Attributes:
        calls: Number of calls of each operation.
        said: Parameters of every call, in order.
        room: How many on-demand and Spot tasks may still start.
        hidden: ARNs that no listing or description shows.
        events: Log events by stream.
    """

    def __init__(self) -> None:
        self.region = "us-east-1"
        self.calls: Counter[str] = Counter()
        self.said: list[tuple[str, dict[str, Any]]] = []
        self.room = {"FARGATE": 1000, "FARGATE_SPOT": 1000}
        self.reason = NO_CAPACITY
        self.hidden: set[str] = set()
        self.tasks: dict[str, dict[str, Any]] = {}
        self.definitions: dict[str, dict[str, Any]] = {}
        self.events: dict[str, list[str]] = {}
        self.public: dict[str, str] = {}
        self._tokens: dict[str, tuple[str, list[str]]] = {}
        self._faults: list[tuple[str, BackendError, bool]] = []

    def fail(self, operation: str, error: BackendError, *, effect: bool = False) -> None:
        """Let the next call of *operation* fail; with *effect*, only its answer is lost."""
        self._faults.append((operation, error, effect))

    def run(self, *arns: str) -> None:
        """Let tasks run, all by default, with addresses."""
        for arn in arns or tuple(self.tasks):
            number = list(self.tasks).index(arn) + 1
            interface = f"eni-{number}"
            details = {"networkInterfaceId": interface, "privateIPv4Address": f"10.0.0.{number}"}
            self.tasks[arn] |= {
                "lastStatus": "RUNNING",
                "startedAt": datetime.now(UTC),
                "attachments": [
                    {
                        "type": "ElasticNetworkInterface",
                        "details": [{"name": name, "value": value} for name, value in details.items()],
                    }
                ],
            }
            self.public[interface] = f"203.0.113.{number}"

    def end(
        self, arn: str, code: int | None = None, stop_code: str = "EssentialContainerExited", why: str = ""
    ) -> None:
        self.tasks[arn] |= {
            "lastStatus": "STOPPED",
            "desiredStatus": "STOPPED",
            "stopCode": stop_code,
            "stoppedReason": why,
            "stoppedAt": datetime.now(UTC),
            "containers": [{"name": "node", **({"exitCode": code} if code is not None else {})}],
        }

    def living(self) -> list[str]:
        return [arn for arn, task in self.tasks.items() if task["lastStatus"] != "STOPPED"]

    async def call(self, service: str, operation: str, /, **parameters: Any) -> dict[str, Any]:
        self.calls[operation] += 1
        self.said.append((operation, parameters))
        fault = next((f for f in self._faults if f[0] == operation), None)
        if fault is not None:
            self._faults.remove(fault)
            if not fault[2]:
                raise fault[1]
        handler: Callable[..., dict[str, Any]] | None = getattr(self, f"_{operation}", None)
        if handler is None:
            raise aws_error("AccessDeniedException", f"not allowed: {service}:{operation}", action=operation)
        answer = handler(**parameters)
        if fault is not None:
            raise fault[1]
        return answer

    async def pages(self, service: str, operation: str, key: str, /, **parameters: Any) -> AsyncIterator[Any]:
        for item in (await self.call(service, operation, **parameters))[key]:
            yield item

    async def close(self) -> None:
        """Nothing is open."""

    def _RunTask(self, **parameters: Any) -> dict[str, Any]:  # noqa: N802 - AWS's name
        token, digest = parameters["clientToken"], json.dumps(parameters, sort_keys=True)
        assert 0 < parameters["count"] <= 10
        assert len(token) <= 64
        if token in self._tokens:
            known, arns = self._tokens[token]
            if known != digest:
                raise aws_error("ConflictException", "The clientToken is in use with a different request.")
            return {"tasks": [self.tasks[arn] for arn in arns], "failures": []}
        spot = "capacityProviderStrategy" in parameters
        kind = "FARGATE_SPOT" if spot else "FARGATE"
        placed = min(parameters["count"], self.room[kind])
        self.room[kind] -= placed
        arns = [self._start(parameters, kind) for _ in range(placed)]
        if arns:
            self._tokens[token] = (digest, arns)
        failures = [{"reason": self.reason} for _ in range(parameters["count"] - placed)]
        return {"tasks": [self.tasks[arn] for arn in arns], "failures": failures}

    def _start(self, parameters: dict[str, Any], kind: str) -> str:
        # ARNs are no counter: their order says nothing about that of the answer.
        name = hashlib.sha256(str(len(self.tasks)).encode()).hexdigest()[:32]
        arn = f"{ARN}:task/ropewalk-ca-test/{name}"
        self.tasks[arn] = {
            "taskArn": arn,
            "lastStatus": "PROVISIONING",
            "desiredStatus": "RUNNING",
            "group": parameters["group"],
            "startedBy": parameters["startedBy"],
            "overrides": parameters["overrides"],
            "capacityProviderName": kind,
        }
        return arn

    def _DescribeTasks(self, cluster: str, tasks: Sequence[str]) -> dict[str, Any]:  # noqa: N802 - AWS's name
        assert cluster.endswith("/ropewalk-ca-test")
        assert 0 < len(tasks) <= 100
        known = [arn for arn in tasks if arn in self.tasks and arn not in self.hidden]
        missing = [{"arn": arn, "reason": "MISSING"} for arn in tasks if arn not in known]
        return {"tasks": [self.tasks[arn] for arn in known], "failures": missing}

    def _ListTasks(self, cluster: str, desiredStatus: str, startedBy: str | None = None) -> dict[str, Any]:  # noqa: N802, N803 - AWS's names
        assert cluster
        found = [
            arn
            for arn, task in self.tasks.items()
            if task["desiredStatus"] == desiredStatus
            and startedBy in (None, task["startedBy"])
            and arn not in self.hidden
        ]
        return {"taskArns": found}

    def _StopTask(self, cluster: str, task: str, reason: str) -> dict[str, Any]:  # noqa: N802 - AWS's name
        assert cluster
        if task not in self.tasks:
            raise aws_error("InvalidParameterException", "The referenced task was not found.")
        if self.tasks[task]["lastStatus"] != "STOPPED":
            self.end(task, stop_code="UserInitiated", why=reason)
        return {"task": self.tasks[task]}

    def _DescribeTaskDefinition(self, taskDefinition: str) -> dict[str, Any]:  # noqa: N802, N803 - AWS's names
        if taskDefinition not in self.definitions:
            raise aws_error("ClientException", "Unable to describe task definition.")
        return {"taskDefinition": self.definitions[taskDefinition]}

    def _RegisterTaskDefinition(self, **body: Any) -> dict[str, Any]:  # noqa: N802 - AWS's name
        self.definitions[body["family"]] = {
            **body,
            "taskDefinitionArn": f"{ARN}:task-definition/{body['family']}:1",
        }
        return {"taskDefinition": self.definitions[body["family"]]}

    def _DescribeNetworkInterfaces(self, Filters: list[dict[str, Any]]) -> dict[str, Any]:  # noqa: N802, N803 - AWS's names
        (names,) = Filters
        assert names["Name"] == "network-interface-id"
        return {
            "NetworkInterfaces": [
                {"NetworkInterfaceId": name, "Association": {"PublicIp": self.public[name]}}
                for name in names["Values"]
                if name in self.public
            ]
        }

    def _GetLogEvents(  # noqa: N802 - AWS's name
        self,
        logGroupName: str,  # noqa: N803 - AWS's name
        logStreamName: str,  # noqa: N803 - AWS's name
        startFromHead: bool,  # noqa: N803 - AWS's name
        limit: int,
        nextToken: str = "f/0",  # noqa: N803 - AWS's name; a place in a log
    ) -> dict[str, Any]:
        assert logGroupName == "/ropewalk/ca-test"
        assert startFromHead
        if logStreamName not in self.events:
            raise aws_error("ResourceNotFoundException", "The specified log stream does not exist.")
        start = int(nextToken.removeprefix("f/"))
        page = self.events[logStreamName][start : start + min(limit, 3)]
        return {
            # An empty string stands for a page without events that is not the end.
            "events": [{"message": text} for text in page if text],
            "nextForwardToken": f"f/{start + len(page)}",
        }


def lost() -> TryAgainError:
    """Return the error of a call whose answer never came."""
    return TryAgainError("AWS did not answer.")
