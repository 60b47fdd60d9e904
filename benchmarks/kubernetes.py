"""From nothing to N running pods on a real Kubernetes API, beside dask-kubernetes' operator; and what idling costs.

The control plane is that of the tests (``scripts/kubernetes-test-bed``). Its node agent only marks pods as running, so
that what is measured is asking for them and knowing of it, not the start of Python. Requests are counted by the API
server's audit log.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from itertools import count
from pathlib import Path

from tests.support.kube_plane import PROGRAMS, Plane, plane
from tests.support.kube_space import Space
from tests.support.waiting import eventually

from benchmarks import kube_operator
from benchmarks.measure import Result, alternate
from ropewalk.backends.kubernetes.backend import KubernetesBackend
from ropewalk.backends.port import Answer, ClusterRef, LaunchRequest, NodeHandle, NodeLaunch, NodeShape
from ropewalk.schemas.clusters import NodeRole

SIZES = (10, 100, 1000)
MAIN = 100
"""The size whose results have names without a number."""
MANY, RUNS_OF_MANY = 1000, 1
"""Each run of so many takes minutes, most of them the operator's and Kubernetes' own controllers'."""
IDLE_CLUSTERS, IDLE_SECONDS = 100, 20.0
START_SECONDS = 400.0
_NUMBERS = count(1)


def run(runs: int) -> list[Result]:
    if not (PROGRAMS / "kube-apiserver").exists():
        raise SystemExit("There is no Kubernetes control plane to measure on; scripts/kubernetes-test-bed builds it.")
    results: list[Result] = []
    with plane(mark_only=True, nodes=4) as made:
        space = Space(made, "benchmark")
        with kube_operator.operator(made):
            for size in SIZES:
                results += _compare(made, space, size, runs if size < MANY else RUNS_OF_MANY)
        results.append(idle(made))
    return results


def _compare(made: Plane, space: Space, size: int, runs: int) -> list[Result]:
    sides = alternate(
        lambda: ours(space, size),
        lambda: kube_operator.once(made, f"c{next(_NUMBERS)}", size, START_SECONDS),
        runs,
    )
    name = "" if size == MAIN else f"_{size}"
    return [sides[0].ratio(f"time_vs_operator{name}", 1.0), sides[1].ratio(f"requests_vs_operator{name}", 1.0)]


def ours(space: Space, workers: int) -> tuple[float, float]:
    """Return the seconds and requests from nothing to all pods of one cluster being known to run."""
    before = len(space.requests())
    with tempfile.TemporaryDirectory() as folder:
        took = asyncio.run(_start_and_end(space, workers, Path(folder)))
    # The end is not counted for the operator either.
    made = [event for event in space.requests()[before:] if event["verb"] in ("create", "list", "watch", "get")]
    logs = sum("/log" in event["requestURI"] for event in made)
    return took, len(made) - logs


def request(cluster: str, workers: int) -> LaunchRequest:
    """Return the launch of a scheduler and its workers."""
    ref = ClusterRef("benchmark", "team", cluster, cluster)
    return LaunchRequest(ref, [_node(cluster, "s", NodeRole.SCHEDULER), *_workers(cluster, workers)])


def _workers(cluster: str, workers: int) -> list[NodeLaunch]:
    return [_node(cluster, f"w{number}", NodeRole.WORKER) for number in range(workers)]


def _node(cluster: str, name: str, role: NodeRole) -> NodeLaunch:
    config = {"v": 1, "role": role.value, "tls": {"ca": "x", "cert": "x", "key": "x"}}
    return NodeLaunch(f"{cluster}-{name}", role, NodeShape(0.1, 2**26), config)


async def _start_and_end(space: Space, workers: int, archive: Path) -> float:
    backend = space.backend(archive)
    wanted = request(f"c{next(_NUMBERS)}", workers)
    handles = [NodeHandle(node.name, wanted.cluster.id, node.role) for node in wanted.nodes]
    began = time.monotonic()
    async with asyncio.timeout(START_SECONDS):
        await backend.launch(wanted)
        while True:
            sightings = (await backend.observe(handles)).sightings
            pods = [phase(backend, name) for name in sightings]
            if all(phase == "Running" for phase in pods):
                break
            await backend.changed()
            await asyncio.sleep(0.05)  # as the server's observer: changes within this time are seen with one look
    took = time.monotonic() - began
    async with asyncio.timeout(START_SECONDS):
        await backend.stop(handles)
        while any(s.answer is not Answer.GONE for s in (await backend.observe(handles)).sightings.values()):
            await backend.changed()
        await eventually(lambda: not space.names("services"), within=START_SECONDS)
    await backend.close()
    return took


def idle(made: Plane) -> Result:
    """Count what a cloud account with many clusters asks while nothing happens."""
    space = Space(made, "benchmark")
    requests = asyncio.run(_idle(space))
    return Result("idle_requests", "requests", 0, [requests], value=requests)


async def _idle(space: Space) -> int:
    with tempfile.TemporaryDirectory() as folder:
        backend = space.backend(Path(folder))
        await asyncio.gather(*(backend.launch(request(f"i{number}", 1)) for number in range(IDLE_CLUSTERS)))
        handles = list(await backend.inventory())
        while any(phase(backend, handle.name) != "Running" for handle in handles):
            await backend.changed()
        before = len(space.requests())
        until = time.monotonic() + IDLE_SECONDS
        while time.monotonic() < until:
            await backend.observe(handles)
            await asyncio.sleep(0.5)
        asked = len(space.requests()) - before
        await backend.close()
    return asked


def phase(backend: KubernetesBackend, name: str) -> str | None:
    """Return the phase of a pod as the backend's watch has it."""
    pod = backend._watch.pods.get(name)  # noqa: SLF001 - the port knows running pods and those to come as one
    return None if pod is None else pod["status"].get("phase")
