"""Launches and answers that the Kubernetes tests share."""

from __future__ import annotations

from typing import Any

from ropewalk.backends.kubernetes.backend import KubernetesBackend
from ropewalk.backends.port import Answer, ClusterRef, LaunchRequest, NodeHandle, NodeLaunch, NodeShape, Sighting
from ropewalk.schemas.clusters import NodeRole
from tests.support.waiting import eventually

STUCK = "stuck/dask:1"
"""An image with which a pod waits for ever in the test bed."""
SHAPE = NodeShape(cpu=1, memory=256 * 2**20)


def handle(name: str, cluster: str = "c1") -> NodeHandle:
    return NodeHandle(name, cluster, NodeRole.SCHEDULER if name.startswith("s") else NodeRole.WORKER)


def node(name: str, shape: NodeShape = SHAPE, **environ: str) -> NodeLaunch:
    config: dict[str, Any] = {"v": 1, "role": str(handle(name).role), "node": name, "tls": {"key": "PRIVATE"}}
    return NodeLaunch(name, handle(name).role, shape, config, environ)


def request(
    *names: str, cluster: str = "c1", scheduler: str | None = None, shape: NodeShape = SHAPE, **facts: Any
) -> LaunchRequest:
    """Return a launch of nodes whose program cannot run: for what happens before and around that."""
    ref = ClusterRef("inst-test", "team", cluster, f"name-of-{cluster}")
    return LaunchRequest(ref, [node(name, shape) for name in names], scheduler, **facts)


async def seen(backend: KubernetesBackend, name: str, cluster: str = "c1") -> Sighting:
    return (await backend.observe([handle(name, cluster)])).sightings[name]


async def until(backend: KubernetesBackend, name: str, wanted: Answer, within: float = 60) -> Sighting:
    async def reached() -> Sighting | None:
        sighting = await seen(backend, name)
        return sighting if sighting.answer is wanted else None

    return await eventually(reached, within=within)


async def reason(backend: KubernetesBackend, name: str, text: str, within: float = 60) -> Sighting:
    """Wait until what is said of a node contains *text*."""

    async def said() -> Sighting | None:
        sighting = await seen(backend, name)
        return sighting if text in (sighting.reason or "") else None

    return await eventually(said, within=within)
