"""A stream to a pod through the API server's port-forward against a connection to the pod's own address.

The API server is a real one; the kubelet is the stand-in of the tests, one Python process, so what is measured is
a lower bound of what a real one carries.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from unittest.mock import patch

from tests.support.kube_plane import PROGRAMS, plane
from tests.support.kube_space import Space

from benchmarks.measure import Result, Sides
from ropewalk.backends.kubernetes import objects, portforward
from ropewalk.backends.kubernetes.backend import KubernetesBackend
from ropewalk.backends.port import SCHEDULER_PORT, ClusterRef, LaunchRequest, NodeHandle, NodeLaunch, NodeShape
from ropewalk.errors import BackendError
from ropewalk.schemas.clusters import NodeRole

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]

SIZE = 64 * 2**20
"""Bytes that go there, and come back."""
ROUND_TRIPS = 200
STREAMS = 1000
"""At once: of the gateway's 5,000, as many as the tests' limit of open files lets three processes have."""
READY_SECONDS = 60.0
HANDLE = NodeHandle("forward-s", "forward", NodeRole.SCHEDULER)

ECHO = """
import asyncio, json, sys
async def serve(reader, writer):
    while data := await reader.read(2**18):
        writer.write(data)
        await writer.drain()
    writer.close()
async def run(address):
    host, _, port = address.removeprefix("tls://").rpartition(":")
    server = await asyncio.start_server(serve, host, int(port), backlog=4096, limit=2**18)
    await server.serve_forever()
def main(argv, environ):
    asyncio.run(run(json.loads(environ["ROPEWALK_NODE_CONFIG"])["listen"]))
"""


def measure(runs: int) -> list[Result]:
    """Return throughput, round trips, and how many streams there can be; nothing where no control plane was built."""
    if not (PROGRAMS / "kube-apiserver").exists():
        return []
    with plane(nodes=1) as made:
        return asyncio.run(_measure(Space(made, "benchmark"), runs))


async def _measure(space: Space, runs: int) -> list[Result]:
    async with _echo(space) as (backend, address):
        ways = (lambda: backend.connect(HANDLE, ""), lambda: asyncio.open_connection(address, SCHEDULER_PORT))
        bulk, trip = Sides(), Sides()
        for number in range(runs):
            for side in (0, 1) if number % 2 == 0 else (1, 0):
                took = await _once(await ways[side]())
                for sides, seconds in zip((bulk, trip), took, strict=True):
                    (sides.theirs if side else sides.ours).append(seconds)
        opening = await _open_many(backend)
    rate = 2 * SIZE / 2**20
    return [
        bulk.ratio("forward_bulk_vs_direct", None),
        trip.ratio("forward_round_trip_vs_direct", None),
        Result("forward_throughput", "MiB/s", None, bulk.ours, value=rate / statistics.median(bulk.ours)),
        Result("forward_direct_throughput", "MiB/s", None, bulk.theirs, value=rate / statistics.median(bulk.theirs)),
        Result("forward_round_trip", "ms", None, trip.ours, value=1000 * statistics.median(trip.ours)),
        Result(f"forward_{STREAMS}_streams", "s", None, [opening], value=opening),
    ]


@asynccontextmanager
async def _echo(space: Space) -> AsyncIterator[tuple[KubernetesBackend, str]]:
    """Run a pod that sends back what it gets; yields how to reach it, and its address."""
    programs = {"main.py": ECHO, "boot.py": objects.BOOT.read_text("utf-8")}
    config = {"v": 1, "role": "scheduler", "tls": {}}
    node = NodeLaunch(HANDLE.name, HANDLE.role, NodeShape(1, 2**28), config)
    request = LaunchRequest(ClusterRef("benchmark", "team", HANDLE.cluster, "forward"), [node])
    with tempfile.TemporaryDirectory() as folder:
        backend = space.backend(Path(folder))
        try:
            with patch.object(objects, "_programs", lambda: programs):
                await backend.launch(request)
            await _until_it_answers(backend)
            yield backend, str(space.pod(HANDLE.name)["status"]["podIP"])
        finally:
            await backend.close()


async def _until_it_answers(backend: KubernetesBackend) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        try:
            if await portforward.answers(backend._api, HANDLE.name, SCHEDULER_PORT):  # noqa: SLF001 - as connect() does
                return
        except BackendError:
            pass
        await asyncio.sleep(0.2)
    raise RuntimeError("the pod that sends back what it gets did not start")


async def _once(stream: Stream) -> Sequence[float]:
    """Return the seconds in which everything came back, and those of one byte."""
    reader, writer = stream
    began = time.perf_counter()
    sending = asyncio.create_task(_send(writer))
    await reader.readexactly(SIZE)
    bulk = time.perf_counter() - began
    await sending
    began = time.perf_counter()
    for _ in range(ROUND_TRIPS):
        writer.write(b"x")
        await reader.readexactly(1)
    trip = (time.perf_counter() - began) / ROUND_TRIPS
    writer.close()
    await writer.wait_closed()
    return bulk, trip


async def _send(writer: asyncio.StreamWriter) -> None:
    piece = bytes(2**18)
    for _ in range(SIZE // len(piece)):
        writer.write(piece)
        await writer.drain()


async def _open_many(backend: KubernetesBackend) -> float:
    """Open streams until there are many, use each, and return the seconds that took; all are open at once."""
    began = time.perf_counter()
    streams: list[Stream] = []
    for _ in range(STREAMS // 50):
        streams += await asyncio.gather(*(backend.connect(HANDLE, "") for _ in range(50)))
    texts = [str(number).encode() * 100 for number in range(len(streams))]
    for (_, writer), text in zip(streams, texts, strict=True):
        writer.write(text)
    found = await asyncio.gather(
        *(reader.readexactly(len(text)) for (reader, _), text in zip(streams, texts, strict=True))
    )
    assert list(found) == texts  # noqa: S101 - streams that mix would be fast
    took = time.perf_counter() - began
    for _, writer in streams:
        writer.close()
    await asyncio.gather(*(writer.wait_closed() for _, writer in streams))
    return took
