"""What the conformance suite needs of a backend beyond the port: how to play its cloud. One class per backend."""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Protocol

import psutil

from ropewalk.backends.local import LocalBackend
from ropewalk.backends.memory import MemoryBackend, MemoryCloud
from ropewalk.backends.port import (
    Answer,
    Backend,
    ClusterRef,
    LaunchRequest,
    LaunchResult,
    NodeHandle,
    NodeLaunch,
    NodeShape,
)
from ropewalk.schemas.cloud_accounts import HostedSettings
from ropewalk.schemas.clusters import NodeRole
from ropewalk.server.clusters.certificates import ClusterCertificates, issue
from tests.support.spawners import spawner
from tests.support.waiting import eventually

INSTALLATION = f"inst-{uuid.uuid4().hex}"
"""Of this test process: others may run at the same time on the same machine."""

CANARY = "canary-7f3b9c51"
"""In the environment of every node that is launched here; must be seen nowhere else."""

SHAPE = NodeShape(cpu=1, memory=2 * 2**30)
"""A size that Fargate has, too."""


def paths(folder: Path) -> list[str]:
    """Name everything in a folder, in which things come and go meanwhile."""
    return [f"{parent}/{name}" for parent, *names in os.walk(folder) for each in names for name in each]


class Harness(Protocol):
    """Plays the cloud of one backend."""

    @property
    def backend(self) -> Backend: ...

    def restart(self) -> Backend:
        """Return a new backend object on the same cloud, as after a kill of the server."""
        ...

    async def kill(self, node: NodeHandle) -> None:
        """Let a running node die by signal 9, with nobody having asked for it."""
        ...

    async def write_log(self, node: NodeHandle, text: str) -> None:
        """Let a running node write to its output."""
        ...

    async def visible(self, node: NodeHandle) -> str:
        """Return everything that users of the cloud other than the node itself can see of it."""
        ...

    async def close(self) -> None: ...


class MemoryHarness:
    def __init__(self) -> None:
        self.cloud = MemoryCloud()
        self._backends = [MemoryBackend(self.cloud)]

    @property
    def backend(self) -> MemoryBackend:
        return self._backends[-1]

    def restart(self) -> MemoryBackend:
        self._backends.append(MemoryBackend(self.cloud))
        return self.backend

    async def kill(self, node: NodeHandle) -> None:
        self.backend.kill(node.name)

    async def write_log(self, node: NodeHandle, text: str) -> None:
        self.cloud.write_log(node.name, text)

    async def visible(self, node: NodeHandle) -> str:
        return repr(self.cloud.node(node.name)) + repr(vars(self.cloud))

    async def close(self) -> None:
        for backend in self._backends:
            await backend.close()


class LocalHarness:
    """The real node program in real processes."""

    def __init__(self, root: Path, mode: str = "plain") -> None:
        self.root = root
        self.mode = mode
        self._backends = [self._make()]

    @property
    def backend(self) -> LocalBackend:
        return self._backends[-1]

    def _make(self) -> LocalBackend:
        return LocalBackend(self.root, INSTALLATION, HostedSettings(), spawner=spawner(self.mode))

    def restart(self) -> LocalBackend:
        self._backends.append(self._make())
        return self.backend

    def pid(self, node: NodeHandle) -> int:
        identity = self.backend._home(node).identity()
        assert identity is not None
        return identity.pid

    async def kill(self, node: NodeHandle) -> None:
        os.kill(self.pid(node), signal.SIGKILL)

    async def write_log(self, node: NodeHandle, text: str) -> None:
        with self.backend._home(node).log.open("a") as file:
            file.write(text)

    async def visible(self, node: NodeHandle) -> str:
        process = psutil.Process(self.pid(node))
        folder = self.backend._home(node).path
        modes = [oct(path.stat().st_mode & 0o077) for path in (folder, folder / "config.json", folder / "log")]
        assert modes == ["0o0"] * 3
        return " ".join(process.cmdline()) + " ".join(paths(folder))

    async def close(self) -> None:
        for backend in self._backends:
            await backend.close()


@cache
def certificates(cluster_id: str) -> ClusterCertificates:
    return issue(cluster_id, datetime.now(UTC))


def handle(name: str, cluster: str = "c1") -> NodeHandle:
    role = NodeRole.SCHEDULER if name.startswith("s") else NodeRole.WORKER
    return NodeHandle(name, cluster, role)


def launch_of(name: str, cluster: str = "c1") -> NodeLaunch:
    role = handle(name, cluster).role
    config = {
        "v": 1,
        "installation": INSTALLATION,
        "cluster": cluster,
        "cluster_name": f"name-of-{cluster}",
        "node": name,
        "role": str(role),
        "tls": certificates(cluster).for_role(str(role)),
        "nthreads": 1,
        "memory_limit": SHAPE.memory,
        "worker_class": "distributed.Worker",  # one process a worker keeps the suite quick
        "options": {},
        "limits": {},
        "adaptive": None,
    }
    return NodeLaunch(name, role, SHAPE, config, {"USERS_SECRET": CANARY})


def request(*names: str, cluster: str = "c1", scheduler: str | None = None) -> LaunchRequest:
    """Return a launch of nodes: names with an *s* are schedulers, others workers."""
    ref = ClusterRef(INSTALLATION, "team", cluster, f"name-of-{cluster}")
    return LaunchRequest(ref, [launch_of(name, cluster) for name in names], scheduler)


async def start(backend: Backend, *names: str, cluster: str = "c1") -> Sequence[LaunchResult]:
    """Start a scheduler and workers: at once, or where its address is only known when it runs, one after the other."""
    if backend.capabilities.scheduler_address_first:
        return await backend.launch(request(*names, cluster=cluster))
    (first,) = await backend.launch(request(names[0], cluster=cluster))
    address = first.address or await address_of(backend, handle(names[0], cluster))
    workers = names[1:]
    rest = await backend.launch(request(*workers, cluster=cluster, scheduler=address)) if workers else []
    return [replace(first, address=address), *rest]


async def address_of(backend: Backend, scheduler: NodeHandle) -> str:
    async def known() -> str | None:
        return (await backend.observe([scheduler])).sightings[scheduler.name].address

    return await eventually(known)


def called(backend: Backend, results: Sequence[LaunchResult]) -> dict[str, str]:
    """Return what nodes call themselves, by name."""
    if not backend.capabilities.names_nodes:
        return {result.name: result.name for result in results}
    return {result.name: (result.cloud_id or "").rpartition("/")[2] for result in results}


async def answer(backend: Backend, node: NodeHandle) -> Answer:
    return (await backend.observe([node])).sightings[node.name].answer


async def until(backend: Backend, node: NodeHandle, wanted: Answer) -> None:
    async def reached() -> bool:
        return await answer(backend, node) is wanted

    await eventually(reached)


async def stop_everything(backend: Backend) -> None:
    """Stop all that there is, and wait until the cloud says that it is gone."""
    nodes = await backend.inventory()
    if nodes:
        await backend.stop(nodes)
        await asyncio.gather(*(until(backend, node, Answer.GONE) for node in nodes))
