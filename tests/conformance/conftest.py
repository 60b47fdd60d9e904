from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.conformance.harness import Harness, LocalHarness, MemoryHarness, stop_everything
from tests.conformance.isolated import IsolatedHarness
from tests.conformance.kube import KubernetesHarness
from tests.support import isolated, spawners


def _make(kind: str, root: Path, request: pytest.FixtureRequest) -> Harness:
    if kind == "kubernetes":
        return KubernetesHarness(request.getfixturevalue("plane"), root)
    if kind == "local-isolated":
        return IsolatedHarness(isolated.data_dir())
    return MemoryHarness() if kind == "memory" else LocalHarness(root, kind.removeprefix("local-"))


@pytest.fixture(scope="package", autouse=True)
def no_warm_parent_left() -> Iterator[None]:
    yield
    spawners.close_all()


@pytest.fixture(params=["memory", "local-plain", "local-warm", "local-isolated", "kubernetes"])
async def harness(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Harness]:
    harness: Harness = _make(request.param, tmp_path / "local", request)
    yield harness
    await stop_everything(harness.backend)
    await harness.close()
