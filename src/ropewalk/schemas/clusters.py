"""Clusters, nodes, their configuration templates, connection and cost."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from ropewalk.schemas.common import Bytes, Schema, Seconds, Slug

MAX_WORKERS = 10_000
"""Guards against a slipped digit; above what one Dask scheduler serves well."""

MAX_CPU = 448
"""vCPUs of the largest cloud instances; guards against a slipped digit."""

GIB = 2**30

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RESERVED_ENV = re.compile(r"ROPEWALK_.*|LD_PRELOAD")

SpotPolicy = Literal["on-demand", "spot", "spot_with_fallback"]

Cpu = Annotated[float, Field(gt=0, le=MAX_CPU)]
Workers = Annotated[int, Field(ge=0, le=MAX_WORKERS, strict=True)]


class ClusterState(StrEnum):
    PENDING = "pending"
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"

    @property
    def live(self) -> bool:
        """Whether it has, or may have, anything running."""
        return self not in (ClusterState.STOPPED, ClusterState.FAILED)


class NodeState(StrEnum):
    PENDING = "pending"
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"
    LOST = "lost"

    @property
    def live(self) -> bool:
        """Whether it has, or may have, something running."""
        return self not in (NodeState.STOPPED, NodeState.FAILED, NodeState.LOST)


class NodeRole(StrEnum):
    SCHEDULER = "scheduler"
    WORKER = "worker"


class ClusterSpec(Schema):
    """What a cluster is made of; also what a cluster configuration holds. Sizes in bytes, durations in seconds.

    Defaults are the reference product's: 1 CPU and 4 GiB for scheduler and workers, 20 minutes of idleness.
    """

    n_workers: Workers | tuple[Workers, Workers] = Field(
        4, description="A number, or [minimum, maximum] for a cluster that adapts to its work."
    )
    worker_cpu: Cpu = 1
    worker_memory: Bytes = 4 * GIB
    worker_gpu: Annotated[int, Field(ge=0, le=16)] = 0
    worker_class: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*$", max_length=200)] = Field(
        "distributed.Nanny", description="Import path of the worker's class."
    )
    worker_options: dict[str, Any] = Field(default_factory=dict, description="Keyword arguments of the worker class.")
    scheduler_cpu: Cpu = 1
    scheduler_memory: Bytes = 4 * GIB
    scheduler_options: dict[str, Any] = Field(
        default_factory=dict, description="Keyword arguments of `distributed.Scheduler`."
    )
    environ: dict[str, str] = Field(
        default_factory=dict, description="Environment variables of every node. Stored encrypted, never returned."
    )
    software: str | None = Field(None, max_length=200, description="A software environment; null: the server's own.")
    container: Annotated[str, Field(min_length=1, max_length=500, pattern=r"^\S+$")] | None = Field(
        None, description="Image of the nodes, where they run in containers; null: the cloud account's own."
    )
    spot_policy: SpotPolicy = Field(
        "on-demand", description="Whether workers run on capacity that the cloud may take back; schedulers never do."
    )
    idle_timeout: Seconds | None = Field(1200.0, description="Stop after so long without tasks; null: never.")
    no_client_timeout: Seconds | None = Field(None, description="Stop after so long without a client; null: never.")
    cluster_timeout: Seconds | None = Field(None, description="Stop at this age; null: never.")
    tags: dict[str, str] = Field(default_factory=dict)
    backend_options: dict[str, Any] = Field(default_factory=dict, description="Options of the cloud account's backend.")

    @field_validator("n_workers")
    @classmethod
    def _ordered(cls, value: int | tuple[int, int]) -> int | tuple[int, int]:
        if isinstance(value, tuple) and value[0] > value[1]:
            raise ValueError(f"the minimum, {value[0]}, is above the maximum, {value[1]}")
        return value

    @field_validator("environ")
    @classmethod
    def _environ(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            if not _ENV_NAME.fullmatch(name) or _RESERVED_ENV.fullmatch(name):
                raise ValueError(f"{name[:60]!r} cannot be used as the name of an environment variable")
            if "\0" in text:
                raise ValueError(f"the value of {name[:60]!r} contains a NUL character")
        return value

    @field_validator("tags")
    @classmethod
    def _tags(cls, value: dict[str, str]) -> dict[str, str]:
        # AWS allows 50 tags a resource, keys of 128 and values of 256 characters; 10 are left for our own.
        if len(value) > 40 or any(not 0 < len(k) <= 128 or len(v) > 256 for k, v in value.items()):
            raise ValueError("at most 40 tags, with keys of 1 to 128 and values of at most 256 characters")
        return value

    @model_validator(mode="after")
    def _whole_cores(self) -> Self:
        for name in ("worker_cpu", "scheduler_cpu"):
            cpu = getattr(self, name)
            if cpu > 1 and cpu != int(cpu):
                raise ValueError(f"{name}={cpu:g} is not a whole number of cores (fractions only below 1)")
        return self

    @property
    def minimum(self) -> int:
        """Fewest workers."""
        return self.n_workers[0] if isinstance(self.n_workers, tuple) else self.n_workers

    @property
    def maximum(self) -> int:
        """Most workers; limits are checked against it."""
        return self.n_workers[1] if isinstance(self.n_workers, tuple) else self.n_workers

    @property
    def adaptive(self) -> bool:
        """Whether the number of workers follows the work."""
        return isinstance(self.n_workers, tuple)


class ClusterCreate(ClusterSpec):
    """A request for a cluster. `configuration` names a template; fields that are set here override it."""

    name: Slug | None = Field(None, description="Null: made from your name and a random part.")
    configuration: Slug | None = None
    fingerprint: str | None = Field(
        None,
        max_length=100,
        description="Of the client's packages. If the nodes would have others, and no software environment and no "
        "image is named, the request is refused with `details.environment` = `needed`. Null: no matter.",
    )


class ClusterScale(Schema):
    n_workers: Workers | tuple[Workers, Workers] = Field(description="A number, or [minimum, maximum].")

    _ordered = field_validator("n_workers")(ClusterSpec._ordered.__func__)  # type: ignore[attr-defined] # noqa: SLF001 - one rule, two models


class ClusterUpdate(Schema):
    """New limits of a cluster that runs, in seconds or as text with a unit; null: never. Others stay as they are."""

    idle_timeout: Seconds | None = Field(None, description="Stop after so long without tasks.")
    no_client_timeout: Seconds | None = Field(None, description="Stop after so long without a client.")
    cluster_timeout: Seconds | None = Field(None, description="Stop at this age, counted from the start.")

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("give at least one of idle_timeout, no_client_timeout and cluster_timeout")
        return self


class Cost(Schema):
    """Cost by the prices that held when each node started."""

    currency: str
    per_hour: float = Field(description="Of what runs now.")
    so_far: float


class CostEstimate(Schema):
    currency: str
    per_hour: float = Field(description="With the minimum number of workers.")
    per_hour_maximum: float = Field(description="With the maximum number of workers.")
    text: str = Field(description='For example "$1.23/hr".')
    note: str | None = Field(None, description="What is to be known about the prices: their date, what they leave out.")


class Node(Schema):
    name: str
    role: NodeRole
    state: NodeState
    reason: str | None = Field(description="Why it is in this state, where that is not obvious.")
    address: str | None
    cloud_id: str | None = Field(
        None,
        description="What the cloud calls it, for example the ARN of its task. What follows the last `/` is the "
        "worker's name in Dask, where the cloud names nodes itself.",
    )
    cpu: float
    memory: int
    exit_code: int | None
    created_at: datetime
    ready_at: datetime | None
    stopped_at: datetime | None


class Cluster(Schema):
    id: str
    name: str
    account: str
    creator: str
    cloud_kind: str
    backend: str
    state: ClusterState
    reason: str | None = Field(description="Why it stopped, failed or needs attention.")
    n_workers: int = Field(description="How many are wanted now.")
    minimum: int | None = Field(description="Null: it does not adapt.")
    maximum: int | None
    workers_ready: int
    cores: float
    memory: int
    cost: Cost
    tags: dict[str, str]
    software: str | None
    scheduler_address: str | None
    dashboard_link: str | None
    created_at: datetime
    ready_at: datetime | None
    stopped_at: datetime | None


class ClusterDetail(Cluster):
    spec: ClusterSpec = Field(description="`environ` is left out: it may hold secrets.")
    nodes: list[Node]


class DashboardTicket(Schema):
    """A link that opens a cluster's dashboard in one browser, once."""

    url: str = Field(repr=False)
    expires_at: datetime


class Connection(Schema):
    """What a client needs to connect: an address and a client certificate of this one cluster."""

    scheduler_address: str
    direct: bool = Field(True, description="The scheduler's own address can be reached from where users are.")
    gateway_address: str | None = Field(
        None, description="Where the control plane passes TLS on to the scheduler; null: nowhere."
    )
    server_name: str | None = Field(
        None, description="TLS server name (SNI) to ask for, at either address; the gateway routes by it."
    )
    ca: str = Field(description="PEM")
    cert: str = Field(description="PEM")
    key: str = Field(description="PEM")
    versions: dict[str, str] = Field(description="Of the scheduler: python, dask, distributed, …")
    cluster: ClusterDetail | None = Field(
        None, description="How the cluster is, so that who connects need not ask. Null: a server of an earlier version."
    )


class TimelineStep(Schema):
    """One step of a cluster's start."""

    step: str = Field(description="requested, accepted, launched, scheduler_ready, first_worker or all_workers")
    time: datetime | None = Field(description="Null: it has not come to that.")
    seconds: float | None = Field(description="From the request to this step.")


class Timeline(Schema):
    """How long each step of a cluster's start took."""

    cluster: str = Field(description="Its id, which the lines of the server's log have as `cluster`.")
    request_id: str | None = Field(description="Of the request that created it; find it in the server's log.")
    steps: list[TimelineStep]


class LogPage(Schema):
    node: str
    text: str
    cursor: str = Field(description="Pass it to get what follows.")
    complete: bool = Field(description="Nothing more will follow: the node has ended and all of it was read.")


class ConfigurationSet(Schema):
    """Only the fields that are given are kept; the rest stays at the defaults of the day a cluster is made."""

    spec: dict[str, Any]


class Configuration(Schema):
    name: str
    account: str
    spec: dict[str, Any]
    updated_at: datetime


def cores_of(spec: ClusterSpec, workers: int) -> float:
    """Cores that a cluster of *workers* workers uses, scheduler included."""
    return spec.scheduler_cpu + workers * spec.worker_cpu


def total(values: Sequence[float]) -> float:
    """Sum that does not show binary noise in what people read."""
    return round(sum(values), 6)
