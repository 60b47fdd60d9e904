"""ECS tasks and the nodes that they are.

Tasks that are launched together share everything, so nothing tells one from the other but the ARN that ECS gives it.
Which names a batch was launched for is written in its *group*: of a batch, the tasks sorted by ARN are the nodes sorted
by name. That is only needed until the caller has recorded the ARN of each node.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ropewalk.backends.port import NodeHandle
from ropewalk.schemas.clusters import NodeRole

__all__ = [
    "BATCH",
    "CONTAINER",
    "PAGE",
    "Batch",
    "Task",
    "assign",
    "handles",
    "started_by",
    "task_id",
]

BATCH = 10
"""Tasks that one RunTask starts at the most (RunTask in the ECS API reference)."""
PAGE = 100
"""Tasks that one DescribeTasks or page of ListTasks tells of at the most (ECS API reference)."""
CONTAINER = "node"
"""Name of the one container of a task."""

_ROLES = {NodeRole.SCHEDULER: "s", NodeRole.WORKER: "w"}


def task_id(arn: str) -> str:
    """Return what follows the last ``/``: what a node calls itself, and the last part of its log stream's name."""
    return arn.rpartition("/")[2]


def started_by(cluster_id: str) -> str:
    """Return what marks the tasks of one cluster; at most 128 letters, digits, ``-``, ``_`` and ``/``."""
    return f"ropewalk/{cluster_id}"[:128]


@dataclass(frozen=True, slots=True)
class Batch:
    """The nodes of one RunTask, as the tasks' group tells: visible without any right to tags."""

    installation: str
    cluster: str
    role: NodeRole
    names: tuple[str, ...]
    """Sorted."""

    @property
    def group(self) -> str:
        prefix = f"{self.cluster}-"
        short = (f"-{name.removeprefix(prefix)}" if name.startswith(prefix) else name for name in self.names)
        return ":".join(("ropewalk", self.installation, self.cluster, _ROLES[self.role], ",".join(short)))

    @classmethod
    def of(cls, group: str | None) -> Batch | None:
        """Read a task's group; None: it is no task of any Ropewalk."""
        parts = (group or "").split(":", 4)
        roles = {letter: role for role, letter in _ROLES.items()}
        if len(parts) != 5 or parts[0] != "ropewalk" or parts[3] not in roles:
            return None
        _, installation, cluster, role, short = parts
        names = sorted(f"{cluster}{name}" if name.startswith("-") else name for name in short.split(","))
        return cls(installation, cluster, roles[role], tuple(names))


@dataclass(frozen=True, slots=True)
class Task:
    """What DescribeTasks or RunTask says of one task, as far as it matters here."""

    arn: str
    status: str
    wanted: str
    group: str | None
    stop_code: str | None
    stopped_reason: str | None
    exit_code: int | None
    container_reason: str | None
    interface: str | None
    private_address: str | None
    spot: bool
    ran: bool
    """Whether its container ever started."""
    stopped_at: float | None
    """Seconds since the epoch."""

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Task:
        """Read an item of ``tasks``."""
        container: Mapping[str, Any] = next((c for c in raw.get("containers") or () if c.get("name") == CONTAINER), {})
        details = {
            detail.get("name"): detail.get("value")
            for attachment in raw.get("attachments") or ()
            if attachment.get("type") == "ElasticNetworkInterface"
            for detail in attachment.get("details") or ()
        }
        stopped_at = raw.get("stoppedAt")
        return cls(
            arn=raw["taskArn"],
            status=raw.get("lastStatus") or "UNKNOWN",
            wanted=raw.get("desiredStatus") or "RUNNING",
            group=raw.get("group"),
            stop_code=raw.get("stopCode"),
            stopped_reason=raw.get("stoppedReason"),
            exit_code=container.get("exitCode"),
            container_reason=container.get("reason"),
            interface=details.get("networkInterfaceId"),
            private_address=details.get("privateIPv4Address"),
            spot=raw.get("capacityProviderName") == "FARGATE_SPOT",
            ran=raw.get("startedAt") is not None,
            stopped_at=stopped_at.timestamp() if stopped_at is not None else None,
        )

    @property
    def stopped(self) -> bool:
        """Whether ECS says that it is over; until then something of it may run, or cost."""
        return self.status in ("STOPPED", "DELETED")

    @property
    def settled(self) -> bool:
        """Whether it runs and is meant to go on."""
        return self.status == "RUNNING" and self.wanted == "RUNNING"


def assign(tasks: Iterable[Task], claimed: Collection[str] = ()) -> dict[str, Task]:
    """Return the task of each name, of tasks whose name nobody recorded; *claimed* are ARNs that have one."""
    batches: dict[str, list[Task]] = {}
    for task in tasks:
        batches.setdefault(task.group or "", []).append(task)
    found: dict[str, Task] = {}
    for group, members in batches.items():
        batch = Batch.of(group)
        if batch is not None:
            found |= {name: task for name, task in pair(members, batch.names) if task.arn not in claimed}
    return found


def pair(tasks: Iterable[Task], names: Iterable[str]) -> list[tuple[str, Task]]:
    """Return names with their tasks; names beyond the number of tasks have none."""
    return list(zip(sorted(names), sorted(tasks, key=lambda task: task.arn), strict=False))


def handles(tasks: Sequence[Task], installation: str) -> list[NodeHandle]:
    """Return the nodes of an installation that *tasks* are."""
    found = []
    for name, task in assign(tasks).items():
        batch = Batch.of(task.group)
        if batch is not None and batch.installation == installation:
            found.append(NodeHandle(name, batch.cluster, batch.role, task.arn))
    return found
