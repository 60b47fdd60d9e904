"""A cloud that exists only in this process, with faults on demand. Shipped, so that users can test against it too.

::

    cloud = MemoryCloud()
    backend = MemoryBackend(cloud)
    cloud.launch_latency = 30                                         # seconds until a launched node runs
    cloud.inject("launch", TryAgainError("throttled"), times=2)       # two calls fail, without an effect
    cloud.inject("launch", TryAgainError("timed out"), effect=True)   # one takes effect, but its answer is lost
    cloud.inject("launch", FixItError("no quota"), node="*-3")        # one node of a batch is refused
    cloud.inject("stop", effect=False)                                # one stop is accepted and ignored
    cloud.inject("observe", node="w-1", effect=False, times=None)     # unknown for ever
    backend.kill("w-2", exit_code=-9)
    cloud.inject("prepare", TryAgainError("timed out"), node="role", effect=True)   # a step whose answer is lost
    cloud.keys = {"AKIA1": Identity("111", "arn:…")}                  # only backends with such a key are let in

What has happened is in the :class:`MemoryCloud`, which outlives the backend: make another backend on it to play the
restart of a server. Time is a pair of functions, so that a test can pass a fake one.
"""

from __future__ import annotations

import asyncio
import fnmatch
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from dask.utils import format_bytes

from ropewalk.backends import logtext, simulated
from ropewalk.backends.changes import Changes
from ropewalk.backends.port import (
    SCHEDULER_PORT,
    Answer,
    Capabilities,
    Identity,
    LaunchRequest,
    LaunchResult,
    LogChunk,
    NodeHandle,
    NodeLaunch,
    NodeShape,
    Observation,
    Resource,
    Sighting,
)
from ropewalk.errors import BackendError, FixItError, TryAgainError
from ropewalk.schemas.cloud_accounts import CheckItem, CheckReport, CheckStatus, PlannedResource, PreparePlan
from ropewalk.schemas.clusters import GIB, NodeRole

__all__ = ["MemoryBackend", "MemoryCloud"]

_T = TypeVar("_T")

_VERSIONS: Mapping[str, str] = {"python": "3.11.0", "dask": "0", "distributed": "0"}


@dataclass(slots=True)
class _Fault:
    """Something that goes wrong with calls of one method; see :meth:`MemoryCloud.inject`."""

    method: str
    error: BackendError | None
    node: str | None
    skip: int
    times: int | None
    effect: bool
    delay: float

    def applies(self, method: str, node: str | None) -> bool:
        """Whether it concerns this call; counts it if so."""
        if self.method != method or (self.node is None) is not (node is None) or self.times == 0:
            return False
        if node is not None and not fnmatch.fnmatchcase(node, self.node or ""):
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.times is not None:
            self.times -= 1
        return True


@dataclass(slots=True)
class _Node:
    """A simulated node; times in seconds of the cloud's clock."""

    cluster: _Cluster
    launch: NodeLaunch = field(repr=False)
    cloud_id: str
    visible_at: float
    runs_at: float
    address_at: float
    scheduler: str | None
    """Address that it was told, if it is a worker."""
    spot: bool
    ends_at: float = float("inf")
    exit_code: int | None = None
    reason: str | None = None
    log: bytearray = field(default_factory=bytearray, repr=False)

    @property
    def own_name(self) -> str:
        """What it calls itself."""
        return self.cloud_id.rpartition("/")[2] if self.cluster.names_nodes else self.launch.name

    def address(self, now: float) -> str | None:
        """Return where clients reach it, if it is a scheduler and that is known."""
        known = self.launch.role is NodeRole.SCHEDULER and now >= self.address_at
        return f"tls://{self.launch.name}.memory.invalid:{SCHEDULER_PORT}" if known else None

    def internal(self, now: float) -> str | None:
        """Return where workers reach it, in a cloud in which that is known late."""
        late = self.address_at > float("-inf") and self.address(now) is not None
        return f"tls://{self.launch.name}.internal.invalid:{SCHEDULER_PORT}" if late else None

    @property
    def handle(self) -> NodeHandle:
        return NodeHandle(self.launch.name, self.cluster.id, self.launch.role, self.cloud_id)

    def running(self, now: float) -> bool:
        return self.runs_at <= now < self.ends_at

    def end(self, at: float, exit_code: int | None, reason: str) -> None:
        """End at a time, unless it ends sooner."""
        if at < self.ends_at:
            self.ends_at, self.exit_code, self.reason = at, exit_code, reason

    def sighting(self, now: float) -> Sighting:
        name = self.launch.name
        if now < self.visible_at:
            return Sighting(name, Answer.UNKNOWN, reason="The cloud does not show it yet.")
        if now >= self.ends_at:
            return Sighting(name, Answer.GONE, self.cloud_id, self.address(now), self.exit_code, self.reason)
        waits = "It is being provisioned." if now < self.runs_at else None
        address, internal = self.address(now), self.internal(now)
        return Sighting(name, Answer.RUNNING, self.cloud_id, address, reason=waits, internal=internal)


class _Cluster:
    """The nodes of one cluster, and what its simulated scheduler says."""

    def __init__(self, cluster_id: str, cloud: MemoryCloud) -> None:
        self.id = cluster_id
        self._cloud = cloud
        self.nodes: dict[str, _Node] = {}
        self.changes = Changes(cloud.now, cloud.sleep)
        self.overrides: dict[str, Any] = {}
        self.adaptive: Mapping[str, int] | None = None
        self.limits: dict[str, Any] = {}
        self.retired: set[str] = set()
        self.dashboards: dict[str | None, tuple[str, int]] = {}
        self._context: ssl.SSLContext | None = None

    @property
    def scheduler(self) -> _Node | None:
        """The scheduler that was launched last."""
        found = [node for node in self.nodes.values() if node.launch.role is NodeRole.SCHEDULER]
        return found[-1] if found else None

    @property
    def names_nodes(self) -> bool:
        return self._cloud.capabilities.names_nodes

    def connected(self) -> dict[str, str]:
        """Return the names of the workers that the scheduler has by what they call themselves, oldest first."""
        now = self._cloud.now()
        workers = (node for node in self.nodes.values() if node.launch.role is NodeRole.WORKER)
        return {worker.own_name: worker.launch.name for worker in workers if worker.running(now)}

    def status(self) -> Mapping[str, Any] | None:
        scheduler = self.scheduler
        if scheduler is None or not scheduler.running(self._cloud.now()):
            return None
        workers = sorted(self.connected())
        return {
            "v": 1,
            "workers": workers,
            "addresses": {name: f"tls://{name}.memory.invalid:9000" for name in workers},
            "closing": None,
            "clients": 0,
            "target": self.adaptive["minimum"] if self.adaptive else None,
            "dashboard_port": None,
            "versions": dict(_VERSIONS),
            "retired": sorted(self.retired),
            **self.overrides,
        }

    def choose(self, count: int) -> list[str]:
        return list(self.connected())[::-1][:count]

    def retire(self, names: list[str]) -> list[str]:
        here = self.connected()
        retired = [name for name in names if name in here]
        for name in retired:
            self._cloud.end(here[name], exit_code=0, reason="It was retired.", after=self._cloud.stop_latency)
        self.retired |= set(names)
        self.changes.mark()
        return retired

    def configure(self, adaptive: Mapping[str, int] | None, limits: Mapping[str, Any]) -> None:
        self.adaptive = adaptive
        self.limits |= limits
        self.changes.mark()

    def context(self) -> ssl.SSLContext:
        """Return the scheduler's TLS; made at the first connection, so that clusters stay cheap."""
        if self._context is None and self.scheduler is not None:
            self.adaptive = self.adaptive or self.scheduler.launch.config.get("adaptive")
            self._context = simulated.server_context(self.scheduler.launch.config["tls"])
        if self._context is None:
            raise TryAgainError("There is no scheduler to connect to.")
        return self._context


class MemoryCloud:
    """What exists, what will go wrong, and what was asked; shared by all backends made on it.

    Args:
        now: A monotonic time in seconds.
        sleep: Waits for so many seconds of that time.
        capabilities: What backends declare.
        max_memory: Bytes of the largest node.
        core_hour_price: Per core and hour.
        gib_hour_price: Per GiB of memory and hour.
        steps: What ``prepare`` makes, each with its monthly price.

    Attributes:
        keys: Who each access key is; None: backends need no key.
        estate: Kinds of what was prepared and not torn down, in the order in which it was made.
        launch_latency: Seconds from a launch until the node runs.
        visibility_delay: Seconds from a launch until ``observe`` and ``inventory`` know of it.
        stop_latency: Seconds from a stop until the node is gone.
        call_latency: Seconds that every call takes.
        address_delay: Seconds from a launch until a scheduler's address is known, where it is not known before.
        spot_room: How many nodes may still start on spot capacity.
        calls: Number of calls of each method.
        report: What ``check`` finds; None: that all is well.
    """

    def __init__(
        self,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        capabilities: Capabilities | None = None,
        max_memory: int = 1024 * GIB,
        core_hour_price: float = 0.04,
        gib_hour_price: float = 0.005,
        steps: Mapping[str, float] | None = None,
    ) -> None:
        self.now = now
        self.sleep = sleep
        self.capabilities = capabilities or Capabilities()
        self.max_memory = max_memory
        self.core_hour_price = core_hour_price
        self.gib_hour_price = gib_hour_price
        self.steps = dict(steps if steps is not None else {"cloud": 0.0})
        self.keys: dict[str, Identity] | None = None
        self.estate: list[str] = []
        self.launch_latency = self.visibility_delay = self.stop_latency = self.call_latency = 0.0
        self.address_delay = 0.0
        self.spot_room = 10_000
        self.calls: Counter[str] = Counter()
        self.report: CheckReport | None = None
        self.changes = Changes(now, sleep)
        self._clusters: dict[str, _Cluster] = {}
        self._nodes: dict[str, _Node] = {}
        self._forbidden: set[str] = set()
        self._faults: list[_Fault] = []
        self._lock = threading.RLock()

    def inject(
        self,
        method: str,
        error: BackendError | None = None,
        *,
        node: str | None = None,
        skip: int = 0,
        times: int | None = 1,
        effect: bool = False,
        delay: float = 0.0,
    ) -> None:
        """Make calls of *method* go wrong.

        Args:
            method: Name of the method of the backend.
            error: What it raises, or for *node* in ``launch`` what its result has. None: it seems to succeed.
            node: Pattern of node names that it concerns, within ``launch``, ``stop`` and ``observe``, each node counted
                by itself; within ``prepare`` and ``teardown``, of kinds of resources. None: it concerns whole calls.
            skip: So many calls (or nodes) go well first.
            times: How many calls (or nodes) go wrong; None: all.
            effect: Whether what was asked takes place all the same. ``observe`` without effect says unknown.
            delay: Seconds that the call takes.
        """
        self._faults.append(_Fault(method, error, node, skip, times, effect, delay))

    def heal(self) -> None:
        """Forget all faults that were injected."""
        self._faults.clear()

    def poke(self) -> None:
        """Let everyone who waits look again, as after moving a fake clock."""
        self.changes.mark()
        for cluster in list(self._clusters.values()):
            cluster.changes.mark()

    def node_names(self, *, running: bool = True) -> list[str]:
        """Return the names of nodes that run; or of all there ever were."""
        now = self.now()
        return sorted(name for name, node in self._nodes.items() if not running or node.running(now))

    def node(self, name: str) -> NodeLaunch:
        """Return what *name* was launched with, keys included."""
        return self._nodes[name].launch

    def scheduler_of(self, name: str) -> str | None:
        """Return the address of the scheduler that the worker *name* was told."""
        return self._nodes[name].scheduler

    def spot_nodes(self) -> list[str]:
        """Return the names of nodes that run on spot capacity."""
        return [name for name in self.node_names() if self._nodes[name].spot]

    def launches(self) -> int:
        """Return how many nodes came into being; a node that is launched again is not counted twice."""
        return len(self._nodes)

    def end(self, name: str, *, exit_code: int | None, reason: str, after: float = 0.0) -> None:
        """Let a node end by itself, in *after* seconds."""
        with self._lock:
            node = self._nodes[name]
            at = self.now() + after
            node.end(at, exit_code, reason)
        node.cluster.changes.mark(at)
        self.changes.mark(at)

    def write_log(self, name: str, text: str | bytes) -> None:
        """Let a node write to its log."""
        self._nodes[name].log += text.encode() if isinstance(text, str) else text

    def set_status(self, cluster: str, **status: Any) -> None:
        """Let a cluster's scheduler say *status*, for example ``closing="idle_timeout"`` or ``target=3``."""
        self.cluster(cluster).overrides |= status
        self.cluster(cluster).changes.mark()

    def set_dashboard(self, cluster: str, host: str, port: int, *, worker: str | None = None) -> None:
        """Let tunnels to the dashboard of a cluster's scheduler, or of a worker ``host:port``, lead to that server."""
        self.cluster(cluster).dashboards[worker] = (host, port)

    def configuration(self, cluster: str) -> tuple[Mapping[str, int] | None, Mapping[str, Any]]:
        """Return the adaptive bounds and limits that a cluster's scheduler was told last."""
        return self.cluster(cluster).adaptive, self.cluster(cluster).limits

    # What follows is the backends' side.

    def cluster(self, cluster_id: str) -> _Cluster:
        with self._lock:
            if cluster_id not in self._clusters:
                self._clusters[cluster_id] = _Cluster(cluster_id, self)
            return self._clusters[cluster_id]

    def fault(self, method: str, node: str | None = None) -> _Fault | None:
        """Return the fault that concerns this call or node, if there is one."""
        with self._lock:
            return next((fault for fault in self._faults if fault.applies(method, node)), None)

    def create(self, request: LaunchRequest, launch: NodeLaunch) -> _Node:
        """Bring a node into being, unless it is or was there.

        Raises:
            FixItError: it was asked to stop before.
        """
        with self._lock:
            if launch.name in self._nodes:
                return self._nodes[launch.name]
            if launch.name in self._forbidden:
                raise FixItError(
                    f"The node {launch.name} was asked to stop before it was launched.",
                    advice="Launch another under a new name.",
                )
            now, cluster = self.now(), self.cluster(request.cluster.id)
            visible, runs = now + self.visibility_delay, now + self.launch_latency
            addressed = float("-inf") if self.capabilities.scheduler_address_first else now + self.address_delay
            name = f"memory/node-{len(self._nodes)}"
            spot = self._spot(launch)
            node = _Node(cluster, launch, name, visible, runs, addressed, request.scheduler, spot)
            self._nodes[launch.name] = cluster.nodes[launch.name] = node
        times = [time for time in (visible, runs, addressed) if time > now]
        cluster.changes.mark(*times)
        self.changes.mark(*times)
        return node

    def _spot(self, launch: NodeLaunch) -> bool:
        """Give a node spot capacity if it should have some; say whether it got it.

        Raises:
            TryAgainError: there is none, and it does not want any other.
        """
        if launch.spot and self.spot_room > 0:
            self.spot_room -= 1
            return True
        if launch.spot and not launch.spot_fallback:
            raise TryAgainError("There is no spot capacity.", delay=5.0)
        return False

    def stop(self, name: str) -> None:
        with self._lock:
            self._forbidden.add(name)
            known = name in self._nodes
        if known:
            self.end(name, exit_code=0, reason="It was asked to stop.", after=self.stop_latency)

    def sighting(self, name: str) -> Sighting:
        node = self._nodes.get(name)
        return Sighting(name, Answer.GONE, reason="It does not exist.") if node is None else node.sighting(self.now())

    def living(self) -> list[NodeHandle]:
        now = self.now()
        nodes = list(self._nodes.values())
        return [node.handle for node in nodes if node.visible_at <= now < node.ends_at]

    def log(self, name: str) -> bytes:
        node = self._nodes.get(name)
        return b"" if node is None else bytes(node.log)


class MemoryBackend:
    """Runs pretended nodes in a :class:`MemoryCloud`; its schedulers are linkable, its clusters do no work."""

    def __init__(self, cloud: MemoryCloud | None = None, key: str | None = None) -> None:
        self.cloud = cloud or MemoryCloud()
        self._key = key
        self._seen = self.cloud.changes.version
        self._serving: set[asyncio.Task[None]] = set()

    @property
    def kind(self) -> str:
        return "memory"

    @property
    def capabilities(self) -> Capabilities:
        return self.cloud.capabilities

    @property
    def calls(self) -> Counter[str]:
        """Number of calls of each method, by every backend of the same cloud."""
        return self.cloud.calls

    def kill(self, name: str, *, exit_code: int | None = -9, reason: str = "It died.") -> None:
        """Let a node end by itself: with an exit status, or minus the signal."""
        self.cloud.end(name, exit_code=exit_code, reason=reason)

    def set_status(self, cluster: str, **status: Any) -> None:
        """Let a cluster's scheduler say *status*, for example ``closing="idle_timeout"`` or ``target=3``."""
        self.cloud.set_status(cluster, **status)

    def validate(self, shape: NodeShape, role: NodeRole, options: Mapping[str, Any]) -> None:
        for option in options:
            raise FixItError(f"There is no backend option {option[:60]!r}.", field=f"backend_options.{option[:60]}")
        if shape.gpu and not self.capabilities.gpu:
            raise FixItError("There are no GPUs here.", field=f"{role}_gpu", advice="Leave it out.")
        if shape.memory > self.cloud.max_memory:
            most = format_bytes(self.cloud.max_memory)
            raise FixItError(
                f"A {role} with {format_bytes(shape.memory)} of memory is more than the {most} that there are.",
                field=f"{role}_memory",
                advice=f"Ask for at most {most}.",
            )

    def hourly_price(
        self,
        shape: NodeShape,
        *,
        spot: bool = False,
        options: Mapping[str, Any] | None = None,  # noqa: ARG002 - the port's
    ) -> tuple[float, str]:
        price = shape.cpu * self.cloud.core_hour_price + shape.memory / GIB * self.cloud.gib_hour_price
        # A third is what spot capacity costs in many regions; here it only has to differ.
        return (price / 3 if spot else price), "USD"

    def price_note(self, *, spot: bool = False, options: Mapping[str, Any] | None = None) -> str | None:  # noqa: ARG002 - the port's
        return "Spot prices are made up." if spot else None

    async def check(self) -> CheckReport:
        await self._call("check")
        if self.cloud.report is not None:
            return self.cloud.report
        item = CheckItem(name="memory", status=CheckStatus.OK, message="Pretended nodes can run in this process.")
        return CheckReport(checked_at=datetime.now(UTC), items=[item])

    async def identity(self) -> Identity:
        await self._call("identity")
        return Identity("memory", "memory") if self.cloud.keys is None else self.cloud.keys[str(self._key)]

    def plan(self) -> PreparePlan:
        return PreparePlan(
            resources=[
                PlannedResource(kind=kind, what=f"A pretended {kind}", monthly_cost=cost)
                for kind, cost in self.cloud.steps.items()
            ]
        )

    async def prepare(self) -> AsyncIterator[Resource]:
        await self._call("prepare")
        for kind in self.cloud.steps:
            await self._step("prepare", kind, self._make)
            yield Resource(kind, f"memory-{kind}")

    async def teardown(self, resources: Sequence[Resource]) -> AsyncIterator[Resource]:
        await self._call("teardown")
        stored = [resource.kind for resource in resources]
        for kind in [*stored, *(kind for kind in self.cloud.estate if kind not in stored)][::-1]:
            await self._step("teardown", kind, self._remove)
            yield Resource(kind, f"memory-{kind}", gone=True)

    async def _step(self, method: str, kind: str, effect: Callable[[str], None]) -> None:
        """Take one step of prepare or teardown, with the fault that concerns it."""
        self.cloud.calls[f"{method}:{kind}"] += 1
        fault = self.cloud.fault(method, kind)
        if fault is not None and fault.delay:
            await self.cloud.sleep(fault.delay)
        if fault is None or fault.effect:
            effect(kind)
        _finish(fault, None)

    def _make(self, kind: str) -> None:
        if kind not in self.cloud.estate:
            self.cloud.estate.append(kind)

    def _remove(self, kind: str) -> None:
        if kind in self.cloud.estate:
            self.cloud.estate.remove(kind)

    async def launch(self, request: LaunchRequest) -> Sequence[LaunchResult]:
        lost = await self._call("launch")
        if lost is not None and not lost.effect:
            return _finish(lost, [LaunchResult(node.name, cloud_id="memory-lost") for node in request.nodes])
        known = request.scheduler is not None or any(node.role is NodeRole.SCHEDULER for node in request.nodes)
        results = [
            self._launch(request, node) if known or node.role is NodeRole.SCHEDULER else _no_scheduler(node)
            for node in request.nodes
        ]
        return _finish(lost, results)

    def _launch(self, request: LaunchRequest, launch: NodeLaunch) -> LaunchResult:
        fault = self.cloud.fault("launch", launch.name)
        try:
            if fault is None or fault.effect:
                node = self.cloud.create(request, launch)
                early = self.capabilities.scheduler_address_first
                address = node.address(self.cloud.now()) if early else None
                note = "There is no spot capacity." if launch.spot and not node.spot else None
                result = LaunchResult(launch.name, node.cloud_id, address, spot=node.spot, note=note)
            else:
                result = LaunchResult(launch.name, cloud_id="memory-lost")
        except BackendError as exc:
            return LaunchResult(launch.name, error=exc)
        return result if fault is None or fault.error is None else LaunchResult(launch.name, error=fault.error)

    async def stop(self, nodes: Sequence[NodeHandle]) -> None:
        lost = await self._call("stop")
        refused: BackendError | None = None
        for node in nodes if lost is None or lost.effect else ():
            fault = self.cloud.fault("stop", node.name)
            if fault is None or fault.effect:
                self.cloud.stop(node.name)
            refused = (fault.error if fault is not None else None) or refused
        _finish(lost, None)
        if refused is not None:
            raise refused

    async def observe(self, nodes: Sequence[NodeHandle]) -> Observation:
        lost = await self._call("observe")
        blind = lost is not None and not lost.effect
        _finish(lost, None)
        return Observation({node.name: self._sighting(node.name, blind=blind) for node in nodes})

    def _sighting(self, name: str, *, blind: bool) -> Sighting:
        fault = self.cloud.fault("observe", name)
        if blind or (fault is not None and not fault.effect):
            reason = str(fault.error) if fault is not None and fault.error else "The cloud did not answer."
            return Sighting(name, Answer.UNKNOWN, reason=reason)
        return self.cloud.sighting(name)

    async def changed(self) -> None:
        """Return when something may have changed. One task at a time waits, and each change ends one wait."""
        self._seen = await self.cloud.changes.wait(self._seen)

    async def inventory(self) -> Sequence[NodeHandle]:
        lost = await self._call("inventory")
        return _finish(lost, self.cloud.living())

    async def logs(self, node: NodeHandle, cursor: str | None = None, limit: int = 1_000_000) -> LogChunk:
        lost = await self._call("logs")
        _finish(lost, None)
        gone = self.cloud.sighting(node.name).answer is Answer.GONE
        offset = logtext.offset_of(cursor)
        raw = self.cloud.log(node.name)[offset : offset + logtext.room(limit)]
        return logtext.cut(raw, offset, limit, gone=gone)

    async def connect(self, scheduler: NodeHandle, address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        lost = await self._call("connect")
        _finish(lost, None)
        cluster = self.cloud.cluster(scheduler.cluster)
        running = cluster.scheduler
        if cluster.status() is None or running is None or running.launch.name != scheduler.name:
            raise TryAgainError(
                f"The scheduler {scheduler.name} does not accept connections at {address}.",
                advice="It may still be starting, or have ended; its log says which.",
            )
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        task = asyncio.ensure_future(simulated.serve(cluster, cluster.context(), theirs))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        return await asyncio.open_connection(sock=ours)

    async def close(self) -> None:
        """End this process's connections; nodes go on."""
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _call(self, method: str) -> _Fault | None:
        """Count a call, let it take its time, and fail it; returns a fault that is not over with that."""
        self.cloud.calls[method] += 1
        if self.cloud.keys is not None and self._key not in self.cloud.keys:
            raise FixItError(
                f"The access key {self._key} is not valid.",
                advice="Make a new one, and set it.",
                field="access_key_id",
                details={"credentials": "invalid"},
            )
        fault = self.cloud.fault(method)
        delay = self.cloud.call_latency + (fault.delay if fault else 0.0)
        if delay:
            await self.cloud.sleep(delay)
        if fault is not None and fault.error is not None and not fault.effect:
            raise fault.error
        return fault


def _finish(lost: _Fault | None, result: _T) -> _T:
    """Answer a call; or lose the answer, now that it took effect."""
    if lost is not None and lost.error is not None:
        raise lost.error
    return result


def _no_scheduler(node: NodeLaunch) -> LaunchResult:
    error = TryAgainError("Workers were not started, because their scheduler could not be.")
    return LaunchResult(node.name, error=error)
