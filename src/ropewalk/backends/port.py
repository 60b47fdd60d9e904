"""The interface between Ropewalk and a cloud. Everything that runs clusters implements :class:`Backend`.

The rules that make a backend trustworthy, tested by the conformance suite in ``tests/conformance``:

* Names come from the caller and are unique in the installation. ``launch`` of a name that runs already changes
  nothing and reports it as launched, so a caller that crashed may simply ask again.
* ``observe`` answers for every name that it is asked about: *running*, *gone* or *unknown*. *Gone* is only said when
  the cloud said so; a fault of any kind is *unknown*. Nothing is ever stopped or freed because of *unknown*.
* ``stop`` asks; only ``observe`` tells that it happened. Stopping what is gone is not an error.
* A name that was stopped, or asked to stop, before its launch took effect never comes up afterwards.
* Errors are :class:`~ropewalk.errors.FixItError` (names the field or permission; never tried again by itself) or
  :class:`~ropewalk.errors.TryAgainError` (with a delay). Nothing else leaves a backend.
* Secrets (``NodeLaunch.config`` and ``.environ``) never reach logs, command lines or tags.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

from ropewalk.errors import BackendError
from ropewalk.schemas.cloud_accounts import CheckReport, PreparePlan
from ropewalk.schemas.clusters import NodeRole
from ropewalk.schemas.images import Image

__all__ = [
    "Answer",
    "Backend",
    "Capabilities",
    "ClusterRef",
    "HasImages",
    "Identifies",
    "Identity",
    "ImageStore",
    "LaunchRequest",
    "LaunchResult",
    "LogChunk",
    "NodeHandle",
    "NodeLaunch",
    "NodeShape",
    "Observation",
    "Place",
    "Plans",
    "Resource",
    "Sighting",
]

SCHEDULER_PORT = 8786
"""The scheduler's one public port where it has an address of its own."""


class Answer(StrEnum):
    """What a probe of one node says."""

    RUNNING = "running"
    GONE = "gone"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend can do, declared and never guessed."""

    scheduler_address_first: bool = True
    """Workers can be launched in one batch with their scheduler: its address is known before it runs."""
    launch_batch: int = 100
    """Nodes in one ``launch`` at the most."""
    spot: bool = False
    gpu: bool = False
    images: bool = False
    private_network: bool = False
    direct: bool = True
    """Clients can reach a scheduler at its contact address; if not, they go through the control plane's gateway."""
    names_nodes: bool = False
    """The cloud names nodes itself: a node calls itself by what follows the last ``/`` of its ``cloud_id``."""


@dataclass(frozen=True, slots=True)
class Place:
    """The cloud account that a backend drives; all three become tags or labels."""

    installation: str
    cloud_account: str
    account: str
    """Slug of the account that owns it; empty for the hosted one."""


@dataclass(frozen=True, slots=True)
class ClusterRef:
    """A cluster as a backend needs to know it; all four become tags, labels or paths."""

    installation: str
    account: str
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class NodeShape:
    """Size of one node: CPU cores, bytes of memory, whole GPUs."""

    cpu: float
    memory: int
    gpu: int = 0


@dataclass(frozen=True, slots=True)
class NodeLaunch:
    """One node to launch.

    ``config`` is the configuration of ``ropewalk/node/main.py`` (documented there) without what only the backend knows;
    the backend adds ``listen``, ``contact`` and, for workers, ``scheduler``. It holds private keys, so it is hidden
    from ``repr``.
    """

    name: str
    role: NodeRole
    shape: NodeShape
    config: Mapping[str, Any] = field(repr=False)
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)
    spot: bool = False
    """On capacity that the cloud may take back."""
    spot_fallback: bool = False
    """Where there is no such capacity: on demand instead."""
    attempt: int = 1
    """How many times the caller has asked for it, this time included. From 2 on, it may exist already."""


@dataclass(frozen=True, slots=True)
class NodeHandle:
    """A node that may exist: its name, and what the cloud calls it once that is known (ARN, pid, uid)."""

    name: str
    cluster: str
    role: NodeRole
    cloud_id: str | None = None


@dataclass(frozen=True, slots=True)
class LaunchRequest:
    """Nodes of one cluster to launch together.

    ``scheduler`` is None when the scheduler is itself in the batch, which needs the capability
    ``scheduler_address_first``; otherwise the address at which nodes of the same cloud reach it.
    """

    cluster: ClusterRef
    nodes: Sequence[NodeLaunch]
    scheduler: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    image: str | None = None
    """Container image of the nodes; None: the cloud account's own."""
    interpreter: str | None = None
    """Where nodes are processes of this machine: the Python that runs them, of a virtual environment; None: its own."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """The user's tags, for the cloud's bill."""


@dataclass(frozen=True, slots=True)
class LaunchResult:
    """What became of one node of a launch: either what the cloud calls it, or an error."""

    name: str
    cloud_id: str | None = None
    address: str | None = None
    """Contact address of a scheduler (``tls://host:port``), if it is known already."""
    error: BackendError | None = None
    spot: bool | None = None
    """Whether it runs on spot capacity; None: as was asked."""
    note: str | None = None
    """What is worth telling about a launch that succeeded, as a sentence."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """What one look said about one node."""

    name: str
    answer: Answer
    cloud_id: str | None = None
    address: str | None = None
    """Contact address of a scheduler (``tls://host:port``)."""
    exit_code: int | None = None
    """Of a node that is gone: exit status, or minus the signal that ended it. None: nobody knows."""
    reason: str | None = None
    """Why it is gone, waits or is unknown, as a sentence with advice."""
    internal: str | None = None
    """Where nodes of the same cloud reach it; None: at ``address``, too."""
    no_spot: bool = False
    """The cloud took it for spot capacity and has none: it never ran. With ``spot_fallback``, another one that is
    launched now runs on demand."""


@dataclass(frozen=True, slots=True)
class Observation:
    """One look at many nodes; answers for every name asked about."""

    sightings: Mapping[str, Sighting]


@dataclass(frozen=True, slots=True)
class LogChunk:
    """A piece of a node's log. ``cursor`` continues after it; ``complete``: nothing more will follow."""

    text: str
    cursor: str
    complete: bool


@dataclass(frozen=True, slots=True)
class Resource:
    """One thing that ``prepare`` made or found, to be stored before the next step.

    In ``details``, ``owned`` is False for what was brought along, which is never changed or removed; ``note`` says what
    a person should know about it, as a sentence.
    """

    kind: str
    id: str
    details: Mapping[str, Any] = field(default_factory=dict)
    gone: bool = False
    """It is no more, or belongs to the cloud account no more: what is stored about it has to be forgotten."""


class ImageStore(Protocol):
    """The registry of a cloud account, one repository. Methods raise only BackendError.

    An upload that the registry does not know (any more) is a FixItError with ``details["upload"] == "unknown"``: begin
    that blob again.
    """

    async def missing(self, digests: Sequence[str]) -> list[str]:
        """Return which of these blobs the repository does not have."""
        ...

    async def begin(self, digest: str, size: int) -> str:
        """Begin to send a blob of *size* bytes; return the id of the upload."""
        ...

    async def send(self, upload: str, first: int, data: bytes) -> int:
        """Send a part that begins at byte *first*; return the byte to go on from."""
        ...

    async def finish(self, upload: str, digest: str) -> None:
        """Complete a blob; the registry checks that it has that digest."""
        ...

    async def put(self, manifest: bytes, media_type: str, tag: str) -> Image:
        """Make an image of blobs that are there. Raises FixItError if the tag is another image's."""
        ...

    async def images(self) -> list[Image]:
        """List all images, newest first."""
        ...

    @property
    def repository(self) -> str:
        """Name of the repository as container engines write it, without a tag."""
        ...

    async def find(self, digest: str) -> Image | None:
        """Return the image with a digest; None: there is none."""
        ...

    async def delete(self, digest: str) -> None:
        """Delete an image with all its tags; deleting what is gone is no error."""
        ...


@runtime_checkable
class HasImages(Protocol):
    """A backend whose cloud account has a registry."""

    @property
    def images(self) -> ImageStore: ...


class Backend(Protocol):
    """Drives one cloud account. Methods raise only :class:`~ropewalk.errors.BackendError`."""

    @property
    def kind(self) -> str:
        """``local``, ``aws``, ``kubernetes`` or ``memory``."""
        ...

    @property
    def capabilities(self) -> Capabilities: ...

    def validate(self, shape: NodeShape, role: NodeRole, options: Mapping[str, Any]) -> None:
        """Raise FixItError, naming the field, if such a node cannot run here. Pure: no call to the cloud."""
        ...

    def hourly_price(
        self, shape: NodeShape, *, spot: bool = False, options: Mapping[str, Any] | None = None
    ) -> tuple[float, str]:
        """Return price per hour and ISO 4217 currency of a running node; *options* as in :class:`LaunchRequest`."""
        ...

    def price_note(self, *, spot: bool = False, options: Mapping[str, Any] | None = None) -> str | None:
        """Return what is to be known about these prices, as a sentence: their source and date, what they leave out."""
        ...

    async def check(self) -> CheckReport:
        """Find out whether clusters can run here. Changes nothing."""
        ...

    def prepare(self) -> AsyncIterator[Resource]:
        """Make what clusters need, yielding each resource; asked again, it completes what is missing."""
        ...

    def teardown(self, resources: Sequence[Resource]) -> AsyncIterator[Resource]:
        """Remove what ``prepare`` made, yielding each resource once it is gone, with ``gone`` true."""
        ...

    async def launch(self, request: LaunchRequest) -> Sequence[LaunchResult]:
        """Start nodes; one result for each. An error that concerns the whole batch is raised."""
        ...

    async def stop(self, nodes: Sequence[NodeHandle]) -> None:
        """Ask nodes to end: first politely, then, on the backend's own initiative, by force. Idempotent."""
        ...

    async def observe(self, nodes: Sequence[NodeHandle]) -> Observation:
        """Look at the nodes, in as few calls as the cloud allows."""
        ...

    async def changed(self) -> None:
        """Return when something may have changed since the last ``observe``. Cancel it freely.

        One task at a time waits: each change ends one wait, also one that begins after it.
        """
        ...

    async def inventory(self) -> Sequence[NodeHandle]:
        """List every node of this installation that the cloud knows to exist, by tag, whoever started it."""
        ...

    async def logs(self, node: NodeHandle, cursor: str | None = None, limit: int = 1_000_000) -> LogChunk:
        """Read a node's log from *cursor* (None: its beginning), at most *limit* bytes; also after its death."""
        ...

    async def connect(self, scheduler: NodeHandle, address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a plain byte stream to a scheduler's port; TLS is the caller's."""
        ...

    async def close(self) -> None:
        """Free what the backend holds in this process. Nodes go on."""
        ...


# What only some backends can do; the server asks with ``isinstance`` and does without.


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the credentials of a cloud account are, as the cloud itself says."""

    owner: str
    """Whose resources they reach: id of an AWS account; API server and namespace. Other owner, other resources."""
    name: str
    """Who they are there: an ARN; the name of a service account."""
    warning: str | None = None
    """What a careful person would change about them."""


@runtime_checkable
class Identifies(Protocol):
    """A backend that can say who its credentials are."""

    async def identity(self) -> Identity:
        """Ask the cloud. FixItError: the credentials are not valid; says what is wrong, and names the field."""
        ...


@runtime_checkable
class Plans(Protocol):
    """A backend whose ``prepare`` makes things that people want to know of before, since some cost money."""

    def plan(self) -> PreparePlan:
        """Return what ``prepare`` would have made by its end, from settings and resources alone: no call."""
        ...
