"""Ways to a scheduler: where it says that it is, and the stream through the API server."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ropewalk.backends.kubernetes import portforward
from ropewalk.backends.kubernetes.backend import KubernetesBackend
from ropewalk.backends.port import Answer
from ropewalk.errors import FixItError, TryAgainError
from tests.kubernetes.nodes import STUCK, handle, request, seen, until
from tests.support.kube_plane import Plane
from tests.support.kube_space import Space
from tests.support.waiting import eventually

ECHO = """
import asyncio, json
async def serve(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
async def run(environ):
    host, _, port = json.loads(environ["ROPEWALK_NODE_CONFIG"])["listen"].removeprefix("tls://").rpartition(":")
    server = await asyncio.start_server(serve, host, int(port))
    await server.serve_forever()
def main(argv, environ):
    asyncio.run(run(environ))
"""


@pytest.fixture
async def echo(space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[KubernetesBackend]:
    """A backend with a pod *s* that sends back what it gets at the scheduler's port."""
    boot = Path(__file__).parents[2] / "src/ropewalk/backends/kubernetes/boot.py"
    programs = {"main.py": ECHO, "boot.py": boot.read_text()}
    monkeypatch.setattr("ropewalk.backends.kubernetes.objects._programs", lambda: programs)
    backend = space.backend(tmp_path)
    await backend.launch(request("s"))

    async def answers() -> bool:
        try:
            return await portforward.answers(backend._api, "s", 8786)
        except (TryAgainError, FixItError):
            return False

    await eventually(answers, within=90)
    yield backend
    await backend.close()


class TestAddress:
    async def test_is_known_before_anything_runs(self, space: Space) -> None:
        backend = space.backend(image=STUCK)
        (result,) = await backend.launch(request("s"))
        assert result.address == f"tls://ropewalk-c1.{space.namespace}.svc:8786"
        assert (await seen(backend, "s")).internal == result.address
        assert not backend.capabilities.direct
        await backend.close()

    async def test_of_a_load_balancer_is_told_once_there_is_one(self, space: Space, plane: Plane) -> None:
        backend = space.backend(reach="load_balancer", allow_ingress_from=["10.0.0.0/8"], image=STUCK)
        (result,) = await backend.launch(request("s"))
        assert backend.capabilities.direct
        assert result.address is None
        sighting = await seen(backend, "s")
        assert sighting.internal == f"tls://ropewalk-c1.{space.namespace}.svc:8786"
        assert "load balancer has no address yet" in (sighting.reason or "")
        service = plane.get(space.path("services", "ropewalk-c1"))
        assert service["spec"]["type"] == "LoadBalancer"
        assert service["spec"]["loadBalancerSourceRanges"] == ["10.0.0.0/8"]
        plane.ask(
            "PATCH",
            space.path("services", "ropewalk-c1") + "/status",
            json={"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}]}}},
            headers={"Content-Type": "application/merge-patch+json"},
        )
        await eventually(lambda: _address(backend, "tls://192.0.2.7:8786"))
        await backend.close()

    async def test_of_a_machines_port_needs_no_right_to_list_machines(self, space: Space, plane: Plane) -> None:
        backend = space.backend(reach="node_port", image=STUCK)
        await backend.launch(request("s"))
        port = plane.get(space.path("services", "ropewalk-c1"))["spec"]["ports"][0]["nodePort"]
        await eventually(lambda: _address(backend, f"tls://127.0.0.1:{port}"))
        await backend.close()

    async def test_by_annotations_is_a_load_balancer(self, space: Space, plane: Plane) -> None:
        backend = space.backend(service_annotations={"example.org/internal": "true"}, image=STUCK)
        await backend.launch(request("s"))
        service = plane.get(space.path("services", "ropewalk-c1"))
        assert service["spec"]["type"] == "LoadBalancer"
        assert service["metadata"]["annotations"]["example.org/internal"] == "true"
        await backend.close()


async def _address(backend: KubernetesBackend, wanted: str) -> bool:
    return (await seen(backend, "s")).address == wanted


class TestPortForward:
    async def test_carries_every_byte_both_ways(self, echo: KubernetesBackend) -> None:
        sent = os.urandom(8 * 2**20)
        reader, writer = await echo.connect(handle("s"), "")

        async def write() -> None:
            for start in range(0, len(sent), 2**18):
                writer.write(sent[start : start + 2**18])
                await writer.drain()

        task = asyncio.create_task(write())
        got = await asyncio.wait_for(reader.readexactly(len(sent)), 100)
        await task
        assert hashlib.sha256(got).digest() == hashlib.sha256(sent).digest()
        writer.close()
        await writer.wait_closed()

    async def test_keeps_many_streams_apart(self, echo: KubernetesBackend) -> None:
        async def exchange(number: int) -> bool:
            reader, writer = await echo.connect(handle("s"), "")
            text = str(number).encode() * 5000
            writer.write(text)
            got = await asyncio.wait_for(reader.readexactly(len(text)), 100)
            writer.close()
            await writer.wait_closed()
            return got == text

        assert all(await asyncio.gather(*(exchange(i) for i in range(50))))

    async def test_holds_the_sender_back_when_nobody_reads(self, echo: KubernetesBackend) -> None:
        _, writer = await echo.connect(handle("s"), "")
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 2**29:
                writer.write(b"x" * 2**20)
                sent += 2**20
                async with asyncio.timeout(2):
                    await writer.drain()
        assert sent < 2**29
        writer.transport.abort()

    async def test_ends_with_its_pod(self, echo: KubernetesBackend, space: Space) -> None:
        reader, writer = await echo.connect(handle("s"), "")
        space.plane.agent("POST", f"/test/kill/{space.namespace}/s")
        assert await asyncio.wait_for(reader.read(), 60) == b""
        writer.close()
        await writer.wait_closed()
        await until(echo, "s", Answer.GONE)
        with pytest.raises(TryAgainError) as caught:
            await echo.connect(handle("s"), "")
        assert "has ended" in caught.value.message

    async def test_to_a_pod_that_waits_is_tried_again(self, space: Space) -> None:
        backend = space.backend(image=STUCK)
        await backend.launch(request("s"))
        with pytest.raises(TryAgainError):
            await backend.connect(handle("s"), "")
        await backend.close()

    async def test_that_may_not_be_names_the_permission(
        self, echo: KubernetesBackend, space: Space, plane: Plane
    ) -> None:
        path = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{space.namespace}/rolebindings/ropewalk"
        plane.ask("DELETE", path)

        async def refused() -> FixItError | None:
            try:
                _, writer = await echo.connect(handle("s"), "")
            except FixItError as exc:
                return exc
            writer.transport.abort()
            return None

        error = await eventually(refused)
        assert error.details["status"] == 403

    async def test_is_not_needed_where_a_direct_way_works(self, space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
        async def fail(*_args: object) -> bool:
            raise AssertionError("asked the API server for a stream")

        monkeypatch.setattr(portforward, "answers", fail)
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
        direct = space.backend(reach="node_port")
        port = server.sockets[0].getsockname()[1]
        _, writer = await direct.connect(handle("s"), f"tls://127.0.0.1:{port}")
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
        await direct.close()

    async def test_takes_over_where_a_direct_way_does_not_work(self, space: Space, echo: KubernetesBackend) -> None:
        direct = space.backend(reach="node_port")
        reader, writer = await direct.connect(handle("s"), "tls://127.0.0.1:1")
        writer.write(b"hello")
        assert await asyncio.wait_for(reader.readexactly(5), 60) == b"hello"
        writer.close()
        await writer.wait_closed()
        await direct.close()
