from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from ropewalk.backends.aws import logs, observe
from tests.conformance.aws import AwsHarness, ContainerHarness
from tests.conformance.harness import Harness, LocalHarness, MemoryHarness, stop_everything
from tests.conformance.isolated import IsolatedHarness
from tests.conformance.kube import KubernetesHarness
from tests.support import isolated, spawners


def _make(kind: str, root: Path, request: pytest.FixtureRequest) -> Harness:
    if kind == "aws" and request.node.get_closest_marker("real_nodes"):
        return ContainerHarness(request.getfixturevalue("aws_tasks"), request.getfixturevalue("container_engine"))
    if kind == "aws":
        unprepared = request.node.get_closest_marker("unprepared")
        return AwsHarness(request.getfixturevalue("aws"), prepared=unprepared is None)
    if kind == "kubernetes":
        return KubernetesHarness(request.getfixturevalue("plane"), root)
    if kind == "local-isolated":
        return IsolatedHarness(isolated.data_dir())
    return MemoryHarness() if kind == "memory" else LocalHarness(root, kind.removeprefix("local-"))


@pytest.fixture(scope="package", autouse=True)
def no_warm_parent_left() -> Iterator[None]:
    yield
    spawners.close_all()


@pytest.fixture(autouse=True)
def aws_is_looked_at_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS tells nobody of changes; how rarely the backend looks is a matter of its rate limits and of no test here."""
    monkeypatch.setattr(observe, "FASTEST", 0.1)
    monkeypatch.setattr(observe, "FAST", 0.3)
    monkeypatch.setattr(observe, "SLOW", 0.5)
    monkeypatch.setattr(observe, "LEAST_AGE", 0.0)
    monkeypatch.setattr(logs, "LAST_WORDS", 0.5)


@pytest.fixture(params=["memory", "local-plain", "local-warm", "local-isolated", "kubernetes", "aws"])
async def harness(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Harness]:
    harness: Harness = _make(request.param, tmp_path / "local", request)
    try:
        yield harness
        await stop_everything(harness.backend)
    finally:
        await harness.close()
