"""The real node program in pods of a real Kubernetes API."""

from __future__ import annotations

import json
from pathlib import Path

from ropewalk.backends.kubernetes.backend import KubernetesBackend
from ropewalk.backends.port import NodeHandle
from tests.conformance import harness
from tests.support.kube_plane import Plane
from tests.support.kube_space import Space
from tests.support.waiting import eventually


class KubernetesHarness:
    def __init__(self, plane: Plane, root: Path) -> None:
        self.space = Space(plane, harness.INSTALLATION)
        self._archive = root / "archive"
        self._backends = [self._make()]

    @property
    def backend(self) -> KubernetesBackend:
        return self._backends[-1]

    def _make(self) -> KubernetesBackend:
        return self.space.backend(self._archive)

    def restart(self) -> KubernetesBackend:
        self._backends.append(self._make())
        return self.backend

    async def _runs(self, node: NodeHandle) -> None:
        def running() -> bool:
            return bool(self.space.pod(node.name)["status"]["phase"] == "Running")

        await eventually(running)

    async def kill(self, node: NodeHandle) -> None:
        await self._runs(node)
        self.space.plane.agent("POST", f"/test/kill/{self.space.namespace}/{node.name}")

    async def write_log(self, node: NodeHandle, text: str) -> None:
        await self._runs(node)
        self.space.plane.agent("POST", f"/test/write/{self.space.namespace}/{node.name}", text=text)

    async def visible(self, node: NodeHandle) -> str:
        """Return what those see who may see pods but not read Secrets, and the machine's users."""
        await self._runs(node)
        process = self.space.plane.agent("GET", f"/test/look/{self.space.namespace}/{node.name}")
        services = self.space.plane.get(self.space.path("services"))
        return json.dumps([self.space.pod(node.name), process, services])

    async def close(self) -> None:
        for backend in self._backends:
            await backend.close()
        self.space.remove()
